package service

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The rules never change. In nft's words, with K for `ip daddr . meta l4proto .
// th dport` and N for the same with 0.0.0.0 for the address:
//
//	chain prerouting {
//	  type nat hook prerouting priority dstnat;
//	  ip daddr @services goto cluster
//	  K @exposed goto outside
//	  N @exposed ip daddr != 127.0.0.0/8 fib daddr type local goto port-outside
//	}
//	chain output {                       # the node itself is not outside
//	  type nat hook output priority dstnat;
//	  ip daddr @services goto cluster
//	  K @exposed goto cluster
//	  N @exposed ip daddr != 127.0.0.0/8 fib daddr type local goto port
//	}
//	chain outside {                      # port-outside is the same with N
//	  ip saddr @pods goto cluster
//	  K @own goto own
//	  goto cluster
//	}
//	chain cluster {                      # port with N; own and port-own with outer
//	  K @many goto cluster-many
//	  K @sticky dnat to K . jhash ip saddr mod 60 map @slots
//	  K @sticky dnat to K . jhash ip saddr mod 60 map @slots
//	  dnat to K . numgen random mod 60 map @slots
//	  dnat to K . numgen random mod 60 map @slots
//	}
//	chain cluster-many { … mod 840 … }
//	chain postrouting {                  # O: K or N of the connection's first packet
//	  type nat hook postrouting priority srcnat;
//	  ct status & dnat == 0 accept
//	  ct original ip daddr @services goto source
//	  O @exposed goto source
//	}
//	chain source {
//	  ip saddr . ip daddr @loops snat to $source
//	  ip saddr @pods accept
//	  fib saddr type local snat to $source
//	  O @own accept
//	  snat to $source
//	}
//	chain forward, input, local {        # filter, at forward, input and output
//	  ct state established,related accept # of this chain: nothing to do for most packets
//	  ip daddr @services reject          # what no front was there for; not in input
//	  ct state new ct status & dnat == 0 K or N @exposed reject
//	}
//
// Each dnat is there twice: a packet that is looked up while a transaction is
// being committed may find neither the old nor the new element of a key. It is
// looked up again then, and finds the new one.

// Registers of four bytes; a concatenation is several in a row.
const (
	regKey      = unix.NFT_REG32_00     // address, then protocol, port, slot
	regProtocol = unix.NFT_REG32_00 + 1 // of a key
	regPort     = unix.NFT_REG32_00 + 2
	regSlot     = unix.NFT_REG32_00 + 3
	regTo       = unix.NFT_REG32_00 + 4 // endpoint's address, then port
	regToPort   = unix.NFT_REG32_00 + 5
	reg         = unix.NFT_REG32_00 + 6 // anything
)

const (
	saddr, daddr = 12, 16 // in an IPv4 header

	// hashSeed is always the same, so that a client keeps its endpoint over a
	// restart of the agent.
	hashSeed = 0x706f6473

	connectionKnown = 2 | 4 // of ct state: established, related
	connectionNew   = 8
	connectionDNAT  = 0x20 // of ct status
)

// rules are the chains of a table.
type rules struct {
	services, pods netip.Prefix
	source         netip.Addr
}

type chain struct {
	name string
	base *nftables.Chain // what makes it a base chain; nil for others
	body [][]expr.Any
}

func (r rules) chains() []chain {
	byAddress, byPort := r.key(), r.portKey()
	service := r.inside(daddr, r.services, expr.CmpOpEq)
	atNode := slices.Concat(
		member(byPort, exposed), r.inside(daddr, netip.MustParsePrefix("127.0.0.0/8"), expr.CmpOpNeq), local(expr.Fib{FlagDADDR: true}))
	known := [][]expr.Any{slices.Concat(bits(expr.CtKeySTATE, connectionKnown, expr.CmpOpNeq), []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}})}
	out := []chain{
		{"prerouting", base(nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest), [][]expr.Any{
			jump(service, "cluster"), jump(member(byAddress, exposed), "outside"), jump(atNode, "port-outside"),
		}},
		{"output", base(nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest), [][]expr.Any{
			jump(service, "cluster"), jump(member(byAddress, exposed), "cluster"), jump(atNode, "port"),
		}},
		{"outside", nil, r.outside(byAddress, "cluster", "own")},
		{"port-outside", nil, r.outside(byPort, "port", "port-own")},
		{"postrouting", base(nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource), r.postrouting()},
		{"source", nil, r.from()},
		{"forward", base(nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter), slices.Concat(known, refusal(service), refuse(member(byAddress, exposed)))},
		{"input", base(nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter), slices.Concat(known, refuse(member(byAddress, exposed)), refuse(atNode))},
		{"local", base(nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter), slices.Concat(known, refusal(service), refuse(member(byAddress, exposed)), refuse(atNode))},
	}
	for _, c := range []struct {
		name string
		key  []expr.Any
		in   set
	}{{"cluster", byAddress, slots}, {"port", byPort, slots}, {"own", byAddress, outer}, {"port-own", byPort, outer}} {
		more := c.name + "-many"
		out = append(out,
			chain{c.name, nil, append([][]expr.Any{jump(member(c.key, many), more)}, pick(c.key, c.in, narrow)...)},
			chain{more, nil, pick(c.key, c.in, wide)})
	}
	return out
}

func base(t nftables.ChainType, hook *nftables.ChainHook, p *nftables.ChainPriority) *nftables.Chain {
	return &nftables.Chain{Type: t, Hooknum: hook, Priority: p}
}

// outside tells clients from outside of the cluster from its pods.
func (r rules) outside(key []expr.Any, inner, ours string) [][]expr.Any {
	return [][]expr.Any{
		jump(r.inside(saddr, r.pods, expr.CmpOpEq), inner),
		jump(member(key, own), ours),
		jump(nil, inner),
	}
}

// pick leads to an endpoint.
func pick(key []expr.Any, in set, width uint32) [][]expr.Any {
	lookup := []expr.Any{
		&expr.Lookup{SourceRegister: regKey, DestRegister: regTo, IsDestRegSet: true, SetName: in.String()},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: regTo, RegProtoMin: regToPort},
	}
	byClient := slices.Concat(member(key, sticky), []expr.Any{
		header(saddr, reg),
		&expr.Hash{SourceRegister: reg, DestRegister: regSlot, Length: 4, Modulus: width, Seed: hashSeed, Type: expr.HashTypeJenkins},
	}, lookup)
	random := slices.Concat(key, []expr.Any{&expr.Numgen{Register: regSlot, Modulus: width, Type: unix.NFT_NG_RANDOM}}, lookup)
	return [][]expr.Any{byClient, byClient, random, random}
}

// postrouting finds the connections that were led to an endpoint here: others
// may translate addresses for purposes of their own.
func (r rules) postrouting() [][]expr.Any {
	toAddress, toPort := asked()
	return [][]expr.Any{
		slices.Concat(bits(expr.CtKeySTATUS, connectionDNAT, expr.CmpOpEq), []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}),
		jump(slices.Concat([]expr.Any{&expr.Ct{Key: expr.CtKeyDST, Register: reg}}, within(r.services, expr.CmpOpEq)), "source"),
		jump(member(toAddress, exposed), "source"),
		jump(member(toPort, exposed), "source"),
	}
}

// from gives connections to Services the node's address where answers would not
// find back otherwise: from a pod to itself, and from anywhere outside of the
// pod network.
func (r rules) from() [][]expr.Any {
	accept := []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	snat := []expr.Any{
		&expr.Immediate{Register: reg, Data: r.source.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg},
	}
	toAddress, toPort := asked()
	return [][]expr.Any{
		slices.Concat([]expr.Any{header(saddr, regKey), header(daddr, regKey+1), &expr.Lookup{SourceRegister: regKey, SetName: loops.String()}}, snat),
		slices.Concat(r.inside(saddr, r.pods, expr.CmpOpEq), accept),
		slices.Concat(local(expr.Fib{FlagSADDR: true}), snat),
		slices.Concat(member(toAddress, own), accept),
		slices.Concat(member(toPort, own), accept),
		snat,
	}
}

// asked loads what the connection was made to, as a front's key.
func asked() (address, port []expr.Any) {
	rest := []expr.Any{protocol(), &expr.Ct{Key: expr.CtKeyPROTODST, Register: regPort}}
	return slices.Concat([]expr.Any{&expr.Ct{Key: expr.CtKeyDST, Register: regKey}}, rest),
		slices.Concat([]expr.Any{&expr.Immediate{Register: regKey, Data: make([]byte, 4)}}, rest)
}

// refuse is refusal of new connections that were not led anywhere.
func refuse(match []expr.Any) [][]expr.Any {
	return refusal(slices.Concat(bits(expr.CtKeySTATE, connectionNew, expr.CmpOpNeq), bits(expr.CtKeySTATUS, connectionDNAT, expr.CmpOpEq), match))
}

// refusal tells the client at once.
func refusal(match []expr.Any) [][]expr.Any {
	const portUnreachable = 3
	return [][]expr.Any{
		slices.Concat(match, []expr.Any{
			protocol(), &expr.Cmp{Op: expr.CmpOpEq, Register: regProtocol, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
		}),
		slices.Concat(match, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: portUnreachable}}),
	}
}

// key loads the packet's destination as a front's key.
func (rules) key() []expr.Any {
	return []expr.Any{header(daddr, regKey), protocol(), port()}
}

// portKey is key for node ports.
func (rules) portKey() []expr.Any {
	return []expr.Any{&expr.Immediate{Register: regKey, Data: make([]byte, 4)}, protocol(), port()}
}

func header(offset, to uint32) expr.Any {
	return &expr.Payload{DestRegister: to, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}
}

func protocol() expr.Any { return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regProtocol} }

func port() expr.Any {
	return &expr.Payload{DestRegister: regPort, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

func member(key []expr.Any, s set) []expr.Any {
	return slices.Concat(key, []expr.Any{&expr.Lookup{SourceRegister: regKey, SetName: s.String()}})
}

func (rules) inside(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	return slices.Concat([]expr.Any{header(offset, reg)}, within(p, op))
}

// within compares the address in reg with a prefix.
func within(p netip.Prefix, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: net.CIDRMask(p.Bits(), 32), Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: reg, Data: p.Masked().Addr().AsSlice()},
	}
}

// local asks whether an address is the node's own.
func local(f expr.Fib) []expr.Any {
	f.Register, f.ResultADDRTYPE = reg, true
	return []expr.Any{&f, &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)}}
}

// bits compares some bits of a connection's property with 0.
func bits(k expr.CtKey, mask uint32, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: k, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, mask), Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: reg, Data: make([]byte, 4)},
	}
}

func jump(match []expr.Any, to string) []expr.Any {
	return slices.Concat(match, []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: to}})
}

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

// The rules never change. In nft's words for IPv4, with K for `ip daddr . meta l4proto .
// th dport` and N for the same with 0.0.0.0 for the address:
//
//	chain guard {                        # loadBalancerSourceRanges
//	  type filter hook prerouting priority dstnat - 10;
//	  ct state established,related accept # of this chain
//	  K @guarded goto ranges
//	}
//	chain ranges {
//	  K . ip saddr @allowed accept
//	  K . ip saddr @allowed accept
//	  drop
//	}
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
// Each dnat is there twice, and so is who is allowed: a packet that is looked up
// while a transaction is being committed may find neither the old nor the new
// element of a key. It is looked up again then, and finds the new one.

// regKey is the first register; the others depend on the size of addresses.
const regKey = unix.NFT_REG32_00

// side is the one or the other address of a packet.
type side int

const (
	saddr side = iota
	daddr
)

const (
	// hashSeed is always the same, so that a client keeps its endpoint over a
	// restart of the agent.
	hashSeed = 0x706f6473

	connectionKnown = 2 | 4 // of ct state: established, related
	connectionNew   = 8
	connectionDNAT  = 0x20 // of ct status
)

// rules are the chains of a table, in the family of its networks.
type rules struct {
	services, pods netip.Prefix
	source         netip.Addr
}

func (r rules) six() bool { return r.source.Is6() }

func (r rules) family() nftables.TableFamily {
	if r.six() {
		return nftables.TableFamilyIPv6
	}
	return nftables.TableFamilyIPv4
}

// size is an address's, in bytes.
func (r rules) size() uint32 { return uint32(r.source.BitLen() / 8) }

// Registers of four bytes; a concatenation is several in a row: address, protocol,
// port and slot of a key, then the endpoint's address and port, and last what is
// for anything.
func (r rules) regProtocol() uint32 { return regKey + r.size()/4 }
func (r rules) regPort() uint32     { return r.regProtocol() + 1 }
func (r rules) regSlot() uint32     { return r.regProtocol() + 2 }
func (r rules) regTo() uint32       { return r.regProtocol() + 3 }
func (r rules) regToPort() uint32   { return r.regTo() + r.size()/4 }
func (r rules) reg() uint32         { return r.regToPort() + 1 }

// loopback is the network that node ports are not reached at.
func (r rules) loopback() netip.Prefix {
	if r.six() {
		return netip.MustParsePrefix("::1/128")
	}
	return netip.MustParsePrefix("127.0.0.0/8")
}

// portUnreachable is the code of ICMP's "unreachable".
func (r rules) portUnreachable() uint8 {
	if r.six() {
		return 4
	}
	return 3
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
		member(byPort, exposed), r.inside(daddr, r.loopback(), expr.CmpOpNeq), r.local(expr.Fib{FlagDADDR: true}))
	known := [][]expr.Any{slices.Concat(r.bits(expr.CtKeySTATE, connectionKnown, expr.CmpOpNeq), []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}})}
	out := []chain{
		{"guard", base(nftables.ChainTypeFilter, nftables.ChainHookPrerouting, new(*nftables.ChainPriorityNATDest-10)), slices.Concat(known, [][]expr.Any{jump(member(byAddress, guarded), "ranges")})},
		{"ranges", nil, r.ranges()},
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
		{"forward", base(nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter), slices.Concat(known, r.refusal(service), r.refuse(member(byAddress, exposed)))},
		{"input", base(nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter), slices.Concat(known, r.refuse(member(byAddress, exposed)), r.refuse(atNode))},
		{"local", base(nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter), slices.Concat(known, r.refusal(service), r.refuse(member(byAddress, exposed)), r.refuse(atNode))},
	}
	for _, c := range []struct {
		name string
		key  []expr.Any
		in   set
	}{{"cluster", byAddress, slots}, {"port", byPort, slots}, {"own", byAddress, outer}, {"port-own", byPort, outer}} {
		more := c.name + "-many"
		out = append(out,
			chain{c.name, nil, append([][]expr.Any{jump(member(c.key, many), more)}, r.pick(c.key, c.in, narrow)...)},
			chain{more, nil, r.pick(c.key, c.in, wide)})
	}
	return out
}

func base(t nftables.ChainType, hook *nftables.ChainHook, p *nftables.ChainPriority) *nftables.Chain {
	return &nftables.Chain{Type: t, Hooknum: hook, Priority: p}
}

// ranges keeps away who may not come. Who is refused hears nothing, as at a machine
// that is not there.
func (r rules) ranges() [][]expr.Any {
	may := slices.Concat(r.key(), []expr.Any{
		r.header(saddr, r.regSlot()), &expr.Lookup{SourceRegister: regKey, SetName: allowed.String()},
		&expr.Verdict{Kind: expr.VerdictAccept},
	})
	return [][]expr.Any{may, may, {&expr.Verdict{Kind: expr.VerdictDrop}}}
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
func (r rules) pick(key []expr.Any, in set, width uint32) [][]expr.Any {
	lookup := []expr.Any{
		&expr.Lookup{SourceRegister: regKey, DestRegister: r.regTo(), IsDestRegSet: true, SetName: in.String()},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(r.family()), RegAddrMin: r.regTo(), RegProtoMin: r.regToPort()},
	}
	byClient := slices.Concat(member(key, sticky), []expr.Any{
		r.header(saddr, r.reg()),
		&expr.Hash{SourceRegister: r.reg(), DestRegister: r.regSlot(), Length: r.size(), Modulus: width, Seed: hashSeed, Type: expr.HashTypeJenkins},
	}, lookup)
	random := slices.Concat(key, []expr.Any{&expr.Numgen{Register: r.regSlot(), Modulus: width, Type: unix.NFT_NG_RANDOM}}, lookup)
	return [][]expr.Any{byClient, byClient, random, random}
}

// postrouting finds the connections that were led to an endpoint here: others
// may translate addresses for purposes of their own.
func (r rules) postrouting() [][]expr.Any {
	toAddress, toPort := r.asked()
	return [][]expr.Any{
		slices.Concat(r.bits(expr.CtKeySTATUS, connectionDNAT, expr.CmpOpEq), []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}),
		jump(slices.Concat([]expr.Any{&expr.Ct{Key: expr.CtKeyDST, Register: r.reg()}}, r.within(r.services, expr.CmpOpEq)), "source"),
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
		&expr.Immediate{Register: r.reg(), Data: r.source.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(r.family()), RegAddrMin: r.reg()},
	}
	toAddress, toPort := r.asked()
	return [][]expr.Any{
		slices.Concat([]expr.Any{r.header(saddr, regKey), r.header(daddr, r.regProtocol()), &expr.Lookup{SourceRegister: regKey, SetName: loops.String()}}, snat),
		slices.Concat(r.inside(saddr, r.pods, expr.CmpOpEq), accept),
		slices.Concat(r.local(expr.Fib{FlagSADDR: true}), snat),
		slices.Concat(member(toAddress, own), accept),
		slices.Concat(member(toPort, own), accept),
		snat,
	}
}

// asked loads what the connection was made to, as a front's key.
func (r rules) asked() (address, port []expr.Any) {
	rest := []expr.Any{r.protocol(), &expr.Ct{Key: expr.CtKeyPROTODST, Register: r.regPort()}}
	return slices.Concat([]expr.Any{&expr.Ct{Key: expr.CtKeyDST, Register: regKey}}, rest),
		slices.Concat([]expr.Any{&expr.Immediate{Register: regKey, Data: make([]byte, r.size())}}, rest)
}

// refuse is refusal of new connections that were not led anywhere.
func (r rules) refuse(match []expr.Any) [][]expr.Any {
	return r.refusal(slices.Concat(r.bits(expr.CtKeySTATE, connectionNew, expr.CmpOpNeq), r.bits(expr.CtKeySTATUS, connectionDNAT, expr.CmpOpEq), match))
}

// refusal tells the client at once.
func (r rules) refusal(match []expr.Any) [][]expr.Any {
	return [][]expr.Any{
		slices.Concat(match, []expr.Any{
			r.protocol(), &expr.Cmp{Op: expr.CmpOpEq, Register: r.regProtocol(), Data: []byte{unix.IPPROTO_TCP}},
			&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
		}),
		slices.Concat(match, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: r.portUnreachable()}}),
	}
}

// key loads the packet's destination as a front's key.
func (r rules) key() []expr.Any {
	return []expr.Any{r.header(daddr, regKey), r.protocol(), r.port()}
}

// portKey is key for node ports.
func (r rules) portKey() []expr.Any {
	return []expr.Any{&expr.Immediate{Register: regKey, Data: make([]byte, r.size())}, r.protocol(), r.port()}
}

// header loads an address of the packet.
func (r rules) header(which side, to uint32) expr.Any {
	first := uint32(12) // where the addresses begin in an IPv4 header
	if r.six() {
		first = 8
	}
	return &expr.Payload{DestRegister: to, Base: expr.PayloadBaseNetworkHeader, Offset: first + uint32(which)*r.size(), Len: r.size()}
}

func (r rules) protocol() expr.Any {
	return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: r.regProtocol()}
}

func (r rules) port() expr.Any {
	return &expr.Payload{DestRegister: r.regPort(), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

func member(key []expr.Any, s set) []expr.Any {
	return slices.Concat(key, []expr.Any{&expr.Lookup{SourceRegister: regKey, SetName: s.String()}})
}

func (r rules) inside(which side, p netip.Prefix, op expr.CmpOp) []expr.Any {
	return slices.Concat([]expr.Any{r.header(which, r.reg())}, r.within(p, op))
}

// within compares the address in reg with a prefix.
func (r rules) within(p netip.Prefix, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Bitwise{SourceRegister: r.reg(), DestRegister: r.reg(), Len: r.size(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()), Xor: make([]byte, r.size())},
		&expr.Cmp{Op: op, Register: r.reg(), Data: p.Masked().Addr().AsSlice()},
	}
}

// local asks whether an address is the node's own.
func (r rules) local(f expr.Fib) []expr.Any {
	f.Register, f.ResultADDRTYPE = r.reg(), true
	return []expr.Any{&f, &expr.Cmp{Op: expr.CmpOpEq, Register: r.reg(), Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)}}
}

// bits compares some bits of a connection's property with 0.
func (r rules) bits(k expr.CtKey, mask uint32, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: k, Register: r.reg()},
		&expr.Bitwise{SourceRegister: r.reg(), DestRegister: r.reg(), Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, mask), Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: r.reg(), Data: make([]byte, 4)},
	}
}

func jump(match []expr.Any, to string) []expr.Any {
	return slices.Concat(match, []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: to}})
}

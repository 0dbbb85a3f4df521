package policy

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// What is there under every program, in nft's words for IPv4; the tenants' part only where
// there are several:
//
//	chain from {                          # what the sender's policies say
//	  type filter hook forward priority filter;
//	  ct state established,related accept # of this chain
//	  ip saddr $own ip daddr $cluster jump tenants  # this node's pods to all nodes'
//	  ip saddr . ip daddr @selves accept
//	  ip saddr vmap @egress
//	  ip saddr vmap @egress
//	}
//	chain to {                            # what the receiver's policies say
//	  type filter hook forward priority filter;
//	  ct state established,related accept
//	  ip saddr . ip daddr @selves accept
//	  ip saddr @nodes accept
//	  ip daddr vmap @ingress
//	  ip daddr vmap @ingress
//	}
//	chain tenants {
//	  ip saddr @ordinary return
//	  ip daddr . (ip saddr map @tenant) @members return
//	  ip daddr @open return
//	  goto refuse
//	}
//	chain refuse {
//	  meta l4proto tcp reject with tcp reset
//	  reject with icmp admin-prohibited
//	}
//
// A chain of pods jumps to the chains of their policies and goes to refuse then;
// a policy's chain accepts what matches. What a node itself sends to its pods, and
// gets from them, is not forwarded and meets none of it.

// Registers of four bytes; a concatenation is several in a row.
const (
	regKey = unix.NFT_REG32_00     // address, then protocol and port; or another address, or mark
	reg    = unix.NFT_REG32_00 + 8 // anything
)

// side is the one or the other address of a packet.
type side int

const (
	saddr side = iota
	daddr
)

const (
	fromChain, toChain, tenantsChain, refuseChain = "from", "to", "tenants", "refuse"

	connectionKnown = 2 | 4 // of ct state: established, related
)

// span is the pod network in one family: of all nodes, and of this one. It knows
// what differs between the families.
type span struct{ cluster, own netip.Prefix }

func (n span) six() bool { return n.cluster.Addr().Is6() }

func (n span) family() nftables.TableFamily {
	if n.six() {
		return nftables.TableFamilyIPv6
	}
	return nftables.TableFamilyIPv4
}

// size is an address's, in bytes.
func (n span) size() uint32 { return uint32(n.cluster.Addr().BitLen() / 8) }

// key2 and key3 are the registers of what stands behind an address.
func (n span) key2() uint32 { return regKey + n.size()/4 }
func (n span) key3() uint32 { return n.key2() + 1 }

func (n span) address() nftables.SetDatatype {
	if n.six() {
		return nftables.TypeIP6Addr
	}
	return nftables.TypeIPAddr
}

// prohibited is the code of ICMP's "unreachable".
func (n span) prohibited() uint8 {
	if n.six() {
		return 1
	}
	return 13
}

// body is a chain's rules.
type body [][]expr.Any

// framed is a chain that is there under every program.
type framed struct {
	name string
	base bool // hooked at what is forwarded
	body body
}

// frame is what is there under every program, the chain that refuses first.
func frame(n span, tenants bool) []framed {
	known := slices.Concat([]expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, connectionKnown), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: make([]byte, 4)},
	}, verdict(expr.VerdictAccept, ""))
	itself := slices.Concat([]expr.Any{n.header(saddr, regKey), n.header(daddr, n.key2())}, member(selvesSet), verdict(expr.VerdictAccept, ""))
	leads := func(of side, d direction) []expr.Any {
		return []expr.Any{n.header(of, regKey), &expr.Lookup{SourceRegister: regKey, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: ownMap(d)}}
	}
	from := body{known, itself, leads(saddr, egress), leads(saddr, egress)}
	if tenants {
		from = slices.Insert(from, 1, slices.Concat(n.inside(saddr, n.own, expr.CmpOpEq), n.inside(daddr, n.cluster, expr.CmpOpEq), verdict(expr.VerdictJump, tenantsChain)))
	}
	out := []framed{
		{refuseChain, false, body{
			{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{unix.IPPROTO_TCP}}, &expr.Reject{Type: unix.NFT_REJECT_TCP_RST}},
			{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: n.prohibited()}},
		}},
		{fromChain, true, from},
		{toChain, true, body{
			known, itself,
			slices.Concat([]expr.Any{n.header(saddr, regKey)}, member(nodesSet), verdict(expr.VerdictAccept, "")),
			leads(daddr, ingress), leads(daddr, ingress),
		}},
	}
	if !tenants {
		return out
	}
	back := verdict(expr.VerdictReturn, "")
	return slices.Insert(out, 1, framed{tenantsChain, false, body{
		slices.Concat([]expr.Any{n.header(saddr, regKey)}, member(ordinarySet), back),
		slices.Concat([]expr.Any{
			n.header(saddr, reg), &expr.Lookup{SourceRegister: reg, DestRegister: n.key2(), IsDestRegSet: true, SetName: tenantMap},
			n.header(daddr, regKey),
		}, member(membersSet), back),
		slices.Concat([]expr.Any{n.header(daddr, regKey)}, member(openSet), back),
		verdict(expr.VerdictGoto, refuseChain),
	}})
}

// body is a chain's rules as the kernel takes them, in one family.
func (c chain) body(n span) (out body) {
	for _, j := range c.jumps {
		out = append(out, verdict(expr.VerdictJump, j))
	}
	if c.jumps != nil {
		return append(out, verdict(expr.VerdictGoto, refuseChain))
	}
	for i := range c.matches {
		if m := &c.matches[i]; !m.block.IsValid() || m.block.Addr().Is6() == n.six() {
			out = append(out, slices.Concat(m.exprs(n, c.dir), verdict(expr.VerdictAccept, "")))
		}
	}
	return out
}

func (m *match) exprs(n span, d direction) (out []expr.Any) {
	other := saddr
	if d == egress {
		other = daddr
	}
	if m.peers != "" {
		out = append(out, n.header(other, regKey))
		out = append(out, member(m.peers)...)
	}
	if m.block.Bits() > 0 { // the zero prefix has -1
		out = append(out, n.inside(other, m.block, expr.CmpOpEq)...)
	}
	for _, e := range m.except {
		out = append(out, n.inside(other, e, expr.CmpOpNeq)...)
	}
	if m.named != "" {
		out = append(out, n.header(daddr, regKey), protocol(n.key2()), port(n.key3()))
		return append(out, member(m.named)...)
	}
	if m.protocol != 0 {
		out = append(out, protocol(reg), &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{m.protocol}})
	}
	if m.first != 0 {
		out = append(out, port(reg),
			&expr.Cmp{Op: expr.CmpOpGte, Register: reg, Data: binary.BigEndian.AppendUint16(nil, m.first)},
			&expr.Cmp{Op: expr.CmpOpLte, Register: reg, Data: binary.BigEndian.AppendUint16(nil, m.last)})
	}
	return out
}

// header loads an address of the packet.
func (n span) header(which side, to uint32) expr.Any {
	first := uint32(12) // where the addresses begin in an IPv4 header
	if n.six() {
		first = 8
	}
	return &expr.Payload{DestRegister: to, Base: expr.PayloadBaseNetworkHeader, Offset: first + uint32(which)*n.size(), Len: n.size()}
}

func protocol(to uint32) expr.Any { return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: to} }

func port(to uint32) expr.Any {
	return &expr.Payload{DestRegister: to, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

// member asks whether the key is in a set.
func member(set string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: regKey, SetName: set}}
}

func (n span) inside(which side, p netip.Prefix, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		n.header(which, reg),
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: n.size(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()), Xor: make([]byte, n.size())},
		&expr.Cmp{Op: op, Register: reg, Data: p.Masked().Addr().AsSlice()},
	}
}

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

// setOf describes a set or map as nftables does.
func (n span) setOf(t *nftables.Table, name string) *nftables.Set {
	address := n.address()
	s := &nftables.Set{Table: t, Name: name, KeyType: address}
	switch {
	case name == ingressMap || name == egressMap:
		s.IsMap, s.DataType = true, nftables.TypeVerdict
	case name == tenantMap:
		s.IsMap, s.DataType = true, nftables.TypeMark
	case name == selvesSet:
		s.KeyType = nftables.MustConcatSetType(address, address)
	case name == membersSet:
		s.KeyType = nftables.MustConcatSetType(address, nftables.TypeMark)
	case strings.HasPrefix(name, "port-"):
		s.KeyType = nftables.MustConcatSetType(address, nftables.TypeInetProto, nftables.TypeInetService)
	}
	s.Concatenation = s.KeyType.Name != address.Name
	return s
}

func ownSets() []string {
	return []string{ingressMap, egressMap, selvesSet, nodesSet, tenantMap, membersSet, ordinarySet, openSet}
}

func encode(e element) nftables.SetElement {
	out := nftables.SetElement{Key: []byte(e.key)}
	switch e.set {
	case ingressMap, egressMap:
		out.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: e.chain}
	case tenantMap:
		out.Val = []byte(markKey(e.tenant))
	}
	return out
}

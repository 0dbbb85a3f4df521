package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// What a confined pod reaches, in nft's words, for IPv4 (fe80::/10 is what is refused
// in IPv6):
//
//	set confined { type ipv4_addr }      # pods
//	set machines { type ipv4_addr }      # other nodes, with their gateways; etcd, NATS
//	set own-ports { type inet_proto . inet_service }               # see Open
//	set peer-ports { type ipv4_addr . inet_proto . inet_service }  # see Peer
//	chain input {
//	  type filter hook input priority filter;
//	  ct state new ip daddr $gateway iif != lo iifgroup != 66 drop
//	  ct state new ip daddr $gateway iifname ps-vxlan drop   # other nodes, and their pods
//	  ip saddr @confined jump to-host
//	}
//	chain to-host {
//	  ct state established,related return
//	  ip daddr $gateway udp dport 53 return
//	  ip daddr $gateway tcp dport 53 return
//	  ip daddr $gateway tcp dport 8080 return
//	  meta l4proto . th dport @own-ports return
//	  goto refuse
//	}
//	chain forward {
//	  type filter hook forward priority filter;
//	  ip saddr @confined jump outward
//	}
//	chain outward {
//	  ct state established,related return
//	  ip daddr 169.254.0.0/16 goto refuse   # a cloud's metadata
//	  ip daddr . meta l4proto . th dport @peer-ports return
//	  ip daddr @machines goto refuse
//	}
//	chain refuse {
//	  meta l4proto tcp reject with tcp reset
//	  reject with icmp admin-prohibited
//	}
//
// The address that pods have name server and gateway at is theirs alone, even
// when somebody has a route to it. A pod's address is its own: the links have strict reverse path filtering.
const (
	confinedSet = "confined"
	machinesSet = "machines"

	dnsPort  = 53
	loopback = 1 // the index of the loopback link, in every namespace
)

// gatewayPort is where the platform's gateway answers pods, at Gateway().
const gatewayPort = 8080

// addConfinement adds the rules to a transaction. Sets that are there keep what
// they hold, so that a restart of the agent opens nothing.
func (n *Network) addConfinement(c *nftables.Conn, t *nftables.Table, s stack) error {
	confined, machines := s.set(t, confinedSet), s.set(t, machinesSet)
	own, far := s.set(t, ownPortsSet), s.set(t, peerPortsSet)
	if err := errors.Join(c.AddSet(confined, nil), c.AddSet(machines, nil), c.AddSet(own, nil), c.AddSet(far, nil)); err != nil {
		return err
	}
	filter := func(name string, hook *nftables.ChainHook) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Name: name, Table: t, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter})
	}
	plain := func(name string) *nftables.Chain { return c.AddChain(&nftables.Chain{Name: name, Table: t}) }
	input, forward := filter("input", nftables.ChainHookInput), filter("forward", nftables.ChainHookForward)
	toHost, outward, refuse := plain("to-host"), plain("outward"), plain("refuse")
	rule := func(chain *nftables.Chain, parts ...[]expr.Any) {
		var all []expr.Any
		for _, p := range parts {
			all = append(all, p...)
		}
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: all})
	}
	verdict := func(kind expr.VerdictKind, chain string) []expr.Any {
		return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
	}
	in := func(offset uint32, of *nftables.Set) []expr.Any {
		return []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: s.size},
			&expr.Lookup{SourceRegister: 1, SetName: of.Name, SetID: of.ID},
		}
	}
	state := func(bits uint32) []expr.Any {
		return []expr.Any{
			&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, bits), Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
		}
	}
	known := state(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	toGateway := s.inPrefix(netip.PrefixFrom(s.gateway, s.gateway.BitLen()), s.dst, expr.CmpOpEq)
	port := func(protocol byte, port uint16) []expr.Any {
		return slices.Concat(toGateway, []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
		})
	}
	index := func(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
	rule(input, state(expr.CtStateBitNEW), toGateway, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: index(loopback)},
		&expr.Meta{Key: expr.MetaKeyIIFGROUP, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: index(linkGroup)},
		&expr.Verdict{Kind: expr.VerdictDrop},
	})
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, n.overlayLink())
	rule(input, state(expr.CtStateBitNEW), toGateway, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
		&expr.Verdict{Kind: expr.VerdictDrop},
	})
	rule(input, in(s.src, confined), verdict(expr.VerdictJump, toHost.Name))
	rule(forward, in(s.src, confined), verdict(expr.VerdictJump, outward.Name))
	rule(toHost, known, verdict(expr.VerdictReturn, ""))
	rule(toHost, port(unix.IPPROTO_UDP, dnsPort), verdict(expr.VerdictReturn, ""))
	rule(toHost, port(unix.IPPROTO_TCP, dnsPort), verdict(expr.VerdictReturn, ""))
	rule(toHost, port(unix.IPPROTO_TCP, gatewayPort), verdict(expr.VerdictReturn, ""))
	rule(toHost, s.toPort(own), verdict(expr.VerdictReturn, ""))
	rule(toHost, verdict(expr.VerdictGoto, refuse.Name))
	rule(outward, known, verdict(expr.VerdictReturn, ""))
	rule(outward, s.inPrefix(s.linkLocal, s.dst, expr.CmpOpEq), verdict(expr.VerdictGoto, refuse.Name))
	rule(outward, s.toPort(far), verdict(expr.VerdictReturn, ""))
	rule(outward, in(s.dst, machines), verdict(expr.VerdictGoto, refuse.Name))
	rule(refuse, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
	})
	rule(refuse, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: s.forbidden}})
	return nil
}

func (s stack) set(t *nftables.Table, name string) *nftables.Set {
	set := &nftables.Set{Table: t, Name: name, KeyType: s.address}
	switch name {
	case ownPortsSet:
		set.KeyType, set.Concatenation = nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService), true
	case peerPortsSet:
		set.KeyType, set.Concatenation = nftables.MustConcatSetType(s.address, nftables.TypeInetProto, nftables.TypeInetService), true
	}
	return set
}

// Confine keeps a sandbox away from the machines of the cluster and from what
// only machines have: it reaches name server and gateway at Gateway(), pods,
// Services and the world, but no other port of a node that is not opened (Open,
// Peer), and no link-local address.
// It lasts until Detach, over Recycle too. A sandbox that is not attached is an
// error.
func (n *Network) Confine(id string) error {
	n.mu.Lock()
	ip, ok := n.pool.byOwner[id]
	n.confined[id] = ok
	n.mu.Unlock()
	if !ok {
		return fmt.Errorf("confine sandbox %s: it is not attached", id)
	}
	return n.setElements(confinedSet, n.all(ip), nil)
}

// setElements adds addresses to a set and removes others, whether they are there
// or not.
func (n *Network) setElements(name string, add, remove []netip.Addr) error {
	if len(add)+len(remove) == 0 {
		return nil
	}
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for _, st := range n.stacks() {
		err = errors.Join(err, st.setElements(c, st.set(n.table(st), name), add, remove))
	}
	if err == nil {
		err = c.Flush()
	}
	if err != nil {
		return fmt.Errorf("change nftables set %s: %w", name, err)
	}
	return nil
}

// setElements queues the changes of one family's set.
func (s stack) setElements(c *nftables.Conn, set *nftables.Set, add, remove []netip.Addr) (err error) {
	elements := func(addrs []netip.Addr) (out []nftables.SetElement) {
		for _, a := range addrs {
			if a.BitLen() == int(8*s.size) {
				out = append(out, nftables.SetElement{Key: a.AsSlice()})
			}
		}
		return out
	}
	// One that is removed may not be there; added first it is. A message holds
	// 64 KiB.
	for some := range slices.Chunk(elements(slices.Concat(add, remove)), 400) {
		err = errors.Join(err, c.SetAddElements(set, some))
	}
	for some := range slices.Chunk(elements(remove), 400) {
		err = errors.Join(err, c.SetDeleteElements(set, some))
	}
	return err
}

// sweepConfined removes addresses of sandboxes that are not there any more.
func (n *Network) sweepConfined() error {
	n.mu.Lock()
	keep := map[netip.Addr]bool{}
	for id := range n.confined {
		if ip, ok := n.pool.byOwner[id]; ok {
			for _, a := range n.all(ip) {
				keep[a] = true
			}
		}
	}
	n.mu.Unlock()
	return n.reduce(confinedSet, keep)
}

// reduce removes what is in a set and not in keep.
func (n *Network) reduce(name string, keep map[netip.Addr]bool) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	var gone []netip.Addr
	for _, s := range n.stacks() {
		have, err := c.GetSetElements(s.set(n.table(s), name))
		if err != nil {
			return fmt.Errorf("list nftables set %s: %w", name, err)
		}
		for _, e := range have {
			if a, ok := netip.AddrFromSlice(e.Key); ok && !keep[a] {
				gone = append(gone, a)
			}
		}
	}
	return n.setElements(name, nil, gone)
}

// setMachines has confined pods kept away from other machines: those of the
// peers, and those that the settings name.
func (n *Network) setMachines(peers []Peer) error {
	all := append([]netip.Addr(nil), n.c.Forbidden...)
	for _, p := range peers {
		all = append(all, p.Address, p.Address6)
		for _, pods := range []netip.Prefix{p.PodCIDR, p.PodCIDR6} {
			if pods.IsValid() {
				all = append(all, pods.Masked().Addr().Next())
			}
		}
	}
	keep := map[netip.Addr]bool{}
	for _, a := range all {
		keep[a] = true
	}
	return errors.Join(n.setElements(machinesSet, all, nil), n.reduce(machinesSet, keep))
}

package network

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The sets of ports that are let through to confined pods: of this machine, at
// whichever of its addresses, and of others.
const (
	ownPortsSet  = "own-ports"
	peerPortsSet = "peer-ports"
)

// Port is one of a machine that confined pods reach all the same.
type Port struct {
	Protocol uint8 // an IP protocol that has ports, such as unix.IPPROTO_TCP
	Number   uint16
}

// Open has confined pods of this node reach these ports of it, and no others that
// were opened before. A connection that exists when its port is closed goes on.
func (n *Network) Open(ports []Port) error {
	return n.replace(ownPortsSet, func(stack) (keys [][]byte) {
		for _, p := range ports {
			keys = append(keys, p.key())
		}
		return keys
	})
}

// setPeerPorts has confined pods reach what the peers have opened. An address that
// the settings forbid stays so: it is a store's, whoever else says that it is his.
func (n *Network) setPeerPorts(peers []Peer) error {
	return n.replace(peerPortsSet, func(s stack) (keys [][]byte) {
		for _, p := range peers {
			for _, a := range []netip.Addr{p.Address, p.Address6} {
				if a.BitLen() != int(8*s.size) || slices.Contains(n.c.Forbidden, a) {
					continue
				}
				for _, port := range p.Open {
					keys = append(keys, append(a.AsSlice(), port.key()...))
				}
			}
		}
		return keys
	})
}

// key is the port in a concatenation, whose parts are of four bytes.
func (p Port) key() []byte {
	return []byte{p.Protocol, 0, 0, 0, byte(p.Number >> 8), byte(p.Number), 0, 0}
}

// toPort asks whether a packet goes to what is in a set of ports.
func (s stack) toPort(set *nftables.Set) []expr.Any {
	const first = unix.NFT_REG32_00 // of registers of four bytes
	var out []expr.Any
	next := uint32(first)
	if set.Name == peerPortsSet {
		out = append(out, &expr.Payload{DestRegister: next, Base: expr.PayloadBaseNetworkHeader, Offset: s.dst, Len: s.size})
		next += s.size / 4
	}
	return append(out,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: next},
		&expr.Payload{DestRegister: next + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: first, SetName: set.Name, SetID: set.ID},
	)
}

// replace has a set hold these keys and no others, in one transaction for all
// families.
func (n *Network) replace(name string, keys func(stack) [][]byte) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	changes := 0
	for _, s := range n.stacks() {
		set := s.set(n.table(s), name)
		have, err := c.GetSetElements(set)
		if err != nil {
			return fmt.Errorf("list nftables set %s: %w", name, err)
		}
		want, add, gone := map[string]bool{}, []nftables.SetElement(nil), []nftables.SetElement(nil)
		for _, k := range keys(s) {
			want[string(k)] = true
		}
		for _, e := range have {
			if !want[string(e.Key)] {
				gone = append(gone, nftables.SetElement{Key: e.Key})
			}
			delete(want, string(e.Key))
		}
		for k := range want {
			add = append(add, nftables.SetElement{Key: []byte(k)})
		}
		for some := range slices.Chunk(add, 400) { // a message holds 64 KiB
			if err := c.SetAddElements(set, some); err != nil {
				return fmt.Errorf("change nftables set %s: %w", name, err)
			}
		}
		for some := range slices.Chunk(gone, 400) {
			if err := c.SetDeleteElements(set, some); err != nil {
				return fmt.Errorf("change nftables set %s: %w", name, err)
			}
		}
		changes += len(add) + len(gone)
	}
	if changes == 0 {
		return nil
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("change nftables set %s: %w", name, err)
	}
	return nil
}

package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// applyTable writes the whole nftables table of each family in one transaction,
// over the one of a former process. In nft's words, for IPv4:
//
//	table ip podsnap {
//	  chain postrouting {
//	    type nat hook postrouting priority srcnat;
//	    ip saddr @pods ip daddr != @cluster masquerade
//	  }
//	  chain prerouting {
//	    type filter hook prerouting priority mangle;
//	    iifgroup 66 fib saddr . iif oif missing drop
//	    ip saddr @pods udp dport 8472 drop                # where VXLAN may be used
//	  }
//	}
//
// and the chains that confine pods (confine.go). The first rule has a pod send from
// its own address alone. So does its link's strict reverse path filtering, but
// that is a setting, which a machine's rules for new links (udev, sysctl.d) may set
// back. A pod that could send to the nodes' VXLAN port would put
// packets into the pod network under any address.
func (n *Network) applyTable() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for _, s := range n.stacks() {
		if err := n.addTable(c, s); err != nil {
			return fmt.Errorf("write nftables table %s: %w", n.c.Table, err)
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w", n.c.Table, err)
	}
	return nil
}

func (n *Network) addTable(c *nftables.Conn, s stack) error {
	t := c.AddTable(n.table(s))
	c.FlushTable(t)
	post := c.AddChain(&nftables.Chain{
		Name: "postrouting", Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	fromPod := s.inPrefix(s.pods, s.src, expr.CmpOpEq)
	c.AddRule(&nftables.Rule{Table: t, Chain: post, Exprs: slices.Concat(
		fromPod, s.inPrefix(s.cluster, s.dst, expr.CmpOpNeq), []expr.Any{&expr.Masq{}},
	)})
	pre := c.AddChain(&nftables.Chain{
		Name: "prerouting", Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle,
	})
	c.AddRule(&nftables.Rule{Table: t, Chain: pre, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFGROUP, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, linkGroup)},
		&expr.Fib{Register: 1, FlagSADDR: true, FlagIIF: true, ResultOIF: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)}, // no link
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	if !n.alone() && n.c.Overlay != OverlayNone {
		c.AddRule(&nftables.Rule{Table: t, Chain: pre, Exprs: slices.Concat(fromPod, []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, vxlanPort)},
			&expr.Verdict{Kind: expr.VerdictDrop},
		})})
	}
	return n.addConfinement(c, t, s)
}

func deleteTable(family nftables.TableFamily, name string) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	c.DelTable(&nftables.Table{Family: family, Name: name})
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete nftables table %s: %w", name, err)
	}
	return nil
}

func (n *Network) table(s stack) *nftables.Table {
	return &nftables.Table{Family: s.family, Name: n.c.Table}
}

// inPrefix compares an address of the packet's header with a prefix.
func (s stack) inPrefix(cidr netip.Prefix, offset uint32, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: s.size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: s.size, Mask: net.CIDRMask(cidr.Bits(), cidr.Addr().BitLen()), Xor: make([]byte, s.size)},
		&expr.Cmp{Op: op, Register: 1, Data: cidr.Masked().Addr().AsSlice()},
	}
}

package network

import (
	"errors"
	"fmt"
	"net"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// applyTable writes the whole nftables table in one transaction, over the one
// of a former process. In nft's words:
//
//	table ip podsnap {
//	  chain postrouting {
//	    type nat hook postrouting priority srcnat;
//	    ip saddr @pods ip daddr != @pods masquerade
//	  }
//	}
func (n *Network) applyTable() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	t := c.AddTable(n.table())
	c.FlushTable(t)
	post := c.AddChain(&nftables.Chain{
		Name: "postrouting", Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	const srcOffset, dstOffset = 12, 16 // in an IPv4 header
	exprs := append(n.inPodCIDR(srcOffset, expr.CmpOpEq), n.inPodCIDR(dstOffset, expr.CmpOpNeq)...)
	c.AddRule(&nftables.Rule{Table: t, Chain: post, Exprs: append(exprs, &expr.Masq{})})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w", n.c.Table, err)
	}
	return nil
}

func (n *Network) deleteTable() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	c.DelTable(n.table())
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete nftables table %s: %w", n.c.Table, err)
	}
	return nil
}

func (n *Network) table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyIPv4, Name: n.c.Table}
}

// inPodCIDR compares an address of the packet's header with the pod CIDR.
func (n *Network) inPodCIDR(offset uint32, op expr.CmpOp) []expr.Any {
	cidr := n.pool.cidr
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: net.CIDRMask(cidr.Bits(), 32), Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: 1, Data: cidr.Addr().AsSlice()},
	}
}

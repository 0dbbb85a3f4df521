package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Pods that share a segment hear one another's broadcast and multicast. The kernel
// sends such a frame on to the links of the others where it comes in, before
// anything else looks at it. In nft's words, for a segment of two pods:
//
//	table netdev podsnap {
//	  chain ps0123456789-shop {             # one for each pod
//	    type filter hook ingress device ps0123456789 priority filter;
//	    ether daddr & 01:00:00:00:00:00 == 0 return
//	    ether saddr != $mac return
//	    ether type ip ip saddr $ip ip daddr 224.0.0.0/4 goto segment-shop
//	    ether type ip ip saddr $ip ip daddr 255.255.255.255 goto segment-shop
//	    ether type ip6 ip6 saddr $ip6 ip6 daddr ff00::/8 goto segment-shop
//	  }
//	  chain segment-shop {
//	    iif != 7 dup to 7 comment ps0123456789
//	    iif != 9 dup to 9 comment ps9876543210
//	  }
//	}
//
// What is for one pod never goes this way, not in a frame that is for all either:
// such a one would come past Services and network policies. Under another address
// than its own, link-local ones included, a pod tells its neighbours nothing: routers
// are announced under those. ARP is left out, as nobody has to be asked for.
//
// The frame itself goes on to the host, as that of any other pod.

// segmentPrefix begins the names of segments' chains. Those of pods have a link's
// name in front, in which the letter at its end is one of an id.
const segmentPrefix = "segment-"

// limitedBroadcast is everybody on a link. Pods know no other broadcast address,
// having no network on their link.
var limitedBroadcast = netip.MustParsePrefix("255.255.255.255/32")

// Share has a sandbox hear what others of this node that share the same segment send
// by broadcast or multicast, and be heard by them. A segment begins with its first
// sandbox and ends with the last one. It lasts until Detach, and a restart of the
// agent does not interrupt it: to say it again, as after Adopt, changes nothing. A
// sandbox has one segment at most, and once it had one it cannot be recycled. A
// sandbox that is not attached is an error.
func (n *Network) Share(id, segment string) error {
	n.mu.Lock()
	ip, ok := n.pool.byOwner[id]
	if ok {
		n.sharing[id] = true
	}
	n.mu.Unlock()
	if !ok {
		return fmt.Errorf("sandbox %s is to share segment %s: it is not attached", id, segment)
	}
	l, err := netlink.LinkByName(n.linkName(id))
	if err == nil {
		err = n.enter(segment, l.Attrs(), ip)
	}
	if err != nil {
		return fmt.Errorf("sandbox %s is to share segment %s: %w", id, segment, err)
	}
	return nil
}

// enter has a link be one of a segment's, in one transaction.
func (n *Network) enter(segment string, link *netlink.LinkAttrs, ip netip.Addr) error {
	n.segments.Lock()
	defer n.segments.Unlock()
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	t := c.AddTable(n.segmentTable())
	all := c.AddChain(&nftables.Chain{Name: segmentPrefix + segment, Table: t})
	members, err := c.GetRules(t, all)
	if err != nil {
		return fmt.Errorf("list nftables chain %s: %w", all.Name, err)
	}
	own := c.AddChain(&nftables.Chain{
		Name: link.Name + "-" + segment, Table: t, Device: link.Name,
		Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityFilter,
	})
	c.FlushChain(own) // of a former process, which may have had other networks
	for _, r := range n.heard(ip, all.Name) {
		c.AddRule(&nftables.Rule{Table: t, Chain: own, Exprs: r})
	}
	if !slices.ContainsFunc(members, func(r *nftables.Rule) bool { return memberOf(r) == link.Name }) {
		c.AddRule(&nftables.Rule{Table: t, Chain: all, Exprs: copyTo(link.Index), UserData: userdata.AppendString(nil, userdata.TypeComment, link.Name)})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("change nftables chain %s: %w", all.Name, err)
	}
	return nil
}

// heard are the rules that tell which of a pod's frames are for its segment.
func (n *Network) heard(ip netip.Addr, segment string) [][]expr.Any {
	back := &expr.Verdict{Kind: expr.VerdictReturn}
	rules := [][]expr.Any{
		slices.Concat(frame(0, 1), []expr.Any{
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{1}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0}}, back,
		}),
		slices.Concat(frame(6, 6), []expr.Any{&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: macOf(ip)}, back}),
	}
	for i, a := range n.all(ip) {
		s := n.stacks()[i]
		for _, to := range s.many() {
			rules = append(rules, slices.Concat(
				frame(12, 2), []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, s.etherType())}},
				s.inPrefix(netip.PrefixFrom(a, a.BitLen()), s.src, expr.CmpOpEq), s.inPrefix(to, s.dst, expr.CmpOpEq),
				[]expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: segment}}))
		}
	}
	return rules
}

// frame loads a part of the Ethernet header.
func frame(offset, size uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: offset, Len: size}}
}

// copyTo sends a frame out by a link as well, unless it came in there.
func copyTo(link int) []expr.Any {
	index := binary.NativeEndian.AppendUint32(nil, uint32(link))
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: index},
		&expr.Immediate{Register: 1, Data: index},
		&expr.Dup{RegDev: 1, IsRegDevSet: true},
	}
}

// many are the addresses that are more than one pod's.
func (s stack) many() []netip.Prefix {
	if s.route == unix.AF_INET6 {
		return []netip.Prefix{netip.MustParsePrefix("ff00::/8")}
	}
	return []netip.Prefix{netip.MustParsePrefix("224.0.0.0/4"), limitedBroadcast}
}

func (s stack) etherType() uint16 {
	if s.route == unix.AF_INET6 {
		return unix.ETH_P_IPV6
	}
	return unix.ETH_P_IP
}

// leave takes links out of their segments, and removes what is empty then. The end
// of a link takes its chain along or not, by the kernel's version; its rule in the
// segment stays in any case, and sends nothing any more.
func (n *Network) leave(which func(link string) bool) error {
	n.segments.Lock()
	defer n.segments.Unlock()
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	t := n.segmentTable()
	chains, err := c.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return fmt.Errorf("list nftables chains: %w", err)
	}
	chains = slices.DeleteFunc(chains, func(ch *nftables.Chain) bool { return ch.Table.Name != t.Name })
	stay := map[string]int{} // pods, by segment
	for _, ch := range chains {
		link, segment, ok := n.parseChain(ch.Name)
		if !ok {
			continue
		}
		if !which(link) {
			stay[segment]++
			continue
		}
		// One that has gone meanwhile is there again before it is deleted.
		c.DelChain(c.AddChain(&nftables.Chain{Name: ch.Name, Table: t}))
	}
	for _, ch := range chains {
		segment, ok := strings.CutPrefix(ch.Name, segmentPrefix)
		if !ok {
			continue
		}
		members, err := c.GetRules(t, ch)
		if err != nil {
			return fmt.Errorf("list nftables chain %s: %w", ch.Name, err)
		}
		for _, r := range members {
			if which(memberOf(r)) {
				err = errors.Join(err, c.DelRule(r))
			} else {
				stay[segment]++
			}
		}
		if err != nil {
			return fmt.Errorf("change nftables chain %s: %w", ch.Name, err)
		}
		if stay[segment] == 0 {
			c.DelChain(ch)
		}
	}
	if len(chains) > 0 && len(stay) == 0 {
		return deleteTable(t.Family, t.Name)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("change nftables table %s of segments: %w", t.Name, err)
	}
	return nil
}

// sweepSegments takes links out that no known sandbox shares a segment by.
func (n *Network) sweepSegments() error {
	n.mu.Lock()
	keep := map[string]bool{}
	for id := range n.sharing {
		keep[n.linkName(id)] = true
	}
	n.mu.Unlock()
	return n.leave(func(link string) bool { return !keep[link] })
}

func (n *Network) segmentTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyNetdev, Name: n.c.Table}
}

// parseChain takes the name of a pod's chain apart.
func (n *Network) parseChain(name string) (link, segment string, ok bool) {
	at := len(n.c.VethPrefix) + idLetters
	if len(name) <= at || name[at] != '-' || strings.HasPrefix(name, segmentPrefix) {
		return "", "", false
	}
	return name[:at], name[at+1:], true
}

// memberOf is the link that a segment's rule sends to.
func memberOf(r *nftables.Rule) string {
	link, _ := userdata.GetString(r.UserData, userdata.TypeComment)
	return link
}

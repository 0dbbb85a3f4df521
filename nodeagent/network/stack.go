package network

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stack is the pod network in one address family: IPv4, which every node has,
// or IPv6.
//
// In IPv6 a pod has the address that stands at the same place in the node's
// block as its IPv4 address stands in that one: there is one pool, and what is
// known of a pod's first address is known of its second.
type stack struct {
	pods, cluster netip.Prefix // of this node, and of all nodes
	gateway       netip.Addr   // the host's own address towards pods

	family    nftables.TableFamily
	route     int // AF_INET or AF_INET6
	address   nftables.SetDatatype
	size      uint32       // of an address, in bytes
	src, dst  uint32       // where a packet's header has the addresses
	linkLocal netip.Prefix // what is one link's only, such as a cloud's metadata
	forbidden uint8        // ICMP's code for "administratively prohibited"
}

func newStack(pods, cluster netip.Prefix) stack {
	s := stack{pods: pods.Masked(), cluster: cluster.Masked()}
	s.gateway = s.pods.Addr().Next()
	if s.pods.Addr().Is4() {
		s.family, s.route, s.address = nftables.TableFamilyIPv4, unix.AF_INET, nftables.TypeIPAddr
		s.size, s.src, s.dst = 4, 12, 16
		s.linkLocal, s.forbidden = netip.MustParsePrefix("169.254.0.0/16"), 13
		return s
	}
	s.family, s.route, s.address = nftables.TableFamilyIPv6, unix.AF_INET6, nftables.TypeIP6Addr
	s.size, s.src, s.dst = 16, 8, 24
	s.linkLocal, s.forbidden = netip.MustParsePrefix("fe80::/10"), 1
	return s
}

// leastMTU is the smallest that IPv6 runs over.
const leastMTU = 1280

// newSix checks what is said about IPv6 and makes its stack; nil is IPv4 alone.
func newSix(c Config, four netip.Prefix) (*stack, error) {
	p, all := c.PodCIDR6, c.ClusterCIDR6
	if !p.IsValid() {
		return nil, nil //nolint:nilnil // there is none
	}
	if !all.IsValid() {
		all = p
	}
	switch {
	case !p.Addr().Is6() || p.Addr().Is4In6() || 128-p.Bits() < 32-four.Bits():
		return nil, fmt.Errorf("IPv6 pod CIDR %s: want an IPv6 prefix of at most /%d, which has as many addresses as the IPv4 one %s", p, 96+four.Bits(), four)
	case all.Bits() > p.Bits() || !all.Contains(p.Addr()):
		return nil, fmt.Errorf("IPv6 pod CIDR %s is not part of the cluster's %s", p, all)
	case c.Overlay == OverlayNone && all.Masked() != p.Masked():
		return nil, errors.New("IPv6 needs the overlay, which is off: packets to other nodes are wrapped in IPv4")
	}
	s := newStack(p, all)
	return &s, nil
}

// stacks are those that there are.
func (n *Network) stacks() []stack {
	if n.six == nil {
		return []stack{n.four}
	}
	return []stack{n.four, *n.six}
}

// Second is the IPv6 address of a pod with that IPv4 address. It is invalid in a
// network of IPv4 alone.
func (n *Network) Second(ip netip.Addr) netip.Addr {
	if n.six == nil || !n.four.pods.Contains(ip) {
		return netip.Addr{}
	}
	out, at, first := n.six.pods.Addr().As16(), ip.As4(), n.four.pods.Addr().As4()
	for i := range at {
		out[12+i] |= at[i] ^ first[i] // those bits of the block are zero
	}
	return netip.AddrFrom16(out)
}

// Text is an address as a pod's status has it: "" for none.
func Text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// Gateway6 is Gateway in IPv6; invalid in a network of IPv4 alone.
func (n *Network) Gateway6() netip.Addr {
	if n.six == nil {
		return netip.Addr{}
	}
	return n.six.gateway
}

// all are a pod's addresses.
func (n *Network) all(ip netip.Addr) []netip.Addr {
	if six := n.Second(ip); six.IsValid() {
		return []netip.Addr{ip, six}
	}
	return []netip.Addr{ip}
}

// openSix has the machine forward IPv6, or, in a network of IPv4 alone, takes back
// what a former process has opened.
func (n *Network) openSix() error {
	if n.six == nil {
		return n.closeSix()
	}
	if n.c.MTU < leastMTU {
		return fmt.Errorf("MTU %d: IPv6 needs %d", n.c.MTU, leastMTU)
	}
	const forwarding = "net/ipv6/conf/all/forwarding"
	was, err := os.ReadFile("/proc/sys/" + forwarding)
	if err != nil {
		return fmt.Errorf("this machine's kernel has no IPv6, which the cluster's pods have: %w", err)
	}
	if !bytes.HasPrefix(was, []byte("1")) {
		if err := errors.Join(listenOn(), switchOn(forwarding)); err != nil {
			return err
		}
	}
	return n.addAnchor()
}

// listenOn has the links whose routes come from routers' advertisements hear them
// on: to a machine that forwards, the kernel's usual setting says no.
func listenOn() error {
	files, err := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
	for _, f := range files {
		if b, readErr := os.ReadFile(f); readErr == nil && bytes.HasPrefix(b, []byte("1")) {
			err = errors.Join(err, ignoreMissing(os.WriteFile(f, []byte("2"), 0o644)))
		}
	}
	return err
}

// Anchor is a link that packets to Services of IPv6 are made for; "" in a network
// of IPv4 alone. None is ever sent by it. In IPv6 a route that leads to the
// loopback link is one that refuses.
func (n *Network) Anchor() string {
	if n.six == nil {
		return ""
	}
	return n.anchor()
}

func (n *Network) anchor() string { return n.c.VethPrefix + "-six" }

func (n *Network) addAnchor() error {
	l, err := netlink.LinkByName(n.anchor())
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		a := netlink.NewLinkAttrs()
		a.Name, a.Group = n.anchor(), linkGroup
		l = &netlink.Bridge{LinkAttrs: a}
		err = netlink.LinkAdd(l)
	}
	if err != nil {
		return fmt.Errorf("add link %s: %w", n.anchor(), err)
	}
	if err := quietSix(n.anchor()); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", n.anchor(), err)
	}
	return nil
}

// closeSix removes what is left of an IPv6 stack, so that pods of that time reach
// nothing in a family that has no rules any more.
func (n *Network) closeSix() error {
	links, err := listLinks()
	if err != nil {
		return err
	}
	for _, l := range links {
		switch {
		case n.isPodLink(l) || l.Attrs().Name == n.overlayLink():
			err = errors.Join(err, ignoreMissing(switchOn("net/ipv6/conf/"+l.Attrs().Name+"/disable_ipv6")))
		case l.Attrs().Name == n.anchor() && l.Type() == "bridge":
			err = errors.Join(err, netlink.LinkDel(l))
		}
	}
	return errors.Join(err, deleteTable(nftables.TableFamilyIPv6, n.c.Table))
}

// quietSix has a link speak IPv6 with the addresses that it is given and no other:
// without one of its own making, nothing has to be tried for being unique.
func quietSix(link string) error {
	dir := "net/ipv6/conf/" + link + "/"
	return errors.Join(switchOn(dir+"addr_gen_mode"), setSysctl(dir+"disable_ipv6", "0"))
}

// prepareLink settles IPv6 on a link before it is up.
func (n *Network) prepareLink(link string) error {
	if n.six == nil {
		return ignoreMissing(switchOn("net/ipv6/conf/" + link + "/disable_ipv6"))
	}
	return quietSix(link)
}

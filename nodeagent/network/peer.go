package network

import (
	"errors"
	"fmt"
	"net/netip"
)

// Peer is another node of the cluster.
type Peer struct {
	Name    string       // for messages
	Address netip.Addr   // the node's own, where this node reaches it
	PodCIDR netip.Prefix // of its pods, whose first address is the peer's Gateway

	// Address6 is another of the node's own, from which confined pods are kept away,
	// and PodCIDR6 is its pods' in IPv6; zero is none. Packets to these are wrapped
	// in any case: they go between the IPv4 addresses of the nodes.
	Address6 netip.Addr
	PodCIDR6 netip.Prefix

	// Open are the ports at Address and Address6 that confined pods reach.
	Open []Port
}

// Overlay says how packets get to another node's pods.
type Overlay string

// The ways. With OverlayAuto a peer whose address is in the subnet of one of
// this node's links is the gateway of its pods, and packets to the others are
// wrapped in VXLAN (id 66, UDP port 8472). Two nodes see each other in the same
// way as long as their netmasks agree.
const (
	OverlayAuto  Overlay = "auto"
	OverlayVXLAN Overlay = "vxlan" // wrapped in any case, for a network that drops pod addresses
	OverlayNone  Overlay = "none"  // never wrapped: a peer outside of the subnets is an error
)

// wrapping is what VXLAN adds to a packet: Ethernet, VXLAN, UDP and IPv4 headers.
const wrapping = 14 + 8 + 8 + 20

// ground is what a way to another node depends on, beside the node.
type ground struct {
	own, cluster   netip.Prefix
	own6, cluster6 netip.Prefix // zero: IPv4 alone
	overlay        Overlay
	subnets        []subnet
}

// subnet is what one of this node's links reaches without a router.
type subnet struct {
	address netip.Addr // this node's in it
	prefix  netip.Prefix
	link    int
}

// hop is a route's next one.
type hop struct {
	link int // 0 is the VXLAN device
	via  netip.Addr
}

// crossing is what has to be in the kernel for the peers' pods to be reached.
type crossing struct {
	routes map[netip.Prefix]hop
	far    map[netip.Addr]tunnel // behind VXLAN: a peer's gateway, in one family or both
}

// tunnel is where a gateway behind VXLAN is.
type tunnel struct {
	node netip.Addr
	mac  string // of the peer's VXLAN device
}

// plan finds the way to each peer. A peer that cannot be one is left out and is
// part of the error; the plan is right for the others.
func (g ground) plan(peers []Peer) (crossing, error) {
	c := crossing{routes: map[netip.Prefix]hop{}, far: map[netip.Addr]tunnel{}}
	var errs []error
	var good []Peer
	for _, p := range peers {
		if err := g.check(p, good); err != nil {
			errs = append(errs, fmt.Errorf("peer %s: %w", p.Name, err))
			continue
		}
		good = append(good, p)
		pods := p.PodCIDR.Masked()
		through := tunnel{p.Address, macOf(pods.Addr().Next()).String()}
		wrap := func(pods netip.Prefix) {
			gateway := pods.Addr().Next()
			c.routes[pods] = hop{via: gateway}
			c.far[gateway] = through
		}
		if g.own6.IsValid() && p.PodCIDR6.IsValid() {
			wrap(p.PodCIDR6.Masked())
		}
		link := g.linkTo(p.Address)
		switch {
		case link != 0 && g.overlay != OverlayVXLAN:
			c.routes[pods] = hop{link: link, via: p.Address}
		case g.overlay == OverlayNone:
			errs = append(errs, fmt.Errorf("peer %s: %s is not in the subnet of a link of this node, and the overlay is off", p.Name, p.Address))
		default:
			wrap(pods)
		}
	}
	return c, errors.Join(errs...)
}

// check finds what is wrong with a peer, beside the good ones.
func (g ground) check(p Peer, good []Peer) error {
	if !p.Address.Is4() {
		return fmt.Errorf("address %s: want an IPv4 address", p.Address)
	}
	for _, s := range g.subnets {
		if s.address == p.Address {
			return fmt.Errorf("address %s is this node's own", p.Address)
		}
	}
	switch {
	case !p.PodCIDR.IsValid() || !p.PodCIDR.Addr().Is4() || p.PodCIDR.Bits() > 29:
		return fmt.Errorf("pod CIDR %s: want an IPv4 prefix of at most /29", p.PodCIDR)
	case p.PodCIDR.Bits() < g.cluster.Bits() || !g.cluster.Contains(p.PodCIDR.Addr()):
		return fmt.Errorf("pod CIDR %s is not part of the cluster's %s", p.PodCIDR, g.cluster)
	case p.PodCIDR.Overlaps(g.own):
		return fmt.Errorf("pod CIDR %s overlaps with this node's %s", p.PodCIDR, g.own)
	}
	for _, b := range good {
		if b.PodCIDR.Overlaps(p.PodCIDR) {
			return fmt.Errorf("pod CIDR %s overlaps with %s of peer %s", p.PodCIDR, b.PodCIDR, b.Name)
		}
	}
	if !g.own6.IsValid() || !p.PodCIDR6.IsValid() {
		return nil
	}
	return g.check6(p, good)
}

func (g ground) check6(p Peer, good []Peer) error {
	switch {
	case p.PodCIDR6.Bits() < g.cluster6.Bits() || !g.cluster6.Contains(p.PodCIDR6.Addr()):
		return fmt.Errorf("pod CIDR %s is not part of the cluster's %s", p.PodCIDR6, g.cluster6)
	case p.PodCIDR6.Overlaps(g.own6):
		return fmt.Errorf("pod CIDR %s overlaps with this node's %s", p.PodCIDR6, g.own6)
	}
	for _, b := range good {
		if b.PodCIDR6.IsValid() && b.PodCIDR6.Overlaps(p.PodCIDR6) {
			return fmt.Errorf("pod CIDR %s overlaps with %s of peer %s", p.PodCIDR6, b.PodCIDR6, b.Name)
		}
	}
	return nil
}

// linkTo is the link in whose subnet the address is; 0 for none.
func (g ground) linkTo(a netip.Addr) int {
	best := subnet{}
	for _, s := range g.subnets {
		if s.prefix.Contains(a) && (best.link == 0 || s.prefix.Bits() > best.prefix.Bits()) {
			best = s
		}
	}
	return best.link
}

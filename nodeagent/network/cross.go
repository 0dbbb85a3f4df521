package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	vxlanID   = 66
	vxlanPort = 8472

	// routeProtocol marks the routes that are ours to remove (ip route show proto 66).
	routeProtocol = 66
)

// SetPeers has the pods of these nodes reached, and those of no others: routes
// to peers that are not named any more are removed. What is there already is
// left as it is. Links that come, go or change their addresses are seen at the
// next call, so a caller repeats it now and then. A peer that cannot be reached
// is part of the error and does not keep the others from being set.
func (n *Network) SetPeers(_ context.Context, peers []Peer) error {
	_, err := n.setPeers(peers)
	return err
}

// setPeers answers with the number of changes that the kernel was asked for.
func (n *Network) setPeers(peers []Peer) (changes int, err error) {
	n.crossing.Lock()
	defer n.crossing.Unlock()
	subnets, err := listSubnets()
	if err != nil {
		return 0, err
	}
	g := ground{own: n.four.pods, cluster: n.four.cluster, overlay: n.c.Overlay, subnets: subnets}
	if n.six != nil {
		g.own6, g.cluster6 = n.six.pods, n.six.cluster
	}
	want, faults := g.plan(peers)
	faults = errors.Join(faults, n.setMachines(peers), n.setPeerPorts(peers))
	a := &applier{n: n}
	if len(want.far) > 0 {
		err = a.overlay(want.far)
	}
	if err == nil {
		// The device goes last: nothing leads over it any more then.
		err = a.routes(want.routes)
	}
	if err == nil && len(want.far) == 0 {
		err = a.removeOverlay()
	}
	return a.changes, errors.Join(err, faults)
}

// applier brings the kernel to a crossing and counts what it had to do.
type applier struct {
	n       *Network
	device  int // VXLAN's link
	changes int
}

// change does one thing to the kernel.
func (a *applier) change(err error, format string, args ...any) error {
	a.changes++
	if err != nil {
		return fmt.Errorf(format+": %w", append(args, err)...)
	}
	return nil
}

// overlay has the device there with the entries that lead to the far nodes.
// Nothing is learned or asked for: a peer's link address follows from its pod
// CIDR, and so both tables are complete.
func (a *applier) overlay(far map[netip.Addr]tunnel) error {
	if err := a.addOverlay(); err != nil {
		return err
	}
	macs := map[string]netip.Addr{} // link address to the node's address
	for _, to := range far {
		macs[to.mac] = to.node
	}
	forward, err := dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(a.device, unix.AF_BRIDGE) })
	if err != nil {
		return fmt.Errorf("list VXLAN's forwarding entries: %w", err)
	}
	for _, f := range forward {
		have, _ := netip.AddrFromSlice(f.IP)
		if node, ok := macs[f.HardwareAddr.String()]; ok && have.Unmap() == node {
			delete(macs, f.HardwareAddr.String())
		} else if !ok && f.State&netlink.NUD_PERMANENT != 0 {
			if err := a.change(netlink.NeighDel(&f), "remove the forwarding entry of %s", f.HardwareAddr); err != nil {
				return err
			}
		}
	}
	for mac, node := range macs {
		hw, err := net.ParseMAC(mac)
		if err != nil {
			return err
		}
		if err := a.change(netlink.NeighSet(&netlink.Neigh{
			LinkIndex: a.device, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF,
			IP: node.AsSlice(), HardwareAddr: hw,
		}), "add the forwarding entry of %s", node); err != nil {
			return err
		}
	}
	for _, s := range a.n.stacks() {
		if err := a.neighbours(s, far); err != nil {
			return err
		}
	}
	return nil
}

func (a *applier) neighbours(s stack, far map[netip.Addr]tunnel) error {
	there, err := dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(a.device, s.route) })
	if err != nil {
		return fmt.Errorf("list VXLAN's neighbours: %w", err)
	}
	known := map[netip.Addr]bool{}
	for _, t := range there {
		ip, _ := netip.AddrFromSlice(t.IP)
		to, ok := far[ip]
		switch {
		case t.State&netlink.NUD_PERMANENT == 0:
		case ok && t.HardwareAddr.String() == to.mac:
			known[ip] = true
		case !ok:
			if err := a.change(netlink.NeighDel(&t), "remove neighbour %s", ip); err != nil {
				return err
			}
		}
	}
	for gateway, to := range far {
		if known[gateway] || gateway.BitLen() != int(8*s.size) {
			continue
		}
		mac, err := net.ParseMAC(to.mac)
		if err != nil {
			return err
		}
		if err := a.change(netlink.NeighSet(&netlink.Neigh{
			LinkIndex: a.device, Family: s.route, State: netlink.NUD_PERMANENT, IP: gateway.AsSlice(), HardwareAddr: mac,
		}), "add neighbour %s", gateway); err != nil {
			return err
		}
	}
	return nil
}

// addOverlay has the VXLAN device there, as it should be.
func (a *applier) addOverlay() error {
	want := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{
			Name: a.n.overlayLink(), MTU: a.n.wire - wrapping, TxQLen: -1, Group: linkGroup,
			HardwareAddr: macOf(a.n.pool.gateway),
		},
		VxlanId: vxlanID, Port: vxlanPort,
	}
	if a.n.c.NodeIP.IsValid() {
		want.SrcAddr = a.n.c.NodeIP.AsSlice()
	}
	have, err := netlink.LinkByName(want.Name)
	if err == nil {
		if sameOverlay(have, want) {
			a.device = have.Attrs().Index
			return a.n.prepareLink(want.Name) // it may have been made before there was IPv6
		}
		if err := a.change(netlink.LinkDel(have), "replace link %s", want.Name); err != nil {
			return err
		}
	} else if !errors.As(err, new(netlink.LinkNotFoundError)) {
		return fmt.Errorf("look for link %s: %w", want.Name, err)
	}
	if err := a.change(a.n.makeOverlay(want), "add link %s (VXLAN %d over UDP port %d)", want.Name, vxlanID, vxlanPort); err != nil {
		return err
	}
	a.device = want.Index
	return nil
}

// makeOverlay makes the device and switches it on.
func (n *Network) makeOverlay(want *netlink.Vxlan) error {
	if err := netlink.LinkAdd(want); err != nil {
		return err
	}
	// As on the pods' links: who sends under an address that is not his is not
	// heard.
	if err := errors.Join(switchOn("net/ipv4/conf/"+want.Name+"/rp_filter"), n.prepareLink(want.Name)); err != nil {
		return err
	}
	return netlink.LinkSetUp(want)
}

func sameOverlay(l netlink.Link, want *netlink.Vxlan) bool {
	have, ok := l.(*netlink.Vxlan)
	return ok && have.VxlanId == want.VxlanId && have.Port == want.Port && !have.Learning &&
		have.MTU == want.MTU && have.Flags&net.FlagUp != 0 &&
		have.SrcAddr.Equal(want.SrcAddr) && bytes.Equal(have.HardwareAddr, want.HardwareAddr)
}

func (a *applier) removeOverlay() error {
	l, err := netlink.LinkByName(a.n.overlayLink())
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for link %s: %w", a.n.overlayLink(), err)
	}
	if l.Type() != "vxlan" {
		return nil // somebody else's
	}
	return a.change(netlink.LinkDel(l), "delete link %s", l.Attrs().Name)
}

// routes adds and changes what is wanted, then removes what is not.
func (a *applier) routes(want map[netip.Prefix]hop) error {
	have, err := a.n.peerRoutes()
	if err != nil {
		return err
	}
	there := map[netip.Prefix]bool{}
	for _, r := range have {
		dst := prefixOf(r.Dst)
		if h, ok := want[dst]; ok && sameRoute(&r, a.route(dst, h)) {
			there[dst] = true
		}
	}
	for dst, h := range want {
		if there[dst] {
			continue
		}
		if err := a.change(netlink.RouteReplace(a.route(dst, h)), "route to %s over %s", dst, h.via); err != nil {
			return err
		}
	}
	for _, r := range have {
		if _, ok := want[prefixOf(r.Dst)]; ok {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove the route to %s: %w", r.Dst, err)
		}
		a.changes++
	}
	return nil
}

// route is towards a peer's pods. The host itself speaks from its address in
// the pod network, so that answers come back the same way.
func (a *applier) route(dst netip.Prefix, h hop) *netlink.Route {
	r := &netlink.Route{
		LinkIndex: h.link, Dst: &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), dst.Addr().BitLen())},
		Gw: h.via.AsSlice(), Src: a.n.four.gateway.AsSlice(), Protocol: routeProtocol,
	}
	if dst.Addr().Is6() {
		r.Src = a.n.six.gateway.AsSlice()
	}
	if h.link == 0 {
		r.LinkIndex = a.device
		r.Flags = int(netlink.FLAG_ONLINK) // no address of ours is in its subnet
	}
	return r
}

func sameRoute(a, b *netlink.Route) bool {
	return a.LinkIndex == b.LinkIndex && a.Gw.Equal(b.Gw) && a.Src.Equal(b.Src) && a.Flags&int(netlink.FLAG_ONLINK) == b.Flags
}

// peerRoutes are the routes that SetPeers made, for this platform.
func (n *Network) peerRoutes() ([]netlink.Route, error) {
	var out []netlink.Route
	for _, s := range n.stacks() {
		all, err := dump(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(s.route, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range all {
			if r.Dst != nil && s.cluster.Contains(prefixOf(r.Dst).Addr()) {
				out = append(out, r)
			}
		}
	}
	return out, nil
}

func prefixOf(n *net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones)
}

// listSubnets are those of links on which others can be gateways: they are up
// and have neighbours.
func listSubnets() ([]subnet, error) {
	links, err := listLinks()
	if err != nil {
		return nil, err
	}
	use := map[int]bool{}
	for _, l := range links {
		use[l.Attrs().Index] = l.Attrs().Flags&net.FlagUp != 0 && l.Attrs().Flags&net.FlagBroadcast != 0
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, unix.AF_INET) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []subnet
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP.To4())
		ones, _ := a.Mask.Size()
		if ok && use[a.LinkIndex] {
			out = append(out, subnet{address: ip, prefix: netip.PrefixFrom(ip, ones).Masked(), link: a.LinkIndex})
		}
	}
	return out, nil
}

// wireMTU is that of the link that packets to other nodes leave by: the one
// with the node's address, or the default route's.
func wireMTU(node netip.Addr) (int, error) {
	const usual = 1500
	link := 0
	if node.IsValid() {
		addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, unix.AF_INET) })
		if err != nil {
			return 0, fmt.Errorf("list addresses: %w", err)
		}
		for _, a := range addrs {
			if a.IP.Equal(node.AsSlice()) {
				link = a.LinkIndex
			}
		}
		if link == 0 {
			return 0, fmt.Errorf("no link of this machine has the node's address %s", node)
		}
	} else {
		routes, err := dump(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Dst: nil}, netlink.RT_FILTER_DST)
		})
		if err != nil {
			return 0, fmt.Errorf("list routes: %w", err)
		}
		best := 0
		for i, r := range routes {
			if r.LinkIndex != 0 && (link == 0 || r.Priority < routes[best].Priority) {
				best, link = i, r.LinkIndex
			}
		}
		if link == 0 {
			return usual, nil
		}
	}
	l, err := netlink.LinkByIndex(link)
	if err != nil {
		return 0, err
	}
	if l.Attrs().Flags&net.FlagLoopback != 0 {
		return usual, nil
	}
	return l.Attrs().MTU, nil
}

// dump lists something of the kernel's. The kernel says when others changed it
// meanwhile, so that some may be missing: then it is asked again.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	for tries := 1; ; tries++ {
		out, err := list()
		if err == nil || errors.Is(err, netlink.ErrDumpInterrupted) && tries >= 100 {
			return out, nil
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, err
		}
	}
}

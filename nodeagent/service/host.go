package service

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks the route as ours (ip route show proto 66).
const routeProtocol = 66

// host is what is not nftables.
type host struct {
	c     Config
	route *netlink.Handle
	flows *netlink.Handle
}

func openHost(c Config) (*host, error) {
	h := &host{c: c}
	var err error
	if h.route, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	if h.flows, err = netlink.NewHandle(unix.NETLINK_NETFILTER); err != nil {
		h.route.Close()
		return nil, fmt.Errorf("open conntrack: %w", err)
	}
	return h, nil
}

func (h *host) close() {
	h.route.Close()
	h.flows.Close()
}

// addRoute lets the node itself reach Services: without a route to an address no
// packet is made whose destination could be changed. The packet never takes this
// route, so that it leads to the loopback link, which is always there; in IPv6,
// where such a route refuses, to a link that nothing is behind. It says from which
// address the node speaks, and what size a packet may have.
func (h *host) addRoute() error {
	for _, r := range h.c.rules() {
		route, err := h.routeTo(r)
		if err != nil {
			return err
		}
		if err := h.route.RouteReplace(route); err != nil {
			return fmt.Errorf("route to the services' %s: %w", r.services, err)
		}
	}
	return nil
}

// removeRoute takes it away again, if it is ours.
func removeRoute(services netip.Prefix) error {
	r := &netlink.Route{Protocol: routeProtocol, Dst: ipNet(services.Masked())}
	if services.Addr().Is4() {
		r.Scope = netlink.SCOPE_LINK
	}
	if err := netlink.RouteDel(r); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove the route to the services' %s: %w", services, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (h *host) routeTo(r rules) (*netlink.Route, error) {
	name, scope := "lo", netlink.SCOPE_LINK
	if r.six() {
		name, scope = h.c.Anchor, netlink.SCOPE_UNIVERSE
	}
	l, err := h.route.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", name, err)
	}
	return &netlink.Route{
		LinkIndex: l.Attrs().Index, Scope: scope, Protocol: routeProtocol,
		Dst: ipNet(r.services), Src: r.source.AsSlice(), MTU: h.c.MTU,
	}, nil
}

// addresses are the node's own.
func (h *host) addresses() ([]netip.Addr, error) {
	all, err := h.route.AddrList(nil, unix.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range all {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			out = append(out, ip.Unmap())
		}
	}
	return out, nil
}

// forget ends what the kernel remembers of UDP clients with endpoints that are
// gone: as long as a client sends, its packets would go to the old endpoint.
func (h *host) forget(gone map[flow]bool) error {
	if len(gone) == 0 {
		return nil
	}
	for family, six := range map[netlink.InetFamily]bool{unix.AF_INET: false, unix.AF_INET6: true} {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(gone)), func(f flow) bool { return f.key.ip.six() == six }) {
			continue
		}
		_, err := h.flows.ConntrackDeleteFilters(netlink.ConntrackTable, family, stale(gone))
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("delete connections: %w", err)
		}
	}
	return nil
}

// stale selects the connections to what is gone.
type stale map[flow]bool

func (s stale) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to, ok := netip.AddrFromSlice(f.Forward.DstIP)
	from, ok2 := netip.AddrFromSlice(f.Reverse.SrcIP)
	if !ok || !ok2 {
		return false
	}
	k := key{ip: ipOf(to), protocol: unix.IPPROTO_UDP, port: f.Forward.DstPort}
	b := backend{ip: ipOf(from), port: f.Reverse.SrcPort}
	return s[flow{key: k, to: b}] || s[flow{key: key{anywhere(k.ip.six()), k.protocol, k.port}, to: b}]
}

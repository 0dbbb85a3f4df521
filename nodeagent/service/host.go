package service

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

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
// route, so that it leads to the loopback link, which is always there. It says
// from which address the node speaks, and what size a packet may have.
func (h *host) addRoute() error {
	r, err := h.routeTo()
	if err != nil {
		return err
	}
	if err := h.route.RouteReplace(r); err != nil {
		return fmt.Errorf("route to the services' %s: %w", h.c.ServiceCIDR, err)
	}
	return nil
}

// removeRoute takes it away again, if it is ours.
func removeRoute(services netip.Prefix) error {
	err := netlink.RouteDel(&netlink.Route{Protocol: routeProtocol, Scope: netlink.SCOPE_LINK, Dst: ipNet(services.Masked())})
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove the route to the services' %s: %w", services, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

func (h *host) routeTo() (*netlink.Route, error) {
	lo, err := h.route.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find loopback link: %w", err)
	}
	return &netlink.Route{
		LinkIndex: lo.Attrs().Index, Scope: netlink.SCOPE_LINK, Protocol: routeProtocol,
		Dst: ipNet(h.c.ServiceCIDR.Masked()),
		Src: h.c.Source.AsSlice(), MTU: h.c.MTU,
	}, nil
}

// addresses are the node's own IPv4 ones.
func (h *host) addresses() ([]netip.Addr, error) {
	all, err := h.route.AddrList(nil, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range all {
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok {
			out = append(out, ip)
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
	_, err := h.flows.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, stale(gone))
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("delete connections: %w", err)
	}
	return nil
}

// stale selects the connections to what is gone.
type stale map[flow]bool

func (s stale) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to, ok := netip.AddrFromSlice(f.Forward.DstIP.To4())
	from, ok2 := netip.AddrFromSlice(f.Reverse.SrcIP.To4())
	if !ok || !ok2 {
		return false
	}
	k := key{ip: to.As4(), protocol: unix.IPPROTO_UDP, port: f.Forward.DstPort}
	b := backend{ip: from.As4(), port: f.Reverse.SrcPort}
	return s[flow{key: k, to: b}] || s[flow{key: key{protocol: k.protocol, port: k.port}, to: b}]
}

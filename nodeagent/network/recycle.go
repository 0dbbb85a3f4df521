package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrUsed is a namespace that is not as good as new.
var ErrUsed = errors.New("the network namespace cannot be used again")

// Recycle makes a sandbox's namespace ready for another one, once all of its
// processes are gone: sockets that they left behind are destroyed, and it gets
// a new address, so that a late packet for the old sandbox never reaches the
// new one. When something else is left, that is ErrUsed, and the namespace has
// to be thrown away. netns is as for Attach.
func (n *Network) Recycle(_ context.Context, id, netns string) (netip.Addr, error) {
	ns, err := os.Open(netns)
	if err != nil {
		return netip.Addr{}, err
	}
	defer ns.Close()
	n.mu.Lock()
	if n.sharing[id] {
		n.mu.Unlock()
		return netip.Addr{}, fmt.Errorf("%w: sandbox %s shares a segment", ErrUsed, id)
	}
	old, ok := n.pool.byOwner[id]
	var next netip.Addr
	if ok {
		next, err = n.pool.change(id)
	}
	confined := n.confined[id]
	n.mu.Unlock()
	if !ok || err != nil {
		return netip.Addr{}, errors.Join(err, fmt.Errorf("sandbox %s is not attached, or there is no other address", id))
	}
	if confined { // nobody is in the sandbox now, so that it is one transaction
		if err := n.setElements(confinedSet, n.all(next), n.all(old)); err != nil {
			return netip.Addr{}, err
		}
	}
	if err := n.readdress(ns, n.linkName(id), old, next); err != nil {
		return netip.Addr{}, fmt.Errorf("recycle the network of sandbox %s: %w", id, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pool.free(old)
	return next, nil
}

func (n *Network) readdress(ns *os.File, link string, old, next netip.Addr) error {
	var mac []byte
	if err := Inside(ns, func() (err error) {
		if err := errors.Join(destroySockets(), forgetConnections()); err != nil {
			return err
		}
		mac, err = n.renumber(old, next)
		return err
	}); err != nil {
		return err
	}
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	idx := l.Attrs().Index
	if err := n.lead(idx, next, mac); err != nil {
		return err
	}
	for i, a := range n.all(old) {
		s := n.stacks()[i]
		err = errors.Join(err,
			netlink.RouteDel(s.toPod(idx, a)),
			netlink.NeighDel(&netlink.Neigh{LinkIndex: idx, Family: s.route, IP: a.AsSlice()}))
	}
	return err
}

// metricsFamily is the kernel's number of tcp_metrics. It does not change.
var metricsFamily = sync.OnceValues(func() (uint16, error) {
	f, err := netlink.GenlFamilyGet("tcp_metrics")
	if err != nil {
		return 0, err
	}
	return f.ID, nil
})

// forgetConnections clears what the kernel remembers of former connections: it
// would tell the next pod with whom they were (`ip tcp_metrics`), and anybody
// may ask. It runs inside the namespace. The kernel goes through the whole
// machine's table for it, which takes as long as everything else here, so that it
// is only asked to where there can be anything.
func forgetConnections() error {
	if remembersNothing() {
		return nil
	}
	family, err := metricsFamily()
	if errors.Is(err, unix.ENOENT) {
		return nil // a kernel that remembers nothing
	}
	if err != nil {
		return fmt.Errorf("find tcp_metrics: %w", err)
	}
	const del = 2 // TCP_METRICS_CMD_DEL, of all without an address
	req := nl.NewNetlinkRequest(int(family), unix.NLM_F_ACK)
	req.AddData(genlmsg{del, 1})
	if _, err := req.Execute(unix.NETLINK_GENERIC, 0); err != nil {
		return fmt.Errorf("%w: forget connections: %w", ErrUsed, err)
	}
	return nil
}

// remembersNothing is whether the kernel cannot have remembered a connection of the
// thread's namespace: those that others began are not remembered there (noMetrics),
// and it began none itself, which could have left a cookie of TCP Fast Open.
func remembersNothing() bool {
	b, err := os.ReadFile("/proc/sys/net/ipv4/" + noMetrics)
	if err != nil || strings.TrimSpace(string(b)) != "1" {
		return false
	}
	b, err = os.ReadFile("/proc/thread-self/net/snmp")
	if err != nil {
		return false
	}
	began, ok := counter(string(b), "Tcp:", "ActiveOpens")
	return ok && began == 0
}

// counter reads one number of a file of two lines a group: its names, its values.
func counter(file, group, name string) (uint64, bool) {
	var names []string
	for line := range strings.Lines(file) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != group {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		i := slices.Index(names, name)
		if i < 1 || i >= len(f) {
			return 0, false
		}
		n, err := strconv.ParseUint(f[i], 10, 64)
		return n, err == nil
	}
	return 0, false
}

// genlmsg is the head of a generic netlink message: command, version, two bytes of
// nothing. nl.Genlmsg has the first two and sends as the others what is behind it in
// memory, which may be somebody else's.
type genlmsg [4]byte

// Len implements nl.NetlinkRequestData.
func (g genlmsg) Len() int { return len(g) }

// Serialize implements nl.NetlinkRequestData.
func (g genlmsg) Serialize() []byte { return g[:] }

// renumber runs inside the pod's namespace.
func (n *Network) renumber(old, next netip.Addr) (mac []byte, err error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	l, err := h.LinkByName(podLink)
	if err != nil {
		return nil, err
	}
	was := n.all(old)
	for i, a := range n.all(next) {
		if err := h.AddrAdd(l, &netlink.Addr{IPNet: hostNet(a), Flags: unix.IFA_F_NODAD}); err != nil {
			return nil, fmt.Errorf("%w: add address %s: %w", ErrUsed, a, err) // as one that was made without IPv6
		}
		if err := h.RouteReplace(defaultRoute(l.Attrs().Index, a)); err != nil {
			return nil, fmt.Errorf("replace the default route: %w", err)
		}
		if err := h.AddrDel(l, &netlink.Addr{IPNet: hostNet(was[i])}); err != nil {
			return nil, fmt.Errorf("delete address %s: %w", was[i], err)
		}
	}
	return l.Attrs().HardwareAddr, nil
}

// Sysctl sets a parameter of a network namespace, such as
// net/ipv4/ip_unprivileged_port_start.
func Sysctl(ns *os.File, key, value string) error {
	return Inside(ns, func() error {
		if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0o644); err != nil {
			return fmt.Errorf("set sysctl %s: %w", key, err)
		}
		return nil
	})
}

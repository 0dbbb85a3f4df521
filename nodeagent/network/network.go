// Package network is a node's part of the pod network: an address for every
// sandbox, a routed veth pair of its own (no bridge), routes to the pods of
// other nodes, and one nftables table that masquerades what leaves the
// cluster's pods. It speaks netlink and starts no process.
//
// A pod has its address as a /32 and a default route over 169.254.1.1, an
// address that nobody has: permanent neighbour entries on both ends make ARP
// unnecessary, so that an address that comes back with another pod is never
// sent to the old one's MAC. Where there is IPv6 beside it, it is the same with
// a /128 and fe80::1 (stack.go). The host's own address towards pods is the first
// of the pod CIDR. The veth pair goes with the network namespace; links are
// not deleted one by one, because that holds the kernel's network lock for
// tens of milliseconds each.
//
// Between nodes a packet is routed to the pod's node, through that node's own
// address when both are on one link and through a VXLAN device otherwise. It
// keeps the addresses it has.
//
// Pods that ask for it share a segment with those of their namespace on the node:
// they hear one another's broadcast and multicast (segment.go). Nothing else of
// theirs is different, least of all the way of what is sent to one pod.
//
// Everything is done in the network namespace of the calling thread.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	linkGroup = 66 // of all our links, for a person to find: ip link show group 66
	endGroup  = 67 // of those that are to end now
	podLink   = "eth0"
	idLetters = 10 // of a sandbox's id in its link's name
)

// Config says what network to make. The zero value is usable: a node alone.
type Config struct {
	PodCIDR     netip.Prefix // of this node's pods: IPv4, /8 to /29; zero is 10.62.0.0/16
	ClusterCIDR netip.Prefix // of all nodes' pods, PodCIDR among them; zero is PodCIDR alone
	NodeIP      netip.Addr   // this node's address towards others; zero leaves it to the routes
	Overlay     Overlay      // "" is OverlayAuto
	Forbidden   []netip.Addr // machines that confined pods do not reach, beside nodes
	Table       string       // of nftables, one a platform; "" is podsnap

	// PodCIDR6 and ClusterCIDR6 are the same in IPv6, which pods have as their
	// second address; zero is IPv4 alone.
	PodCIDR6, ClusterCIDR6 netip.Prefix
	VethPrefix             string // of link names, one a platform, at most 5 letters; "" is ps

	// MTU of pod links. 0 is 1500 for a node alone. Otherwise it is what the
	// link to the other nodes has, less the 50 bytes of VXLAN unless the overlay
	// is off: a peer that needs them may come at any time, and pods that run keep
	// the MTU they have.
	MTU int
	Log *slog.Logger // nil discards
}

// Network is the pod network. All methods are safe for concurrent use.
type Network struct {
	c    Config
	four stack
	six  *stack // nil: IPv4 alone
	wire int    // MTU of the link to other nodes

	mu       sync.Mutex
	pool     *pool
	confined map[string]bool // sandboxes, by id
	sharing  map[string]bool // those that share a segment, by id

	crossing sync.Mutex // one SetPeers at a time
	segments sync.Mutex // one change of them at a time
}

// New makes the node's part of the network: forwarding, the host's address in
// the pod CIDR, the nftables table. It needs root. What a former process made
// is taken over.
func New(c Config) (*Network, error) {
	if !c.PodCIDR.IsValid() {
		c.PodCIDR = netip.MustParsePrefix("10.62.0.0/16")
	}
	if c.Table == "" {
		c.Table = "podsnap"
	}
	if c.VethPrefix == "" {
		c.VethPrefix = "ps"
	}
	if c.Overlay == "" {
		c.Overlay = OverlayAuto
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if len(c.VethPrefix) > 5 {
		return nil, fmt.Errorf("veth prefix %q: at most 5 letters, as a link name has 15", c.VethPrefix)
	}
	p, err := newPool(c.PodCIDR)
	if err != nil {
		return nil, err
	}
	n := &Network{c: c, pool: p, confined: map[string]bool{}, sharing: map[string]bool{}}
	if err := n.span(); err != nil {
		return nil, err
	}
	n.four = newStack(p.cidr, n.c.ClusterCIDR)
	if n.six, err = newSix(n.c, p.cidr); err != nil {
		return nil, err
	}
	if err := n.open(); err != nil {
		return nil, err
	}
	// What a former process knew of other machines stays until the peers are set.
	return n, n.setElements(machinesSet, c.Forbidden, nil)
}

// open has the host forward and filter, and gives it its addresses.
func (n *Network) open() error {
	if err := errors.Join(switchOn("net/ipv4/ip_forward"), n.openSix()); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback link: %w", err)
	}
	for _, s := range n.stacks() {
		if err := netlink.AddrReplace(lo, hostAddr(s.gateway)); err != nil {
			return fmt.Errorf("add the host's pod network address %s: %w", s.gateway, err)
		}
	}
	return n.applyTable()
}

// span completes what the settings say about other nodes.
func (n *Network) span() error {
	c := &n.c
	switch c.Overlay {
	case OverlayAuto, OverlayVXLAN, OverlayNone:
	default:
		return fmt.Errorf("overlay %q: want auto, vxlan or none", c.Overlay)
	}
	n.wire = 1500
	if !c.ClusterCIDR.IsValid() || c.ClusterCIDR.Masked() == n.pool.cidr {
		c.ClusterCIDR = n.pool.cidr
		if c.MTU == 0 {
			c.MTU = n.wire
		}
		return nil
	}
	c.ClusterCIDR = c.ClusterCIDR.Masked()
	if c.ClusterCIDR.Bits() > n.pool.cidr.Bits() || !c.ClusterCIDR.Contains(n.pool.cidr.Addr()) {
		return fmt.Errorf("pod CIDR %s is not part of the cluster's %s", n.pool.cidr, c.ClusterCIDR)
	}
	var err error
	if n.wire, err = wireMTU(c.NodeIP); err != nil {
		return err
	}
	if c.MTU == 0 {
		c.MTU = n.wire
		if c.Overlay != OverlayNone {
			c.MTU -= wrapping
		}
	}
	return nil
}

// alone says that there are no pods on other nodes.
func (n *Network) alone() bool { return n.c.ClusterCIDR == n.pool.cidr }

// MTU is that of pod links.
func (n *Network) MTU() int { return n.c.MTU }

// Gateway is the host's own address in the pod network: where packets from
// the host come from, and where pods reach the host.
func (n *Network) Gateway() netip.Addr { return n.pool.gateway }

// Attach gives the namespace an address and a link. netns is a path such as
// /proc/<pid>/ns/net. An id has at least ten characters, and the first ten are
// its own. On an error nothing is left.
func (n *Network) Attach(_ context.Context, id, netns string) (netip.Addr, error) {
	if len(id) < idLetters {
		return netip.Addr{}, fmt.Errorf("sandbox id %q is too short to name a link", id)
	}
	n.mu.Lock()
	ip, err := n.pool.take(id)
	n.mu.Unlock()
	if err != nil {
		return netip.Addr{}, err
	}
	if err := n.attach(id, netns, ip); err != nil {
		n.release(id)
		return netip.Addr{}, fmt.Errorf("attach sandbox %s to the pod network: %w", id, err)
	}
	return ip, nil
}

func (n *Network) attach(id, path string, ip netip.Addr) (err error) {
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()

	name := n.linkName(id)
	podMAC := macOf(ip)
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{
			Name: name, MTU: n.c.MTU, TxQLen: 1000, Group: linkGroup,
			Flags: net.FlagUp, HardwareAddr: hostMAC(),
		},
		PeerName: podLink, PeerHardwareAddr: podMAC, PeerNamespace: netlink.NsFd(int(ns.Fd())),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add link %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			_ = netlink.LinkDel(veth)
		}
	}()
	// Strict reverse path filtering drops what a pod sends under a foreign
	// address. IPv6 where it is not used would only chatter.
	if err := errors.Join(switchOn("net/ipv4/conf/"+name+"/rp_filter"), n.prepareLink(name)); err != nil {
		return err
	}
	if err := Inside(ns, func() error { return n.configurePod(ip) }); err != nil {
		return err
	}
	if err := settle(name); err != nil {
		return err
	}
	return n.lead(veth.Index, ip, podMAC)
}

// lead has the host send what is for a pod to its link.
func (n *Network) lead(link int, ip netip.Addr, mac net.HardwareAddr) error {
	for i, a := range n.all(ip) {
		s := n.stacks()[i]
		if err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex: link, Family: s.route, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac,
		}); err != nil {
			return fmt.Errorf("add neighbour %s: %w", a, err)
		}
		if err := netlink.RouteReplace(s.toPod(link, a)); err != nil {
			return fmt.Errorf("add route to %s: %w", a, err)
		}
	}
	return nil
}

func (s stack) toPod(link int, a netip.Addr) *netlink.Route {
	return &netlink.Route{LinkIndex: link, Scope: netlink.SCOPE_LINK, Dst: hostNet(a), Src: s.gateway.AsSlice()}
}

// configurePod runs inside the pod's namespace.
func (n *Network) configurePod(ip netip.Addr) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := loUp(h); err != nil {
		return err
	}
	if err := n.prepareLink(podLink); err != nil {
		return err
	}
	l, err := h.LinkByName(podLink)
	if err != nil {
		return err
	}
	if err := h.LinkSetMTU(l, n.c.MTU); err != nil {
		return fmt.Errorf("set mtu %d: %w", n.c.MTU, err)
	}
	if err := h.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", podLink, err)
	}
	for _, a := range n.all(ip) {
		if err := n.address(h, l, a); err != nil {
			return err
		}
	}
	return nil
}

// address gives a pod's link an address, and what leads out under it.
func (*Network) address(h *netlink.Handle, l netlink.Link, a netip.Addr) error {
	link := l.Attrs().Index
	if err := h.AddrAdd(l, &netlink.Addr{IPNet: hostNet(a), Flags: unix.IFA_F_NODAD}); err != nil {
		return fmt.Errorf("add address %s: %w", a, err)
	}
	gw, family := linkGateway(a), unix.AF_INET
	if a.Is6() {
		family = unix.AF_INET6
	}
	if err := h.NeighSet(&netlink.Neigh{
		LinkIndex: link, Family: family, State: netlink.NUD_PERMANENT, IP: gw, HardwareAddr: hostMAC(),
	}); err != nil {
		return fmt.Errorf("add neighbour %s: %w", gw, err)
	}
	var err error
	if a.Is4() { // in IPv6 a gateway of the link's own is in its subnet always
		err = h.RouteAdd(&netlink.Route{LinkIndex: link, Scope: netlink.SCOPE_LINK, Dst: &net.IPNet{IP: gw, Mask: net.CIDRMask(32, 32)}})
	}
	if err := errors.Join(err, h.RouteAdd(defaultRoute(link, a))); err != nil {
		return fmt.Errorf("add the default route of %s: %w", a, err)
	}
	return nil
}

// defaultRoute is how a pod sends under an address of its own.
func defaultRoute(link int, a netip.Addr) *netlink.Route {
	return &netlink.Route{LinkIndex: link, Dst: everything(a), Gw: linkGateway(a), Src: a.AsSlice()}
}

// everything is the network of all addresses of a family.
func everything(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: make(net.IP, a.BitLen()/8), Mask: net.CIDRMask(0, a.BitLen())}
}

// Adopt takes over a sandbox that a former process attached.
func (n *Network) Adopt(id string, ip netip.Addr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pool.reserve(id, ip)
}

// Detach takes the sandbox's address back. Its link goes with the namespace.
// An id that is not attached is no error.
func (n *Network) Detach(_ context.Context, id string) error {
	n.mu.Lock()
	ip, ok := n.pool.byOwner[id]
	confined := n.confined[id] && ok
	shares := n.sharing[id]
	delete(n.confined, id)
	delete(n.sharing, id)
	n.mu.Unlock()
	// The address is somebody else's only after that.
	var err error
	if confined {
		err = n.setElements(confinedSet, nil, n.all(ip))
	}
	if shares {
		own := n.linkName(id)
		err = errors.Join(err, n.leave(func(link string) bool { return link == own }))
	}
	n.release(id)
	return err
}

func (n *Network) release(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pool.release(id)
}

// Sweep deletes the platform's links that no known sandbox has: what is left
// of sandboxes that a former process attached and never ran.
func (n *Network) Sweep(_ context.Context) error {
	n.mu.Lock()
	keep := map[string]bool{}
	for id := range n.pool.byOwner {
		keep[n.linkName(id)] = true
	}
	n.mu.Unlock()
	return errors.Join(n.deleteLinks(func(name string) bool { return !keep[name] }), n.sweepConfined(), n.sweepSegments())
}

// Teardown removes everything the network made on the host, but for
// forwarding, which others may rely on by now.
func (n *Network) Teardown(_ context.Context) error {
	_, err := n.setPeers(nil)
	err = errors.Join(err, n.deleteLinks(func(string) bool { return true }),
		deleteTable(nftables.TableFamilyIPv4, n.c.Table), deleteTable(nftables.TableFamilyNetdev, n.c.Table))
	lo, e := netlink.LinkByName("lo")
	if e != nil {
		return errors.Join(err, e)
	}
	for _, s := range n.stacks() {
		if e := netlink.AddrDel(lo, hostAddr(s.gateway)); e != nil && !errors.Is(e, unix.EADDRNOTAVAIL) {
			err = errors.Join(err, fmt.Errorf("remove the host's pod network address: %w", e))
		}
	}
	return errors.Join(err, n.closeSix())
}

// deleteLinks deletes the pods' links of these names. The kernel waits for all its
// readers when a link ends, some 20 ms, but only once for those of one group.
func (n *Network) deleteLinks(which func(name string) bool) error {
	links, err := listLinks()
	if err != nil {
		return err
	}
	links = slices.DeleteFunc(links, func(l netlink.Link) bool { return !n.isPodLink(l) || !which(l.Attrs().Name) })
	if len(links) > 1 && deleteTogether(links) == nil {
		return nil
	}
	for _, l := range links {
		if e := netlink.LinkDel(l); e != nil && !errors.Is(e, unix.ENODEV) && !errors.Is(e, unix.EINVAL) {
			err = errors.Join(err, fmt.Errorf("delete link %s: %w", l.Attrs().Name, e))
		}
	}
	return err
}

// deleteTogether puts links into a group of those that are to end, and ends it.
func deleteTogether(links []netlink.Link) error {
	for _, l := range links {
		if err := netlink.LinkSetGroup(l, endGroup); err != nil && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(endGroup)))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// isPodLink tells whether a link is a pod's. The length keeps off another platform
// whose prefix begins with ours.
func (n *Network) isPodLink(l netlink.Link) bool {
	a := l.Attrs()
	return l.Type() == "veth" && a.Group == linkGroup && strings.HasPrefix(a.Name, n.c.VethPrefix) && len(a.Name) == len(n.c.VethPrefix)+idLetters
}

// listLinks answers with all links of the host.
func listLinks() ([]netlink.Link, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return links, nil
}

func (n *Network) linkName(id string) string {
	return n.c.VethPrefix + id[:min(len(id), idLetters)]
}

func (n *Network) overlayLink() string { return n.c.VethPrefix + "-vxlan" }

func hostAddr(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: hostNet(a), Flags: unix.IFA_F_NODAD}
}

// hostNet is the network of one address.
func hostNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// linkGateway is the address of every pod's default route, in the family of a.
func linkGateway(a netip.Addr) net.IP {
	if a.Is6() {
		return net.ParseIP("fe80::1")
	}
	return net.IPv4(169, 254, 1, 1).To4()
}

// hostMAC is the address of the host's end of every pair.
func hostMAC() net.HardwareAddr { return net.HardwareAddr{0xee, 0xee, 0xee, 0xee, 0xee, 0xee} }

// macOf is the pod's link address, made from its IP (locally administered).
func macOf(ip netip.Addr) net.HardwareAddr {
	b := ip.As4()
	return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
}

// switchOn sets a setting of the kernel to 1.
func switchOn(key string) error { return setSysctl(key, "1") }

func setSysctl(key, value string) error {
	if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl %s: %w", key, err)
	}
	return nil
}

// ignoreMissing is for settings of kernels without IPv6.
func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

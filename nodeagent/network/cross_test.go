package network

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// host is a machine of the test: a network namespace with one link to the wire.
type host struct {
	t    *testing.T
	ns   *os.File
	addr netip.Addr
	net  *Network
	cidr netip.Prefix
}

const uplink = "up0"

// newHosts makes three machines, of which the third is behind a router.
func newHosts(t *testing.T, overlay Overlay) []*host {
	t.Helper()
	return newHostsWith(t, Config{Overlay: overlay}, false)
}

// newHostsWith makes them with settings, and with two families if dual is set.
func newHostsWith(t *testing.T, settings Config, dual bool) []*host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes links and namespaces")
	}
	wire, err := NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { wire.Close() })
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", Flags: net.FlagUp, TxQLen: -1}}
	check(Inside(wire, func() error {
		return errors.Join(switchOn("net/ipv4/ip_forward"), netlink.LinkAdd(bridge), addAddr(bridge, "192.0.2.1/24"))
	}))
	var hosts []*host
	for i, at := range []string{"192.0.2.11/24", "192.0.2.12/24", "198.51.100.13/24"} {
		h := &host{t: t, addr: netip.MustParsePrefix(at).Addr(), cidr: netip.MustParsePrefix(fmt.Sprintf("10.219.%d.0/24", i+1))}
		h.ns, err = NewNamespace()
		check(err)
		t.Cleanup(func() { h.ns.Close() })
		name, router := fmt.Sprint("h", i+1), "192.0.2.1"
		check(Inside(wire, func() error {
			l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, Flags: net.FlagUp, TxQLen: -1}, PeerName: uplink, PeerNamespace: netlink.NsFd(int(h.ns.Fd()))}
			if err := netlink.LinkAdd(l); err != nil {
				return err
			}
			if i < 2 {
				return netlink.LinkSetMaster(l, bridge)
			}
			router = "198.51.100.1"
			return addAddr(l, router+"/24")
		}))
		h.inside(func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			l, err := netlink.LinkByName(uplink)
			if err != nil {
				return err
			}
			return errors.Join(netlink.LinkSetUp(lo), netlink.LinkSetUp(l), addAddr(l, at), netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(router)}), settle(uplink))
		})
		check(Inside(wire, func() error { return settle(name) }))
		hosts = append(hosts, h)
	}
	check(Inside(wire, func() error { return settle("br0") }))
	for _, h := range hosts {
		h.inside(func() (err error) {
			c := settings
			c.PodCIDR, c.ClusterCIDR, c.NodeIP, c.Table, c.VethPrefix = h.cidr, netip.MustParsePrefix("10.219.0.0/16"), h.addr, "podsnap-nettest", "pnt"
			if dual {
				c.PodCIDR6, c.ClusterCIDR6 = six(h.cidr), netip.MustParsePrefix("fd19::/48")
			}
			h.net, err = New(c)
			return err
		})
	}
	return hosts
}

func addAddr(l netlink.Link, cidr string) error {
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(l, a)
}

func (h *host) inside(f func() error) {
	h.t.Helper()
	if err := Inside(h.ns, f); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) peer() Peer {
	p := Peer{Name: h.addr.String(), Address: h.addr, PodCIDR: h.cidr}
	if h.net != nil && h.net.six != nil {
		p.PodCIDR6 = six(h.cidr)
	}
	return p
}

// six is the IPv6 block of a node whose IPv4 one is 10.219.n.0/24.
func six(cidr netip.Prefix) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf("fd19:0:0:%x::/64", cidr.Addr().As4()[2]))
}

// meet sets the peers and answers with the number of changes.
func (h *host) meet(others ...*host) (changes int) {
	h.t.Helper()
	var peers []Peer
	for _, o := range others {
		if o != h {
			peers = append(peers, o.peer())
		}
	}
	h.inside(func() (err error) { changes, err = h.net.setPeers(peers); return err })
	return changes
}

func (h *host) pod(id string) (p pod) {
	h.t.Helper()
	h.inside(func() error { p = attach(h.t, h.net, id); return nil })
	return p
}

// routes are the destinations of ours, with the link that leads there.
func (h *host) routes() map[string]string {
	h.t.Helper()
	out := map[string]string{}
	h.inside(func() error {
		rs, err := h.net.peerRoutes()
		for _, r := range rs {
			l, err := netlink.LinkByIndex(r.LinkIndex)
			if err != nil {
				return err
			}
			out[r.Dst.String()] = l.Attrs().Name
		}
		return err
	})
	return out
}

func TestPodsReachOneAnotherAcrossNodes(t *testing.T) {
	for _, c := range []struct {
		overlay Overlay
		link    string // from the first node to the second
		mtu     int
	}{
		{OverlayAuto, uplink, 1450},
		{OverlayVXLAN, "pnt-vxlan", 1450},
	} {
		t.Run(string(c.overlay), func(t *testing.T) {
			hosts := newHosts(t, c.overlay)
			var pods []pod
			for i, h := range hosts {
				h.meet(hosts...)
				pods = append(pods, h.pod(fmt.Sprintf("%016d", i)))
			}
			for i, p := range pods {
				p.serve(t)
				p.digest(t)
				if got := p.mtu(t); got != c.mtu {
					t.Errorf("pod %d has the MTU %d, want %d", i, got, c.mtu)
				}
			}
			if got, want := fmt.Sprint(hosts[0].routes()), fmt.Sprintf("map[10.219.2.0/24:%s 10.219.3.0/24:pnt-vxlan]", c.link); got != want {
				t.Errorf("the first node has the routes %s, want %s", got, want)
			}
			for i, from := range pods {
				for j, to := range pods {
					if i == j {
						continue
					}
					if err := Inside(from.ns, func() error { return seen(to.ip, from.ip) }); err != nil {
						t.Errorf("pod %d to pod %d: %v", i, j, err)
					}
					if err := Inside(from.ns, func() error { return transfer(to.ip) }); err != nil {
						t.Errorf("a long transfer from pod %d to pod %d: %v", i, j, err)
					}
					if err := Inside(hosts[i].ns, func() error { return seen(to.ip, hosts[i].net.Gateway()) }); err != nil {
						t.Errorf("node %d to pod %d: %v", i, j, err)
					}
				}
			}
		})
	}
}

// seen asks a server for whom it takes us.
func seen(server, want netip.Addr) error {
	got, err := ask(server)
	if err == nil && got != want.String() {
		err = fmt.Errorf("was seen as %s, want %s", got, want)
	}
	return err
}

// digest answers with the digest of what it is sent, on port 8081.
func (p pod) digest(t *testing.T) {
	t.Helper()
	var l net.Listener
	if err := Inside(p.ns, func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", ":8081")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d := sha256.New()
			_, _ = io.Copy(d, c)
			_, _ = c.Write(d.Sum(nil))
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

// transfer sends some megabytes, in frames as large as they may be.
func transfer(to netip.Addr) error {
	c, err := net.DialTimeout("tcp", netip.AddrPortFrom(to, 8081).String(), 2*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	data := bytes.Repeat([]byte("all work and no play "), 200_000)
	if _, err := c.Write(data); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if want := sha256.Sum256(data); err == nil && !bytes.Equal(got, want[:]) {
		err = errors.New("what arrived is not what was sent")
	}
	return err
}

func (p pod) mtu(t *testing.T) (mtu int) {
	t.Helper()
	if err := Inside(p.ns, func() error {
		l, err := netlink.LinkByName(podLink)
		if err == nil {
			mtu = l.Attrs().MTU
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return mtu
}

// A packet that leaves the cluster still comes from its node, on every overlay.
func TestOutsideOfTheClusterSeesTheNode(t *testing.T) {
	hosts := newHosts(t, OverlayAuto)
	a := hosts[0].pod("aaaaaaaaaaaaaaaa")
	outside := pod{ns: hosts[1].ns, ip: hosts[1].addr}
	outside.serve(t)
	if err := Inside(a.ns, func() error { return seen(outside.ip, hosts[0].addr) }); err != nil {
		t.Error(err)
	}
}

func TestSetPeersChangesWhatHasChanged(t *testing.T) {
	hosts := newHosts(t, OverlayAuto)
	one := hosts[0]
	foreign := &netlink.Route{Dst: &net.IPNet{IP: net.IPv4(10, 219, 9, 0).To4(), Mask: net.CIDRMask(24, 32)}, Gw: net.IPv4(192, 0, 2, 1).To4()}
	one.inside(func() error { return netlink.RouteAdd(foreign) })
	if n := one.meet(hosts...); n != 5 { // device, forwarding entry, neighbour, two routes
		t.Errorf("the first time took %d changes, want 5", n)
	}
	if n := one.meet(hosts...); n != 0 {
		t.Errorf("the second time took %d changes, want none", n)
	}
	if n := one.meet(hosts[1]); n != 2 { // route and device
		t.Errorf("a peer less took %d changes, want 2", n)
	}
	if got, want := fmt.Sprint(one.routes()), "map[10.219.2.0/24:up0]"; got != want {
		t.Errorf("with one peer there are the routes %s, want %s", got, want)
	}
	// The second node has moved behind the router: same pods, another way.
	moved := &host{t: t, addr: hosts[2].addr, cidr: hosts[1].cidr}
	one.meet(moved)
	if got, want := fmt.Sprint(one.routes()), "map[10.219.2.0/24:pnt-vxlan]"; got != want {
		t.Errorf("after a move there are the routes %s, want %s", got, want)
	}
	one.inside(func() error {
		rs, err := netlink.RouteListFiltered(unix.AF_INET, foreign, netlink.RT_FILTER_DST|netlink.RT_FILTER_GW)
		if err == nil && len(rs) != 1 {
			err = errors.New("a route that is not ours was removed")
		}
		return err
	})
}

func TestPeersOverANodeThatIsAlone(t *testing.T) {
	n := newTestNetwork(t)
	err := n.SetPeers(t.Context(), []Peer{{Name: "two", Address: netip.MustParseAddr("127.0.0.2"), PodCIDR: netip.MustParsePrefix("10.218.0.0/24")}})
	if err == nil {
		t.Error("a node without a cluster CIDR took a peer")
	}
	if err := n.SetPeers(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

func TestTeardownOfANodeLeavesNothing(t *testing.T) {
	hosts := newHosts(t, OverlayAuto)
	one := hosts[0]
	one.meet(hosts...)
	one.pod("aaaaaaaaaaaaaaaa")
	one.inside(func() error { return one.net.Teardown(context.Background()) })
	if r := one.routes(); len(r) != 0 {
		t.Errorf("routes are left: %v", r)
	}
	one.inside(func() error {
		all, err := listLinks()
		for _, l := range all {
			if n := l.Attrs().Name; n != "lo" && n != uplink {
				err = errors.Join(err, fmt.Errorf("link %s is left", n))
			}
		}
		c := &nftables.Conn{}
		tables, e := c.ListTables()
		if len(tables) != 0 {
			e = errors.Join(e, fmt.Errorf("table %s is left", tables[0].Name))
		}
		return errors.Join(err, e)
	})
}

// A pod must not be able to wrap packets itself: it could put them into the pod
// network under any address.
func TestPodsCannotSpeakVXLAN(t *testing.T) {
	hosts := newHosts(t, OverlayAuto)
	for _, h := range hosts {
		h.meet(hosts...)
	}
	victim, evil := hosts[2].pod("vvvvvvvvvvvvvvvv"), hosts[0].pod("eeeeeeeeeeeeeeee")
	var sink net.PacketConn
	if err := Inside(victim.ns, func() (err error) {
		sink, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", ":9000")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	inner := netip.AddrPortFrom(victim.ip, 9000)
	forged := netip.MustParseAddrPort("10.219.2.77:9")
	send := func(from *os.File, to netip.AddrPort, data []byte) {
		t.Helper()
		if err := Inside(from, func() error {
			c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write(data)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want string) {
		t.Helper()
		if err := sink.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		k, _, err := sink.ReadFrom(buf)
		if err != nil || string(buf[:k]) != want {
			t.Errorf("the victim got %q, %v, want %q", buf[:k], err, want)
		}
	}
	frame := func(data string) []byte { return wrap(macOf(hosts[2].net.Gateway()), forged, inner, data) }
	// The node itself may, which shows that the frame would be taken.
	send(hosts[0].ns, netip.AddrPortFrom(hosts[2].addr, vxlanPort), frame("from the node"))
	expect("from the node")
	send(evil.ns, netip.AddrPortFrom(hosts[2].addr, vxlanPort), frame("from the pod"))
	send(evil.ns, netip.AddrPortFrom(hosts[2].net.Gateway(), vxlanPort), frame("from the pod, inside"))
	send(evil.ns, inner, []byte("honest"))
	expect("honest")
}

// wrap is a UDP datagram over IPv4 over Ethernet over VXLAN.
func wrap(mac net.HardwareAddr, from, to netip.AddrPort, data string) []byte {
	udp := binary.BigEndian.AppendUint16(nil, from.Port())
	udp = binary.BigEndian.AppendUint16(udp, to.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(data)))
	udp = append(udp, 0, 0) // no checksum
	udp = append(udp, data...)
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(udp)))
	ip = append(append(ip, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	out := []byte{0x08, 0, 0, 0, 0, 0, vxlanID, 0}
	out = append(append(append(out, mac...), 0x0a, 0x58, 10, 219, 1, 1), 0x08, 0x00)
	return append(append(out, ip...), udp...)
}

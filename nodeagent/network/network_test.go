package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newTestNetwork(t *testing.T) *Network {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes links and namespaces")
	}
	n, err := New(Config{PodCIDR: netip.MustParsePrefix("10.219.0.0/24"), Table: "podsnap-nettest", VethPrefix: "pnt"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Teardown(context.Background()); err != nil {
			t.Error(err)
		}
		if l := links(t, "pnt"); len(l) != 0 {
			t.Errorf("links left: %v", l)
		}
	})
	return n
}

func links(t *testing.T, prefix string) (names []string) {
	t.Helper()
	all, err := listLinks()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if strings.HasPrefix(l.Attrs().Name, prefix) {
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}

type pod struct {
	ns *os.File
	ip netip.Addr
}

func attach(t *testing.T, n *Network, id string) pod {
	t.Helper()
	ns, err := NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	ip, err := n.Attach(t.Context(), id, fmt.Sprintf("/proc/self/fd/%d", ns.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return pod{ns, ip}
}

// serve answers one connection inside the pod with the client's address.
func (p pod) serve(t *testing.T) {
	t.Helper()
	var l net.Listener
	err := Inside(p.ns, func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", ":8080")
		return err
	})
	if err != nil {
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
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			_, _ = io.WriteString(c, host)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

func ask(to netip.Addr) (string, error) {
	c, err := net.DialTimeout("tcp", netip.AddrPortFrom(to, 8080).String(), 2*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	return string(b), err
}

func TestHostToPodAndPodToPod(t *testing.T) {
	n := newTestNetwork(t)
	a, b := attach(t, n, "aaaaaaaaaaaaaaaa"), attach(t, n, "bbbbbbbbbbbbbbbb")
	a.serve(t)
	b.serve(t)
	for _, p := range []pod{a, b} {
		got, err := ask(p.ip)
		if err != nil || got != n.Gateway().String() {
			t.Errorf("host to pod %s: got %q, %v, want to be seen as %s", p.ip, got, err, n.Gateway())
		}
	}
	err := Inside(a.ns, func() error {
		got, err := ask(b.ip)
		if err == nil && got != a.ip.String() {
			err = fmt.Errorf("was seen as %s, want %s: pod traffic must not be masqueraded", got, a.ip)
		}
		return err
	})
	if err != nil {
		t.Errorf("pod to pod: %v", err)
	}
}

// A packet with a foreign source address must not leave the pod, be it nobody's,
// another pod's, the host's or another node's pod's; whatever the settings of links
// are.
func TestSpoofedSourceIsDropped(t *testing.T) {
	hosts := newHosts(t, OverlayAuto)
	for _, h := range hosts {
		h.meet(hosts...)
	}
	one, two := hosts[0], hosts[1]
	a, b, third, far := one.pod("aaaaaaaaaaaaaaaa"), one.pod("bbbbbbbbbbbbbbbb"), one.pod("cccccccccccccccc"), two.pod("dddddddddddddddd")
	forged := []netip.Addr{third.ip, far.ip, one.net.Gateway(), two.net.Gateway(), one.addr, netip.MustParseAddr("10.219.1.77"), netip.MustParseAddr("203.0.113.7")}
	for _, setting := range []string{"0", "1", "2"} {
		one.inside(func() (err error) {
			for _, l := range append(links(t, "pnt"), "all") {
				err = errors.Join(err, os.WriteFile("/proc/sys/net/ipv4/conf/"+l+"/rp_filter", []byte(setting), 0o644))
			}
			return err
		})
		for what, to := range map[string]pod{"a pod beside it": b, "a pod of another node": far, "its node": {one.ns, one.net.Gateway()}} {
			if got := heard(t, a, to, forged); got != a.ip.String() {
				t.Errorf("rp_filter %s, %s: heard %s first; want what comes from %s alone", setting, what, got, a.ip)
			}
		}
	}
}

// heard sends a datagram from each of the addresses and from the pod's own at
// last, each of which says from where, and answers with the first that came.
func heard(t *testing.T, from, to pod, forged []netip.Addr) string {
	t.Helper()
	var sink net.PacketConn
	if err := Inside(to.ns, func() (err error) {
		sink, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", ":9000")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	if err := Inside(from.ns, func() error {
		l, err := netlink.LinkByName(podLink)
		if err != nil {
			return err
		}
		for _, src := range append(slices.Clone(forged), from.ip) {
			if src == to.ip {
				continue // it would not leave the pod
			}
			if src != from.ip {
				if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: hostNet(src), Flags: unix.IFA_F_NODAD}); err != nil {
					return err
				}
				defer func() { _ = netlink.AddrDel(l, &netlink.Addr{IPNet: hostNet(src)}) }()
			}
			c, err := net.DialUDP("udp", &net.UDPAddr{IP: src.AsSlice()}, &net.UDPAddr{IP: to.ip.AsSlice(), Port: 9000})
			if err != nil {
				return err
			}
			if _, err := c.Write([]byte(src.String())); err != nil {
				return err
			}
			c.Close()
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := sink.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	k, _, err := sink.ReadFrom(buf)
	if err != nil {
		t.Error(err)
	}
	return string(buf[:k])
}

// What leaves the pod CIDR comes from the host's own address.
func TestOutsideSeesTheHost(t *testing.T) {
	n := newTestNetwork(t)
	a := attach(t, n, "aaaaaaaaaaaaaaaa")
	outside, err := NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "pntoutside", Flags: net.FlagUp}, PeerName: podLink, PeerNamespace: netlink.NsFd(int(outside.Fd())),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = netlink.LinkDel(veth) }()
	if err := netlink.AddrAdd(veth, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 219, 99, 1), Mask: net.CIDRMask(24, 32)}}); err != nil {
		t.Fatal(err)
	}
	server := pod{outside, netip.MustParseAddr("10.219.99.2")}
	if err := Inside(outside, func() error {
		l, err := netlink.LinkByName(podLink)
		if err != nil {
			return err
		}
		return errors.Join(
			netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: server.ip.AsSlice(), Mask: net.CIDRMask(24, 32)}}),
			netlink.LinkSetUp(l))
	}); err != nil {
		t.Fatal(err)
	}
	if err := settle("pntoutside"); err != nil {
		t.Fatal(err)
	}
	server.serve(t)
	if err := Inside(a.ns, func() error {
		got, err := ask(server.ip)
		if err == nil && got != "10.219.99.1" {
			err = fmt.Errorf("was seen as %s, want the host's 10.219.99.1", got)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// A platform whose prefix begins with ours keeps its links.
func TestSweepSparesOthers(t *testing.T) {
	n := newTestNetwork(t)
	other, err := New(Config{PodCIDR: netip.MustParsePrefix("10.220.0.0/24"), Table: "podsnap-nettest2", VethPrefix: "pntx"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := other.Teardown(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	a := attach(t, other, "aaaaaaaaaaaaaaaa")
	a.serve(t)
	if err := n.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := ask(a.ip); err != nil || got != other.Gateway().String() {
		t.Errorf("got %q, %v: the other platform's pod lost its link", got, err)
	}
}

func TestDetachFreesAndSweepCleans(t *testing.T) {
	n := newTestNetwork(t)
	a := attach(t, n, "aaaaaaaaaaaaaaaa")
	if err := n.Adopt("cccccccccccccccc", a.ip); err == nil {
		t.Error("two sandboxes got one address")
	}
	if err := n.Detach(t.Context(), "aaaaaaaaaaaaaaaa"); err != nil {
		t.Fatal(err)
	}
	if err := n.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l := links(t, "pnt"); len(l) != 0 {
		t.Errorf("after sweep: links %v", l)
	}
	if err := n.Adopt("cccccccccccccccc", a.ip); err != nil {
		t.Error(err)
	}
}

// What a former process made and nobody knows goes at once, and what was taken over
// goes on.
func TestSweepAfterRestart(t *testing.T) {
	former := newTestNetwork(t)
	kept := attach(t, former, "kkkkkkkkkkkkkkkk")
	kept.serve(t)
	for i := range 12 {
		attach(t, former, fmt.Sprintf("%010dabcdef", i))
	}
	n, err := New(former.c)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Adopt("kkkkkkkkkkkkkkkk", kept.ip); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := n.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("12 links went in %s", time.Since(begin))
	if l := links(t, "pnt"); len(l) != 1 {
		t.Errorf("links %v are left, want that of the pod that was taken over", l)
	}
	if got, err := ask(kept.ip); err != nil || got != n.Gateway().String() {
		t.Errorf("got %q, %v from the pod that was taken over", got, err)
	}
}

func TestAttachToNothingLeavesNothing(t *testing.T) {
	n := newTestNetwork(t)
	if _, err := n.Attach(t.Context(), "dddddddddddddddd", "/proc/self/fd/9999"); err == nil {
		t.Fatal("got no error")
	}
	if len(n.pool.owner) != 0 {
		t.Errorf("addresses left: %v", n.pool.owner)
	}
}

// A second New, as after a restart, keeps one rule and one address.
func TestNewTakesOver(t *testing.T) {
	n := newTestNetwork(t)
	if _, err := New(n.c); err != nil {
		t.Fatal(err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := netlink.AddrList(lo, unix.AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, a := range addrs {
		if a.IP.String() == n.Gateway().String() {
			found++
		}
	}
	if found != 1 {
		t.Errorf("lo has the host's pod address %d times, want once", found)
	}
}

func BenchmarkAttach(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("needs root")
	}
	n, err := New(Config{PodCIDR: netip.MustParsePrefix("10.219.0.0/20"), Table: "podsnap-nettest", VethPrefix: "pnt"})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = n.Teardown(context.Background()) }()
	i := 0
	for b.Loop() {
		ns, err := NewNamespace()
		if err != nil {
			b.Fatal(err)
		}
		id := fmt.Sprintf("%010d", i)
		i++
		if _, err := n.Attach(b.Context(), id, fmt.Sprintf("/proc/self/fd/%d", ns.Fd())); err != nil {
			b.Fatal(err)
		}
		_ = n.Detach(b.Context(), id)
		ns.Close()
	}
}

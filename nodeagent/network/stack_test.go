package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func dualHosts(t *testing.T) []*host {
	t.Helper()
	hosts := newHostsWith(t, Config{Overlay: OverlayAuto}, true)
	for _, h := range hosts {
		h.meet(hosts...)
	}
	return hosts
}

// prefix keeps the address, as a link's own has to.
func prefix(s string) *net.IPNet {
	p := netip.MustParsePrefix(s)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// second is the pod at its other address.
func (h *host) second(p pod) pod { return pod{p.ns, h.net.Second(p.ip)} }

func TestSecondAddress(t *testing.T) {
	for _, c := range []struct{ four, six, ip, want string }{
		{"10.62.4.0/22", "fd62:0:0:1::/64", "10.62.4.2", "fd62:0:0:1::2"},
		{"10.62.4.0/22", "fd62:0:0:1::/64", "10.62.7.254", "fd62:0:0:1::3fe"},
		{"10.0.0.0/8", "fd62::ff00:0/104", "10.1.2.3", "fd62::ff01:203"},
		{"10.62.4.0/22", "fd62:0:0:1::/64", "10.62.8.2", "invalid IP"},
		{"10.62.4.0/22", "", "10.62.4.2", "invalid IP"},
	} {
		n := &Network{four: newStack(netip.MustParsePrefix(c.four), netip.MustParsePrefix(c.four))}
		var all Config
		if c.six != "" {
			all.PodCIDR6 = netip.MustParsePrefix(c.six)
		}
		var err error
		if n.six, err = newSix(all, n.four.pods); err != nil {
			t.Fatal(err)
		}
		if got := n.Second(netip.MustParseAddr(c.ip)).String(); got != c.want {
			t.Errorf("%s of %s beside %s: got %s, want %s", c.ip, c.four, c.six, got, c.want)
		}
	}
}

func TestSixIsChecked(t *testing.T) {
	for _, c := range []struct {
		pods, cluster string
		overlay       Overlay
		want          string
	}{
		{"fd62::/120", "", "", "at most /118"},
		{"10.0.0.0/16", "", "", "want an IPv6 prefix"},
		{"fd62::/64", "fd63::/48", "", "is not part of"},
		{"fd62::/48", "fd62::/64", "", "is not part of"},
		{"fd62::/64", "fd62::/48", OverlayNone, "needs the overlay"},
	} {
		in := Config{PodCIDR6: netip.MustParsePrefix(c.pods), Overlay: c.overlay}
		if c.cluster != "" {
			in.ClusterCIDR6 = netip.MustParsePrefix(c.cluster)
		}
		if _, err := newSix(in, netip.MustParsePrefix("10.62.4.0/22")); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s of %s: got %v, want %q", c.pods, c.cluster, err, c.want)
		}
	}
}

// Pods reach one another in both families, on one node and across nodes, with the
// addresses that they have.
func TestBothFamilies(t *testing.T) {
	hosts := dualHosts(t)
	var pods []pod
	for i, h := range hosts {
		pods = append(pods, h.pod(fmt.Sprintf("%016d", i)))
	}
	near := hosts[0].pod("aaaaaaaaaaaaaaaa")
	near.serve(t)
	for _, p := range pods {
		p.serve(t)
		p.digest(t)
	}
	if err := Inside(pods[0].ns, func() error { return seen(hosts[0].second(near).ip, hosts[0].second(pods[0]).ip) }); err != nil {
		t.Errorf("on one node: %v", err)
	}
	for i, from := range pods {
		for j, to := range pods {
			if i == j {
				continue
			}
			six := hosts[j].second(to).ip
			if err := Inside(from.ns, func() error {
				return errors.Join(seen(to.ip, from.ip), seen(six, hosts[i].second(from).ip), transfer(six))
			}); err != nil {
				t.Errorf("pod %d to pod %d: %v", i, j, err)
			}
			if err := Inside(hosts[i].ns, func() error { return seen(six, hosts[i].net.Gateway6()) }); err != nil {
				t.Errorf("node %d to pod %d: %v", i, j, err)
			}
		}
	}
	if got, want := fmt.Sprint(hosts[0].routes()), "map[10.219.2.0/24:up0 10.219.3.0/24:pnt-vxlan fd19:0:0:2::/64:pnt-vxlan fd19:0:0:3::/64:pnt-vxlan]"; got != want {
		t.Errorf("the first node has the routes %s, want %s", got, want)
	}
	if n := hosts[0].meet(hosts...); n != 0 {
		t.Errorf("to set the same peers again took %d changes, want none", n)
	}
}

// A pod has the address that it is given and none of its own making: nothing is
// waited for, and there is no other to be reached by.
func TestSixIsReadyAtOnce(t *testing.T) {
	one := dualHosts(t)[0]
	p := one.pod("aaaaaaaaaaaaaaaa")
	check := func(ns *os.File, link, want string) {
		t.Helper()
		if err := Inside(ns, func() error {
			l, err := netlink.LinkByName(link)
			if err != nil {
				return err
			}
			addrs, err := netlink.AddrList(l, unix.AF_INET6)
			var got []string
			for _, a := range addrs {
				got = append(got, a.IPNet.String())
				if a.Flags&unix.IFA_F_TENTATIVE != 0 {
					t.Errorf("%s is tentative", a.IP)
				}
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%s has %v, want %q", link, got, want)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	check(p.ns, podLink, one.second(p).ip.String()+"/128")
	check(one.ns, "pntaaaaaaaaaa", "")
	check(one.ns, "pnt-vxlan", "")
	check(one.ns, "pnt-six", "")
}

// What leaves the cluster in IPv6 comes from the node's own address.
func TestOutsideSeesTheHostInBothFamilies(t *testing.T) {
	hosts := dualHosts(t)
	a := hosts[0].pod("aaaaaaaaaaaaaaaa")
	for i, h := range hosts[:2] {
		h.inside(func() error {
			l, err := netlink.LinkByName(uplink)
			if err != nil {
				return err
			}
			return netlink.AddrAdd(l, &netlink.Addr{IPNet: prefix(fmt.Sprintf("2001:db8::%d/64", i+1)), Flags: unix.IFA_F_NODAD})
		})
	}
	outside := pod{ns: hosts[1].ns, ip: netip.MustParseAddr("2001:db8::2")}
	outside.serve(t)
	if err := Inside(a.ns, func() error { return seen(outside.ip, netip.MustParseAddr("2001:db8::1")) }); err != nil {
		t.Error(err)
	}
}

func TestSpoofedSourceIsDroppedInBothFamilies(t *testing.T) {
	hosts := dualHosts(t)
	one, two := hosts[0], hosts[1]
	a, b, third, far := one.pod("aaaaaaaaaaaaaaaa"), one.pod("bbbbbbbbbbbbbbbb"), one.pod("cccccccccccccccc"), two.pod("dddddddddddddddd")
	forged := []netip.Addr{
		one.second(third).ip, two.second(far).ip, one.net.Gateway6(), two.net.Gateway6(),
		netip.MustParseAddr("fd19:0:0:1::77"), netip.MustParseAddr("2001:db8::7"),
	}
	from := one.second(a)
	for what, to := range map[string]pod{"a pod beside it": one.second(b), "a pod of another node": two.second(far), "its node": {one.ns, one.net.Gateway6()}} {
		if got := heard(t, from, to, forged); got != from.ip.String() {
			t.Errorf("%s: heard %s first; want what comes from %s alone", what, got, from.ip)
		}
	}
}

// A confined pod reaches in IPv6 what it reaches in IPv4, and no more.
func TestConfinedPodInBothFamilies(t *testing.T) {
	hosts := dualHosts(t)
	one, two := hosts[0], hosts[1]
	const wire = "2001:db8::2" // the other node's
	two.inside(func() error {
		l, err := netlink.LinkByName(uplink)
		if err != nil {
			return err
		}
		return netlink.AddrAdd(l, &netlink.Addr{IPNet: prefix(wire + "/64"), Flags: unix.IFA_F_NODAD})
	})
	one.inside(func() error {
		l, err := netlink.LinkByName(uplink)
		if err != nil {
			return err
		}
		return netlink.AddrAdd(l, &netlink.Addr{IPNet: prefix("2001:db8::1/64"), Flags: unix.IFA_F_NODAD})
	})
	known := two.peer()
	known.Address6 = netip.MustParseAddr(wire)
	one.inside(func() error { return one.net.SetPeers(t.Context(), []Peer{known}) })
	for _, h := range hosts[:2] {
		h.open(gatewayPort)
		h.open(9999)
		h.open(dnsPort)
	}
	const id = "1000000000000000"
	confined, plain, near, far := one.pod(id), one.pod("2000000000000000"), one.pod("3000000000000000"), two.pod("4000000000000000")
	near.serve(t)
	far.serve(t)
	one.inside(func() error { return one.net.Confine(id) })
	expect := func(what string, from pod, ip netip.Addr, port uint16, want bool) {
		t.Helper()
		if got := from.reaches(t, ip, port); got != want {
			t.Errorf("%s, %s port %d: reached %v, want %v", what, ip, port, got, want)
		}
	}
	cases := func(what string) {
		t.Helper()
		expect(what, confined, one.net.Gateway6(), gatewayPort, true)
		expect(what, confined, one.net.Gateway6(), dnsPort, true)
		expect(what, confined, one.second(near).ip, 8080, true)
		expect(what, confined, two.second(far).ip, 8080, true)
		expect(what, confined, one.net.Gateway6(), 9999, false)
		expect(what, confined, netip.MustParseAddr("2001:db8::1"), 9999, false)
		expect(what, confined, netip.MustParseAddr(wire), 9999, false)
		expect(what, confined, two.net.Gateway6(), gatewayPort, false)
	}
	cases("confined")
	one.inside(func() error { return one.net.Open([]Port{{unix.IPPROTO_TCP, 9999}}) })
	expect("opened", confined, one.net.Gateway6(), 9999, true)
	expect("opened", confined, netip.MustParseAddr("2001:db8::1"), 9999, true)
	expect("opened here alone", confined, netip.MustParseAddr(wire), 9999, false)
	known.Open = []Port{{unix.IPPROTO_TCP, 9999}}
	one.inside(func() error { return errors.Join(one.net.Open(nil), one.net.SetPeers(t.Context(), []Peer{known})) })
	expect("opened there", confined, netip.MustParseAddr(wire), 9999, true)
	expect("opened there alone", confined, netip.MustParseAddr("2001:db8::1"), 9999, false)
	known.Open = nil
	one.inside(func() error { return one.net.SetPeers(t.Context(), []Peer{known}) })
	cases("closed again")
	expect("not confined", plain, one.net.Gateway6(), 9999, true)
	expect("not confined", plain, netip.MustParseAddr(wire), 9999, true)
	// Recycled, it has other addresses and is confined still.
	one.inside(func() (err error) {
		confined.ip, err = one.net.Recycle(t.Context(), id, fmt.Sprintf("/proc/self/fd/%d", confined.ns.Fd()))
		return err
	})
	cases("recycled")
	// Link-local addresses are those of one link: the pod has none, its node has
	// none there, and what it sends to one goes nowhere.
	if confined.tries(netip.MustParseAddr("fe80::1%"+podLink), 9999) {
		t.Error("it reaches its node by a link-local address")
	}
	if (pod{ns: two.ns, ip: two.addr}).tries(one.net.Gateway6(), gatewayPort) {
		t.Error("another node reaches the pods' gateway")
	}
}

// A node of IPv4 alone gives its pods nothing else, and a node that has become one
// closes what was open.
func TestFourAlone(t *testing.T) {
	hosts := newHosts(t, OverlayAuto)
	p := hosts[0].pod("aaaaaaaaaaaaaaaa")
	if err := Inside(p.ns, func() error {
		l, err := netlink.LinkByName(podLink)
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(l, unix.AF_INET6)
		if err == nil && len(addrs) > 0 {
			err = fmt.Errorf("it has %v", addrs)
		}
		if add := netlink.AddrAdd(l, &netlink.Addr{IPNet: prefix("fd19:0:0:1::2/128"), Flags: unix.IFA_F_NODAD}); add == nil {
			err = errors.Join(err, errors.New("its link takes an IPv6 address"))
		}
		return err
	}); err != nil {
		t.Error(err)
	}

	was := dualHosts(t)[0]
	a, b := was.pod("aaaaaaaaaaaaaaaa"), was.pod("bbbbbbbbbbbbbbbb")
	b.serve(t)
	if !a.tries(was.second(b).ip, 8080) {
		t.Fatal("there is nothing to close")
	}
	old := was.second(b).ip
	was.inside(func() error {
		c := was.net.c
		c.PodCIDR6, c.ClusterCIDR6 = netip.Prefix{}, netip.Prefix{}
		n, err := New(c)
		if err != nil {
			return err
		}
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := conn.ListTablesOfFamily(nftables.TableFamilyIPv6)
		if err == nil && len(tables) > 0 {
			err = fmt.Errorf("tables are left: %v", tables)
		}
		return errors.Join(err, n.Teardown(context.Background()))
	})
	if a.tries(old, 8080) {
		t.Error("pods of before reach one another in a family that has no rules")
	}
}

func TestTeardownOfBothFamilies(t *testing.T) {
	one := dualHosts(t)[0]
	one.pod("aaaaaaaaaaaaaaaa")
	one.inside(func() error {
		if err := one.net.Teardown(context.Background()); err != nil {
			return err
		}
		if l := links(t, "pnt"); len(l) > 0 {
			t.Errorf("links left: %v", l)
		}
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		for _, f := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
			if tables, err := conn.ListTablesOfFamily(f); err != nil || len(tables) > 0 {
				t.Errorf("tables left: %v, %v", tables, err)
			}
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(lo, unix.AF_INET6)
		for _, a := range addrs {
			if !a.IP.IsLoopback() {
				t.Errorf("the loopback link has %s", a.IP)
			}
		}
		return err
	})
}

func BenchmarkAttachBothFamilies(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("needs root")
	}
	n, err := New(Config{
		PodCIDR: netip.MustParsePrefix("10.219.0.0/20"), PodCIDR6: netip.MustParsePrefix("fd19::/64"), Table: "podsnap-nettest", VethPrefix: "pnt",
	})
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

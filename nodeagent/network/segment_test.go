package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const earPort = 9000

var (
	broadcast  = limitedBroadcast.Addr()
	multicast  = netip.MustParseAddr("224.0.0.251")
	multicast6 = netip.MustParseAddr("ff02::fb")
)

// share makes a pod and has it share a segment.
func (h *host) share(id, segment string) pod {
	h.t.Helper()
	p := h.pod(id)
	h.inside(func() error { return h.net.Share(id, segment) })
	return p
}

// ear hears what comes to a pod, in one family.
type ear struct {
	t *testing.T
	net.PacketConn
}

// ear listens at earPort, and to the multicast of the family.
func (p pod) ear(t *testing.T, six bool) ear {
	t.Helper()
	e := ear{t: t}
	if err := Inside(p.ns, func() error {
		l, err := netlink.LinkByName(podLink)
		if err != nil {
			return err
		}
		family := "udp4"
		if six {
			family = "udp6"
		}
		if e.PacketConn, err = (&net.ListenConfig{}).ListenPacket(t.Context(), family, fmt.Sprintf(":%d", earPort)); err != nil {
			return err
		}
		raw, err := e.PacketConn.(*net.UDPConn).SyscallConn()
		if err != nil {
			return err
		}
		var joined error
		return errors.Join(raw.Control(func(fd uintptr) {
			if six {
				joined = unix.SetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: multicast6.As16(), Interface: uint32(l.Attrs().Index)})
			} else {
				joined = unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: multicast.As4(), Ifindex: int32(l.Attrs().Index)})
			}
		}), joined)
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// next is the text that comes next, and from whom.
func (e ear) next() (string, netip.Addr) {
	e.t.Helper()
	if err := e.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		e.t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, from, err := e.ReadFrom(buf)
	if err != nil {
		e.t.Errorf("nothing is heard: %v", err)
		return "", netip.Addr{}
	}
	return string(buf[:n]), from.(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// expect hears this next.
func (e ear) expect(what, text string, from netip.Addr) {
	e.t.Helper()
	if got, by := e.next(); got != text || by != from {
		e.t.Errorf("%s: heard %q from %s, want %q from %s", what, got, by, text, from)
	}
}

// says sends a datagram by the pod's own means.
func (p pod) says(t *testing.T, to netip.Addr, text string) {
	t.Helper()
	if err := Inside(p.ns, func() error {
		at := netip.AddrPortFrom(to, earPort)
		if to.Is6() && to.IsMulticast() {
			at = netip.AddrPortFrom(to.WithZone(podLink), earPort)
		}
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at)) // may broadcast
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte(text))
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func macBroadcast() net.HardwareAddr { return net.HardwareAddr{255, 255, 255, 255, 255, 255} }

// datagram is a frame as a pod may make it for itself.
func datagram(from, to net.HardwareAddr, src, dst netip.Addr, text string) []byte {
	udp := binary.BigEndian.AppendUint16(nil, earPort)
	udp = binary.BigEndian.AppendUint16(udp, earPort)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(text)))
	udp = append(append(udp, 0, 0), text...)
	var ip []byte
	kind := uint16(unix.ETH_P_IP)
	if src.Is6() {
		kind = unix.ETH_P_IPV6
		pseudo := slices.Concat(src.AsSlice(), dst.AsSlice(), []byte{0, 0, 0, byte(len(udp)), 0, 0, 0, unix.IPPROTO_UDP}, udp)
		binary.BigEndian.PutUint16(udp[6:], sum(pseudo))
		ip = slices.Concat([]byte{0x60, 0, 0, 0, 0, byte(len(udp)), unix.IPPROTO_UDP, 64}, src.AsSlice(), dst.AsSlice())
	} else {
		ip = slices.Concat([]byte{0x45, 0, 0, byte(20 + len(udp)), 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}, src.AsSlice(), dst.AsSlice())
		binary.BigEndian.PutUint16(ip[10:], sum(ip))
	}
	return slices.Concat(to, from, binary.BigEndian.AppendUint16(nil, kind), ip, udp)
}

// sum is the checksum of the Internet's protocols.
func sum(b []byte) uint16 {
	if len(b)%2 == 1 {
		b = append(slices.Clone(b), 0)
	}
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// sends puts frames on the pod's link.
func (p pod) sends(t *testing.T, frames ...[]byte) {
	t.Helper()
	if err := Inside(p.ns, func() error {
		l, err := netlink.LinkByName(podLink)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, f := range frames {
			err = errors.Join(err, unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index}))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// segmentRules is what there is of segments on a host: for each chain the number of
// its rules.
func (h *host) segmentRules() map[string]int {
	h.t.Helper()
	out := map[string]int{}
	h.inside(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
		for _, ch := range chains {
			rules, e := c.GetRules(ch.Table, ch)
			out[ch.Name], err = len(rules), errors.Join(err, e)
		}
		if len(chains) == 0 && err == nil {
			var tables []*nftables.Table
			if tables, err = c.ListTablesOfFamily(nftables.TableFamilyNetdev); len(tables) > 0 {
				h.t.Errorf("tables are left: %v", tables)
			}
		}
		return err
	})
	return out
}

// What one of a segment sends to all comes to each of the others once, and to nobody
// else; what is for one comes to that one as ever.
func TestSegment(t *testing.T) {
	hosts := dualHosts(t)
	one, two := hosts[0], hosts[1]
	a, b, c := one.share("aaaaaaaaaaaaaaaa", "shop"), one.share("bbbbbbbbbbbbbbbb", "shop"), one.share("cccccccccccccccc", "shop")
	others := map[string]pod{
		"a pod of another namespace": one.share("dddddddddddddddd", "stock"), "a pod that has not asked": one.pod("eeeeeeeeeeeeeeee"),
	}
	far := two.share("ffffffffffffffff", "shop")
	for _, six := range []bool{false, true} {
		at := func(h *host, p pod) netip.Addr {
			if six {
				return h.second(p).ip
			}
			return p.ip
		}
		members := map[string]ear{"one": b.ear(t, six), "another": c.ear(t, six)}
		strangers := map[string]ear{}
		for name, p := range others {
			strangers[name] = p.ear(t, six)
		}
		away := far.ear(t, six)
		all := []netip.Addr{broadcast, multicast}
		if six {
			all = []netip.Addr{multicast6}
		}
		for i, to := range all {
			a.says(t, to, fmt.Sprint("all ", i))
		}
		for name, p := range others {
			a.says(t, at(one, p), "you")
			strangers[name].expect(name, "you", at(one, a))
		}
		a.says(t, at(two, far), "you")
		away.expect("a pod of another node", "you", at(one, a))
		for name, e := range members {
			for i := range all {
				e.expect(name, fmt.Sprint("all ", i), at(one, a))
			}
		}
		a.says(t, at(one, b), "you")
		members["one"].expect("what is for one", "you", at(one, a))
	}
	for _, p := range []pod{a, b, c, others["a pod that has not asked"]} {
		if got := p.mtu(t); got != one.net.MTU() {
			t.Errorf("%s has the MTU %d, want %d", p.ip, got, one.net.MTU())
		}
	}
}

// Nothing crosses a segment but what is for all, from who sends it: neither under
// another's address nor to one pod, in whatever frame.
func TestSegmentIsNoWayPastTheHost(t *testing.T) {
	one := dualHosts(t)[0]
	a, b, c := one.share("aaaaaaaaaaaaaaaa", "shop"), one.share("bbbbbbbbbbbbbbbb", "shop"), one.share("cccccccccccccccc", "shop")
	for _, f := range []struct {
		six            bool
		a, b, c, to    netip.Addr
		group          net.HardwareAddr
		foreign, local netip.Addr
	}{
		{a: a.ip, b: b.ip, c: c.ip, to: multicast, group: net.HardwareAddr{1, 0, 0x5e, 0, 0, 251}, foreign: netip.MustParseAddr("203.0.113.7"), local: netip.MustParseAddr("169.254.1.1")},
		{
			six: true, a: one.second(a).ip, b: one.second(b).ip, c: one.second(c).ip, to: multicast6, group: net.HardwareAddr{0x33, 0x33, 0, 0, 0, 0xfb},
			foreign: netip.MustParseAddr("2001:db8::7"), local: netip.MustParseAddr("fe80::1"),
		},
	} {
		e := b.ear(t, f.six)
		own, his, host := macOf(a.ip), macOf(b.ip), hostMAC()
		a.sends(t,
			datagram(his, f.group, f.a, f.to, "another's link address"),
			datagram(host, f.group, f.a, f.to, "the host's link address"),
			datagram(own, f.group, f.c, f.to, "a neighbour's address"),
			datagram(own, f.group, f.b, f.to, "the receiver's address"),
			datagram(own, f.group, f.foreign, f.to, "a foreign address"),
			datagram(own, f.group, f.local, f.to, "the link's gateway"),
			datagram(own, his, f.a, f.b, "straight"),
			datagram(own, his, f.a, f.to, "straight to all"),
			datagram(own, f.group, f.a, f.b, "for one in a frame for all"),
			datagram(own, macBroadcast(), f.a, f.b, "for one in a frame for everybody"),
			datagram(own, f.group, f.a, f.to, "as it is to be"),
		)
		e.expect("of all frames", "as it is to be", f.a)
	}
	// What is not IP stays between pod and host, and nothing comes back to its sender.
	seen, back := b.tap(t), a.tap(t)
	own, text := macOf(a.ip), datagram(macOf(a.ip), macBroadcast(), a.ip, broadcast, "in another protocol")
	a.sends(t, arp(own, a.ip, b.ip), arp(own, one.net.Gateway(), b.ip),
		slices.Concat(text[:12], []byte{0x81, 0, 0, 5}, text[12:]), // a VLAN's
		slices.Concat(text[:12], []byte{0x88, 0xb5}, text[14:]))
	a.says(t, broadcast, "last")
	b.says(t, broadcast, "last")
	for who, ch := range map[string]<-chan string{"a neighbour": seen, "the sender": back} {
		if got := <-ch; !strings.Contains(got, "last") || strings.Contains(got, string(own)) == (who == "the sender") {
			t.Errorf("to %s comes %x", who, got)
		}
	}
}

// arp asks everybody for an address.
func arp(mac net.HardwareAddr, sender, target netip.Addr) []byte {
	return slices.Concat(macBroadcast(), mac, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, mac, sender.AsSlice(), make([]byte, 6), target.AsSlice())
}

// tap sees the first frame that comes to a pod, but for those that tell who is in
// which multicast group: they are sent again after a while.
func (p pod) tap(t *testing.T) <-chan string {
	t.Helper()
	var f *os.File
	if err := Inside(p.ns, func() error {
		l, err := netlink.LinkByName(podLink)
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), "tap")
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index})
	}); err != nil {
		t.Fatal(err)
	}
	out := make(chan string, 1)
	if err := f.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer f.Close()
		buf := make([]byte, 2000)
		for {
			n, err := f.Read(buf)
			if err != nil {
				out <- err.Error()
				return
			}
			if igmp := []byte{1, 0, 0x5e, 0, 0, 22}; !bytes.HasPrefix(buf[:n], igmp) {
				out <- string(buf[:n])
				return
			}
		}
	}()
	return out
}

// What is for one pod of a segment passes the host's forwarding, where it can be
// refused; broadcast and multicast do not.
func TestSegmentIsForwardedByTheHost(t *testing.T) {
	one := dualHosts(t)[0]
	a, b := one.share("aaaaaaaaaaaaaaaa", "shop"), one.share("bbbbbbbbbbbbbbbb", "shop")
	b.serve(t)
	e := b.ear(t, false)
	if !a.tries(b.ip, 8080) || !a.tries(one.second(b).ip, 8080) {
		t.Fatal("they do not reach one another")
	}
	one.inside(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		for _, s := range one.net.stacks() {
			table := c.AddTable(&nftables.Table{Family: s.family, Name: "nettest-refusal"})
			chain := c.AddChain(&nftables.Chain{Name: "forward", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
		}
		return c.Flush()
	})
	if a.tries(b.ip, 8080) || a.tries(one.second(b).ip, 8080) {
		t.Error("they reach one another past the host")
	}
	a.says(t, b.ip, "you")
	a.says(t, broadcast, "all")
	e.expect("what is for all", "all", a.ip)
}

// A segment ends with its last pod, whether the pod's link has gone before or not.
func TestSegmentEnds(t *testing.T) {
	one := newHosts(t, OverlayAuto)[0]
	ids := []string{"aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb", "cccccccccccccccc"}
	a, b := one.share(ids[0], "shop"), one.share(ids[1], "shop")
	one.share(ids[2], "segment-shop")
	if got, want := fmt.Sprint(one.segmentRules()), "map[pntaaaaaaaaaa-shop:4 pntbbbbbbbbbb-shop:4 pntcccccccccc-segment-shop:4 segment-segment-shop:1 segment-shop:2]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if _, err := one.net.Recycle(t.Context(), ids[0], fmt.Sprintf("/proc/self/fd/%d", a.ns.Fd())); !errors.Is(err, ErrUsed) {
		t.Errorf("a sandbox of a segment is recycled: got %v", err)
	}
	if err := one.net.Share("nobody0000000000", "shop"); err == nil {
		t.Error("a sandbox that is not attached shares a segment")
	}
	one.inside(func() error {
		l, err := netlink.LinkByName(one.net.linkName(ids[2]))
		return errors.Join(err, netlink.LinkDel(l), one.net.Detach(t.Context(), ids[2]), one.net.Detach(t.Context(), ids[0]))
	})
	if got, want := fmt.Sprint(one.segmentRules()), "map[pntbbbbbbbbbb-shop:4 segment-shop:1]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// Another one comes, and is heard.
	d := one.share("dddddddddddddddd", "shop")
	e := b.ear(t, false)
	d.says(t, broadcast, "all")
	e.expect("what is for all", "all", d.ip)
	one.inside(func() error {
		return errors.Join(one.net.Detach(t.Context(), "dddddddddddddddd"), one.net.Detach(t.Context(), ids[1]), one.net.Detach(t.Context(), ids[1]))
	})
	if got := one.segmentRules(); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
	one.share("eeeeeeeeeeeeeeee", "shop")
	one.inside(func() error { return one.net.Teardown(context.Background()) })
	if got := one.segmentRules(); len(got) > 0 {
		t.Errorf("after teardown: %v", got)
	}
}

// Segments go on over a restart of the agent, which takes over what it knows and
// removes the rest.
func TestSegmentAfterRestart(t *testing.T) {
	one := dualHosts(t)[0]
	a, b := one.share("aaaaaaaaaaaaaaaa", "shop"), one.share("bbbbbbbbbbbbbbbb", "shop")
	one.share("cccccccccccccccc", "shop")
	one.share("dddddddddddddddd", "stock")
	e, e6 := b.ear(t, false), b.ear(t, true)
	works := func(when string) {
		t.Helper()
		a.says(t, multicast, when)
		a.says(t, multicast6, when)
		e.expect(when, when, a.ip)
		e6.expect(when, when, one.second(a).ip)
	}
	works("before")
	one.inside(func() (err error) {
		if one.net, err = New(one.net.c); err != nil {
			return err
		}
		return errors.Join(one.net.Adopt("aaaaaaaaaaaaaaaa", a.ip), one.net.Adopt("bbbbbbbbbbbbbbbb", b.ip))
	})
	works("not yet taken over")
	before := one.segmentRules()
	one.inside(func() error {
		return errors.Join(one.net.Share("aaaaaaaaaaaaaaaa", "shop"), one.net.Share("bbbbbbbbbbbbbbbb", "shop"))
	})
	if got := one.segmentRules(); fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("taken over: got %v, want what was there before, %v", got, before)
	}
	works("taken over")
	one.inside(func() error { return one.net.Sweep(t.Context()) })
	if got, want := fmt.Sprint(one.segmentRules()), "map[pntaaaaaaaaaa-shop:5 pntbbbbbbbbbb-shop:5 segment-shop:2]"; got != want {
		t.Errorf("after a sweep: got %s, want %s", got, want)
	}
	works("after a sweep")
	one.inside(func() error {
		return errors.Join(one.net.Detach(t.Context(), "aaaaaaaaaaaaaaaa"), one.net.Detach(t.Context(), "bbbbbbbbbbbbbbbb"))
	})
	if got := one.segmentRules(); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}

// With as many others on the segment as are named.
func BenchmarkShare(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("needs root")
	}
	for _, others := range []int{0, 10, 100} {
		b.Run(fmt.Sprint(others), func(b *testing.B) {
			n, err := New(Config{PodCIDR: netip.MustParsePrefix("10.219.0.0/20"), Table: "podsnap-nettest", VethPrefix: "pnt"})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = n.Teardown(context.Background()) }()
			var last string
			for i := range others + 1 {
				ns, err := NewNamespace()
				if err != nil {
					b.Fatal(err)
				}
				defer ns.Close()
				last = fmt.Sprintf("%010d", i)
				if _, err := n.Attach(b.Context(), last, fmt.Sprintf("/proc/self/fd/%d", ns.Fd())); err != nil {
					b.Fatal(err)
				}
				if err := n.Share(last, "shop"); err != nil {
					b.Fatal(err)
				}
			}
			own, left := n.linkName(last), time.Duration(0)
			for b.Loop() {
				begin := time.Now()
				err := n.leave(func(link string) bool { return link == own })
				left += time.Since(begin)
				if err := errors.Join(err, n.Share(last, "shop")); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(left.Nanoseconds())/float64(b.N), "leave-ns/op")
		})
	}
}

package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// open has somebody listen on a port of all addresses of a namespace.
func (h *host) open(port int) {
	h.t.Helper()
	h.inside(func() error {
		l, err := (&net.ListenConfig{}).Listen(h.t.Context(), "tcp", fmt.Sprintf(":%d", port))
		if err == nil {
			h.t.Cleanup(func() { l.Close() })
		}
		return err
	})
}

// reaches tells whether a pod gets a connection; an error is neither a connection
// nor a refusal.
func (p pod) reaches(t *testing.T, ip netip.Addr, port uint16) (yes bool) {
	t.Helper()
	if err := Inside(p.ns, func() error {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(ip, port).String(), time.Second)
		if err == nil {
			yes = true
			return c.Close()
		}
		if errors.Is(err, unix.ECONNREFUSED) {
			return nil
		}
		return err
	}); err != nil {
		t.Errorf("%s to %s port %d: %v", p.ip, ip, port, err)
	}
	return yes
}

// tries tells whether there is a connection within a moment.
func (p pod) tries(ip netip.Addr, port uint16) (yes bool) {
	_ = Inside(p.ns, func() error {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(ip, port).String(), 300*time.Millisecond)
		if yes = err == nil; yes {
			c.Close()
		}
		return nil
	})
	return yes
}

func TestConfinedPod(t *testing.T) {
	hosts := newHosts(t, OverlayAuto)
	one, two, three := hosts[0], hosts[1], hosts[2]
	for _, h := range hosts {
		h.meet(hosts...)
		h.open(8080)
		h.open(9999)
		h.open(10000)
		h.open(53)
	}
	confined, plain := one.pod("1000000000000000"), one.pod("2000000000000000")
	near, far, farthest := one.pod("3000000000000000"), two.pod("4000000000000000"), three.pod("5000000000000000")
	for _, p := range []pod{near, far, farthest} {
		p.serve(t)
	}
	one.inside(func() error { return one.net.Confine("1000000000000000") })
	const served = 8080 // by pods
	allowed := func(what string) {
		t.Helper()
		for _, to := range []struct {
			name string
			ip   netip.Addr
			port uint16
		}{
			{"the gateway", one.net.Gateway(), gatewayPort},
			{"the name server", one.net.Gateway(), dnsPort},
			{"a pod beside it", near.ip, served},
			{"a pod of another node", far.ip, served},
			{"a pod behind a router", farthest.ip, served},
		} {
			if !confined.reaches(t, to.ip, to.port) {
				t.Errorf("%s: it does not reach %s", what, to.name)
			}
		}
	}
	forbidden := func(what string) {
		t.Helper()
		for _, to := range []struct {
			name string
			ip   netip.Addr
			port uint16
		}{
			{"another port of its node", one.net.Gateway(), 9999},
			{"its node's address", one.addr, 9999},
			{"the gateway's port there", one.addr, gatewayPort},
			{"another node", two.addr, 9999},
			{"that one's gateway", two.net.Gateway(), gatewayPort},
			{"a node behind a router", three.addr, 9999},
			{"the metadata of a cloud", netip.MustParseAddr("169.254.169.254"), 80},
		} {
			if confined.reaches(t, to.ip, to.port) {
				t.Errorf("%s: it reaches %s", what, to.name)
			}
		}
	}
	allowed("confined")
	forbidden("confined")
	for _, ip := range []netip.Addr{one.net.Gateway(), one.addr, two.addr, three.addr} {
		if !plain.reaches(t, ip, 9999) {
			t.Errorf("a pod that is not confined does not reach %s", ip)
		}
	}
	testOpenPorts(t, hosts, confined)
	forbidden("what was opened is closed")
	// The pods' own address of a node is for them and the node itself.
	outside := pod{ns: two.ns, ip: two.addr}
	for what, yes := range map[string]bool{
		"another node": outside.tries(one.net.Gateway(), gatewayPort), "a pod of another node": far.tries(one.net.Gateway(), gatewayPort),
		"a node behind a router": (pod{ns: three.ns, ip: three.addr}).tries(one.net.Gateway(), gatewayPort), "its pod": farthest.tries(one.net.Gateway(), gatewayPort),
	} {
		if yes {
			t.Errorf("%s reaches the pods' gateway", what)
		}
	}
	if !(pod{ns: one.ns, ip: one.addr}).tries(one.net.Gateway(), gatewayPort) {
		t.Error("the node itself does not reach its pods' gateway")
	}
	// What comes to it is answered, whoever asks.
	confined.serve(t)
	if err := Inside(two.ns, func() error { _, err := ask(confined.ip); return err }); err != nil {
		t.Errorf("another node does not reach it: %v", err)
	}

	// Another agent finds the rules, and what they hold.
	one.inside(func() (err error) {
		if one.net, err = New(one.net.c); err != nil {
			return err
		}
		return errors.Join(one.net.Adopt("1000000000000000", confined.ip), one.net.Adopt("3000000000000000", near.ip))
	})
	forbidden("before the agent has adopted it")
	one.inside(func() error { return one.net.Confine("1000000000000000") })
	one.inside(func() error { return one.net.Sweep(t.Context()) })
	forbidden("after a sweep")

	// Its address goes to somebody else.
	one.inside(func() error { return one.net.Detach(t.Context(), "1000000000000000") })
	if !confined.reaches(t, one.addr, 9999) {
		t.Error("the address of a pod that is gone is confined")
	}
}

// testOpenPorts opens ports of machines to a confined pod of the first, and closes
// them again. All of them are listened on.
func testOpenPorts(t *testing.T, hosts []*host, confined pod) {
	t.Helper()
	one, two, three := hosts[0], hosts[1], hosts[2]
	expect := func(ip netip.Addr, port uint16, yes bool) {
		t.Helper()
		if confined.reaches(t, ip, port) != yes {
			t.Errorf("%s port %d: want reached %t", ip, port, yes)
		}
	}
	tcp := func(n uint16) []Port { return []Port{{unix.IPPROTO_UDP, n + 1}, {unix.IPPROTO_TCP, n}} }
	one.inside(func() error { return one.net.Open(tcp(9999)) })
	for _, ip := range []netip.Addr{one.addr, one.net.Gateway()} {
		expect(ip, 9999, true)
		expect(ip, 10000, false) // UDP's
	}
	expect(one.addr, gatewayPort, false)
	expect(two.addr, 9999, false)
	// Another agent finds what is open.
	one.inside(func() error { return one.net.applyTable() })
	expect(one.addr, 9999, true)
	one.inside(func() error { return one.net.Open(tcp(10000)) })
	expect(one.addr, 9999, false)
	expect(one.addr, 10000, true)
	one.inside(func() error { return one.net.Open(nil) })
	expect(one.addr, 10000, false)

	// What another machine opens is reached from here, over its own address alone.
	near, far := two.peer(), three.peer()
	far.Open = tcp(9999)
	one.inside(func() error { return one.net.SetPeers(t.Context(), []Peer{near, far}) })
	expect(three.addr, 9999, true)
	expect(three.addr, gatewayPort, false)
	expect(three.net.Gateway(), 9999, false)
	expect(two.addr, 9999, false)
	// A store's address is nobody's to open.
	one.net.c.Forbidden = []netip.Addr{three.addr}
	one.inside(func() error { return one.net.SetPeers(t.Context(), []Peer{near, far}) })
	expect(three.addr, 9999, false)
	one.net.c.Forbidden = nil
	one.meet(hosts...)
}

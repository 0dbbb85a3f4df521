package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A namespace with the remains of connections becomes one without, under
// another address that works, and the old one leads nowhere.
func TestRecycle(t *testing.T) {
	n := newTestNetwork(t)
	const id = "aaaaaaaaaaaaaaaa"
	p := attach(t, n, id)
	var l net.Listener
	if err := Inside(p.ns, func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", ":8080")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := l.Accept(); err == nil {
			_, _ = io.WriteString(c, "x")
			c.Close() // first: what waits after that is the pod's
		}
	}()
	if got, err := ask(p.ip); err != nil || got != "x" {
		t.Fatalf("got %q, %v", got, err)
	}
	<-done
	l.Close()
	sockets := func() (count int) {
		t.Helper()
		if err := Inside(p.ns, func() error {
			fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			for _, f := range []uint8{unix.AF_INET, unix.AF_INET6} {
				ids, err := listSockets(fd, f)
				if err != nil {
					return err
				}
				count += len(ids)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return count
	}
	if sockets() == 0 {
		t.Fatal("there is nothing to clean up: the test shows nothing")
	}
	ip, err := n.Recycle(t.Context(), id, fmt.Sprintf("/proc/self/fd/%d", p.ns.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if ip == p.ip {
		t.Errorf("got the same address again")
	}
	if c := sockets(); c != 0 {
		t.Errorf("%d sockets are left", c)
	}
	if err := n.Adopt("bbbbbbbbbbbbbbbb", p.ip); err != nil {
		t.Errorf("the old address is not free: %v", err)
	}
	p.ip = ip
	p.serve(t)
	if got, err := ask(ip); err != nil || got != n.Gateway().String() {
		t.Errorf("at the new address: got %q, %v", got, err)
	}
}

// An address that is changed belongs to nobody until it is freed.
func TestPoolChange(t *testing.T) {
	p, err := newPool(netip.MustParsePrefix("10.9.0.8/29"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := p.take("x")
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.change("x")
	if err != nil || a == b {
		t.Fatalf("got %s, %v, want another one than %s", b, err, a)
	}
	if err := p.reserve("y", a); err == nil {
		t.Errorf("%s was given away while it is still in use", a)
	}
	p.free(a)
	if err := p.reserve("y", a); err != nil {
		t.Error(err)
	}
	for i := range 4 {
		_, _ = p.take(fmt.Sprint(i))
	}
	if _, err := p.change("x"); err == nil {
		t.Error("a full CIDR: got no error")
	}
	if p.byOwner["x"] != b {
		t.Errorf("the owner has lost %s", b)
	}
}

// A port is seen as soon as something listens on it, and only then, whichever
// way it listens.
func TestPorts(t *testing.T) {
	n := newTestNetwork(t)
	p := attach(t, n, "aaaaaaaaaaaaaaaa")
	ports, err := NewPorts(p.ns)
	if err != nil {
		t.Fatal(err)
	}
	defer ports.Close()
	expect := func(port uint16, want bool) {
		t.Helper()
		if got, err := ports.Listening(port); got != want || err != nil {
			t.Errorf("port %d: got %v, %v, want %v", port, got, err, want)
		}
	}
	for _, address := range []string{"0.0.0.0:8080", "[::]:8080", p.ip.String() + ":8080"} {
		expect(8080, false)
		var l net.Listener
		if err := Inside(p.ns, func() (err error) {
			l, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if address[:2] != p.ip.String()[:2] {
			expect(8080, true)
		}
		expect(8081, false)
		l.Close()
	}
	expect(8080, false)
}

func BenchmarkListening(b *testing.B) {
	ns, err := NewNamespace()
	if err != nil {
		b.Skip("needs root: ", err)
	}
	defer ns.Close()
	ports, err := NewPorts(ns)
	if err != nil {
		b.Fatal(err)
	}
	defer ports.Close()
	for b.Loop() {
		if _, err := ports.Listening(8080); err != nil {
			b.Fatal(err)
		}
	}
}

// What the kernel remembers of a namespace's connections is none of those that came
// in, so that only a namespace that began some has to be cleaned of it.
func TestRemembersNothing(t *testing.T) {
	n := newTestNetwork(t)
	p := attach(t, n, "aaaaaaaaaaaaaaaa")
	nothing := func() (is bool) {
		t.Helper()
		if err := Inside(p.ns, func() error { is = remembersNothing(); return nil }); err != nil {
			t.Fatal(err)
		}
		return is
	}
	p.serve(t)
	if _, err := ask(p.ip); err != nil {
		t.Fatal(err)
	}
	if !nothing() {
		t.Error("a connection that came in is said to be remembered")
	}
	if err := Inside(p.ns, func() error {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", p.ip.String()+":0")
		if err != nil {
			return err
		}
		defer l.Close()
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			return err
		}
		return c.Close()
	}); err != nil {
		t.Fatal(err)
	}
	if nothing() {
		t.Error("a connection that the pod began is said to be nothing")
	}
}

func TestCounter(t *testing.T) {
	const file = "Ip: Forwarding\nIp: 1\nTcp: RtoMin ActiveOpens\nTcp: 200 7\n"
	for _, c := range []struct {
		group, name string
		want        uint64
		ok          bool
	}{{"Tcp:", "ActiveOpens", 7, true}, {"Ip:", "Forwarding", 1, true}, {"Tcp:", "Other", 0, false}, {"Udp:", "ActiveOpens", 0, false}} {
		if got, ok := counter(file, c.group, c.name); got != c.want || ok != c.ok {
			t.Errorf("%s %s: %d, %v", c.group, c.name, got, ok)
		}
	}
	if _, ok := counter("Tcp: A B\nTcp: 1\n", "Tcp:", "B"); ok {
		t.Error("a line that is cut off has all values")
	}
}

// Where the kernel does remember connections, a namespace that is used again is
// cleaned of them.
func TestForgetConnections(t *testing.T) {
	n := newTestNetwork(t)
	p := attach(t, n, "aaaaaaaaaaaaaaaa")
	remembered := func() int {
		t.Helper()
		family, err := metricsFamily()
		if err != nil {
			t.Skipf("the kernel has no tcp_metrics: %v", err)
		}
		const get = 1 // TCP_METRICS_CMD_GET
		var all [][]byte
		if err := Inside(p.ns, func() error {
			req := nl.NewNetlinkRequest(int(family), unix.NLM_F_DUMP)
			req.AddData(genlmsg{get, 1})
			all, err = req.Execute(unix.NETLINK_GENERIC, 0)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	if err := Inside(p.ns, func() error {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+noMetrics, []byte("0"), 0o644); err != nil {
			return err
		}
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", p.ip.String()+":0")
		if err != nil {
			return err
		}
		defer l.Close()
		for range 4 {
			c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
			if err != nil {
				return err
			}
			other, err := l.Accept()
			if err != nil {
				return err
			}
			if err := errors.Join(other.Close(), c.Close()); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if remembered() == 0 {
		t.Fatal("the kernel remembers nothing, so this says nothing")
	}
	if err := Inside(p.ns, forgetConnections); err != nil {
		t.Fatal(err)
	}
	if n := remembered(); n != 0 {
		t.Errorf("%d connections are remembered", n)
	}
}

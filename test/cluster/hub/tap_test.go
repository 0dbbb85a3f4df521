package hub

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// space is a network namespace with a TAP device in it.
type space struct {
	fd   int
	addr netip.Addr
	port Port
}

// newSpace makes one; it goes with its last descriptor.
func newSpace(t *testing.T, i byte) *space {
	t.Helper()
	s := &space{addr: netip.AddrFrom4([4]byte{10, 77, 0, 10 + i})}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			var err error
			if s.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
				return err
			}
			tap, err := OpenTAP("eth0", address(i), &net.IPNet{IP: s.addr.AsSlice(), Mask: net.CIDRMask(24, 32)})
			if err != nil {
				return err
			}
			s.port = TAP(tap)
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(s.fd) })
	return s
}

// in runs f in the namespace.
func (s *space) in(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(s.fd, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func (s *space) listen(t *testing.T) (l net.Listener) {
	t.Helper()
	if err := s.in(func() (err error) {
		l, err = net.Listen("tcp4", s.addr.String()+":99")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func (s *space) dial(to *space, limit time.Duration) (c net.Conn, err error) {
	err = s.in(func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		c, err = (&net.Dialer{}).DialContext(ctx, "tcp4", to.addr.String()+":99")
		return err
	})
	return c, err
}

func needTAP(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("TAP devices need root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("no /dev/net/tun: ", err)
	}
}

// Two real network stacks talk through the hub: how fast, and what a cut does.
func TestTAP(t *testing.T) {
	needTAP(t)
	a, b := newSpace(t, 0), newSpace(t, 1)
	h := New(1, Member{"a", address(0)}, Member{"b", address(1)})
	t.Cleanup(h.Close)
	h.Plug("a", a.port)
	h.Plug("b", b.port)
	l := b.listen(t)
	go func() { // the first connection is echoed, the second one taken
		for i := 0; ; i++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if i == 0 {
					_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
				} else {
					n, _ := io.Copy(io.Discard, struct{ io.Reader }{c})
					_, _ = c.Write([]byte{byte(n >> 20)})
				}
			}()
		}
	}()
	c, err := a.dial(b, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ping := func(limit time.Duration) (time.Duration, error) {
		var buf [64]byte
		_ = c.SetDeadline(time.Now().Add(limit))
		start := time.Now()
		if _, err := c.Write(buf[:]); err != nil {
			return 0, err
		}
		_, err := io.ReadFull(c, buf[:])
		return time.Since(start), err
	}
	best := func(n int) time.Duration {
		best := time.Hour
		for range n {
			d, err := ping(10 * time.Second)
			if err != nil {
				t.Fatal(err)
			}
			best = min(best, d)
		}
		return best
	}
	rtt := best(500)
	if rtt > 5*time.Millisecond {
		t.Errorf("the fastest of 500 round trips took %s", rtt)
	}
	h.Delay(All, All, 10*time.Millisecond)
	slow := best(5)
	if slow < 20*time.Millisecond || slow > 100*time.Millisecond {
		t.Errorf("with 10 ms each way the fastest of 5 round trips took %s", slow)
	}
	h.Heal()

	const size = 16 << 20
	bulk, err := a.dial(b, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer bulk.Close()
	start := time.Now()
	block := make([]byte, 1<<20)
	for range size >> 20 {
		if _, err := bulk.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := bulk.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var got [1]byte
	if _, err := io.ReadFull(bulk, got[:]); err != nil || got[0] != size>>20 {
		t.Fatalf("%d of %d MiB arrived: %v", got[0], size>>20, err)
	}
	rate := size * 8 / time.Since(start).Seconds() / 1e6
	t.Logf("round trip %s, with 10 ms each way %s; %.0f Mbit/s", rtt, slow, rate)
	if rate < slowest {
		t.Errorf("%.0f Mbit/s, want %d", rate, slowest)
	}

	// What a sends arrives, and no answer does.
	h.Cut("b", "a")
	there, _ := h.Counts("a", "b")
	back, _ := h.Counts("b", "a")
	if _, err := ping(300 * time.Millisecond); err == nil {
		t.Error("there was an answer over a cut")
	}
	if n, _ := h.Counts("a", "b"); n == there {
		t.Error("the way there is cut too")
	}
	if n, _ := h.Counts("b", "a"); n != back {
		t.Errorf("%d frames came over the cut", n-back)
	}
	if c, err := a.dial(b, 300*time.Millisecond); err == nil {
		c.Close()
		t.Error("a connection was made over a cut")
	}
	h.Heal()
	var buf [64]byte
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(c, buf[:]); err != nil { // the answer from before
		t.Errorf("healed: %v", err)
	}
	// A host that is unplugged and comes back has its connections.
	h.Unplug("b")
	if _, err := ping(100 * time.Millisecond); err == nil {
		t.Error("there was an answer from a host that is off")
	}
}

package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// inside runs f on a thread that is in the host's network namespace. f must not
// wait for anything: sockets stay in the namespace that they were made in.
func (h *Host) inside(f func() error) error {
	h.mu.Lock()
	if h.power == nil {
		h.mu.Unlock()
		return fmt.Errorf("%s: %w", h.Name, ErrOff)
	}
	// A copy: the host may be switched off meanwhile.
	fd, err := unix.FcntlInt(uintptr(h.power.netns), unix.F_DUPFD_CLOEXEC, 0)
	h.mu.Unlock()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	runtime.LockOSThread()
	here, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() { _ = unix.Close(here) }()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the network of %s: %w", h.Name, err)
	}
	err = f()
	if back := unix.Setns(here, unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back) // locked: the thread goes with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}

// Dial connects from inside the host. network is tcp or tcp4, address is
// ip:port.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if network != "tcp" && network != "tcp4" {
		return nil, net.UnknownNetworkError(network)
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, &net.AddrError{Err: "want ip:port", Addr: address}
	}
	fault := func(err error) error {
		return &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(ap), Err: err}
	}
	fd, family, to := -1, unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: ap.Addr().As16(), Port: int(ap.Port())})
	if ap.Addr().Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}
	}
	if err := h.inside(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	}); err != nil {
		return nil, fault(err)
	}
	err = unix.Connect(fd, to)
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close() // the connection has a copy
	if err != nil {
		if !errors.Is(err, unix.EINPROGRESS) {
			return nil, fault(os.NewSyscallError("connect", err))
		}
		if err := connected(ctx, f); err != nil {
			return nil, fault(err)
		}
	}
	return net.FileConn(f)
}

// connected waits until a socket is, or can't be.
func connected(ctx context.Context, f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	var fault error
	err = raw.Write(func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			fault = os.NewSyscallError("getsockopt", err)
			return true
		case code != 0:
			fault = os.NewSyscallError("connect", syscall.Errno(code))
			return true
		}
		_, err = unix.Getpeername(int(fd))
		return err == nil // not yet: wait until it can be written to
	})
	switch {
	case fault != nil:
		return fault
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	}
	return err
}

// Listen listens inside the host.
func (h *Host) Listen(address string) (l net.Listener, err error) {
	err = h.inside(func() error {
		l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp4", address) // makes no use of it
		return err
	})
	if err == nil {
		h.whenOff(func() { l.Close() })
	}
	return l, err
}

// dialLimit is how long an HTTP client waits for a connection.
const dialLimit = 500 * time.Millisecond

// HTTPClient calls from inside the host, also after it was switched off and on.
func (h *Host) HTTPClient() *http.Client {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialLimit)
		defer cancel()
		return h.Dial(ctx, network, address)
	}
	t := &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 512, IdleConnTimeout: 30 * time.Second}
	h.whenOff(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}

// whenOff has f called at every PowerOff from now on.
func (h *Host) whenOff(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.idle = append(h.idle, f)
}

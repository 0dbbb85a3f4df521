// Package handover has sockets outlive the process that serves them. Each of them
// is kept twice: here, and by a keeper that stays when this process ends, in
// whatever way. Clients that come meanwhile wait in the socket's queue, and the
// next process takes it up.
//
// The keeper is systemd, if it runs this process, by its file descriptor store
// (FileDescriptorStoreMax= in the unit), or else a small process of our own. What
// systemd's socket units hand in is taken too, if its address is the wanted one.
package handover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/internal/pause"
)

// Config says where the keeper is.
type Config struct {
	Dir     string                 // of its socket: one a platform
	Program func() ([]byte, error) // reads internal/handover/holder, a static binary
	Log     *slog.Logger           // nil discards
}

// keeper has copies of sockets. Its methods are for one caller at a time.
type keeper interface {
	// put gives it a copy.
	put(name string, fd int) error
	// remove has it close all copies of a name. There need not be any.
	remove(name string) error
	// quit has it close all, for good.
	quit(ctx context.Context) error
	// close returns when it has got everything.
	close() error
}

// kept is a socket of a former process.
type kept struct {
	name string
	fd   *os.File
}

// Sockets are those of this process.
type Sockets struct {
	c   Config
	log *slog.Logger

	mu     sync.Mutex
	keeper keeper          // nil: nobody keeps anything
	found  []kept          // and not taken yet
	used   map[string]bool // names of what this process serves
	mine   map[string]syscall.Conn
	broken bool // the keeper takes nothing
}

// idle is the name of connections on which nothing is under way.
const idle = "idle"

// Open finds what a former process has left, and the keeper or makes one. Without
// one everything works but what this package is for, and the log says so.
func Open(ctx context.Context, c Config) *Sockets {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Sockets{c: c, log: c.Log, used: map[string]bool{}, mine: map[string]syscall.Conn{}, found: inherited()}
	k, found, err := open(ctx, c)
	if err != nil {
		c.Log.Warn("nobody keeps the listening sockets: while this process is away, connections are refused", slog.Any("error", err))
		return s
	}
	s.keeper, s.found = k, append(s.found, found...)
	return s
}

func open(ctx context.Context, c Config) (keeper, []kept, error) {
	if at := os.Getenv("NOTIFY_SOCKET"); at != "" {
		// Not for the children, which would speak for us.
		if err := os.Unsetenv("NOTIFY_SOCKET"); err != nil {
			return nil, nil, err
		}
		m, err := dialManager(ctx, at)
		return m, nil, err
	}
	return dialHolder(ctx, c)
}

// Listen answers with the socket of addr that a former process has left, or a new
// one. It is kept, under a name that no other has.
func (s *Sockets) Listen(ctx context.Context, name, addr string) (net.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[name] = true
	for i, f := range s.found {
		l, err := listener(f.fd)
		if err != nil {
			continue
		}
		if !at(l.Addr(), addr) {
			l.Close()
			continue
		}
		s.found = append(s.found[:i], s.found[i+1:]...)
		f.fd.Close()
		s.log.Debug("a socket was taken over", slog.String("name", name), slog.String("address", addr))
		s.keep(name, l, f.name == name)
		return l, nil
	}
	s.drop(name) // it was of another address
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s.keep(name, l, false)
	return l, nil
}

// drop closes what was found under a name, which makes its address free.
func (s *Sockets) drop(name string) {
	left := s.found[:0]
	for _, f := range s.found {
		if f.name == name {
			f.fd.Close()
		} else {
			left = append(left, f)
		}
	}
	if len(left) == len(s.found) {
		return
	}
	s.found = left
	if s.keeper == nil {
		return
	}
	if err := s.keeper.remove(name); err != nil {
		s.log.Warn("a socket is kept that nobody serves", slog.String("name", name), slog.Any("error", err))
	}
}

// keep has a listening socket kept; already says that it is.
func (s *Sockets) keep(name string, l net.Listener, already bool) {
	socket, ok := l.(syscall.Conn)
	if s.keeper == nil || !ok {
		return
	}
	if s.mine[name] = socket; already {
		return
	}
	if err := s.pass(name, socket); err != nil {
		s.log.Warn("a listening socket is not kept: while this process is away, connections are refused", slog.String("name", name), slog.Any("error", err))
	}
}

// pass gives the keeper a copy of a socket.
func (s *Sockets) pass(name string, socket syscall.Conn) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	if gone := raw.Control(func(fd uintptr) { err = s.keeper.put(name, int(fd)) }); gone != nil {
		return gone
	}
	return err
}

// Run sees that there is a keeper, until ctx is done; nil then.
func (s *Sockets) Run(ctx context.Context) error {
	for {
		s.mu.Lock()
		h, ok := s.keeper.(*holder)
		s.mu.Unlock()
		if !ok { // systemd goes on, or none could be made
			<-ctx.Done()
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-h.gone:
		}
		s.log.Warn("the holder of the sockets has ended; another one is started")
		for !s.again(ctx) {
			if !pause.For(ctx, time.Second) {
				return nil
			}
		}
	}
}

// again makes another holder, with what this process serves.
func (s *Sockets) again(ctx context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keeper == nil {
		return true // the process ends
	}
	k, found, err := dialHolder(ctx, s.c)
	if err != nil {
		s.log.Warn("no holder of the sockets", slog.Any("error", err))
		return false
	}
	for _, f := range found {
		f.fd.Close()
	}
	_ = s.keeper.close()
	s.keeper, s.broken = k, false
	for name, socket := range s.mine {
		if err := s.pass(name, socket); err != nil {
			s.log.Warn("a listening socket is not kept", slog.String("name", name), slog.Any("error", err))
		}
	}
	return true
}

// Settle closes what a former process has left and this one does not want.
func (s *Sockets) Settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.found) > 0 {
		name := s.found[0].name
		if !s.used[name] {
			s.drop(name)
			continue
		}
		s.found[0].fd.Close() // a second one of the same name
		s.found = s.found[1:]
	}
}

// Idle are the connections that a former process has left, each between two
// requests. They are the caller's alone.
func (s *Sockets) Idle() []net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []net.Conn
	for _, f := range s.found {
		if f.name != idle {
			continue
		}
		if c, err := net.FileConn(f.fd); err == nil {
			out = append(out, c)
		}
	}
	s.drop(idle) // so that a client sees the end of this process, if its request is here then
	return out
}

// Leave gives a connection, on which nothing is under way, to the next process.
// The caller closes it then. It is false when that has to be said to the client:
// nobody keeps it, or it has a state besides the kernel's.
func (s *Sockets) Leave(c net.Conn) bool {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keeper == nil || s.broken {
		return false
	}
	if err := s.pass(idle, tcp); err != nil {
		s.log.Warn("connections that rest are closed", slog.Any("error", err))
		s.broken = true // others need not wait for it too
	}
	return !s.broken
}

// Forget has nothing kept any more: the platform ends for good.
func (s *Sockets) Forget(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keeper == nil {
		return nil
	}
	for name := range s.used {
		if err := s.keeper.remove(name); err != nil {
			return err
		}
	}
	k := s.keeper
	s.keeper = nil
	return k.quit(ctx)
}

// Close ends this process's part. What is kept stays.
func (s *Sockets) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.found {
		f.fd.Close()
	}
	s.found = nil
	if s.keeper == nil {
		return nil
	}
	k := s.keeper
	s.keeper = nil
	return k.close()
}

// listener is a copy of a socket, if it is one that listens.
func listener(f *os.File) (net.Listener, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var listens int
	if gone := raw.Control(func(fd uintptr) { listens, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ACCEPTCONN) }); gone != nil {
		return nil, gone
	}
	if err != nil || listens == 0 {
		return nil, errors.Join(err, errors.New("the socket does not listen"))
	}
	return net.FileListener(f)
}

// at tells whether a socket is what listening at an address makes.
func at(a net.Addr, want string) bool {
	have, ok := a.(*net.TCPAddr)
	w, err := net.ResolveTCPAddr("tcp", want)
	if !ok || err != nil || w.Port == 0 || have.Port != w.Port {
		return false
	}
	if w.IP == nil {
		return have.IP.IsUnspecified()
	}
	h, _ := netip.AddrFromSlice(have.IP)
	x, _ := netip.AddrFromSlice(w.IP)
	return h.Unmap() == x.Unmap() && have.Zone == w.Zone
}

// socketPath is where a holder of our own is found.
func socketPath(dir string) string { return filepath.Join(dir, "sockets.sock") }

// Dismiss ends the holder of a platform that does not run, if there is one.
func Dismiss(ctx context.Context, dir string) error {
	h, err := dialOnly(ctx, dir)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the holder of the sockets: %w", err)
	}
	go h.watch()
	return h.quit(ctx)
}

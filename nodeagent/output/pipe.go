package output

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pipe is the reading end of a FIFO. An os.File would be watched by the runtime's
// poller all the time: each line would wake a thread of this process, which may
// be the gateway's, though its reader comes by only from time to time. A pipe is
// watched while somebody waits for it, and no longer than until something comes.
type pipe struct {
	mu sync.Mutex // of the descriptor: against reading from another one of its number
	fd int        // -1: closed

	// bell is an epoll instance with the FIFO in it, disarmed unless a Read waits.
	// The runtime's poller has the bell.
	bell    *os.File
	raw     syscall.RawConn
	rung    func(fd uintptr) bool
	ringing [1]unix.EpollEvent
}

var _ io.ReadCloser = (*pipe)(nil)

// openPipe opens a FIFO, whether it has a writer or not.
func openPipe(path string) (*pipe, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	r := &pipe{fd: fd}
	if err := r.hang(); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	r.rung = func(bell uintptr) bool {
		n, err := unix.EpollWait(int(bell), r.ringing[:], 0)
		return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
	}
	return r, nil
}

// hang makes the bell.
func (r *pipe) hang() error {
	bell, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	err = unix.EpollCtl(bell, unix.EPOLL_CTL_ADD, r.fd, &unix.EpollEvent{Events: unix.EPOLLONESHOT})
	if err == nil {
		err = unix.SetNonblock(bell, true) // what the runtime's poller takes
	}
	if err != nil {
		unix.Close(bell)
		return err
	}
	r.bell = os.NewFile(uintptr(bell), "bell")
	if err = r.bell.SetDeadline(time.Time{}); err == nil { // or the poller has not taken it
		r.raw, err = r.bell.SyscallConn()
	}
	if err != nil {
		r.bell.Close()
	}
	return err
}

// grow gives the FIFO room for n bytes, if the kernel lets it.
func (r *pipe) grow(n int) { _, _ = unix.FcntlInt(uintptr(r.fd), unix.F_SETPIPE_SZ, n) }

// Read implements io.Reader. One goroutine may read; Close makes it return.
func (r *pipe) Read(p []byte) (int, error) {
	for {
		n, err := r.take(p)
		if !errors.Is(err, unix.EAGAIN) {
			return n, err
		}
		if r.raw.Read(r.rung) != nil { // its only reason
			return 0, os.ErrClosed
		}
	}
}

// take reads what is there. Is there nothing, it arms the bell: that rings at
// once for what has come meanwhile.
func (r *pipe) take(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fd < 0 {
		return 0, os.ErrClosed
	}
	n, err := unix.Read(r.fd, p)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(r.fd, p)
	}
	switch {
	case errors.Is(err, unix.EAGAIN):
		bell := -1
		if fault := r.raw.Control(func(fd uintptr) { bell = int(fd) }); fault != nil {
			return 0, fault
		}
		if fault := unix.EpollCtl(bell, unix.EPOLL_CTL_MOD, r.fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT}); fault != nil {
			return 0, fault
		}
		return 0, err
	case err != nil:
		return 0, err
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// Close implements io.Closer.
func (r *pipe) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fd < 0 {
		return os.ErrClosed
	}
	err := errors.Join(r.bell.Close(), unix.Close(r.fd))
	r.fd = -1
	return err
}

// Package hold keeps sockets while the process that serves them is away, where no
// service manager does. It needs nothing but the kernel, so that the process that
// does it is small.
package hold

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/internal/handover/notify"
)

// Most is how many descriptors the kernel lets one message have.
const Most = 253

// Run serves one process after the other at a listening socket of sequenced
// packets. It returns when it is told to quit, or when nobody has come for grace
// after the last one; what it held is closed then.
func Run(listener int, grace time.Duration) error {
	h := &holder{}
	defer h.drop(func(held) bool { return true })
	for {
		c, err := accept(listener, grace)
		if err != nil || c < 0 {
			return err
		}
		quit := h.serve(c)
		_ = unix.Close(c)
		if quit {
			return nil
		}
	}
}

// accept waits for the next process; -1 when none comes.
func accept(listener int, grace time.Duration) (int, error) {
	limit := time.Now().Add(grace)
	for {
		left := max(time.Until(limit), 0)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}, int(left/time.Millisecond)+1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return -1, err
		case n == 0 && left == 0:
			return -1, nil
		case n == 0:
			continue
		}
		c, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) {
			continue
		}
		return c, err
	}
}

// held is a socket and what it is called.
type held struct {
	name string
	fd   int
}

type holder struct{ sockets []held }

// serve does what a process says until it is gone, or says quit.
func (h *holder) serve(c int) (quit bool) {
	buf, oob := make([]byte, 4<<10), make([]byte, unix.CmsgSpace(4*Most))
	for {
		n, k, _, _, err := unix.Recvmsg(c, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return false
		}
		fds := Rights(oob[:k])
		said, name := notify.Parse(buf[:n])
		switch {
		case said[notify.Quit]:
			quit = true
		case said[notify.Store]:
			for _, fd := range fds {
				h.sockets = append(h.sockets, held{name, fd})
			}
			fds = nil
		case said[notify.Remove]:
			h.drop(func(s held) bool { return s.name == name })
		case said[notify.Take]:
			if h.give(c) != nil {
				return false
			}
		}
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		if quit {
			return true
		}
	}
}

// give sends copies of all that there is.
func (h *holder) give(c int) error {
	for _, s := range h.sockets {
		if err := send(c, notify.Message(notify.Name(s.name)), unix.UnixRights(s.fd)); err != nil {
			return err
		}
	}
	return send(c, notify.Message(notify.End), nil)
}

func send(c int, message, oob []byte) error {
	for {
		err := unix.Sendmsg(c, message, oob, nil, unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (h *holder) drop(which func(held) bool) {
	kept := h.sockets[:0]
	for _, s := range h.sockets {
		if which(s) {
			_ = unix.Close(s.fd)
		} else {
			kept = append(kept, s)
		}
	}
	h.sockets = kept
}

// Rights are the descriptors that came with a message.
func Rights(oob []byte) (fds []int) {
	all, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range all {
		if got, err := unix.ParseUnixRights(&all[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

package handover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/internal/handover/notify"
)

// manager is a service manager that keeps sockets: systemd.
type manager struct{ conn *net.UnixConn }

var _ keeper = (*manager)(nil)

func dialManager(ctx context.Context, at string) (*manager, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "unixgram", at)
	if err != nil {
		return nil, fmt.Errorf("the service manager at $NOTIFY_SOCKET: %w", err)
	}
	return &manager{c.(*net.UnixConn)}, nil
}

func (m *manager) put(name string, fd int) error {
	return say(m.conn, unix.UnixRights(fd), notify.Store, notify.Name(name))
}

func (m *manager) remove(name string) error {
	return say(m.conn, nil, notify.Remove, notify.Name(name))
}

// quit has nothing to do: what it is to forget was removed by name.
func (m *manager) quit(context.Context) error { return m.close() }

// patience is how long a keeper may take to answer.
const patience = 2 * time.Second

// close waits until everything was taken in: of what a process has sent that is
// gone systemd may not find out whose it was.
func (m *manager) close() error {
	defer m.conn.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	err = say(m.conn, unix.UnixRights(int(w.Fd())), notify.Barrier)
	w.Close()
	if err != nil {
		return err
	}
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, _ = r.Read(make([]byte, 1)) // its end, or an old systemd that knows no barriers
	return nil
}

// say sends one message.
func say(c *net.UnixConn, oob []byte, lines ...string) error {
	if err := c.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	// WriteMsgUnix takes no connected datagram socket.
	gone := raw.Write(func(fd uintptr) bool {
		err = unix.Sendmsg(int(fd), notify.Message(lines...), oob, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(err, unix.EAGAIN)
	})
	return errors.Join(gone, err)
}

// firstInherited is the descriptor from which on a service manager hands in
// sockets (sd_listen_fds(3)).
const firstInherited = 3

// inherited are the sockets that this process was started with.
func inherited() []kept {
	pid, names, count := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDNAMES"), os.Getenv("LISTEN_FDS")
	for _, k := range []string{"LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_FDS"} {
		_ = os.Unsetenv(k) // not for the children
	}
	n, err := strconv.Atoi(count)
	if err != nil || pid != strconv.Itoa(os.Getpid()) {
		return nil
	}
	var out []kept
	called := strings.Split(names, ":")
	for i := range n {
		fd := firstInherited + i
		unix.CloseOnExec(fd)
		k := kept{fd: os.NewFile(uintptr(fd), "inherited")}
		if i < len(called) {
			k.name = called[i]
		}
		out = append(out, k)
	}
	return out
}

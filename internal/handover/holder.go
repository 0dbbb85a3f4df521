package handover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/internal/handover/hold"
	"github.com/podsnap/podsnap/internal/handover/notify"
	"github.com/podsnap/podsnap/internal/sealed"
)

// holder is a process of our own that keeps sockets.
type holder struct {
	conn *net.UnixConn
	gone chan struct{} // closed when it has ended, or the connection to it
}

var _ keeper = (*holder)(nil)

// dialHolder finds the holder and takes what it has, or starts one.
func dialHolder(ctx context.Context, c Config) (keeper, []kept, error) {
	h, err := dialOnly(ctx, c.Dir)
	if err == nil {
		found, taken := h.take()
		if taken == nil {
			go h.watch()
			return h, found, nil
		}
		h.conn.Close() // it was leaving
	}
	if err := spawn(c); err != nil {
		return nil, nil, fmt.Errorf("start the holder of the sockets: %w", err)
	}
	if h, err = dialOnly(ctx, c.Dir); err != nil {
		return nil, nil, err
	}
	found, err := h.take()
	if err != nil {
		h.conn.Close()
		return nil, nil, err
	}
	go h.watch()
	return h, found, nil
}

// watch ends with the holder, which says nothing any more, or with the connection.
func (h *holder) watch() {
	defer close(h.gone)
	_ = h.conn.SetReadDeadline(time.Time{})
	_, _ = h.conn.Read(make([]byte, 1))
}

func dialOnly(ctx context.Context, dir string) (*holder, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "unixpacket", socketPath(dir))
	if err != nil {
		return nil, err
	}
	return &holder{conn: c.(*net.UnixConn), gone: make(chan struct{})}, nil
}

// spawn starts a holder in a session of its own. Its listening socket is made
// here, so that it is there at once.
func spawn(c Config) error {
	path := socketPath(c.Dir)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return err
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	door, err := l.File()
	if err != nil {
		return err
	}
	defer door.Close()
	program, err := c.Program()
	if err != nil {
		return err
	}
	f, err := sealed.Program("podsnap-sockets", program)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := exec.Command(sealed.Path(f)) //nolint:noctx // it outlives us
	cmd.Args[0], cmd.Dir = "podsnap-sockets", "/"
	cmd.Env = []string{"GOMAXPROCS=1"}
	cmd.ExtraFiles = []*os.File{door}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // ends with the holder, or with us
	return nil
}

// take answers with copies of all that it has.
func (h *holder) take() ([]kept, error) {
	if err := say(h.conn, nil, notify.Take); err != nil {
		return nil, err
	}
	if err := h.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	var out []kept
	buf, oob := make([]byte, 4<<10), make([]byte, unix.CmsgSpace(4*hold.Most))
	for {
		n, k, _, _, err := h.conn.ReadMsgUnix(buf, oob)
		if err == nil && n == 0 {
			err = errors.New("the holder of the sockets has ended")
		}
		if err != nil {
			for _, s := range out {
				s.fd.Close()
			}
			return nil, err
		}
		said, name := notify.Parse(buf[:n])
		if said[notify.End] {
			return out, nil
		}
		for _, fd := range hold.Rights(oob[:k]) {
			out = append(out, kept{name, os.NewFile(uintptr(fd), name)})
		}
	}
}

func (h *holder) put(name string, fd int) error {
	return say(h.conn, unix.UnixRights(fd), notify.Store, notify.Name(name))
}

func (h *holder) remove(name string) error {
	return say(h.conn, nil, notify.Remove, notify.Name(name))
}

// quit returns when it has ended.
func (h *holder) quit(ctx context.Context) error {
	defer h.conn.Close()
	if err := say(h.conn, nil, notify.Quit); err != nil && !errors.Is(err, unix.EPIPE) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-h.gone:
		return nil
	case <-ctx.Done():
		return errors.New("the holder of the sockets does not end")
	}
}

// close needs not wait: what was sent is read before the end of the connection is.
func (h *holder) close() error { return h.conn.Close() }

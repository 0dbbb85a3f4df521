package fast

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/output"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// terminal is a pseudo terminal of a container's own file system, so that the
// process in it finds its device where it says that it is.
type terminal struct {
	master *os.File
	slave  *os.File // until the process has it
	at     string   // where the process finds it until then
	copied chan struct{}
	last   output.Last
}

// newTerminal makes one in the container that a process is in.
func newTerminal(pid int) (*terminal, error) {
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("root of the container: %w", err)
	}
	defer unix.Close(root)
	// Whatever the container has made of its /dev, this does not leave it, and
	// what it finds is a multiplexer of terminals.
	fd, err := unix.Openat2(root, "dev/pts/ptmx", &unix.OpenHow{
		Flags:   unix.O_RDWR | unix.O_NOCTTY | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, fmt.Errorf("open /dev/pts/ptmx of the container: %w", err)
	}
	t := &terminal{master: os.NewFile(uintptr(fd), "/dev/pts/ptmx"), copied: make(chan struct{})}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil || fs.Type != unix.DEVPTS_SUPER_MAGIC {
		t.master.Close()
		return nil, errors.New("/dev/pts of the container has no terminals")
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.master.Close()
		return nil, fmt.Errorf("unlock a terminal: %w", err)
	}
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		t.master.Close()
		return nil, fmt.Errorf("open a terminal: %w", errno)
	}
	t.slave, t.at = os.NewFile(peer, "terminal"), fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), peer)
	return t, nil
}

func (t *terminal) paths() [3]string { return [3]string{t.at, t.at, t.at} }

// copy passes the streams on. The process has its side.
func (t *terminal) copy(ctx context.Context, x runtime.Exec) {
	t.slave.Close()
	if x.Stdin != nil {
		go func() { _, _ = io.Copy(t.master, x.Stdin) }() // ends with its reader, or with the terminal
	}
	if x.Resize != nil {
		go t.resize(ctx, x.Resize)
	}
	go func() {
		defer close(t.copied)
		_, _ = io.Copy(t.last.Through(x.Stdout), t.master) // ends with EIO when nobody has the other side
	}()
}

func (t *terminal) resize(ctx context.Context, sizes <-chan api.TerminalSize) {
	for {
		select {
		case s, ok := <-sizes:
			if !ok {
				return
			}
			conn, err := t.master.SyscallConn()
			if err != nil {
				return
			}
			_ = conn.Control(func(fd uintptr) { // it has just ended
				_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: s.Height, Col: s.Width})
			})
		case <-ctx.Done():
			return
		}
	}
}

// wait waits for the last output.
func (t *terminal) wait() {
	t.last.Wait(func() { <-t.copied }, func() { t.master.Close() })
}

// close hangs up.
func (t *terminal) close() {
	t.slave.Close()
	t.master.Close()
}

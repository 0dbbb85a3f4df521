package host

import (
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// cleanerName is the name that this program has when it cleans up.
const cleanerName = "podsnap-cleaner"

// Cleaner is a process that waits for the end of this one, however it comes, and
// removes then what hosts leave: their control groups and their folder. Their
// processes end by themselves.
type Cleaner struct {
	cmd  *exec.Cmd
	pipe io.Closer
}

// StartCleaner starts one for a group and a folder of hosts.
func StartCleaner(groups *Groups, dir string) (*Cleaner, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{cleanerName, groups.Tree.Parent, dir}, Env: []string{"GOMAXPROCS=1"}, Dir: "/", Stdin: r,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true}, // it must not get the signals of a terminal
	}
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, err
	}
	return &Cleaner{cmd, w}, nil
}

// Close has it clean up now and waits until it has done so.
func (c *Cleaner) Close() error {
	c.pipe.Close()
	return c.cmd.Wait()
}

// clean waits until the other end of standard input is closed, and cleans up.
func clean(group, dir string) {
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	_, _ = io.Copy(io.Discard, os.Stdin)
	if g, err := NewGroups(group[1:]); err == nil {
		_ = g.Remove()
	}
	_ = os.RemoveAll(dir)
}

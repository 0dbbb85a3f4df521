package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// child is a supervised process: started, waited for and started again when it
// ends, as long as its context lives. It dies with its parent.
type child struct {
	name string
	// command prepares a start; after is called when it has taken place.
	command func() (cmd *exec.Cmd, after func(), err error)
	// ready says when the child answers; it is called after each start and
	// returns when it does or ctx is done.
	ready func(ctx context.Context) error
	log   *slog.Logger

	mu    sync.Mutex
	up    chan struct{} // closed while the child answers
	pid   int
	first error
}

func newChild(name string, log *slog.Logger, command func() (*exec.Cmd, func(), error), ready func(context.Context) error) *child {
	return &child{name: name, command: command, ready: ready, log: log, up: make(chan struct{})}
}

// wait returns when the child answers for the first time.
func (c *child) wait(ctx context.Context) error {
	c.mu.Lock()
	up := c.up
	c.mu.Unlock()
	select {
	case <-up:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.first
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run keeps the child running until ctx is done; then it is told to stop and
// waited for. A child that fails before it has ever answered ends run with an
// error: its fault is in the set-up, and trying again would not mend it.
func (c *child) run(ctx context.Context) error {
	wait := 50 * time.Millisecond
	answered := false
	for {
		start := time.Now()
		ok, err := c.once(ctx)
		answered = answered || ok
		if ctx.Err() != nil {
			return nil
		}
		if !answered {
			err = fmt.Errorf("%s did not start: %w", c.name, err)
			c.mu.Lock()
			c.first = err
			close(c.up)
			c.mu.Unlock()
			return err
		}
		c.log.Warn("child ended, starting it again", slog.String("child", c.name), slog.Any("error", err), slog.Duration("in", wait))
		if time.Since(start) > 10*time.Second {
			wait = 50 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, 5*time.Second)
	}
}

func (c *child) once(ctx context.Context) (answered bool, fault error) {
	cmd, after, err := c.command()
	if err != nil {
		return false, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	exited := make(chan error, 1)
	started := make(chan error, 1)
	go func() {
		// The kernel sends the death signal when the starting thread ends,
		// so this one must live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		after()
		started <- err
		if err != nil {
			return
		}
		err = cmd.Wait()
		if err == nil {
			err = fmt.Errorf("it exited")
		}
		cancel(err)
		exited <- err
	}()
	if err := <-started; err != nil {
		return false, err
	}
	c.mu.Lock()
	c.pid = cmd.Process.Pid
	c.mu.Unlock()
	if err := c.ready(ctx); err == nil {
		answered = true
		c.mu.Lock()
		select {
		case <-c.up:
		default:
			close(c.up)
		}
		c.mu.Unlock()
		c.log.Info("child is up", slog.String("child", c.name), slog.Int("pid", cmd.Process.Pid))
	}
	<-ctx.Done()
	select {
	case err := <-exited: // by itself
		return answered, err
	default:
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-exited:
		return answered, err
	case <-time.After(10 * time.Second):
		_ = cmd.Process.Kill()
		return answered, <-exited
	}
}

// outputTo opens the file that takes a child's output, beginning anew when it
// has grown over 10 MiB.
func outputTo(path string) (*os.File, error) {
	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if st, err := os.Stat(path); err == nil && st.Size() > 10<<20 {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, flags, 0o600)
}

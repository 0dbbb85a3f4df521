package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// lock makes sure that one platform at most works on a state directory. The
// kernel drops it with the process, however that ends.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid, _ := os.ReadFile(path)
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &runningError{pid: strings.TrimSpace(string(pid)), path: path}
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// runningError is a state directory that another process works on.
type runningError struct{ pid, path string }

func (e *runningError) Error() string {
	return fmt.Sprintf("the platform runs already (pid %s holds %s); end it with `faas server stop`", e.pid, e.path)
}

// Running is the process that works on a state directory; 0 is none.
func Running(c Config) (pid int, err error) {
	if err := c.fill(); err != nil {
		return 0, err
	}
	if _, err := os.Stat(c.path("lock")); errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	unlock, err := lock(c.path("lock"))
	if err == nil {
		unlock()
		return 0, nil
	}
	running, ok := errors.AsType[*runningError](err)
	if !ok {
		return 0, err
	}
	return strconv.Atoi(running.pid)
}

// Release has the process that works on a state directory end, and what it runs go
// on: its clients wait for the next one.
func Release(ctx context.Context, c Config) error {
	if err := c.fill(); err != nil {
		return err
	}
	_, err := endBy(ctx, c.path("lock"), syscall.SIGTERM)
	return err
}

// end asks the platform that holds the lock to end, with all it runs, and waits
// until it has.
func end(ctx context.Context, path string) (was bool, err error) {
	return endBy(ctx, path, syscall.SIGINT)
}

func endBy(ctx context.Context, path string, by syscall.Signal) (was bool, err error) {
	for first := true; ; first = false {
		unlock, err := lock(path)
		if err == nil {
			unlock()
			return !first, nil
		}
		running, ok := errors.AsType[*runningError](err)
		if !ok {
			return false, err
		}
		if first {
			pid, err := strconv.Atoi(running.pid)
			if err != nil || pid <= 1 {
				return false, fmt.Errorf("%s names no process: %q", path, running.pid)
			}
			if err := syscall.Kill(pid, by); err != nil && !errors.Is(err, syscall.ESRCH) {
				return false, fmt.Errorf("end pid %d: %w", pid, err)
			}
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("pid %s does not end: %w", running.pid, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

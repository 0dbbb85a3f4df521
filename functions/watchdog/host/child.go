package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// child is the long-lived process of http mode.
type child struct {
	cmd  *exec.Cmd
	all  *family
	done chan struct{} // closed when it has ended
	err  error         // why, after done
}

func (w *watchdog) startChild() (*child, error) {
	cmd := exec.Command(w.c.process[0], w.c.process[1:]...) //nolint:noctx // stop ends it, with its group
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var logs sync.WaitGroup
	for _, s := range []struct {
		name string
		to   *io.Writer
	}{{"stdout", &cmd.Stdout}, {"stderr", &cmd.Stderr}} {
		r, pw, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		*s.to = pw
		defer pw.Close()
		logs.Go(func() {
			w.copyLog(r, s.name)
			_ = r.Close()
		})
	}
	if err := w.children.start(cmd); err != nil {
		return nil, fmt.Errorf("start fprocess: %w", err)
	}
	c := &child{cmd: cmd, all: &w.children, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		w.children.await(cmd)
		if c.err = w.children.wait(cmd); c.err == nil {
			c.err = errors.New("exit status 0")
		}
		logs.Wait()
	}()
	return c, nil
}

func (c *child) signal(s syscall.Signal) { c.all.signal(c.cmd.Process.Pid, s) }

// stop ends the process and waits for it: SIGTERM, and SIGKILL for it and all
// that it left when that takes too long.
func (c *child) stop(patience time.Duration) {
	c.signal(syscall.SIGTERM)
	t := time.AfterFunc(patience, func() { c.all.kill(c.cmd) })
	defer t.Stop()
	<-c.done
}

// awaitUpstream returns when the function's server accepts connections. There is
// no event for that, so it dials: often at first, because a cold start waits
// for it, then less. False when ctx or term came first.
func (w *watchdog) awaitUpstream(ctx context.Context, term <-chan struct{}) bool {
	start, pause := time.Now(), time.Millisecond
	warned := false
	for {
		if w.upstreamAccepts(ctx) {
			return true
		}
		waited := time.Since(start)
		if waited > 10*time.Second && !warned {
			w.log.Printf("still waiting for the function to listen on %s (upstream_url)", w.c.upstream.Host)
			warned = true
		}
		if waited > 500*time.Millisecond {
			pause = min(2*pause, 50*time.Millisecond)
		}
		select {
		case <-time.After(pause):
		case <-term:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// copyLog passes lines of a process on to the log.
func (w *watchdog) copyLog(r io.Reader, name string) {
	prefix := ""
	if w.c.prefix {
		prefix = name + ": "
	}
	logLines(w.log, r, prefix, w.c.lineLimit)
}

// logLines logs each line, and cuts one that is longer than limit.
func logLines(l *log.Logger, r io.Reader, prefix string, limit int) {
	br := bufio.NewReaderSize(r, max(limit, 16))
	for {
		line, err := br.ReadSlice('\n')
		if n := len(line); n > 0 && line[n-1] == '\n' {
			line = line[:n-1]
		}
		if len(line) > 0 || err == nil {
			l.Print(prefix + string(line))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

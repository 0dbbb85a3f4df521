package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/nodeagent/logfile"
)

// logs copies a container's output from its two FIFOs to its log file. The
// shim keeps the FIFOs open as well, so that a container goes on writing
// while the agent restarts: what fits the pipes waits there.
type logs struct {
	stdout, stderr string // paths of the FIFOs; "" without a log
	done           chan struct{}

	once sync.Once
	read []*os.File
	keep []*os.File // write ends that stand in for the shim's until it has its own
}

// startLogs makes the FIFOs of a new container, or opens those of an adopted
// one, and copies until the container ends. path is the log file; "" discards.
func (e *Engine) startLogs(id, path string, adopted bool) (*logs, error) {
	l := &logs{done: make(chan struct{})}
	if path == "" {
		close(l.done)
		return l, nil
	}
	dir := e.fifoDir(id)
	l.stdout, l.stderr = filepath.Join(dir, "out"), filepath.Join(dir, "err")
	w, err := logfile.NewWriter(path, e.c.LogMaxSize, e.c.LogFiles)
	if err == nil {
		err = l.open(dir, adopted)
	}
	if err != nil {
		l.stop()
		if w != nil {
			w.Close()
		}
		return nil, fmt.Errorf("log of container %s: %w", id, err)
	}
	sources := []logfile.Source{{Stream: logfile.Stdout, From: l.read[0]}, {Stream: logfile.Stderr, From: l.read[1]}}
	e.work.Go(func() {
		defer close(l.done)
		logfile.Copy(w, e.c.Log, sources...)
		w.Close()
		l.stop()
	})
	return l, nil
}

func (l *logs) open(dir string, adopted bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, path := range []string{l.stdout, l.stderr} {
		if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make fifo %s: %w", path, err)
		}
		r, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		l.read = append(l.read, r)
		if adopted {
			continue
		}
		// What a container may write while the agent is away; more is refused
		// to users with many pipes.
		if raw, err := r.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 256<<10) })
		}
		w, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		l.keep = append(l.keep, w)
	}
	return nil
}

// handOver is called when the shim has opened the FIFOs: from now on their
// end is the end of the container's output.
func (l *logs) handOver() {
	for _, f := range l.keep {
		f.Close()
	}
	l.keep = nil
}

// wait waits until all output is in the log, for at most d: a process that
// outlives the container's first one may hold the output open.
func (l *logs) wait(d time.Duration) {
	if l == nil { // adopted after its end
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-l.done:
	case <-t.C:
	}
}

// stop ends copying. It may be called more than once.
func (l *logs) stop() {
	if l == nil {
		return
	}
	l.once.Do(func() {
		for _, f := range l.read {
			f.Close()
		}
	})
}

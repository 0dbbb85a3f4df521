// Package output copies what containers write to their log files.
package output

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/nodeagent/logfile"
)

// Config says where an output goes.
type Config struct {
	Dir     string // of the FIFOs, the container's own
	Log     string // file; "" discards, and there are no FIFOs
	MaxSize int64  // bytes of a log file before it is rotated; 0 is 10 MiB
	Files   int    // kept of a log; 0 is 3
	Adopted bool   // the container runs already: its FIFOs are there
	Stdin   bool   // make one for its standard input as well
	Logger  *slog.Logger
}

// Output copies a container's output from its two FIFOs to its log file.
// The shim or the container itself has the FIFOs open for reading as well, so
// that a container goes on writing while the agent restarts: what fits the pipes waits there.
type Output struct {
	Stdout, Stderr string // paths of the FIFOs; "" without a log
	Stdin          string // likewise; "" if none was asked for
	done           chan struct{}
	taps           taps

	once sync.Once
	read []*pipe
	keep []*os.File // write ends that stand in for the container's until it has its own
}

// Start makes the FIFOs of a new container, or opens those of an adopted one,
// and copies until the container ends, on a goroutine of work.
func Start(c Config, work *sync.WaitGroup) (*Output, error) {
	l := &Output{done: make(chan struct{}), taps: taps{stop: make(chan struct{})}}
	if c.Stdin {
		l.Stdin = filepath.Join(c.Dir, "in")
		if err := fifo(c.Dir, l.Stdin); err != nil {
			return nil, fmt.Errorf("input of a container: %w", err)
		}
	}
	if c.Log == "" {
		close(l.done)
		return l, nil
	}
	l.Stdout, l.Stderr = filepath.Join(c.Dir, "out"), filepath.Join(c.Dir, "err")
	w, err := logfile.NewWriter(c.Log, c.MaxSize, c.Files)
	if err == nil {
		err = l.open(c.Dir, c.Adopted)
	}
	if err != nil {
		l.Stop()
		if w != nil {
			w.Close()
		}
		return nil, fmt.Errorf("log of a container: %w", err)
	}
	sources := []logfile.Source{
		{Stream: logfile.Stdout, From: l.taps.on(l.read[0], logfile.Stdout)},
		{Stream: logfile.Stderr, From: l.taps.on(l.read[1], logfile.Stderr)},
	}
	work.Go(func() {
		defer close(l.done)
		logfile.Copy(w, c.Logger, sources...)
		w.Close()
		l.Stop()
	})
	return l, nil
}

func (l *Output) open(dir string, adopted bool) error {
	for _, path := range []string{l.Stdout, l.Stderr} {
		if err := fifo(dir, path); err != nil {
			return err
		}
		r, err := openPipe(path)
		if err != nil {
			return err
		}
		l.read = append(l.read, r)
		if adopted {
			continue
		}
		// What a container may write while the agent is away; more is refused
		// to users with many pipes.
		r.grow(256 << 10)
		w, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		l.keep = append(l.keep, w)
	}
	return nil
}

// fifo makes one that is not there yet.
func fifo(dir, path string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make fifo %s: %w", path, err)
	}
	return nil
}

// HandOver is called when the container has opened the FIFOs: from now on their
// end is the end of the container's output.
func (l *Output) HandOver() {
	for _, f := range l.keep {
		f.Close()
	}
	l.keep = nil
}

// Wait waits until all output is in the log, for at most d: a process that
// outlives the container's first one may hold the output open.
func (l *Output) Wait(d time.Duration) {
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

// Drain is Wait before the container is removed: for a second, or, while
// somebody is attached who may be slow to take the rest, for ten.
func (l *Output) Drain() {
	l.Wait(time.Second)
	if l != nil && l.attached() {
		l.Wait(9 * time.Second)
	}
}

// Stop ends copying. It may be called more than once.
func (l *Output) Stop() {
	if l == nil {
		return
	}
	l.once.Do(func() {
		close(l.taps.stop)
		for _, f := range l.read {
			f.Close()
		}
	})
}

package output

import (
	"bytes"
	"context"
	"io"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/nodeagent/logfile"
)

// taps are those who are attached to an output.
type taps struct {
	mu   sync.Mutex
	all  []*tap
	stop chan struct{} // closed when nobody is to be waited for any more
}

// tap is one who is attached.
type tap struct {
	chunks chan chunk
	gone   <-chan struct{} // of its context: it takes nothing any more
}

type chunk struct {
	stream logfile.Stream
	data   []byte
}

// tapped is a stream that who is attached sees as well.
type tapped struct {
	io.Reader
	stream logfile.Stream
	taps   *taps
}

func (t *taps) on(r io.Reader, s logfile.Stream) io.Reader { return &tapped{r, s, t} }

// Read implements io.Reader. It waits for those who are attached: so a process
// that writes more than they take is held up, and nothing is lost.
func (r *tapped) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n == 0 {
		return n, err
	}
	r.taps.mu.Lock()
	to := r.taps.all
	r.taps.mu.Unlock()
	if len(to) == 0 {
		return n, err
	}
	c := chunk{r.stream, bytes.Clone(p[:n])}
	for _, t := range to {
		select {
		case t.chunks <- c:
		case <-t.gone:
		case <-r.taps.stop:
		}
	}
	return n, err
}

// Attach passes on what is written from now on until the output ends, then the
// error is nil, or ctx is done. Each of the writers may be nil.
func (l *Output) Attach(ctx context.Context, stdout, stderr io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := &tap{chunks: make(chan chunk, 16), gone: ctx.Done()}
	l.taps.mu.Lock()
	l.taps.all = append(slices.Clip(l.taps.all), t) // readers have the old one
	l.taps.mu.Unlock()
	defer func() {
		l.taps.mu.Lock()
		defer l.taps.mu.Unlock()
		l.taps.all = slices.DeleteFunc(slices.Clone(l.taps.all), func(o *tap) bool { return o == t })
	}()
	pass := func(c chunk) error {
		to := stdout
		if c.stream == logfile.Stderr {
			to = stderr
		}
		if to == nil {
			return nil
		}
		_, err := to.Write(c.data)
		return err
	}
	for {
		select {
		case c := <-t.chunks:
			if err := pass(c); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-l.done:
			for len(t.chunks) > 0 { // nobody adds to them now
				if err := pass(<-t.chunks); err != nil {
					return err
				}
			}
			return nil
		}
	}
}

// attached tells whether somebody is.
func (l *Output) attached() bool {
	l.taps.mu.Lock()
	defer l.taps.mu.Unlock()
	return len(l.taps.all) > 0
}

// OpenInput opens the container's standard input for writing. It fails when
// nobody reads it any more.
func (l *Output) OpenInput() (*os.File, error) {
	return os.OpenFile(l.Stdin, os.O_WRONLY|unix.O_NONBLOCK, 0)
}

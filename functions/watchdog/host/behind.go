package host

import (
	"io"
	"sync"
	"time"
)

const (
	// lag is how long a line of the access log waits for others.
	lag = 5 * time.Millisecond
	// most is how many bytes of them wait at a time.
	most = 16 << 10
)

// behind writes a log, all lines in their order. Those of the access log come
// later, together: net/http sends an answer when its handler has returned, so a
// write in there, and whoever it wakes, would be part of every call.
type behind struct {
	mu    sync.Mutex
	to    io.Writer
	held  []byte
	timer *time.Timer // runs while something is held
	ended bool        // nothing is held any more
}

// Write implements io.Writer: at once, with what is held before it.
func (b *behind) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(p), b.write(p)
}

// end writes what is held, and from now on everything at once.
func (b *behind) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	_ = b.write(nil)
}

// write is to be called with mu held. Who logs waits meanwhile: so no more is held
// than can be written.
func (b *behind) write(p []byte) error {
	if len(b.held) > 0 {
		b.timer.Stop()
		b.held = append(b.held, p...)
		p = b.held
		b.held = b.held[:0]
		if cap(b.held) > 4*most {
			b.held = nil
		}
	}
	if len(p) == 0 {
		return nil
	}
	_, err := b.to.Write(p)
	return err
}

// later is for the lines that may wait.
type later struct{ *behind }

// Write implements io.Writer.
func (l later) Write(p []byte) (int, error) {
	b := l.behind
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || len(b.held)+len(p) > most {
		return len(p), b.write(p)
	}
	if len(b.held) == 0 {
		if b.timer == nil {
			b.timer = time.AfterFunc(lag, func() { _, _ = b.Write(nil) })
		} else {
			b.timer.Reset(lag)
		}
	}
	b.held = append(b.held, p...)
	return len(p), nil
}

package output

import (
	"io"
	"sync/atomic"
	"time"
)

// quiet is how long the output of a process that has ended may bring nothing
// before it counts as ended: a child of the process may hold it open.
const quiet = 2 * time.Second

// Last waits for the last output of a process that has ended. The zero value is
// ready.
type Last struct {
	writing atomic.Int32
	writes  atomic.Int64
}

// Through is to as the output has to go to it; nil discards.
func (l *Last) Through(to io.Writer) io.Writer {
	if to == nil {
		to = io.Discard
	}
	return &watched{to, l}
}

// Wait returns when wait does, which it has on a goroutine of its own. It calls
// cut when nothing has come for a while: then wait has to return soon. A reader
// who is slow to take what is there is waited for.
func (l *Last) Wait(wait, cut func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		wait()
	}()
	t := time.NewTicker(quiet)
	defer t.Stop()
	for before := l.writes.Load(); ; {
		select {
		case <-done:
			return
		case <-t.C:
		}
		now := l.writes.Load()
		if now == before && l.writing.Load() == 0 {
			cut()
			<-done
			return
		}
		before = now
	}
}

type watched struct {
	io.Writer
	l *Last
}

// Write implements io.Writer.
func (w *watched) Write(p []byte) (int, error) {
	w.l.writing.Add(1)
	defer func() {
		w.l.writes.Add(1)
		w.l.writing.Add(-1)
	}()
	return w.Writer.Write(p)
}

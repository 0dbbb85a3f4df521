// Package awake keeps the machine's processors from halting while calls come
// densely. A call is a chain of short pieces of work in several processes, and at
// each of them a processor that has just halted has to come back: some
// microseconds of hardware, and more where a hypervisor has to schedule it.
// Linux takes requests for how long that may take (PM QoS); with one of nothing
// an idle processor turns in the kernel's idle loop instead. It runs there only
// while there is nothing else to run. The Go scheduler of this process has a
// sleeper of its own, its monitor, which is kept awake likewise.
package awake

import (
	"context"
	"io"
	"log/slog"
	"math"
	"sync/atomic"
	"time"
)

const (
	// dense is the longest time between two calls that count as dense.
	dense = 5 * time.Millisecond
	// least is how long they come so before anything is done about it.
	least = 20 * time.Millisecond
	// quiet is how long after the last call it is over.
	quiet = 10 * time.Millisecond
)

// Config says how to stay awake. The zero value is usable.
type Config struct {
	// Holds keep processors awake, each until what it answers with is closed. nil
	// are the kernel's PM QoS and the Go scheduler's monitor.
	Holds []func() (io.Closer, error)
	Log   *slog.Logger // nil discards
}

// Watch decides by the calls that it is told of. Its methods may be called by
// many at a time.
type Watch struct {
	c     Config
	began time.Time
	last  atomic.Int64 // call, in nanoseconds since began
	since atomic.Int64 // when those began that come densely
	state atomic.Int32
	ask   chan struct{}
}

// States of a watch.
const (
	stateLoose int32 = iota
	stateAsked       // Run holds, or is about to
	stateOff         // nothing can be held
)

// New makes a watch. It holds nothing until Run runs.
func New(c Config) *Watch {
	if c.Holds == nil {
		c.Holds = []func() (io.Closer, error){latency, monitor}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	w := &Watch{c: c, began: time.Now(), ask: make(chan struct{}, 1)}
	w.last.Store(math.MinInt64 / 2)
	return w
}

// Call tells of a call that comes now. It costs next to nothing.
func (w *Watch) Call(now time.Time) {
	t := int64(now.Sub(w.began))
	last := w.last.Load()
	w.last.Store(t)
	if w.state.Load() != stateLoose {
		return
	}
	switch {
	case t-last > int64(dense):
		w.since.Store(t)
	case t-w.since.Load() >= int64(least) && w.state.CompareAndSwap(stateLoose, stateAsked):
		w.ask <- struct{}{} // has room: it is asked for once
	}
}

// Run holds while calls come densely, until ctx is done. While they don't, it
// has no timer.
func (w *Watch) Run(ctx context.Context) error {
	for {
		select {
		case <-w.ask:
		case <-ctx.Done():
			return nil
		}
		release := w.hold()
		if len(w.c.Holds) == 0 {
			w.state.Store(stateOff)
			return nil
		}
		w.outlast(ctx)
		release()
		w.since.Store(w.now())
		w.state.Store(stateLoose)
	}
}

// hold holds what there is. What can't be held is not tried again.
func (w *Watch) hold() (release func()) {
	var works []func() (io.Closer, error)
	var held []io.Closer
	for _, h := range w.c.Holds {
		c, err := h()
		if err != nil {
			w.c.Log.Debug("one way to keep processors awake between calls is closed", slog.Any("error", err))
			continue
		}
		works, held = append(works, h), append(held, c)
	}
	w.c.Holds = works
	return func() {
		for _, c := range held {
			if err := c.Close(); err != nil {
				w.c.Log.Debug("let processors sleep", slog.Any("error", err))
			}
		}
	}
}

func (w *Watch) now() int64 { return int64(time.Since(w.began)) }

// outlast returns when no call has come for a while, or ctx is done.
func (w *Watch) outlast(ctx context.Context) {
	t := time.NewTimer(quiet)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		left := quiet - time.Duration(w.now()-w.last.Load())
		if left <= 0 {
			return
		}
		t.Reset(left)
	}
}

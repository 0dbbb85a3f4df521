package awake

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podsnap/podsnap/test/bubble"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// requests are a device.
type requests struct{ made, now atomic.Int32 }

func (r *requests) hold() (io.Closer, error) {
	r.made.Add(1)
	r.now.Add(1)
	return r, nil
}

// Close implements io.Closer.
func (r *requests) Close() error { r.now.Add(-1); return nil }

// watching is a watch that runs until the test's end.
func watching(t *testing.T, c Config) (w *Watch, stop func()) {
	t.Helper()
	w = New(c)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	return w, func() { cancel(); <-done }
}

func TestWatch(t *testing.T) {
	type calls struct {
		n     int
		every time.Duration
		wait  time.Duration // afterwards
		held  int32         // then
		made  int32         // until then
	}
	for name, steps := range map[string][]calls{
		"one call":     {{n: 1}},
		"sparse":       {{n: 1000, every: dense + 1}},
		"a burst":      {{n: 1000, every: time.Microsecond}, {n: 1, wait: time.Second}},
		"short trains": {{n: 4, every: dense, wait: quiet}, {n: 4, every: dense, wait: quiet}, {n: 4, every: dense, wait: quiet}},
		"dense":        {{n: 6, every: dense, held: 1, made: 1}, {n: 1000, every: dense, held: 1, made: 1}, {wait: quiet - dense, made: 1}},
		"held on": {
			{n: 100, every: time.Millisecond, held: 1, made: 1},
			{n: 50, every: quiet - 1, held: 1, made: 1},
			{wait: 1, made: 1},
			{n: 3, every: time.Millisecond, made: 1},
			{n: 20, every: time.Millisecond, held: 1, made: 2},
			{wait: quiet, made: 2},
		},
	} {
		bubble.Test(t, func(t *testing.T) {
			var r requests
			w, stop := watching(t, Config{Holds: []func() (io.Closer, error){r.hold}})
			for i, s := range steps {
				for range s.n {
					w.Call(time.Now())
					synctest.Wait()
					time.Sleep(s.every)
				}
				time.Sleep(s.wait)
				synctest.Wait()
				if h, m := r.now.Load(), r.made.Load(); h != s.held || m != s.made {
					t.Errorf("%s, %d: held %d, made %d, want %d and %d", name, i, h, m, s.held, s.made)
				}
			}
			stop()
			if r.now.Load() != 0 {
				t.Errorf("%s: it is held after the end", name)
			}
		})
	}
}

// The end lets go at once, and calls after it do nothing.
func TestEnd(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var r requests
		w, stop := watching(t, Config{Holds: []func() (io.Closer, error){r.hold}})
		call := func() {
			for range 100 {
				w.Call(time.Now())
				time.Sleep(time.Millisecond)
			}
		}
		call()
		if r.now.Load() != 1 {
			t.Error("it is not held")
		}
		start := time.Now()
		stop()
		if d := time.Since(start); d != 0 || r.now.Load() != 0 {
			t.Errorf("held %d, %v after the end", r.now.Load(), d)
		}
		call()
		if r.made.Load() != 1 {
			t.Error("it is held again after the end")
		}
	})
}

// What can't be held is said once, to who debugs, and is not tried again; the
// rest is held.
func TestNoDevice(t *testing.T) {
	for _, others := range []int32{0, 1} {
		bubble.Test(t, func(t *testing.T) {
			var said bytes.Buffer
			var r requests
			tries := 0
			holds := []func() (io.Closer, error){func() (io.Closer, error) { tries++; return nil, errors.New("none here") }}
			for range others {
				holds = append(holds, r.hold)
			}
			w, stop := watching(t, Config{Holds: holds, Log: slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))})
			for range 2 {
				for range 100 {
					w.Call(time.Now())
					time.Sleep(time.Millisecond)
				}
				if r.now.Load() != others {
					t.Errorf("of %d others, %d are held", others, r.now.Load())
				}
				time.Sleep(time.Second)
			}
			stop()
			if n := strings.Count(said.String(), "\n"); n != 1 || tries != 1 || !strings.Contains(said.String(), "level=DEBUG") {
				t.Errorf("%d tries, said %s", tries, said.String())
			}
			if r.made.Load() != 2*others || r.now.Load() != 0 {
				t.Errorf("%d times held, and %d are", r.made.Load(), r.now.Load())
			}
		})
	}
}

// Many callers at a time.
func TestRace(t *testing.T) {
	var r requests
	w, stop := watching(t, Config{Holds: []func() (io.Closer, error){r.hold}})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for r.made.Load() == 0 {
				w.Call(time.Now())
			}
		})
	}
	all.Wait()
	stop()
	if r.now.Load() != 0 {
		t.Error("it is held after the end")
	}
}

func TestCallAllocatesNothing(t *testing.T) {
	w := New(Config{})
	if n := testing.AllocsPerRun(1000, func() { w.Call(time.Now()) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// The kernel takes the request and gives it up; others' may be there as well.
func TestLatency(t *testing.T) {
	f, err := os.Open(device)
	if err != nil {
		t.Skipf("this machine has no PM QoS to ask: %v", err)
	}
	defer f.Close() // while it is open it is a request of its own, for whatever
	effective := func() int32 {
		var b [4]byte
		if _, err := f.ReadAt(b[:], 0); err != nil {
			t.Fatal(err)
		}
		return int32(binary.NativeEndian.Uint32(b[:]))
	}
	before := effective()
	held, err := latency()
	if errors.Is(err, os.ErrPermission) {
		t.Skipf("only root may ask: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := effective(); got != 0 {
		t.Errorf("the kernel allows %d µs while none are asked for", got)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if got := effective(); got != before && got != 0 { // somebody else may ask now
		t.Errorf("afterwards it allows %d µs, before %d", got, before)
	}
}

func BenchmarkCall(b *testing.B) {
	w, now := New(Config{}), time.Now()
	w.state.Store(stateAsked)
	for b.Loop() {
		w.Call(now)
	}
}

// The spare processor comes in addition, and goes.
func TestMonitor(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	for range 3 {
		held, err := monitor()
		if err != nil {
			t.Fatal(err)
		}
		if got := runtime.GOMAXPROCS(0); got != before+1 {
			t.Errorf("%d processors, want %d", got, before+1)
		}
		if err := held.Close(); err != nil {
			t.Fatal(err)
		}
		if got := runtime.GOMAXPROCS(0); got != before {
			t.Errorf("%d processors afterwards, want %d", got, before)
		}
	}
}

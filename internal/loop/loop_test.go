package loop_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podsnap/podsnap/internal/loop"
	"github.com/podsnap/podsnap/test/bubble"
)

func TestRetryAndAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		var times []time.Duration
		l := loop.New(loop.Config{Name: "test", BackoffMin: time.Second, BackoffMax: 4 * time.Second}, func(context.Context, string) (time.Duration, error) {
			times = append(times, time.Since(start).Round(time.Millisecond))
			switch len(times) {
			case 1, 2, 3, 4:
				return 0, errors.New("not yet")
			case 5:
				return time.Minute, nil
			}
			return 0, nil
		})
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		l.Add("a")
		time.Sleep(10 * time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		want := []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second, 11 * time.Second, 71 * time.Second}
		if len(times) != len(want) {
			t.Fatalf("reconciled at %v, want %v", times, want)
		}
		for i := range want {
			if times[i] != want[i] {
				t.Errorf("reconciliation %d at %v, want %v", i, times[i], want[i])
			}
		}
	})
}

// One key is never worked on twice at a time, and what is added meanwhile is
// not lost.
func TestOneWorkerAKey(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var now, most, runs atomic.Int32
		l := loop.New(loop.Config{Name: "test", Workers: 8}, func(context.Context, string) (time.Duration, error) {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(time.Second)
			now.Add(-1)
			runs.Add(1)
			return 0, nil
		})
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		l.Add("a")
		synctest.Wait()
		for range 10 {
			l.Add("a")
		}
		time.Sleep(time.Minute)
		if most.Load() != 1 || runs.Load() != 2 {
			t.Errorf("%d at a time and %d runs, want 1 and 2", most.Load(), runs.Load())
		}
		cancel()
		<-done
	})
}

// Nothing is worked on before what it needs is there, and a loop that ends
// before that leaves nothing behind: synctest fails if a goroutine stays.
func TestWorkBeginsAfter(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var runs atomic.Int32
		run := func(ctx context.Context, after <-chan struct{}) <-chan error {
			l := loop.New(loop.Config{Name: "test"}, func(context.Context, string) (time.Duration, error) {
				runs.Add(1)
				return 0, nil
			})
			l.Add("a")
			done := make(chan error, 1)
			go func() { done <- l.Run(ctx, after) }()
			return done
		}
		ctx, cancel := context.WithCancel(t.Context())
		ready := make(chan struct{})
		works, waits := run(ctx, ready), run(ctx, make(chan struct{}))
		time.Sleep(time.Minute)
		if n := runs.Load(); n != 0 {
			t.Errorf("%d runs before what they need is there", n)
		}
		close(ready)
		synctest.Wait()
		if n := runs.Load(); n != 1 {
			t.Errorf("%d runs, want 1", n)
		}
		cancel()
		for _, done := range []<-chan error{works, waits} {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

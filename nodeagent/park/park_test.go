package park

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/test/bubble"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A pool that is to keep nothing makes each when it is asked for, however many
// were asked for lately, and keeps nothing that comes back.
func TestNone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		y := &yard{}
		c := y.config()
		c.Least = -1
		p := New(c)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); p.Run(ctx) }()
		for range 5 {
			one, pooled, err := p.Take(ctx)
			if err != nil || pooled {
				t.Fatalf("got one from the pool: %v, %v", pooled, err)
			}
			p.Give(one, true)
			time.Sleep(time.Second)
		}
		cancel()
		<-ended
		if ready, target := p.Size(); ready != 0 || target != 0 {
			t.Errorf("%d are ready of %d, want none", ready, target)
		}
	})
}

// yard makes numbers and notes what becomes of them.
type yard struct {
	mu        sync.Mutex
	next      int
	destroyed []int
	atOnce    int
	most      int
	fail      error
}

func (y *yard) config() Config[int] {
	return Config[int]{
		Least: 2, Most: 6, AtOnce: 3,
		Make: func(context.Context) (int, error) {
			y.mu.Lock()
			y.atOnce++
			y.most = max(y.most, y.atOnce)
			y.mu.Unlock()
			time.Sleep(10 * time.Millisecond)
			y.mu.Lock()
			defer y.mu.Unlock()
			y.atOnce--
			if y.fail != nil {
				return 0, y.fail
			}
			y.next++
			return y.next, nil
		},
		Recycle: func(n int) (int, error) {
			if n == 13 {
				return 0, errors.New("worn out")
			}
			return n + 100, nil
		},
		Destroy: func(n int) {
			y.mu.Lock()
			defer y.mu.Unlock()
			y.destroyed = append(y.destroyed, n)
		},
	}
}

func run(t *testing.T, c Config[int], f func(t *testing.T, p *Pool[int])) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p := New(c)
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		f(t, p)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		p.Close()
	})
}

func TestTakeAndGive(t *testing.T) {
	y := &yard{}
	run(t, y.config(), func(t *testing.T, p *Pool[int]) {
		time.Sleep(time.Second)
		if ready, target := p.Size(); ready != 2 || target != 2 {
			t.Errorf("got %d of %d, want two ready", ready, target)
		}
		a, pooled, err := p.Take(t.Context())
		if a != 1 || !pooled || err != nil {
			t.Errorf("got %d, %v, %v", a, pooled, err)
		}
		p.Give(a, true)
		p.Wait()
		time.Sleep(5 * time.Second)
		// What was used longest ago comes first.
		var got []int
		for range 2 {
			n, _, _ := p.Take(t.Context())
			got = append(got, n)
		}
		if got[0] != 2 {
			t.Errorf("got %v, want 2 first", got)
		}
		p.Give(99, false)
		p.Wait()
		if !slices.Contains(y.destroyed, 99) {
			t.Errorf("destroyed %v, want 99, which is not clean", y.destroyed)
		}
	})
	if y.next == len(y.destroyed) {
		t.Error("nothing was recycled")
	}
}

// An empty pool makes what is asked for, few at a time, and grows with it.
func TestBurst(t *testing.T) {
	y := &yard{}
	run(t, y.config(), func(t *testing.T, p *Pool[int]) {
		time.Sleep(time.Second)
		var wg sync.WaitGroup
		var mu sync.Mutex
		seen := map[int]bool{}
		for range 20 {
			wg.Go(func() {
				n, _, err := p.Take(t.Context())
				mu.Lock()
				defer mu.Unlock()
				if err != nil || seen[n] {
					t.Errorf("got %d, %v", n, err)
				}
				seen[n] = true
			})
		}
		wg.Wait()
		time.Sleep(300 * time.Millisecond)
		if ready, target := p.Size(); ready != 6 || target != 6 {
			t.Errorf("after a burst: %d of %d, want six", ready, target)
		}
		time.Sleep(5 * time.Minute)
		if ready, target := p.Size(); target != 6 || ready != 6 {
			t.Errorf("five minutes later %d are ready and %d wanted, want six", ready, target)
		}
		time.Sleep(6 * time.Minute)
		if ready, target := p.Size(); target != 2 || ready != 2 {
			t.Errorf("much later %d are ready and %d wanted, want two", ready, target)
		}
	})
	if y.most > 3 {
		t.Errorf("%d were made at a time, want three at most", y.most)
	}
}

func TestFaults(t *testing.T) {
	y := &yard{fail: errors.New("no")}
	c := y.config()
	var told []string
	var mu sync.Mutex
	c.Failed = func(what string, _ error) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, what)
	}
	run(t, c, func(t *testing.T, p *Pool[int]) {
		time.Sleep(time.Second)
		if _, _, err := p.Take(t.Context()); err == nil {
			t.Error("got no error")
		}
		y.mu.Lock()
		y.fail = nil
		y.mu.Unlock()
		time.Sleep(10 * time.Second)
		if ready, target := p.Size(); ready != target || ready < 2 {
			t.Errorf("got %d of %d, want it filled when the fault is over", ready, target)
		}
		n, _, _ := p.Take(t.Context())
		_ = n
		p.Give(13, true)
		p.Wait()
		mu.Lock()
		defer mu.Unlock()
		if !slices.Contains(told, "make") || !slices.Contains(told, "recycle") || len(told) > 12 {
			t.Errorf("told of %v", told)
		}
	})
	if !slices.Contains(y.destroyed, 13) {
		t.Errorf("destroyed %v, want 13, which is worn out", y.destroyed)
	}
}

func TestCloseDestroysAll(t *testing.T) {
	y := &yard{}
	var p *Pool[int]
	run(t, y.config(), func(_ *testing.T, q *Pool[int]) {
		p = q
		time.Sleep(time.Second)
	})
	p.Give(50, true)
	slices.Sort(y.destroyed)
	if want := []int{1, 2, 50}; !slices.Equal(y.destroyed, want) {
		t.Errorf("destroyed %v, want %v", y.destroyed, want)
	}
}

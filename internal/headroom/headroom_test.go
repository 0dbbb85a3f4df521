package headroom

import (
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podsnap/podsnap/test/bubble"
)

// fake is a collector that collects when it is told to.
type fake struct {
	live uint64

	mu      sync.Mutex
	percent int
	given   int
	next    func()
}

func (f *fake) Live() uint64 { return f.live }

func (f *fake) SetPercent(p int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.percent = p
}

func (f *fake) Collected(next func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = next
}

func (f *fake) GiveBack() {
	f.mu.Lock()
	f.given++
	f.mu.Unlock()
	f.collect()
}

func (f *fake) collect() {
	f.mu.Lock()
	next := f.next
	f.mu.Unlock()
	next()
}

func (f *fake) work(n int, every time.Duration) {
	for range n {
		<-time.After(every)
		f.collect()
	}
}

// now is the percentage, and how often memory was given back.
func (f *fake) now() (percent, given int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.percent, f.given
}

func TestKeep(t *testing.T) {
	for _, c := range []struct {
		name    string
		live    uint64
		times   int
		every   time.Duration
		percent int
	}{
		{"a burst", 20 << 20, 3, 10 * time.Millisecond, 400},
		{"a burst with a large heap", 96 << 20, 3, 10 * time.Millisecond, 200},
		{"a burst with a huge heap", 96 << 30, 3, 10 * time.Millisecond, 100},
		{"little work", 20 << 20, 3, 5 * time.Second, 100},
		{"nothing known of the heap", 0, 3, 10 * time.Millisecond, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				f := &fake{live: c.live, percent: usual}
				defer Keep(f).Stop()
				f.work(c.times, c.every)
				if p, _ := f.now(); p != c.percent {
					t.Errorf("percent %d, want %d", p, c.percent)
				}
				<-time.After(rest + time.Second)
				synctest.Wait()
				p, given := f.now()
				if p != usual {
					t.Errorf("at rest percent %d", p)
				}
				if want := c.percent > usual; (given > 0) != want {
					t.Errorf("given back %d times", given)
				}
			})
		})
	}
}

// Work that goes on keeps its headroom, although its collections are rarer by it,
// and gives nothing back meanwhile.
func TestSteadyWork(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f := &fake{live: 20 << 20, percent: usual}
		k := Keep(f)
		f.work(2, often/2)
		f.work(20, 4*often)
		if p, given := f.now(); p != most || given != 0 {
			t.Errorf("percent %d, given back %d times", p, given)
		}
		k.Stop()
		<-time.After(2 * rest)
		if p, given := f.now(); p != usual || given != 0 {
			t.Errorf("stopped: percent %d, given back %d times", p, given)
		}
	})
}

// This process's own collector: a burst of garbage gets headroom.
func TestProcess(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	defer debug.SetGCPercent(debug.SetGCPercent(usual))
	k := Run()
	deadline := time.Now().Add(20 * time.Second)
	for {
		runtime.GC()
		runtime.Gosched()
		p := debug.SetGCPercent(usual)
		debug.SetGCPercent(p)
		if p > usual {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no headroom")
		}
	}
	k.Stop()
	if p := debug.SetGCPercent(usual); p != usual {
		t.Errorf("stopped: percent %d", p)
	}
}

func TestEnvironment(t *testing.T) {
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		t.Setenv("GOGC", "")
		t.Setenv("GOMEMLIMIT", "")
		t.Setenv(name, "77")
		before := debug.SetGCPercent(usual)
		k := Run()
		for range 5 {
			runtime.GC()
		}
		k.Stop()
		if p := debug.SetGCPercent(before); p != usual {
			t.Errorf("%s: percent %d", name, p)
		}
	}
}

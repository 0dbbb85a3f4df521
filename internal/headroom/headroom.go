// Package headroom lets a process that works hard collect its garbage less often.
// At rest the platform's heap is small, which is a goal of its own, and Go lets it
// double before it collects. So a burst of starts collects every few milliseconds,
// each time all of what lives, on the very processors that the starts need. Here
// the heap may become a few times as large while that is so, and is given back
// when it is over. Nothing runs for it between collections.
package headroom

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

const (
	// usual is Go's own percentage: the heap may grow by as much as lives.
	usual = 100
	// most is the percentage of a process that works hard.
	most = 400
	// extra is the most that a process may have beyond usual, in bytes; a large
	// heap is collected seldom enough as it is.
	extra = 96 << 20
	// often: a process whose collections are no further apart works hard.
	often = time.Second
	// rest: one that has not collected for so long is done. It is longer than what
	// often becomes with the most of headroom, so that steady work does not swing.
	rest = 10 * time.Second
)

// Collector is Go's, or a test's.
type Collector interface {
	Live() uint64       // bytes that the last collection found in use
	SetPercent(int)     // see debug.SetGCPercent
	GiveBack()          // collects, and returns what is free to the machine
	Collected(f func()) // has f called once, after the next collection
}

// Headroom of one process. nil has none, and may be used.
type Headroom struct {
	c Collector

	mu      sync.Mutex
	percent int
	last    time.Time // of the last collection
	over    *time.Timer
	stopped bool
}

// Keep adjusts c until Stop is called.
func Keep(c Collector) *Headroom {
	k := &Headroom{c: c, percent: usual}
	c.Collected(k.collected)
	return k
}

// Run is Keep for this process. It does nothing if the environment says how its
// garbage is to be collected (GOGC, GOMEMLIMIT).
func Run() *Headroom {
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		if os.Getenv(name) != "" {
			return nil
		}
	}
	return Keep(process{})
}

// Stop leaves the collector as is usual.
func (k *Headroom) Stop() {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stopped = true; k.over != nil {
		k.over.Stop()
	}
	k.set(usual)
}

// collected is called after each collection.
func (k *Headroom) collected() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stopped {
		return
	}
	now := time.Now()
	since := now.Sub(k.last)
	k.last = now
	k.c.Collected(k.collected)
	p := percent(k.c.Live())
	if k.percent == usual && (since > often || p == usual) {
		return
	}
	k.set(p)
	if k.over == nil {
		k.over = time.AfterFunc(rest, k.done)
	} else {
		k.over.Reset(rest)
	}
}

// done takes the headroom back.
func (k *Headroom) done() {
	k.mu.Lock()
	if k.stopped || time.Since(k.last) < rest { // there was a collection meanwhile
		k.mu.Unlock()
		return
	}
	k.set(usual)
	k.mu.Unlock()
	k.c.GiveBack() // one collection, which is not counted as work: it is long after the last
}

func (k *Headroom) set(percent int) {
	if percent != k.percent {
		k.percent = percent
		k.c.SetPercent(percent)
	}
}

// percent is what a process that works hard has: as much as most and extra allow.
func percent(live uint64) int {
	if live == 0 {
		return most
	}
	return min(most, usual+int(100*extra/live))
}

// process is this process's collector.
type process struct{}

func (process) Live() uint64 {
	m := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(m)
	return m[0].Value.Uint64()
}

func (process) SetPercent(p int) { debug.SetGCPercent(p) }

func (process) GiveBack() { debug.FreeOSMemory() }

// canary is an object that nobody holds, so that the next collection finds it.
// It has a pointer, as the runtime packs smaller ones together.
type canary struct{ _ *canary }

func (process) Collected(f func()) {
	runtime.AddCleanup(&canary{}, func(f func()) { f() }, f)
}

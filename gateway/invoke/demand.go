package invoke

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
)

// reportGap is the least time between two reports: a burst of requests becomes
// a few reports, the first of them at once.
const reportGap = 2 * time.Millisecond

// riseGap is the least time between two reports of one function that are made
// because its load has grown.
const riseGap = 10 * time.Millisecond

// settleLooks is how often settle looks: for 70 ms.
const settleLooks = 3

// reportTimeout bounds one report.
const reportTimeout = 5 * time.Second

// reporter reports demand: at once when a request has to wait or a function
// begins to have traffic, then regularly, and once with zeros when it is over.
// Reports go out one at a time, so that a crowd asks once.
type reporter struct {
	v    *Invoker
	kick chan struct{}

	mu     sync.Mutex
	active map[*function]uint64 // what is reported regularly, and Arrived of the last time
	now    map[*function]bool   // what is to be reported at once
}

func newReporter(v *Invoker) *reporter {
	return &reporter{v: v, kick: make(chan struct{}, 1), active: map[*function]uint64{}, now: map[*function]bool{}}
}

// arrived is told of each request, after it was counted.
func (d *reporter) arrived(f *function) {
	if !f.active.Load() && f.active.CompareAndSwap(false, true) {
		d.urgent(f)
	}
}

// urgent has f reported at once.
func (d *reporter) urgent(f *function) {
	d.mu.Lock()
	d.now[f] = true
	if _, ok := d.active[f]; !ok {
		d.active[f] = 0
	}
	d.mu.Unlock()
	signal(d.kick)
}

func (d *reporter) run(ctx context.Context) {
	tick := time.NewTimer(d.v.c.Report)
	defer tick.Stop()
	armed, wait := true, retryMin
	for {
		all := false
		select {
		case <-ctx.Done():
			return
		case <-d.kick:
		case <-tick.C:
			all, armed = true, false
		}
		due, demand := d.due(all)
		if len(due) > 0 {
			if err := d.send(ctx, demand); err != nil {
				if ctx.Err() != nil {
					return
				}
				d.v.c.Log.Warn("report demand", slog.Any("error", err))
				sleep(ctx, wait)
				wait = min(wait*2, retryMax)
				for _, f := range due {
					d.urgent(f)
				}
			} else {
				wait = retryMin
				sleep(ctx, reportGap)
			}
		}
		if !armed && d.any() {
			tick.Reset(d.v.c.Report)
			armed = true
		}
	}
}

func (d *reporter) send(ctx context.Context, demand []api.Demand) error {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	return d.v.c.Capacity.Report(ctx, d.v.c.Gateway, demand)
}

func (d *reporter) any() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.active) > 0
}

// due takes what is to be reported now: everything active, or only the urgent.
// A function that has come to rest is reported a last time.
func (d *reporter) due(all bool) ([]*function, []api.Demand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fs := slices.Collect(maps.Keys(d.now))
	if all {
		fs = slices.Collect(maps.Keys(d.active))
	}
	clear(d.now)
	out := make([]api.Demand, len(fs))
	for i, f := range fs {
		s := f.report()
		out[i] = s
		last := d.active[f]
		d.active[f] = s.Arrived
		if !all || s.Queued+s.InFlight > 0 || s.Arrived != last {
			continue
		}
		// A request that comes now either sees active false and asks for a
		// report, or has been counted before it is looked at again.
		f.active.Store(false)
		if f.arrived.Load() != s.Arrived {
			f.active.Store(true)
			continue
		}
		delete(d.active, f)
	}
	return fs, out
}

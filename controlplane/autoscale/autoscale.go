// Package autoscale decides how many replicas a function should have. It is
// pure: the time is an argument, what it remembers is in a Window that the
// caller keeps.
package autoscale

import (
	"fmt"
	"math"
	"time"

	"github.com/podsnap/podsnap/functions"
)

// Constants of the decisions.
const (
	// DefaultDownWindow is how long a recommendation counts when the function
	// does not say.
	DefaultDownWindow = 30 * time.Second
	// RateWindow is the time over which the rate of requests is taken.
	RateWindow = 30 * time.Second

	// A function without a type of scaling gets more replicas after
	// classicFor of over classicRate requests a second, taken over
	// classicWindow; then again as often, and fewer every classicDown.
	classicRate   = 5
	classicWindow = 10 * time.Second
	classicFor    = 5 * time.Second
	classicDown   = 10 * time.Second
)

// Policy is how a function scales.
type Policy struct {
	functions.Scale
	Concurrency int // requests that a replica serves at a time; 0 is no limit
}

// Now is what is known of a function at the moment of a decision.
type Now struct {
	Time     time.Time
	Replicas int // that are wanted so far
	Ready    int
	Queued   int // requests that wait for a replica
	InFlight int
	Pending  int  // asynchronous calls in the queue
	Settling bool // the control plane has just started: it does not know the past, so nothing is scaled down
}

// Decision is a number of replicas, and why.
type Decision struct {
	Replicas int
	Reason   string
	Again    time.Duration // look again after this time even if nothing happens; 0 is never
}

// Decide says how many replicas there should be, and takes notes in w. It never
// leaves Min..Max, but for zero.
func Decide(p Policy, w *Window, n Now) Decision {
	w.begin(n.Time)
	if n.Queued+n.InFlight > 0 {
		w.active = n.Time
	}
	least := max(p.Min, 1)
	most := max(p.Max, least)
	clamp := func(r int) int { return min(max(r, least), most) }
	if n.Replicas == 0 {
		if n.Queued == 0 {
			return Decision{Replicas: 0, Reason: "scaled to zero, nothing waits"}
		}
		want := clamp(max(p.byConcurrency(n), p.byLoad(w, n)))
		w.recommend(n.Time, want)
		return Decision{Replicas: want, Reason: fmt.Sprintf("%d requests wait and there is no replica", n.Queued), Again: time.Second}
	}
	if d, ok := p.zero(w, n); ok {
		return d
	}
	d := p.decide(w, n, clamp)
	if (p.Zero || p.Min == 0) && d.Again == 0 {
		d.Again = p.ZeroAfter - n.Time.Sub(w.active)
	}
	if n.Queued+n.InFlight > 0 || w.Rate(n.Time, RateWindow) > 0 {
		d.Again = min(orSecond(d.Again), time.Second)
	}
	return d
}

func orSecond(d time.Duration) time.Duration {
	if d <= 0 {
		return time.Second
	}
	return d
}

// zero decides for none when nothing has been asked for long enough.
func (p Policy) zero(w *Window, n Now) (Decision, bool) {
	idle := n.Time.Sub(w.active)
	if (!p.Zero && p.Min > 0) || n.Queued+n.InFlight > 0 || idle < p.ZeroAfter || n.Settling {
		return Decision{}, false
	}
	w.forget()
	return Decision{Replicas: 0, Reason: fmt.Sprintf("no request for %s", idle.Round(time.Millisecond))}, true
}

func (p Policy) decide(w *Window, n Now, clamp func(int) int) Decision {
	if p.Fixed() {
		return Decision{Replicas: n.Replicas, Reason: "min and max are equal: load does not change the number of replicas"}
	}
	if p.Type == functions.ScaleClassic {
		return p.classic(w, n, clamp)
	}
	now := clamp(max(p.byLoad(w, n), p.byConcurrency(n)))
	w.recommend(n.Time, now)
	if now >= n.Replicas {
		return Decision{Replicas: now, Reason: p.explain(w, n)}
	}
	if n.Settling {
		return Decision{Replicas: n.Replicas, Reason: "the control plane has just started: nothing is scaled down yet", Again: time.Second}
	}
	window := p.DownWindow
	if window == 0 {
		window = DefaultDownWindow
	}
	best, until := w.highest(n.Time, window)
	if best >= n.Replicas {
		return Decision{Replicas: n.Replicas, Reason: fmt.Sprintf("%s, but %d were needed within the last %s", p.explain(w, n), best, window), Again: until}
	}
	// More than what was needed in the whole window, by a manual scale or an
	// older policy: down, but not below the window's highest.
	if n.Time.Sub(w.since) < window {
		return Decision{Replicas: n.Replicas, Reason: "the down window is not over", Again: window - n.Time.Sub(w.since)}
	}
	return Decision{Replicas: best, Reason: p.explain(w, n), Again: until}
}

// byLoad is ceil(load ÷ (target × proportion)).
func (p Policy) byLoad(w *Window, n Now) int {
	if p.Type == functions.ScaleClassic || p.Type == functions.ScaleCPU {
		return 0
	}
	return int(math.Ceil(p.load(w, n)/(p.Target*p.Proportion) - 1e-9))
}

func (p Policy) load(w *Window, n Now) float64 {
	switch p.Type {
	case functions.ScaleRPS:
		return w.Rate(n.Time, RateWindow)
	case functions.ScaleQueue:
		return float64(n.Pending)
	}
	return float64(n.Queued + n.InFlight)
}

// byConcurrency is what all requests need, when some wait because every
// replica has as many as it serves at a time.
func (p Policy) byConcurrency(n Now) int {
	if p.Concurrency <= 0 || n.Queued == 0 {
		return 0
	}
	return (n.Queued + n.InFlight + p.Concurrency - 1) / p.Concurrency
}

func (p Policy) explain(w *Window, n Now) string {
	s := fmt.Sprintf("load %.3g (%s) at a target of %.3g × %.3g", p.load(w, n), p.Type, p.Target, p.Proportion)
	if p.Type == functions.ScaleCPU {
		s = "cpu load is not known to the control plane"
	}
	if c := p.byConcurrency(n); c > 0 {
		s += fmt.Sprintf(", %d needed for %d requests at %d a replica", c, n.Queued+n.InFlight, p.Concurrency)
	}
	return s
}

// classic is the rule for functions without a type.
func (p Policy) classic(w *Window, n Now, clamp func(int) int) Decision {
	step := (p.Max*p.Factor + 99) / 100
	if c := clamp(p.byConcurrency(n)); c > n.Replicas {
		w.changed = n.Time
		return Decision{Replicas: c, Reason: p.explain(w, n), Again: time.Second}
	}
	rate := w.Rate(n.Time, classicWindow)
	if rate > classicRate {
		if w.firing.IsZero() {
			w.firing = n.Time
		}
		due := classicFor - n.Time.Sub(latest(w.firing, w.changed))
		if due > 0 || step == 0 || clamp(n.Replicas+step) == n.Replicas {
			return Decision{Replicas: clamp(n.Replicas), Reason: fmt.Sprintf("%.3g requests a second", rate), Again: max(due, 0)}
		}
		w.changed = n.Time
		return Decision{Replicas: clamp(n.Replicas + step), Reason: fmt.Sprintf("%.3g requests a second for over %s", rate, classicFor), Again: classicFor}
	}
	w.firing = time.Time{}
	if clamp(n.Replicas) <= max(p.Min, 1) || n.Settling {
		return Decision{Replicas: clamp(n.Replicas), Reason: "calm"}
	}
	calm := n.Time.Sub(latest(w.active, w.since, w.changed))
	wait := DefaultDownWindow
	if w.lowered {
		wait = classicDown
	}
	if calm < wait {
		return Decision{Replicas: clamp(n.Replicas), Reason: "calm, for less than the down window", Again: wait - calm}
	}
	w.changed, w.lowered = n.Time, true
	return Decision{Replicas: clamp(n.Replicas - max(step, 1)), Reason: fmt.Sprintf("calm for %s", calm.Round(time.Second)), Again: classicDown}
}

func latest(ts ...time.Time) time.Time {
	var out time.Time
	for _, t := range ts {
		if t.After(out) {
			out = t
		}
	}
	return out
}

// Package autoscale decides how many replicas a function should have, how long
// idle ones stay, and which go when memory runs short. It is pure: the time is
// an argument, what it remembers is in a Window that the caller keeps. What it
// decides is data with its inputs, so that a recorded load can be decided on
// again (controlplane/simulate).
package autoscale

import (
	"fmt"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/functions"
)

// Constants of the decisions.
const (
	// DefaultDownWindow is how long a recommendation counts when the function
	// does not say.
	DefaultDownWindow = 30 * time.Second
	// RateWindow is the time over which the rate of requests is taken.
	RateWindow = 30 * time.Second
	// CPUWindow is the time over which the use of CPU is to be taken. After a
	// change of the number of replicas it has to pass before the use of CPU
	// adds more: until then what is measured is of the load as it was shared
	// before.
	CPUWindow = 15 * time.Second
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
	CPU      CPU  // read for functions that have a target of it
	Settling bool // the control plane has just started: it does not know the past, so nothing is scaled down
}

// CPU is the use of CPU over the last CPUWindow. The zero value is not known.
type CPU struct {
	Milli    float64 // thousandths of a core, mean of the replicas that were measured
	Replicas int     // so many; 0: not known
}

// Decision is a number of replicas, and why.
type Decision struct {
	Replicas int
	Reason   string
	Again    time.Duration     // look again after this time even if nothing happens; 0 is never
	Record   api.ScaleDecision // the same with all that it was made of
}

// The rules that decide, as api.ScaleDecision.Rule.
const (
	RuleAtZero   = "at-zero"  // nothing asks for the first replica
	RuleWake     = "wake"     // something waits and there is no replica
	RulePrewarm  = "prewarm"  // the next request is expected soon
	RuleIdle     = "idle"     // no request for the keep-alive: to zero
	RuleFixed    = "fixed"    // min and max are equal
	RuleLoad     = "load"     // the largest wish
	RuleWindow   = "window"   // the load has fallen, but for less than the down window
	RuleSettling = "settling" // the control plane has just started
	RuleStep     = "step"     // the classic rule's step, up
	RuleCalm     = "calm"     // the classic rule at rest, or its step down
	RuleEvict    = "evict"    // a node is short of memory; not of Decide but of Evict
)

// verdict is what a rule makes of it.
type verdict struct {
	rule     string
	replicas int
	reason   string
	again    time.Duration
}

// Decide says how many replicas there should be, and takes notes in w. It never
// leaves Min..Max, but for zero.
func Decide(p Policy, w *Window, n Now) Decision {
	w.begin(n.Time)
	if n.Replicas != w.size {
		w.overruled = n.Time
	}
	w.resized(n.Time, n.Replicas)
	waits := n.Queued > 0 || p.Of(functions.ScaleQueue) > 0 && n.Pending > 0
	busy := waits || n.InFlight > 0
	if busy {
		w.touch(n.Time)
	} else {
		w.rest(n.Time)
	}
	w.busy = busy
	wishes := p.wishes(w, n)
	keep := p.keep(w)
	v := p.judge(w, n, wishes, keep, waits)
	w.resized(n.Time, v.replicas)
	idle := n.Time.Sub(w.active)
	tier, change := p.tier(w, keep, idle, busy)
	if v.replicas > 0 && p.MayBeZero() {
		v.again = sooner(v.again, keep.After-w.kept(n.Time))
	}
	v.again = sooner(v.again, change)
	if busy || w.Rate(n.Time, RateWindow) > 0 {
		v.again = sooner(v.again, time.Second)
		v.again = min(v.again, time.Second)
	}
	return Decision{Replicas: v.replicas, Reason: v.reason, Again: v.again, Record: api.ScaleDecision{
		Time: n.Time, From: n.Replicas, To: v.replicas, Rule: v.rule, Reason: v.reason,
		Inputs: p.inputs(w, n, idle), Wishes: wishes, Idle: keep.plan(p, tier),
	}}
}

// sooner is the first of two times to look again; one that is not positive does
// not count.
func sooner(a, b time.Duration) time.Duration {
	switch {
	case a <= 0:
		return max(b, 0)
	case b <= 0:
		return a
	}
	return min(a, b)
}

// MayBeZero reports whether the last replica may be ended.
func (p Policy) MayBeZero() bool { return p.Zero || p.Min == 0 }

// Least is how few replicas there may be when nothing is asked for.
func (p Policy) Least() int {
	if p.MayBeZero() {
		return 0
	}
	return max(p.Min, 1)
}

// Expected reports whether the next request is expected now, so that a replica
// that is ended would be started again.
func (p Policy) Expected(w *Window, now time.Time) bool { return p.keep(w).expects(w.Idle(now)) }

func (p Policy) clamp(replicas int) int {
	least := max(p.Min, 1)
	return min(max(replicas, least), max(p.Max, least))
}

// inputs also begins to count arrivals anew.
func (p Policy) inputs(w *Window, n Now, idle time.Duration) api.ScaleInputs {
	in := api.ScaleInputs{
		Min: p.Min, Max: p.Max, Concurrency: p.Concurrency, Ready: n.Ready, Queued: n.Queued, InFlight: n.InFlight, Pending: n.Pending,
		Arrived: w.arrived, Rate: w.Rate(n.Time, RateWindow), CPU: n.CPU.Milli, CPUReplicas: n.CPU.Replicas,
		IdleSeconds: idle.Seconds(), Settling: n.Settling,
	}
	w.arrived = 0
	return in
}

// judge lets the rules speak in their order.
func (p Policy) judge(w *Window, n Now, wishes []api.ScaleWish, keep Keep, waits bool) verdict {
	want, why := largest(wishes)
	idle := n.Time.Sub(w.active)
	switch {
	case n.Replicas == 0 && waits:
		v := verdict{rule: RuleWake, replicas: p.clamp(want), reason: fmt.Sprintf("%d requests wait and there is no replica", n.Queued), again: time.Second}
		if n.Queued == 0 {
			v.reason = fmt.Sprintf("%d asynchronous calls wait and there is no replica", n.Pending)
		}
		w.recommend(n.Time, v.replicas)
		return v
	case n.Replicas == 0 && p.MayBeZero() && keep.expects(idle):
		w.recommend(n.Time, p.clamp(1))
		return verdict{rule: RulePrewarm, replicas: p.clamp(1), reason: fmt.Sprintf("idle for %s: requests come after %s to %s", round(idle), round(keep.From), round(keep.Until)), again: keep.Until - idle}
	case n.Replicas == 0:
		v := verdict{rule: RuleAtZero, reason: "scaled to zero, nothing waits"}
		if p.MayBeZero() && keep.From > idle {
			v.again = keep.From - idle
		}
		return v
	case p.MayBeZero() && !w.busy && !n.Settling && w.kept(n.Time) >= keep.After && !keep.expects(idle):
		w.forget()
		return verdict{rule: RuleIdle, reason: fmt.Sprintf("no request for %s", round(idle)), again: max(0, keep.From-idle)}
	case p.Fixed():
		return verdict{rule: RuleFixed, replicas: n.Replicas, reason: "min and max are equal: load does not change the number of replicas"}
	}
	v := p.byWishes(w, n, p.clamp(want), why)
	if keep.expects(idle) {
		v.again = sooner(v.again, keep.Until-idle)
	}
	return v
}

// byWishes goes up at once and down by windows. want is inside Min..Max.
func (p Policy) byWishes(w *Window, n Now, want int, why string) verdict {
	w.recommend(n.Time, want)
	if p.Type == functions.ScaleClassic {
		return p.classic(w, n, want, why)
	}
	if want >= n.Replicas {
		return verdict{rule: RuleLoad, replicas: want, reason: why}
	}
	return p.down(w, n, why, func(least int) int { return least })
}

// down is how much fewer there may be than now. to takes the most that was
// needed within the window and says how far to go.
func (p Policy) down(w *Window, n Now, why string, to func(int) int) verdict {
	if n.Settling {
		return verdict{rule: RuleSettling, replicas: p.clamp(n.Replicas), reason: "the control plane has just started: nothing is scaled down yet", again: time.Second}
	}
	window := p.downWindow()
	most, until := w.highest(n.Time, window)
	switch {
	case most >= n.Replicas:
		return verdict{rule: RuleWindow, replicas: p.clamp(n.Replicas), reason: fmt.Sprintf("%s, but %d were needed within the last %s", why, most, window), again: until}
	case n.Time.Sub(latest(w.since, w.overruled)) < window:
		// More than what was needed in the whole window, by a manual scale or an
		// older policy: down, but not before a window was seen.
		return verdict{rule: RuleWindow, replicas: p.clamp(n.Replicas), reason: "the down window is not over", again: window - n.Time.Sub(latest(w.since, w.overruled))}
	}
	return verdict{rule: RuleLoad, replicas: to(most), reason: why, again: until}
}

func (p Policy) downWindow() time.Duration {
	if p.DownWindow > 0 {
		return p.DownWindow
	}
	return DefaultDownWindow
}

func round(d time.Duration) time.Duration {
	if d > time.Minute {
		return d.Round(time.Second)
	}
	return d.Round(time.Millisecond)
}

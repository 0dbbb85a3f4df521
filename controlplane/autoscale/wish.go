package autoscale

import (
	"fmt"
	"math"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/functions"
)

// measureConcurrency is the wish of the limit of requests a replica; the other
// measures have the names of their types of scaling.
const measureConcurrency = "concurrency"

// wishes are what each measure that the policy knows asks for. The concurrency
// comes first: of equal wishes the first one is told.
func (p Policy) wishes(w *Window, n Now) []api.ScaleWish {
	var out []api.ScaleWish
	add := func(measure string, load, target float64) {
		out = append(out, api.ScaleWish{Measure: measure, Load: load, Target: target, Replicas: quotient(load, target)})
	}
	if p.Concurrency > 0 {
		add(measureConcurrency, float64(n.Queued+n.InFlight), float64(p.Concurrency))
	}
	for _, measure := range []string{functions.ScaleCapacity, functions.ScaleRPS, functions.ScaleQueue, functions.ScaleCPU} {
		target := p.Of(measure) * p.Proportion
		if target <= 0 {
			continue
		}
		switch measure {
		case functions.ScaleCapacity:
			add(measure, float64(n.Queued+n.InFlight), target)
		case functions.ScaleRPS:
			add(measure, w.Rate(n.Time, RateWindow), target)
		case functions.ScaleQueue:
			add(measure, float64(n.Pending), target)
		case functions.ScaleCPU:
			out = append(out, byCPU(w, n, target))
		}
	}
	return out
}

// quotient is how many replicas carry load, at so much each.
func quotient(load, target float64) int {
	return int(min(math.Ceil(load/target-1e-9), math.MaxInt32))
}

// byCPU asks for what all replicas use. It adds at most as many as there are, or
// 4 where there are fewer (the step of Kubernetes' autoscaler), and only when
// CPUWindow has passed since the number last changed. While the use is not known
// the number stays, unless nothing can use any.
func byCPU(w *Window, n Now, target float64) api.ScaleWish {
	s := api.ScaleWish{Measure: functions.ScaleCPU, Target: target}
	if n.CPU.Replicas == 0 {
		if n.Queued+n.InFlight > 0 || n.Time.Sub(w.active) < CPUWindow {
			s.Replicas, s.Held = n.Replicas, "the use is not known"
		}
		return s
	}
	s.Load = n.CPU.Milli * float64(max(n.Ready, n.CPU.Replicas))
	s.Replicas = quotient(s.Load, target)
	if step := n.Replicas + max(n.Replicas, 4); s.Replicas > step {
		s.Replicas, s.Held = step, "at most twice as many at a time"
	}
	if s.Replicas > n.Replicas && n.Time.Sub(w.sized) < CPUWindow {
		s.Replicas, s.Held = n.Replicas, fmt.Sprintf("the number has changed less than %s ago", CPUWindow)
	}
	return s
}

// largest is the wish that counts, 0 when there is none, and how it comes
// about.
func largest(wishes []api.ScaleWish) (replicas int, why string) {
	why = "nothing asks for more"
	for i, s := range wishes {
		if i == 0 || s.Replicas > replicas {
			replicas = s.Replicas
			why = fmt.Sprintf("%s %.3g at %.3g a replica asks for %d", s.Measure, s.Load, s.Target, s.Replicas)
			if s.Held != "" {
				why += " (" + s.Held + ")"
			}
		}
	}
	return replicas, why
}

// The classic rule's: a function without a type of scaling gets more replicas
// after classicFor of over classicRate requests a second, taken over
// classicWindow; then again as often, and fewer every classicDown once it has
// been calm for DefaultDownWindow.
const (
	classicRate   = 5
	classicWindow = 10 * time.Second
	classicFor    = 5 * time.Second
	classicDown   = 10 * time.Second
)

// classic is the rule for functions without a type. want is what their other
// wishes come to.
func (p Policy) classic(w *Window, n Now, want int, why string) verdict {
	step, rate := (p.Max*p.Factor+99)/100, w.Rate(n.Time, classicWindow)
	firing := rate > classicRate
	switch {
	case !firing:
		w.firing = time.Time{}
	case w.firing.IsZero():
		w.firing = n.Time
	}
	if firing {
		w.fired, w.lowered = n.Time, false
	}
	due := classicFor - n.Time.Sub(latest(w.firing, w.changed))
	if more := p.clamp(n.Replicas + step); firing && due <= 0 && more > max(n.Replicas, want) {
		w.changed = n.Time
		return verdict{rule: RuleStep, replicas: more, reason: fmt.Sprintf("%.3g requests a second for over %s", rate, classicFor), again: classicFor}
	}
	if want > n.Replicas {
		w.changed = n.Time
		return verdict{rule: RuleLoad, replicas: want, reason: why}
	}
	have := p.clamp(n.Replicas)
	if firing {
		return verdict{rule: RuleStep, replicas: have, reason: fmt.Sprintf("%.3g requests a second", rate), again: max(due, 0)}
	}
	if have <= want {
		return verdict{rule: RuleCalm, replicas: have, reason: "calm"}
	}
	calm, wait := n.Time.Sub(latest(w.fired, w.since, w.changed, w.overruled)), DefaultDownWindow
	if w.lowered {
		wait = classicDown
	}
	if calm < wait {
		return verdict{rule: RuleCalm, replicas: have, reason: "calm, for less than the down window", again: wait - calm}
	}
	v := p.down(w, n, fmt.Sprintf("calm for %s", calm.Round(time.Second)), func(least int) int { return max(p.clamp(n.Replicas-max(step, 1)), least) })
	if v.replicas < n.Replicas {
		w.changed, w.lowered, v.rule, v.again = n.Time, true, RuleCalm, classicDown
	}
	return v
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

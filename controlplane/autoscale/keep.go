package autoscale

import (
	"time"

	"github.com/podsnap/podsnap/api"
)

// Where a keep-alive comes from, as api.IdlePlan.From.
const (
	FromLabel   = "label"
	FromDefault = "default"
	FromLearned = "learned"
)

const (
	// leastKeep is the shortest keep-alive that is learned: a caller's pauses
	// within one piece of work are not to end its replica.
	leastKeep = 10 * time.Second
	// gain is by what part a plan has to be cheaper than the one it would
	// replace, on the gaps that are known, when it has a drawback: less is
	// chance.
	gain = 0.1
	// margin is by what part a window is wider than the gaps it was learned
	// from.
	margin = 0.1
	// headPercent of the gaps are shorter than where a pre-warm window begins.
	headPercent = 5
)

// Keep is how long the last replica of a function stays without a request, and
// when it is to be there again.
type Keep struct {
	After       time.Duration // without a request until the replica ends
	From, Until time.Duration // idle for so long: a replica is there before the request; zeros: never
	Source      string        // one of the From… constants
}

// expects reports whether a request is expected after so long without one.
func (k Keep) expects(idle time.Duration) bool { return idle >= k.From && idle < k.Until }

// keep is the function's: what its label says, else what its gaps teach, else
// the default.
func (p Policy) keep(w *Window) Keep {
	if p.ZeroGiven {
		return Keep{After: p.ZeroAfter, Source: FromLabel}
	}
	return w.Gaps.Learn(p.ZeroAfter)
}

// plan is k as data.
func (k Keep) plan(p Policy, t Tier) api.IdlePlan {
	out := api.IdlePlan{Tier: string(t)}
	if p.MayBeZero() {
		out.KeepAliveSeconds, out.From = k.After.Seconds(), k.Source
		out.PrewarmSeconds, out.PrewarmUntilSeconds = k.From.Seconds(), k.Until.Seconds()
	}
	return out
}

// Learn is the best way to keep a replica for the gaps that are known. The
// default says what a cold start is worth: who keeps a replica for a quarter of
// an hour in the hope of a request pays up to that for one cold start less. At
// this price every gap costs the time that an idle replica was kept in it, and
// a gap at whose end there was none costs the price too; the plan that would
// have cost least is taken. As the price is the same for all functions, memory
// goes where it avoids the most cold starts. Too few gaps, or gaps so spread
// that every plan would either miss many or cost as much, leave the default.
func (g *Gaps) Learn(worth time.Duration) Keep {
	if g.worth != worth {
		g.worth, g.learned = worth, g.learn(worth)
	}
	return g.learned
}

func (g *Gaps) learn(worth time.Duration) Keep {
	std := Keep{After: worth, Source: FromDefault}
	if g.count < fewGaps || worth <= leastKeep {
		return std
	}
	known := g.points()
	usual, met := cost(known, std, worth)
	best, least := std, usual
	better := func(k Keep, than float64) {
		// What meets more cold starts than the default has to be clearly
		// cheaper, and what does not is no worse even when it is not.
		c, cold := cost(known, k, worth)
		if c < than && (cold <= met || c <= usual*(1-gain)) {
			best, least = k, c
		}
	}
	better(Keep{After: leastKeep, Source: FromLearned}, least)
	for _, p := range known {
		if after := max(leastKeep, widen(p.gap)); after.Seconds() <= worth.Seconds()*(1-gain) { // else it is the default
			better(Keep{After: after, Source: FromLearned}, least)
		}
	}
	head := time.Duration(float64(g.lower(headPercent)) * (1 - margin))
	if head < 2*leastKeep {
		return best
	}
	for _, p := range known {
		if p.gap >= head { // a start more for each call has to be worth it
			better(Keep{After: leastKeep, From: head, Until: widen(p.gap), Source: FromLearned}, least*(1-gain))
		}
	}
	return best
}

// point is a bin that is not empty. A gap counts as long as its bin's end.
type point struct {
	gap   time.Duration
	count float64
}

func (g *Gaps) points() []point {
	out := make([]point, 0, 32)
	for i, c := range g.bins {
		if c > 0 {
			out = append(out, point{edge(i + 1), float64(c)})
		}
	}
	return out
}

func widen(d time.Duration) time.Duration { return time.Duration(float64(d) * (1 + margin)) }

// lower is the beginning of the bin in which p percent of the gaps are reached.
func (g *Gaps) lower(p float64) time.Duration {
	sum := 0.0
	for i, c := range g.bins {
		if sum += float64(c); sum > p/100*float64(g.count) {
			return edge(i)
		}
	}
	return 0
}

// cost is what gaps would have cost with k, in seconds of one idle replica, and
// how many would have ended in a cold start. One more gap that never ends is
// counted: some day a function is not called any more.
func cost(known []point, k Keep, worth time.Duration) (total, cold float64) {
	total = (k.After + k.Until - k.From + worth).Seconds()
	for _, p := range known {
		idle, meets := min(p.gap, k.After), p.gap > k.After
		if meets && k.Until > 0 {
			idle += max(0, min(p.gap, k.Until)-k.From)
			meets = p.gap < k.From || p.gap > k.Until
		}
		if meets {
			idle += worth
			cold += p.count
		}
		total += p.count * idle.Seconds()
	}
	return total, cold
}

package autoscale

import (
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"
)

const worth = 15 * time.Minute

func gapsOf(gaps ...time.Duration) *Gaps {
	g := &Gaps{}
	for _, d := range gaps {
		g.Add(d)
	}
	return g
}

func times(n int, gaps ...time.Duration) (out []time.Duration) {
	for range n {
		out = append(out, gaps...)
	}
	return out
}

// near is within a bin and the margin.
func near(got, want time.Duration) bool {
	return got >= want && float64(got) < float64(want)*1.25
}

func TestLearn(t *testing.T) {
	const m, h = time.Minute, time.Hour
	for _, c := range []struct {
		name        string
		gaps        []time.Duration
		source      string
		after       time.Duration // at least, and not a quarter more; 0 is the least
		from, until time.Duration // the same for a window, from the other side
	}{
		{"nothing known", nil, FromDefault, worth, 0, 0},
		{"too little known", times(fewGaps-1, m), FromDefault, worth, 0, 0},
		{"short gaps need no more", times(20, 12*time.Second), FromLearned, 12 * time.Second, 0, 0},
		{"some longer ones are worth it", times(20, 12*time.Second, 12*time.Second, 30*time.Second), FromLearned, 30 * time.Second, 0, 0},
		{"a rare long one is not", append(times(100, 12*time.Second), times(1, 14*m)...), FromLearned, 12 * time.Second, 0, 0},
		{"regular: there again before it", times(10, 5*m), FromLearned, 0, 5 * m, 5 * m},
		{"regular, longer apart than a cold start is worth", times(10, 45*m), FromLearned, 0, 45 * m, 45 * m},
		{"so long apart that the window would cost more", times(10, 5*h), FromLearned, 0, 0, 0},
		{"as often short as long", append(times(20, 11*time.Second), times(20, 10*m)...), FromLearned, 10 * m, 0, 0},
		{"hours apart, at any time", []time.Duration{h, 2 * h, 3 * h, 5 * h, 7 * h, 11 * h, 13 * h, 17 * h, 19 * h, 23 * h}, FromLearned, 0, 0, 0},
		{"what is spread out to what a cold start is worth teaches nothing", []time.Duration{14 * m, 14 * m, 13 * m, 15 * m, 14 * m, 14 * m, 14 * m, 30 * time.Second, 3 * m, 7 * m, 9 * m, 11 * m}, FromDefault, worth, 0, 0},
	} {
		k := gapsOf(c.gaps...).Learn(worth)
		if k.Source != c.source {
			t.Errorf("%s: %+v, want one that is %s", c.name, k, c.source)
		}
		if c.after == 0 && k.After != leastKeep || c.after > 0 && !near(k.After, c.after) {
			t.Errorf("%s: it stays for %s, want %s", c.name, k.After, c.after)
		}
		if c.from > 0 && (k.From > c.from || float64(k.From) < 0.75*float64(c.from) || !near(k.Until, c.until)) || c.from == 0 && k.Until != 0 {
			t.Errorf("%s: expected from %s to %s, want %s to %s", c.name, k.From, k.Until, c.from, c.until)
		}
	}
}

// What is learned would have cost less than the default on the very gaps, by at
// least the gain where it would have met more cold starts; and nothing stays
// longer than a cold start is worth.
func TestLearnedIsBetter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := &Gaps{}
		for range rapid.IntRange(0, 300).Draw(t, "gaps") {
			g.Add(time.Duration(rapid.Float64Range(0, 1e5).Draw(t, "gap") * float64(time.Second)))
		}
		worth := time.Duration(rapid.IntRange(1, 3600).Draw(t, "worth")) * time.Second
		k, std := g.Learn(worth), Keep{After: worth}
		if k.Source == FromDefault {
			if k.After != worth || k.Until != 0 {
				t.Fatalf("the default is %+v", k)
			}
			return
		}
		a, met := cost(g.points(), k, worth)
		b, before := cost(g.points(), std, worth)
		if a >= b || met > before && a > b*(1-gain) {
			t.Fatalf("%+v would have cost %v with %v cold starts, the default %v with %v", k, a, met, b, before)
		}
		if k.After > worth || k.After < leastKeep || k.Until < k.From {
			t.Fatalf("%+v at %s", k, worth)
		}
		if g.Learn(worth) != k {
			t.Fatal("the second time it is another one")
		}
	})
}

// The memory of gaps is small, and of its own size whatever comes.
func TestGapsAreSmall(t *testing.T) {
	if size := unsafe.Sizeof(Gaps{}); size > 256 {
		t.Errorf("%d bytes a function", size)
	}
	g, rnd := &Gaps{}, rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		g.Add(time.Duration(rnd.Float64() * float64(72*time.Hour)))
	}
	sum := 0
	for _, c := range g.bins {
		sum += int(c)
	}
	if sum != g.Count() || sum == 0 {
		t.Errorf("%d gaps in bins, %d by count", sum, g.Count())
	}
	g.Add(0)
	g.Add(-time.Second)
	g.Add(999 * time.Millisecond)
	if g.Count() != sum {
		t.Error("a gap of less than a second counts")
	}
}

// Old gaps fade: a function whose callers have changed is learned anew.
func TestGapsFade(t *testing.T) {
	g := gapsOf(times(255, 10*time.Minute)...)
	for range 10 * 255 {
		g.Add(12 * time.Second)
	}
	if k := g.Learn(worth); !near(k.After, 12*time.Second) {
		t.Errorf("learned %+v", k)
	}
}

func TestPercentile(t *testing.T) {
	g := &Gaps{}
	if g.Percentile(50) != 0 {
		t.Error("there are no gaps")
	}
	for i := 1; i <= 100; i++ {
		g.Add(time.Duration(i) * 10 * time.Second)
	}
	for p, want := range map[float64]time.Duration{0: 10 * time.Second, 50: 500 * time.Second, 99: 990 * time.Second, 100: 1000 * time.Second} {
		if got := g.Percentile(p); float64(got) < float64(want) || float64(got) > float64(want)*1.1 {
			t.Errorf("%v %%: %s, want %s", p, got, want)
		}
	}
}

func TestSoon(t *testing.T) {
	regular := gapsOf(times(50, 5*time.Minute)...)
	for _, c := range []struct {
		name          string
		g             *Gaps
		idle, horizon time.Duration
		low, high     float64
	}{
		{"regular, just before", regular, 4 * time.Minute, 2 * time.Minute, 0.95, 1},
		{"regular, long before", regular, time.Minute, time.Minute, 0, 0.05},
		{"regular, over it", regular, time.Hour, time.Minute, 0, 0.05},
		{"nothing known, idle for long", &Gaps{}, 9 * time.Hour, time.Hour, 0.09, 0.11},
		{"nothing known, just idle", &Gaps{}, 0, time.Hour, 0.99, 1},
	} {
		if p := c.g.Soon(c.idle, c.horizon); p < c.low || p > c.high {
			t.Errorf("%s: %v, want %v to %v", c.name, p, c.low, c.high)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		g := &Gaps{}
		for range rapid.IntRange(0, 50).Draw(t, "gaps") {
			g.Add(time.Duration(rapid.Int64Range(0, int64(48*time.Hour)).Draw(t, "gap")))
		}
		idle := time.Duration(rapid.Int64Range(0, int64(48*time.Hour)).Draw(t, "idle"))
		near := time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "near"))
		far := near + time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "further"))
		if a, b := g.Soon(idle, near), g.Soon(idle, far); a < 0 || b > 1 || a > b {
			t.Fatalf("within %s: %v, within %s: %v", near, a, far, b)
		}
	})
}

// day lets a function be called at moments, decides whenever it is asked to,
// and counts what callers found.
func day(p Policy, calls []time.Duration) (cold int, idle time.Duration, ends []string) {
	w, replicas, now, look := &Window{}, 0, start, time.Duration(0)
	decide := func(n Now) {
		n.Time, n.Replicas, n.Ready = now, replicas, replicas
		d := Decide(p, w, n)
		if d.Replicas != replicas {
			ends = append(ends, d.Record.Rule)
		}
		replicas, look = d.Replicas, d.Again
	}
	pass := func(to time.Time) {
		for look > 0 && now.Add(look).Before(to) {
			idle += look * time.Duration(replicas)
			now = now.Add(look)
			decide(Now{})
		}
		idle += to.Sub(now) * time.Duration(replicas)
		now = to
	}
	for _, c := range calls {
		pass(start.Add(c))
		w.Arrived(now, 1)
		n := Now{InFlight: 1}
		if replicas == 0 {
			cold++
			n = Now{Queued: 1}
		}
		decide(n)
		decide(Now{})
	}
	return cold, idle, ends
}

// A function that is called regularly is learned within a few calls: from then
// on each call finds a replica that was there for a fraction of the time.
func TestPrewarm(t *testing.T) {
	var calls []time.Duration
	for i := range 48 {
		calls = append(calls, time.Duration(i)*30*time.Minute)
	}
	cold, idle, rules := day(scale(map[string]string{"zero": "true"}), calls)
	if cold > fewGaps+2 || idle > 6*time.Hour {
		t.Errorf("%d of 48 calls were cold, with a replica idle for %s: %q", cold, idle, rules)
	}
	// What the user says counts.
	cold, idle, _ = day(scale(map[string]string{"zero": "true", "zero-duration": "15m"}), calls)
	if cold != 48 || idle < 11*time.Hour {
		t.Errorf("with a label %d calls were cold, idle for %s", cold, idle)
	}
	if cold, _, rules = day(scale(nil), calls); cold != 1 || len(rules) != 1 {
		t.Errorf("one that is not scaled to zero met %d cold starts: %q", cold, rules)
	}
}

// One whose calls come a minute apart does not stay a quarter of an hour.
func TestShortKeepAlive(t *testing.T) {
	var calls []time.Duration
	at := time.Duration(0)
	for i := range 200 {
		at += 40 * time.Second
		if i%20 == 19 {
			at += 5 * time.Hour
		}
		calls = append(calls, at)
	}
	cold, idle, _ := day(scale(map[string]string{"zero": "true"}), calls)
	coldThen, idleThen, _ := day(scale(map[string]string{"zero": "true", "zero-duration": "15m"}), calls)
	if cold > coldThen+1 || idle > idleThen*7/10 {
		t.Errorf("%d cold and idle for %s, with the default for good %d and %s", cold, idle, coldThen, idleThen)
	}
}

func TestIdle(t *testing.T) {
	w := &Window{}
	if w.Idle(start) != 0 {
		t.Error("nothing is known yet")
	}
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	w.Arrived(at(0), 1)
	Decide(Policy{}, w, Now{Time: at(0), Replicas: 1, InFlight: 1})
	if w.Idle(at(2)) != 0 {
		t.Error("a request is in flight")
	}
	Decide(Policy{}, w, Now{Time: at(3), Replicas: 1})
	if got := w.Idle(at(10)); got != 7*time.Second {
		t.Errorf("idle for %s, want 7 s", got)
	}
}

package autoscale

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/podsnap/podsnap/functions"
	"pgregory.net/rapid"
)

func anyPolicy(t *rapid.T) Policy {
	return Policy{Scale: functions.Scale{
		Min: rapid.IntRange(0, 3).Draw(t, "min"), Max: rapid.IntRange(3, 30).Draw(t, "max"), Zero: rapid.Bool().Draw(t, "zero"),
		ZeroAfter: time.Duration(rapid.IntRange(1, 900).Draw(t, "after")) * time.Second, ZeroGiven: rapid.Bool().Draw(t, "given"),
		DownWindow: time.Duration(rapid.SampledFrom([]int{0, 0, 1, 60}).Draw(t, "window")) * time.Second,
		Type:       rapid.SampledFrom([]string{"", "rps", "capacity", "queue", "cpu"}).Draw(t, "type"),
		Target:     rapid.Float64Range(1, 50).Draw(t, "target"), Proportion: rapid.Float64Range(0.1, 1).Draw(t, "proportion"), Factor: 20,
		Also: functions.Targets{
			RPS: rapid.SampledFrom([]float64{0, 0, 5}).Draw(t, "also rps"), Queue: rapid.SampledFrom([]float64{0, 0, 5}).Draw(t, "also queue"),
			CPU: rapid.SampledFrom([]float64{0, 0, 300}).Draw(t, "also cpu"), Capacity: rapid.SampledFrom([]float64{0, 0, 3}).Draw(t, "also capacity"),
		},
	}, Concurrency: rapid.IntRange(0, 5).Draw(t, "concurrency")}
}

func anyNow(t *rapid.T, now time.Time, replicas int) Now {
	n := Now{
		Time: now, Replicas: replicas, Ready: rapid.IntRange(0, replicas).Draw(t, "ready"),
		Queued: rapid.SampledFrom([]int{0, 0, 1, 50}).Draw(t, "queued"), InFlight: rapid.SampledFrom([]int{0, 0, 1, 50}).Draw(t, "inflight"),
		Pending: rapid.SampledFrom([]int{0, 0, 1, 200}).Draw(t, "pending"), Settling: rapid.SampledFrom([]bool{false, false, true}).Draw(t, "settling"),
	}
	if n.Ready > 0 && rapid.Bool().Draw(t, "measured") {
		n.CPU = CPU{Milli: rapid.Float64Range(0, 2000).Draw(t, "cpu"), Replicas: n.Ready}
	}
	return n
}

// past is a Window after some decisions.
func past(t *rapid.T, p Policy) (w *Window, replicas int, now time.Time) {
	w, replicas, now = &Window{}, 1, start
	for range rapid.IntRange(0, 40).Draw(t, "steps") {
		now = now.Add(time.Duration(rapid.IntRange(1, 20_000).Draw(t, "ms")) * time.Millisecond)
		w.Arrived(now, uint64(rapid.SampledFrom([]int{0, 0, 1, 500}).Draw(t, "arrived")))
		replicas = check(t, p, w, anyNow(t, now, replicas)).Replicas
	}
	return w, replicas, now
}

// check decides, and finds out whether that keeps what is always so: the number
// stays inside its bounds, a waiting request is never left at zero, the reason
// is told, and the record is the decision.
func check(t *rapid.T, p Policy, w *Window, n Now) Decision {
	d := Decide(p, w, n)
	switch {
	case d.Reason == "" || d.Record.Rule == "" || d.Record.Idle.Tier == "":
		t.Fatalf("a decision without a reason: %+v", d)
	case d.Record.From != n.Replicas || d.Record.To != d.Replicas || d.Record.Reason != d.Reason:
		t.Fatalf("%+v is recorded as %+v", d, d.Record)
	case d.Replicas == 0 && (n.Queued > 0 || n.InFlight > 0 && n.Replicas > 0):
		t.Fatalf("zero with %d waiting and %d in flight", n.Queued, n.InFlight)
	case d.Replicas == 0 && n.Replicas > 0 && !p.MayBeZero():
		t.Fatal("zero without being allowed to")
	case d.Replicas > 0 && !p.Fixed() && (d.Replicas < max(p.Min, 1) || d.Replicas > p.Max):
		t.Fatalf("%d is outside %d..%d", d.Replicas, p.Min, p.Max)
	case n.Settling && d.Replicas < min(n.Replicas, p.Max):
		t.Fatalf("from %d to %d while settling", n.Replicas, d.Replicas)
	case d.Again < 0:
		t.Fatalf("look again in %s", d.Again)
	}
	return d
}

// Whatever comes, calm leads to a rest, and there it stays.
func TestSettles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPolicy(t)
		w, replicas, now := past(t, p)
		rest := max(p.Min, 1)
		if p.MayBeZero() {
			rest = 0
		}
		for range 200 {
			now = now.Add(time.Minute)
			replicas = check(t, p, w, Now{Time: now, Replicas: replicas}).Replicas
		}
		// A pre-warm window of what was learned may still be open, or come.
		if k := p.keep(w); k.Until > 0 {
			for now.Sub(w.active) <= k.Until {
				now = now.Add(time.Minute)
				replicas = check(t, p, w, Now{Time: now, Replicas: replicas}).Replicas
			}
		}
		if replicas != rest && !p.Fixed() {
			t.Fatalf("at rest there are %d replicas, want %d", replicas, rest)
		}
	})
}

// More demand at the same moment never makes fewer replicas.
func TestMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPolicy(t)
		w, replicas, now := past(t, p)
		less := anyNow(t, now.Add(time.Second), replicas)
		more := less
		more.Queued += rapid.IntRange(0, 30).Draw(t, "more queued")
		more.InFlight += rapid.IntRange(0, 30).Draw(t, "more in flight")
		more.Pending += rapid.IntRange(0, 30).Draw(t, "more pending")
		more.CPU.Milli += rapid.Float64Range(0, 500).Draw(t, "more cpu")
		v := clone(w)
		arrived := uint64(rapid.IntRange(0, 20).Draw(t, "arrived"))
		w.Arrived(less.Time, arrived)
		v.Arrived(more.Time, arrived+uint64(rapid.IntRange(0, 200).Draw(t, "more arrived")))
		if a, b := Decide(p, w, less), Decide(p, v, more); a.Replicas > b.Replicas {
			t.Fatalf("%d (%s) with less, %d (%s) with more", a.Replicas, a.Reason, b.Replicas, b.Reason)
		}
	})
}

func clone(w *Window) *Window {
	out := *w
	out.recommended = append([]recommendation(nil), w.recommended...)
	return &out
}

// Within a down window there is never less than what was wanted in it, but for
// zero, which has a time of its own.
func TestNoDownWithinTheWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPolicy(t)
		if p.Type == functions.ScaleClassic {
			p.Type = functions.ScaleCapacity // the classic rule has times of its own
		}
		w, replicas, now := &Window{}, max(p.Min, 1), start
		type wish struct {
			at       time.Time
			replicas int
		}
		var wishes []wish
		for range rapid.IntRange(2, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 20_000).Draw(t, "ms")) * time.Millisecond)
			w.Arrived(now, uint64(rapid.SampledFrom([]int{0, 0, 1, 500}).Draw(t, "arrived")))
			n := anyNow(t, now, replicas)
			d := Decide(p, w, n)
			want := 0
			for _, s := range d.Record.Wishes {
				want = max(want, s.Replicas)
			}
			wishes = append(wishes, wish{now, p.clamp(want)})
			for _, s := range wishes {
				if now.Sub(s.at) < p.downWindow() && d.Replicas > 0 && d.Replicas < min(s.replicas, replicas) && !p.Fixed() {
					t.Fatalf("%d at %s, but %d were wanted %s before, within %s", d.Replicas, now.Sub(start), s.replicas, now.Sub(s.at), p.downWindow())
				}
			}
			if d.Replicas == 0 {
				wishes = nil
			}
			replicas = d.Replicas
		}
	})
}

// Under a load that does not change, once the windows have seen nothing else,
// the number of replicas does not go to and fro: it rises or it falls.
func TestNoFlapping(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPolicy(t)
		w, replicas, now := past(t, p)
		rate, inFlight := rapid.IntRange(1, 40).Draw(t, "rate"), rapid.IntRange(1, 60).Draw(t, "in flight")
		work := rapid.Float64Range(0, 4000).Draw(t, "milli-cpu of the whole load")
		turns, last, story := 0, 0, ""
		for i := range 600 {
			now = now.Add(time.Second)
			w.Arrived(now, uint64(rate))
			n := Now{Time: now, Replicas: replicas, Ready: replicas, InFlight: inFlight, Pending: 7}
			if replicas == 0 {
				n.Queued, n.InFlight = inFlight, 0
			} else {
				n.CPU = CPU{Milli: work / float64(replicas), Replicas: replicas}
			}
			d := check(t, p, w, n)
			next := d.Replicas
			direction := 0
			switch {
			case next > replicas:
				direction = 1
			case next < replicas:
				direction = -1
			}
			if i > 60 && direction != 0 && direction != last {
				turns++
				last = direction
				story += fmt.Sprintf("\n%s: %d → %d %s", now.Sub(start), replicas, next, d.Reason)
			}
			replicas = next
		}
		if turns > 1 {
			t.Fatalf("it turned %d times: %s", turns, story)
		}
	})
}

// The same input has the same outcome, state included.
func TestDeterministic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPolicy(t)
		w, replicas, now := past(t, p)
		n, v := anyNow(t, now.Add(time.Second), replicas), clone(w)
		if a, b := Decide(p, w, n), Decide(p, v, n); !reflect.DeepEqual(a, b) || !reflect.DeepEqual(w, v) {
			t.Fatalf("%+v and %+v", a, b)
		}
	})
}

package autoscale

import (
	"testing"
	"time"

	"github.com/podsnap/podsnap/functions"
	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// step is one moment of a story: what is asked, and how many replicas there
// should be then.
type step struct {
	at               time.Duration
	arrived          uint64
	queued, inflight int
	settling         bool
	want             int
}

func TestDecide(t *testing.T) {
	scale := func(labels map[string]string) Policy {
		full := map[string]string{}
		for k, v := range labels {
			full[functions.LabelScalePrefix+k] = v
		}
		return Policy{Scale: functions.Scaling(full)}
	}
	limited := scale(nil)
	limited.Concurrency = 10
	for _, c := range []struct {
		name  string
		p     Policy
		from  int
		story []step
	}{
		{"a request at zero starts one", scale(nil), 0, []step{{at: 0, want: 0}, {at: time.Second, queued: 1, want: 1}}},
		{"as many as the limit needs", limited, 0, []step{{queued: 95, want: 10}}},
		{"not over max", limited, 0, []step{{queued: 950, want: 20}}},
		{"from zero to min", scale(map[string]string{"min": "3", "zero": "true"}), 0, []step{{queued: 1, want: 3}}},
		{"to zero after idle time, and not while busy", scale(map[string]string{"zero": "true", "zero-duration": "10s"}), 1, []step{
			{at: 0, want: 1},
			{at: 9 * time.Second, want: 1},
			{at: 9500 * time.Millisecond, inflight: 1, want: 1},
			{at: 19 * time.Second, want: 1},
			{at: 20 * time.Second, want: 0},
			{at: 21 * time.Second, want: 0},
		}},
		{"never to zero without the label", scale(nil), 1, []step{{at: 0, want: 1}, {at: 24 * time.Hour, want: 1}}},
		{"nothing goes down while settling", scale(map[string]string{"zero": "true", "zero-duration": "1s", "type": "capacity"}), 4, []step{
			{at: 0, want: 4, settling: true}, {at: time.Minute, want: 4, settling: true}, {at: 2 * time.Minute, want: 0},
		}},
		{"capacity up at once, down after the window", scale(map[string]string{"type": "capacity", "target": "2", "target-proportion": "1", "down.window": "5s"}), 1, []step{
			{at: 0, inflight: 6, want: 3},
			{at: time.Second, inflight: 9, want: 5},
			{at: 2 * time.Second, inflight: 1, want: 5},
			{at: 5 * time.Second, inflight: 1, want: 5},
			{at: 6 * time.Second, inflight: 1, want: 1},
		}},
		{"down only to what the window needed", scale(map[string]string{"type": "capacity", "target": "1", "target-proportion": "1", "down.window": "10s"}), 1, []step{
			{at: 0, inflight: 8, want: 8}, {at: 5 * time.Second, inflight: 4, want: 8}, {at: 10 * time.Second, inflight: 1, want: 4}, {at: 16 * time.Second, inflight: 1, want: 1},
		}},
		{"rate", scale(map[string]string{"type": "rps", "target": "10", "target-proportion": "1"}), 1, []step{
			{at: 0, want: 1}, {at: time.Second, arrived: 35, want: 4},
		}},
		{"classic: over 5 a second for 5 s adds a fifth of max", scale(nil), 1, []step{
			{at: 0, want: 1},
			{at: time.Second, arrived: 100, want: 1},
			{at: 4 * time.Second, arrived: 100, want: 1},
			{at: 6 * time.Second, arrived: 100, want: 5},
			{at: 7 * time.Second, arrived: 100, want: 5},
			{at: 11 * time.Second, arrived: 100, want: 9},
			{at: 30 * time.Second, want: 9},
			{at: 42 * time.Second, want: 5},
			{at: 45 * time.Second, want: 5},
			{at: 52 * time.Second, want: 1},
		}},
		{"classic: a manual scale goes back after the window", scale(nil), 3, []step{{at: 0, want: 3}, {at: 29 * time.Second, want: 3}, {at: 30 * time.Second, want: 1}}},
		{"equal bounds: off, but for zero", scale(map[string]string{"min": "2", "max": "2"}), 2, []step{{inflight: 1000, want: 2}}},
		{"equal bounds: woken", scale(map[string]string{"min": "2", "max": "2"}), 0, []step{{queued: 1, want: 2}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, replicas := &Window{}, c.from
			for _, s := range c.story {
				now := start.Add(s.at)
				w.Arrived(now, s.arrived)
				d := Decide(c.p, w, Now{Time: now, Replicas: replicas, Ready: replicas, Queued: s.queued, InFlight: s.inflight, Settling: s.settling})
				if d.Replicas != s.want {
					t.Fatalf("at %s: %d (%s), want %d", s.at, d.Replicas, d.Reason, s.want)
				}
				replicas = d.Replicas
			}
		})
	}
}

// Whatever comes, the number stays inside its bounds, a waiting request is
// never left at zero, and calm leads to a rest.
func TestInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Policy{Scale: functions.Scale{
			Min: rapid.IntRange(0, 3).Draw(t, "min"), Max: rapid.IntRange(3, 30).Draw(t, "max"), Zero: rapid.Bool().Draw(t, "zero"),
			ZeroAfter: time.Duration(rapid.IntRange(1, 60).Draw(t, "after")) * time.Second,
			Type:      rapid.SampledFrom([]string{"", "rps", "capacity", "queue", "cpu"}).Draw(t, "type"),
			Target:    rapid.Float64Range(1, 50).Draw(t, "target"), Proportion: rapid.Float64Range(0.1, 1).Draw(t, "proportion"), Factor: 20,
		}, Concurrency: rapid.IntRange(0, 5).Draw(t, "concurrency")}
		w, replicas, now := &Window{}, 1, start
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 20_000).Draw(t, "ms")) * time.Millisecond)
			w.Arrived(now, uint64(rapid.IntRange(0, 500).Draw(t, "arrived")))
			n := Now{Time: now, Replicas: replicas, Queued: rapid.IntRange(0, 50).Draw(t, "queued"), InFlight: rapid.IntRange(0, 50).Draw(t, "inflight"), Settling: rapid.Bool().Draw(t, "settling")}
			d := Decide(p, w, n)
			switch {
			case d.Reason == "":
				t.Fatal("a decision without a reason")
			case d.Replicas == 0 && (n.Queued > 0 || n.InFlight > 0 && replicas > 0):
				t.Fatalf("zero with %d waiting and %d in flight", n.Queued, n.InFlight)
			case d.Replicas == 0 && replicas > 0 && !p.Zero && p.Min > 0:
				t.Fatal("zero without being allowed to")
			case d.Replicas > 0 && !p.Fixed() && (d.Replicas < max(p.Min, 1) || d.Replicas > p.Max):
				t.Fatalf("%d is outside %d..%d", d.Replicas, p.Min, p.Max)
			case n.Settling && d.Replicas < min(replicas, p.Max):
				t.Fatalf("from %d to %d while settling", replicas, d.Replicas)
			case d.Again < 0:
				t.Fatalf("look again in %s", d.Again)
			}
			replicas = d.Replicas
		}
		for range 200 {
			now = now.Add(time.Minute)
			replicas = Decide(p, w, Now{Time: now, Replicas: replicas}).Replicas
		}
		rest := max(p.Min, 1)
		if p.Zero || p.Min == 0 {
			rest = 0
		}
		if replicas != rest && !p.Fixed() && p.Type != functions.ScaleQueue {
			t.Fatalf("at rest there are %d replicas, want %d", replicas, rest)
		}
	})
}

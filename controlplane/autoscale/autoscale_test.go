package autoscale

import (
	"testing"
	"time"

	"github.com/podsnap/podsnap/functions"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// step is one moment of a story: what is asked, and how many replicas there
// should be then.
type step struct {
	at                        time.Duration
	arrived                   uint64
	queued, inflight, pending int
	cpu                       float64 // milli of each replica; 0 is not known
	settling                  bool
	byHand                    int // somebody sets this number just before; 0 is nobody
	want                      int
	rule                      string // "" is any
}

func scale(labels map[string]string) Policy {
	full := map[string]string{}
	for k, v := range labels {
		full[functions.LabelScalePrefix+k] = v
	}
	return Policy{Scale: functions.Scaling(full)}
}

func (p Policy) limited(concurrency int) Policy {
	p.Concurrency = concurrency
	return p
}

// seconds is a step at each whole second, all alike.
func seconds(from, to int, s step) (out []step) {
	for i := from; i <= to; i++ {
		s.at = time.Duration(i) * time.Second
		out = append(out, s)
	}
	return out
}

func TestDecide(t *testing.T) {
	cpu := map[string]string{"type": "cpu", "target": "500", "target-proportion": "1", "down.window": "10s"}
	for _, c := range []struct {
		name  string
		p     Policy
		from  int
		story []step
	}{
		{"a request at zero starts one", scale(nil), 0, []step{{at: 0, want: 0, rule: RuleAtZero}, {at: time.Second, queued: 1, want: 1, rule: RuleWake}}},
		{"as many as the limit needs, at once", scale(nil).limited(10), 0, []step{{queued: 95, want: 10, rule: RuleWake}}},
		{"and from one too", scale(nil).limited(10), 1, []step{{inflight: 10, queued: 85, want: 10, rule: RuleLoad}}},
		{"not over max", scale(nil).limited(10), 0, []step{{queued: 950, want: 20}}},
		{"from zero to min", scale(map[string]string{"min": "3", "zero": "true"}), 0, []step{{queued: 1, want: 3}}},
		{"to zero after idle time, and not while busy", scale(map[string]string{"zero": "true", "zero-duration": "10s"}), 1, []step{
			{at: 0, want: 1},
			{at: 9 * time.Second, want: 1},
			{at: 9500 * time.Millisecond, inflight: 1, want: 1},
			{at: 19 * time.Second, want: 1},
			{at: 20 * time.Second, want: 0, rule: RuleIdle},
			{at: 21 * time.Second, want: 0},
		}},
		{"what is in flight on replicas that leave wakes nothing", scale(nil), 0, []step{{inflight: 3, want: 0}}},
		{"never to zero without the label", scale(nil), 1, []step{{at: 0, want: 1}, {at: 24 * time.Hour, want: 1}}},
		{"nothing goes down while settling", scale(map[string]string{"zero": "true", "zero-duration": "1s", "type": "capacity"}), 4, []step{
			{at: 0, want: 4, settling: true}, {at: time.Minute, want: 4, settling: true, rule: RuleSettling}, {at: 2 * time.Minute, want: 0},
		}},
		{"capacity up at once, down after the window", scale(map[string]string{"type": "capacity", "target": "2", "target-proportion": "1", "down.window": "5s"}), 1, []step{
			{at: 0, inflight: 6, want: 3, rule: RuleLoad},
			{at: time.Second, inflight: 9, want: 5},
			{at: 2 * time.Second, inflight: 1, want: 5, rule: RuleWindow},
			{at: 5 * time.Second, inflight: 1, want: 5},
			{at: 6 * time.Second, inflight: 1, want: 1, rule: RuleLoad},
		}},
		{"down only to what the window needed", scale(map[string]string{"type": "capacity", "target": "1", "target-proportion": "1", "down.window": "10s"}), 1, []step{
			{at: 0, inflight: 8, want: 8}, {at: 5 * time.Second, inflight: 4, want: 8}, {at: 10 * time.Second, inflight: 1, want: 4}, {at: 16 * time.Second, inflight: 1, want: 1},
		}},
		{"rate", scale(map[string]string{"type": "rps", "target": "10", "target-proportion": "1"}), 1, []step{
			{at: 0, want: 1}, {at: time.Second, arrived: 35, want: 4},
		}},
		{"queue depth, from zero too", scale(map[string]string{"type": "queue", "target": "10", "target-proportion": "1", "zero": "true", "zero-duration": "20s", "down.window": "5s"}), 0, []step{
			{at: 0, pending: 0, want: 0},
			{at: time.Second, pending: 55, want: 6, rule: RuleWake},
			{at: 2 * time.Second, pending: 255, want: 20, rule: RuleLoad},
			{at: 10 * time.Second, pending: 1, want: 1},
			{at: 40 * time.Second, pending: 1, want: 1}, // it may be one that is tried again later
			{at: 61 * time.Second, want: 0, rule: RuleIdle},
		}},
		{"pending calls are for functions that scale by them", scale(nil), 0, []step{{pending: 1000, want: 0}}},
		{"cpu: up by the measured use, down after the window", scale(cpu), 1, append(append([]step{
			{at: 0, inflight: 1, want: 1}, // not known: as it is
			{at: 14 * time.Second, inflight: 1, cpu: 1900, want: 1},
			{at: 15 * time.Second, inflight: 1, cpu: 1900, want: 4, rule: RuleLoad},
			{at: 16 * time.Second, inflight: 1, cpu: 1900, want: 4}, // of the load as it was shared before
			{at: 29 * time.Second, inflight: 1, cpu: 600, want: 4},
			{at: 30 * time.Second, inflight: 1, cpu: 600, want: 5},
		}, seconds(31, 39, step{inflight: 1, cpu: 380, want: 5})...),
			step{at: 40 * time.Second, inflight: 1, cpu: 380, want: 4},
			step{at: 41 * time.Second, want: 4}, // not known any more
			step{at: 5 * time.Minute, want: 1},  // but an idle function uses none
		)},
		{"cpu: at most twice as many at a time", scale(map[string]string{"type": "cpu", "target": "10", "target-proportion": "1", "max": "100"}), 10, []step{
			{at: 0, inflight: 1, want: 10}, {at: 20 * time.Second, inflight: 1, cpu: 1000, want: 20}, {at: 40 * time.Second, inflight: 1, cpu: 1000, want: 40},
		}},
		{"several measures: the largest wish", scale(map[string]string{"type": "rps", "target": "10", "target-proportion": "1", "target.capacity": "2", "target.queue": "5", "max": "50"}).limited(3), 1, []step{
			{at: time.Second, arrived: 20, inflight: 1, want: 2},             // rps 2, capacity 1
			{at: 2 * time.Second, arrived: 20, inflight: 9, want: 5},         // capacity 5, concurrency 3
			{at: 3 * time.Second, inflight: 3, pending: 100, want: 20},       // queue
			{at: 4 * time.Second, inflight: 60, queued: 3, want: 32},         // capacity again
			{at: 34500 * time.Millisecond, inflight: 12, queued: 0, want: 6}, // and down
		}},
		{"classic: over 5 a second for 5 s adds a fifth of max", scale(nil), 1, []step{
			{at: 0, want: 1},
			{at: time.Second, arrived: 100, want: 1},
			{at: 4 * time.Second, arrived: 100, want: 1},
			{at: 6 * time.Second, arrived: 100, want: 5, rule: RuleStep},
			{at: 7 * time.Second, arrived: 100, want: 5},
			{at: 11 * time.Second, arrived: 100, want: 9},
			{at: 30 * time.Second, want: 9},
			{at: 42 * time.Second, want: 5, rule: RuleCalm},
			{at: 45 * time.Second, want: 5},
			{at: 52 * time.Second, want: 1},
		}},
		{"classic: some traffic does not hold what more of it needed", scale(nil), 9, append(
			seconds(0, 29, step{arrived: 1, inflight: 1, want: 9}),
			step{at: 30 * time.Second, arrived: 1, inflight: 1, want: 5}, step{at: 39 * time.Second, arrived: 1, inflight: 1, want: 5}, step{at: 41 * time.Second, arrived: 1, inflight: 1, want: 1},
		)},
		{"classic: not below what the limit of requests needs", scale(nil).limited(2), 12, append(
			seconds(0, 29, step{inflight: 9, want: 12}),
			step{at: 30 * time.Second, inflight: 9, want: 8}, step{at: 41 * time.Second, inflight: 9, want: 5}, step{at: 60 * time.Second, inflight: 9, want: 5},
		)},
		{"classic: a manual scale goes back after the window", scale(nil), 3, []step{{at: 0, want: 3}, {at: 29 * time.Second, want: 3}, {at: 30 * time.Second, want: 1}}},
		{"classic: also of a function that was calm for long", scale(nil), 1, []step{
			{at: 0, want: 1}, {at: 10 * time.Minute, byHand: 3, want: 3}, {at: 10*time.Minute + 29*time.Second, want: 3}, {at: 10*time.Minute + 30*time.Second, want: 1},
		}},
		{"a manual scale is held for the window", scale(map[string]string{"type": "rps"}), 1, []step{
			{at: 0, want: 1}, {at: 10 * time.Minute, byHand: 3, want: 3}, {at: 10*time.Minute + 29*time.Second, want: 3}, {at: 10*time.Minute + 30*time.Second, want: 1},
		}},
		{"and one from zero for the idle time", scale(map[string]string{"min": "0", "zero-duration": "10s"}), 0, []step{
			{at: 0, want: 0}, {at: time.Minute, byHand: 1, want: 1}, {at: 69 * time.Second, want: 1}, {at: 70 * time.Second, want: 0, rule: RuleIdle},
		}},
		{"equal bounds: off, but for zero", scale(map[string]string{"min": "2", "max": "2"}), 2, []step{{inflight: 1000, want: 2, rule: RuleFixed}}},
		{"equal bounds: woken", scale(map[string]string{"min": "2", "max": "2"}), 0, []step{{queued: 1, want: 2}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, replicas := &Window{}, c.from
			for _, s := range c.story {
				now := start.Add(s.at)
				if s.byHand > 0 {
					replicas = s.byHand
				}
				w.Arrived(now, s.arrived)
				n := Now{Time: now, Replicas: replicas, Ready: replicas, Queued: s.queued, InFlight: s.inflight, Pending: s.pending, Settling: s.settling}
				if s.cpu > 0 {
					n.CPU = CPU{Milli: s.cpu, Replicas: replicas}
				}
				d := Decide(c.p, w, n)
				if d.Replicas != s.want || s.rule != "" && d.Record.Rule != s.rule {
					t.Fatalf("at %s: %d by %s (%s), want %d %s", s.at, d.Replicas, d.Record.Rule, d.Reason, s.want, s.rule)
				}
				replicas = d.Replicas
			}
		})
	}
}

// A decision carries all that it was made of.
func TestRecord(t *testing.T) {
	p := scale(map[string]string{"type": "rps", "target": "10", "target-proportion": "0.5", "target.cpu": "400", "zero": "true"}).limited(4)
	w := &Window{}
	w.Arrived(start, 3)
	w.Arrived(start.Add(time.Second), 17)
	d := Decide(p, w, Now{Time: start.Add(time.Second), Replicas: 1, Ready: 1, Queued: 2, InFlight: 3, Pending: 6, CPU: CPU{Milli: 100, Replicas: 1}})
	r := d.Record
	if r.From != 1 || r.To != d.Replicas || r.To != 4 || r.Reason != d.Reason || r.Rule != RuleLoad || !r.Time.Equal(start.Add(time.Second)) {
		t.Errorf("got %+v", r)
	}
	in := r.Inputs
	if in.Arrived != 20 || in.Rate != 20 || in.Min != 1 || in.Max != 20 || in.Concurrency != 4 || in.Ready != 1 || in.Queued != 2 || in.InFlight != 3 || in.Pending != 6 || in.CPU != 100 || in.CPUReplicas != 1 {
		t.Errorf("inputs %+v", in)
	}
	var got []string
	for _, w := range r.Wishes {
		got = append(got, w.Measure)
	}
	if want := "[concurrency rps cpu]"; len(r.Wishes) != 3 || r.Wishes[0].Replicas != 2 || r.Wishes[1].Replicas != 4 || r.Wishes[2].Replicas != 1 {
		t.Errorf("wishes %+v, want %s with 2, 4 and 1", r.Wishes, want)
	}
	if r.Reason != "rps 20 at 5 a replica asks for 4" {
		t.Errorf("%v: %q", got, r.Reason)
	}
	Decide(p, w, Now{Time: start.Add(2 * time.Second), Replicas: 4}) // what was in flight ends
	if again := Decide(p, w, Now{Time: start.Add(3 * time.Second), Replicas: 4}).Record; again.Inputs.Arrived != 0 || again.Inputs.IdleSeconds != 1 {
		t.Errorf("arrivals count once: %+v", again.Inputs)
	}
}

func BenchmarkDecide(b *testing.B) {
	p := scale(map[string]string{"type": "capacity", "zero": "true"}).limited(4)
	w := &Window{}
	for i := 0; b.Loop(); i++ {
		now := start.Add(time.Duration(i) * time.Millisecond)
		w.Arrived(now, 1)
		Decide(p, w, Now{Time: now, Replicas: 5, Ready: 5, InFlight: i % 20})
	}
}

// A wish that was held back says so.
func TestHeld(t *testing.T) {
	p := scale(map[string]string{"type": "cpu", "target": "100", "target-proportion": "1"})
	w := &Window{}
	for _, c := range []struct {
		at   time.Duration
		cpu  CPU
		want string
	}{
		{0, CPU{}, "cpu 0 at 100 a replica asks for 1 (the use is not known)"},
		{5 * time.Second, CPU{400, 1}, "cpu 400 at 100 a replica asks for 1 (the number has changed less than 15s ago)"},
		{20 * time.Second, CPU{900, 1}, "cpu 900 at 100 a replica asks for 5 (at most twice as many at a time)"},
		{40 * time.Second, CPU{400, 1}, "cpu 400 at 100 a replica asks for 4"},
	} {
		d := Decide(p, w, Now{Time: start.Add(c.at), Replicas: 1, Ready: 1, InFlight: 1, CPU: c.cpu})
		if d.Reason != c.want {
			t.Errorf("at %s: %q, want %q", c.at, d.Reason, c.want)
		}
		w.resized(start.Add(c.at), 1) // that nobody did
		w.sized = start
	}
}

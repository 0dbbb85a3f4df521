package simulate

import (
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/autoscale"
	"pgregory.net/rapid"
)

func policy(t interface {
	Helper()
	Fatal(...any)
}, text string,
) Policy {
	t.Helper()
	p, err := ParsePolicy(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// trace is calls of one function that holds a GiB, each of a second, at the
// seconds given, looked at for length.
func trace(length time.Duration, at ...float64) Trace {
	t := Trace{Functions: []Function{{"f", 1 << 30}}, Length: length}
	for _, s := range at {
		t.Calls = append(t.Calls, Call{At: seconds(s), Duration: time.Second})
	}
	return t
}

// What is simple enough to be known without a simulation.
func TestRun(t *testing.T) {
	const cold = 500 * time.Millisecond
	for _, c := range []struct {
		name, policy string
		trace        Trace
		cold, starts int
		max          float64 // seconds that a call waited
		gib          float64 // GiB × seconds that replicas held
		idle         float64 // of them idle
	}{
		{"one call", "zero=true,zero-duration=10s", trace(time.Minute, 5), 1, 1, 0.5, 11.5, 10.5},
		{"a second one in time", "zero=true,zero-duration=10s", trace(time.Minute, 5, 15), 1, 1, 0.5, 21, 19},
		{"a second one too late", "zero=true,zero-duration=10s", trace(time.Minute, 5, 30), 2, 2, 0.5, 23, 21},
		{"two at once, without a limit", "zero=true,zero-duration=10s", trace(time.Minute, 5, 5), 2, 1, 0.5, 11.5, 10.5},
		{"two at once, one each", "zero=true,zero-duration=10s,concurrency=1", trace(time.Minute, 5, 5), 2, 2, 0.5, 23, 21},
		{"a call that waits takes the replica that is free first", "zero=true,zero-duration=10s,concurrency=1,max=1", trace(time.Minute, 5, 5), 2, 1, 1.5, 12.5, 10.5},
		{"never to zero", "min=1", trace(time.Minute, 5, 30), 1, 1, 0.5, 55, 53},
		{"cut off by the end", "zero=true,zero-duration=10s", trace(5500*time.Millisecond+cold, 5), 1, 1, 0.5, 1, 0.5},
	} {
		r := Run(c.trace, policy(t, c.policy), Options{Cold: cold})
		near := func(a, b float64) bool { return math.Abs(a-b) < 1e-6 }
		gib := r.Memory * 3600
		if r.Cold != c.cold || r.Starts != c.starts || !near(r.WaitMax, c.max) || !near(gib, c.gib) || !near(gib*r.IdleShare, c.idle) {
			t.Errorf("%s: %d cold, %d starts, at most %v s, %v GiB·s, %v of them idle; want %d, %d, %v, %v, %v",
				c.name, r.Cold, r.Starts, r.WaitMax, gib, gib*r.IdleShare, c.cold, c.starts, c.max, c.gib, c.idle)
		}
	}
	// Calls that never get a replica are not left out silently.
	r := Run(trace(6*time.Second, 5, 5, 5.9), policy(t, "zero=true"), Options{Cold: time.Minute})
	if r.Unserved != 3 || r.Cold != 0 {
		t.Errorf("%d unserved, %d cold, want 3 and 0", r.Unserved, r.Cold)
	}
}

// Whatever the trace and the policy: every call is served once or told of, what
// replicas did is what calls asked for, and the sums over time agree.
func TestRunInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := policy(t, rapid.SampledFrom([]string{
			"zero=true", "zero=true,concurrency=1,factor=0", "zero=true,zero-duration=5s,concurrency=2,type=capacity,target=1", "min=2,type=rps,target=1", "zero=true,zero-worth=1m,concurrency=1",
		}).Draw(t, "policy"))
		tr := Trace{Functions: []Function{{"f", 1 << 30}, {"g", 2 << 30}}}
		at := time.Duration(0)
		for range rapid.IntRange(0, 60).Draw(t, "calls") {
			at += time.Duration(rapid.SampledFrom([]int{0, 10, 900, 40_000, 1_200_000}).Draw(t, "gap")) * time.Millisecond
			tr.Calls = append(tr.Calls, Call{Function: rapid.IntRange(0, 1).Draw(t, "function"), At: at, Duration: time.Duration(rapid.IntRange(0, 5000).Draw(t, "ms")) * time.Millisecond})
		}
		tr.Length = at + time.Hour
		o := Options{Cold: time.Duration(rapid.IntRange(0, 3000).Draw(t, "cold")) * time.Millisecond, Steps: rapid.IntRange(1, 100).Draw(t, "steps")}
		r := Run(tr, p, o)
		if diff := cmp.Diff(r, Run(tr, p, o)); diff != "" {
			t.Fatal("the second time it is another one", diff)
		}
		if r.Unserved != 0 || r.Calls != len(tr.Calls) || r.Cold > r.Calls || len(r.Replicas) != o.Steps {
			t.Fatalf("%+v", r)
		}
		sum := 0.0
		for _, n := range r.Replicas {
			sum += n * r.Every
		}
		if whole := r.Mean * tr.Length.Seconds(); math.Abs(sum-whole) > 1e-3*max(whole, 1) {
			t.Fatalf("the steps have %v replica seconds, all in all there are %v", sum, whole)
		}
		work, busy := 0.0, r.Memory*3600*(1-r.IdleShare)
		for _, c := range tr.Calls {
			work += c.Duration.Seconds() * float64(c.Function+1)
		}
		if one := p.Concurrency == 1; busy > work+1e-6*work+1e-9 || one && busy < work*(1-1e-6)-1e-9 {
			t.Fatalf("replicas were busy for %v GiB·s, the calls have %v", busy, work)
		}
		if len(tr.Calls) > 0 && p.MayBeZero() && r.WaitMax < o.Cold.Seconds() {
			t.Fatalf("the first call waited for %v s at most, a start takes %s", r.WaitMax, o.Cold)
		}
	})
}

// What was recorded is decided again alike with the same policy, and otherwise
// with another one.
func TestAgain(t *testing.T) {
	p := policy(t, "zero=true,zero-duration=20s,type=capacity,target=2,target-proportion=1,down.window=5s")
	var h autoscale.History
	w, replicas, now := &autoscale.Window{}, 0, origin
	decide := func(after time.Duration, queued, inFlight int) {
		now = now.Add(after)
		w.Arrived(now, uint64(queued))
		d := autoscale.Decide(p.Policy, w, autoscale.Now{Time: now, Replicas: replicas, Ready: replicas, Queued: queued, InFlight: inFlight})
		h.Add(d.Record)
		replicas = d.Replicas
	}
	decide(0, 0, 0)
	decide(time.Second, 7, 0)
	for range 5 {
		decide(time.Second, 0, 8)
	}
	for range 30 {
		decide(time.Second, 0, 1)
	}
	for range 30 {
		decide(time.Second, 0, 0)
	}
	recorded := h.All()
	same := Again(recorded, p)
	if same.Other != 0 || len(same.Steps) != len(recorded) {
		for _, s := range same.Steps {
			t.Logf("%s: recorded %d → %d %s, now %d → %d %s", s.Recorded.Time, s.Recorded.From, s.Recorded.To, s.Recorded.Rule, s.Now.From, s.Now.To, s.Now.Rule)
		}
		t.Fatalf("%d of %d decisions are others with the same policy", same.Other, len(recorded))
	}
	if math.Abs(same.ReplicaSeconds-same.Recorded) > 0.1*same.Recorded || same.Recorded == 0 {
		t.Errorf("%v replica seconds, recorded were %v", same.ReplicaSeconds, same.Recorded)
	}
	if more := Again(recorded, policy(t, "min=3,type=capacity,target=1,target-proportion=1")); more.Other == 0 || more.ReplicaSeconds <= same.ReplicaSeconds {
		t.Errorf("with more asked for: %d others, %v replica seconds", more.Other, more.ReplicaSeconds)
	}
	// The use of CPU is shared among the replicas of the policy.
	use := []api.ScaleDecision{{Time: origin, From: 2, To: 2, Inputs: api.ScaleInputs{Ready: 2, InFlight: 1}}, {
		Time: origin.Add(time.Minute), From: 2, To: 2, Inputs: api.ScaleInputs{Ready: 2, InFlight: 1, CPU: 600, CPUReplicas: 2},
	}}
	if r := Again(use, policy(t, "type=cpu,target=200,target-proportion=1")); r.Steps[1].Now.To != 6 {
		t.Errorf("%+v, want 6 replicas for 1200 at 200 each", r.Steps[1].Now)
	}
	// An eviction is no policy's, and stays as it was.
	evicted := []api.ScaleDecision{{Time: origin, From: 1, To: 1, Inputs: api.ScaleInputs{Ready: 1, InFlight: 1}}, {Time: origin.Add(time.Second), From: 1, To: 0, Rule: autoscale.RuleEvict}}
	if r := Again(evicted, p); r.Other != 0 || r.Steps[1].Now.To != 0 {
		t.Errorf("of an eviction comes %+v", r)
	}
	if r := Again(nil, p); len(r.Steps) != 0 || r.Other != 0 {
		t.Errorf("of nothing comes %+v", r)
	}
}

// On a sample of the Azure data set what is learned keeps less memory idle than
// the same keep-alive for all, and meets no more cold starts than a tenth above
// it; and less memory than one that meets as few.
func TestAzureSample(t *testing.T) {
	dir := os.Getenv("AZURE_SAMPLE")
	if dir == "" {
		t.Skip("AZURE_SAMPLE does not name the folder of a sample of the Azure Functions data set, which is not part of the repository")
	}
	var files [3]*os.File
	for i, n := range []string{AzureInvocations, AzureDurations, AzureMemory} {
		f, err := os.Open(filepath.Join(dir, n))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	tr, err := ReadAzure(files[0], files[1], files[2], 42)
	if err != nil {
		t.Fatal(err)
	}
	const rest = ",concurrency=1,factor=0,max=1000"
	run := func(text string) Report { return Run(tr, policy(t, text+rest), Options{Cold: 100 * time.Millisecond}) }
	idle := func(r Report) float64 { return r.Memory * r.IdleShare }
	fixed, learned := run("zero=true,zero-duration=15m"), run("zero=true")
	if learned.Cold > fixed.Cold*11/10 || idle(learned) > 0.85*idle(fixed) {
		t.Errorf("learned: %d cold starts with %v GiB·h idle, fixed: %d with %v", learned.Cold, idle(learned), fixed.Cold, idle(fixed))
	}
	short, cheap := run("zero=true,zero-duration=2m"), run("zero=true,zero-worth=2m")
	if cheap.Cold > short.Cold*8/10 || idle(cheap) > 0.9*idle(short) {
		t.Errorf("at a price of 2 minutes: %d cold starts with %v GiB·h idle, fixed: %d with %v", cheap.Cold, idle(cheap), short.Cold, idle(short))
	}
}

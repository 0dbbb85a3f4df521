package simulate

import (
	"cmp"
	"slices"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/autoscale"
)

// Replay is what a policy makes of what a running platform has recorded.
type Replay struct {
	Policy string     `json:"policy"`
	Steps  []Redecide `json:"steps"`
	// Other is how many of Steps end with another number of replicas than was
	// recorded, and ReplicaSeconds the replicas that are wanted × time, by this
	// policy and by the record.
	Other          int     `json:"other"`
	ReplicaSeconds float64 `json:"replicaSeconds"`
	Recorded       float64 `json:"recordedReplicaSeconds"`
}

// Redecide is a recorded decision, made again.
type Redecide struct {
	Recorded api.ScaleDecision `json:"recorded"`
	Now      api.ScaleDecision `json:"now"`
}

// mostRepeated bounds how often one recorded decision is made again.
const mostRepeated = 10_000

// Again makes recorded decisions again with another policy, or the same, on
// what was known at each. From decision to decision it goes on with its own
// number of replicas. What callers would have asked for had they been served
// otherwise is not known: demand stays as it was recorded, and the use of CPU
// is shared among as many replicas as there are.
func Again(recorded []api.ScaleDecision, p Policy) Replay {
	out := Replay{Policy: p.Name}
	ds := slices.Clone(recorded)
	slices.SortStableFunc(ds, func(a, b api.ScaleDecision) int { return a.Time.Compare(b.Time) })
	var w autoscale.Window
	replicas := 0
	if len(ds) > 0 {
		replicas = ds[0].From
	}
	for i, d := range ds {
		// Those that became one were alike: they are taken to have come evenly,
		// with the demand of the last.
		arrived, n := d.Inputs.Arrived, min(max(d.Repeated, 0), mostRepeated)
		for i := range n {
			at := d.Since.Add(time.Duration(float64(d.Time.Sub(d.Since)) * float64(i) / float64(n)))
			part := arrived / (n + 1 - i)
			arrived -= part
			replicas = again(p, &w, d, at, part, replicas).Replicas
		}
		now := again(p, &w, d, d.Time, arrived, replicas)
		if d.Rule == autoscale.RuleEvict { // memory ran short: no policy decides that
			now.Replicas, now.Record = min(replicas, d.To), d
		}
		replicas = now.Replicas
		out.Steps = append(out.Steps, Redecide{Recorded: d, Now: now.Record})
		if replicas != d.To {
			out.Other++
		}
		if i+1 < len(ds) {
			until := cmp.Or(ds[i+1].Since, ds[i+1].Time)
			out.Recorded += until.Sub(d.Time).Seconds() * float64(d.To)
			out.ReplicaSeconds += pass(p, &w, d.Time, until, now.Again, &replicas)
		}
	}
	return out
}

func again(p Policy, w *autoscale.Window, d api.ScaleDecision, at time.Time, arrived, replicas int) autoscale.Decision {
	in := d.Inputs
	w.Arrived(at, uint64(max(arrived, 0))) //nolint:gosec // not negative
	n := autoscale.Now{
		Time: at, Replicas: replicas, Ready: min(replicas, in.Ready), Queued: in.Queued, InFlight: in.InFlight, Pending: in.Pending, Settling: in.Settling,
		CPU: autoscale.CPU{Milli: in.CPU, Replicas: in.CPUReplicas},
	}
	if n.CPU.Replicas > 0 && replicas > 0 {
		n.Ready = replicas
		n.CPU = autoscale.CPU{Milli: in.CPU * float64(max(in.Ready, in.CPUReplicas)) / float64(replicas), Replicas: replicas}
	}
	return autoscale.Decide(p.Policy, w, n)
}

// pass makes the decisions that come by themselves between two recorded ones,
// without any demand: had there been some, it would have been recorded. It
// answers with the replicas that are wanted × seconds.
func pass(p Policy, w *autoscale.Window, from, until time.Time, look time.Duration, replicas *int) (sum float64) {
	for look > 0 && from.Add(look).Before(until) {
		look = max(look, time.Millisecond)
		from = from.Add(look)
		sum += look.Seconds() * float64(*replicas)
		d := autoscale.Decide(p.Policy, w, autoscale.Now{Time: from, Replicas: *replicas, Ready: *replicas})
		*replicas, look = d.Replicas, d.Again
	}
	return sum + until.Sub(from).Seconds()*float64(*replicas)
}

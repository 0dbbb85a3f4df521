// Package simulate runs the autoscaler's own decisions on a trace, in virtual
// time: what would this policy have cost, and how long would callers have
// waited? It does no I/O of its own, and the same input has the same outcome.
package simulate

import (
	"slices"
	"time"
)

// Options of a simulation.
type Options struct {
	// Cold is how long a replica takes from being decided on to being ready.
	Cold time.Duration
	// Steps is the number of parts of Report.Replicas; 0 is 48.
	Steps int
}

// Report is what one policy comes to on one trace.
type Report struct {
	Policy    string  `json:"policy"`
	Functions int     `json:"functions"`
	Calls     int     `json:"calls"`
	Unserved  int     `json:"unserved,omitempty"` // calls that still wait at the end
	Cold      int     `json:"coldStarts"`         // calls that waited for a replica to start
	Starts    int     `json:"starts"`             // of replicas, pre-warmed ones too
	Decisions int     `json:"decisions"`
	WaitP50   float64 `json:"waitP50Seconds"` // for a replica, over all calls
	WaitP99   float64 `json:"waitP99Seconds"`
	WaitMax   float64 `json:"waitMaxSeconds"`
	IdleShare float64 `json:"idleShare"` // of the memory × time of all replicas, that of replicas without a call
	Memory    float64 `json:"memoryGiBHours"`
	Mean      float64 `json:"meanReplicas"`
	Peak      float64 `json:"peakReplicas"` // the largest of Replicas
	Every     float64 `json:"everySeconds"`
	// Replicas are there on the average of each step of Every.
	Replicas []float64 `json:"replicas"`
}

const defaultSteps = 48

// Run simulates a trace. Functions do not influence one another: nodes are as
// large as is needed.
func Run(t Trace, p Policy, o Options) Report {
	if o.Steps <= 0 {
		o.Steps = defaultSteps
	}
	calls := make([][]Call, len(t.Functions))
	for _, c := range t.Calls {
		calls[c.Function] = append(calls[c.Function], c)
	}
	total := &totals{step: max(t.Length/time.Duration(o.Steps), 1), replicas: make([]float64, o.Steps)}
	for i, f := range t.Functions {
		newRun(p, o, f, calls[i], t.Length, total).run()
	}
	return total.report(t, p)
}

// totals are sums over all functions, in bytes and seconds.
type totals struct {
	waits              []time.Duration
	cold, starts       int
	unserved, decided  int
	memory, busyMemory float64 // × time
	replicaTime        float64
	step               time.Duration
	replicas           []float64 // × time, by step
}

// pass counts what was there from one moment to another.
func (s *totals) pass(from, to time.Duration, memory uint64, replicas, busy int) {
	dt := (to - from).Seconds()
	s.memory += dt * float64(memory) * float64(replicas)
	s.busyMemory += dt * float64(memory) * float64(busy)
	s.replicaTime += dt * float64(replicas)
	for i := int(from / s.step); i < len(s.replicas) && from < to && replicas > 0; i++ {
		end := min(to, time.Duration(i+1)*s.step)
		s.replicas[i] += (end - from).Seconds() * float64(replicas)
		from = end
	}
}

func (s *totals) report(t Trace, p Policy) Report {
	r := Report{
		Policy: p.Name, Functions: len(t.Functions), Calls: len(t.Calls), Unserved: s.unserved, Cold: s.cold, Starts: s.starts, Decisions: s.decided,
		Memory: s.memory / (1 << 30) / 3600, Mean: s.replicaTime / max(t.Length.Seconds(), 1e-9), Every: s.step.Seconds(),
	}
	slices.Sort(s.waits)
	if n := len(s.waits); n > 0 {
		at := func(q float64) float64 { return s.waits[min(int(q*float64(n)), n-1)].Seconds() }
		r.WaitP50, r.WaitP99, r.WaitMax = at(0.5), at(0.99), s.waits[n-1].Seconds()
	}
	if s.memory > 0 {
		r.IdleShare = 1 - s.busyMemory/s.memory
	}
	for _, sum := range s.replicas {
		r.Replicas = append(r.Replicas, sum/s.step.Seconds())
		r.Peak = max(r.Peak, sum/s.step.Seconds())
	}
	return r
}

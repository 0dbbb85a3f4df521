package api

import "time"

// ScaleDecision is one decision about the number of a function's replicas,
// with what it was made of: "why 3 replicas?".
type ScaleDecision struct {
	Time   time.Time   `json:"time"`
	From   int         `json:"from"`             // replicas that were wanted before
	To     int         `json:"to"`               // and are from now on
	Rule   string      `json:"rule"`             // one word for what decided, such as load, window, idle; see docs/scaling.md
	Reason string      `json:"reason"`           // the same in a sentence, with its numbers
	Inputs ScaleInputs `json:"inputs"`           //
	Wishes []ScaleWish `json:"wishes,omitempty"` // the largest one counts, inside Inputs.Min..Max
	Idle   IdlePlan    `json:"idle"`

	// Decisions that repeat the one before, and change nothing, become one:
	// Repeated more of them were made, the first at Since. Inputs are those of
	// the last, but Arrived is their sum.
	Repeated int       `json:"repeated,omitempty"`
	Since    time.Time `json:"since,omitzero"`
}

// ScaleInputs is what was known at a decision.
type ScaleInputs struct {
	Min         int     `json:"min"`                   // what the function's labels allow, but for zero
	Max         int     `json:"max"`                   //
	Concurrency int     `json:"concurrency,omitempty"` // requests that a replica serves at a time; 0 is no limit
	Ready       int     `json:"ready"`                 // replicas that serve
	Queued      int     `json:"queued"`                // requests that wait for one
	InFlight    int     `json:"inFlight"`              // requests being served
	Pending     int     `json:"pending,omitempty"`     // asynchronous calls that are not done
	Arrived     int     `json:"arrived"`               // requests since the decision before
	Rate        float64 `json:"rate"`                  // requests a second, over the last 30 s
	CPU         float64 `json:"cpu,omitempty"`         // thousandths of a core a replica, mean of CPUReplicas
	CPUReplicas int     `json:"cpuReplicas,omitempty"` // that were measured; 0: the use of CPU is not known
	IdleSeconds float64 `json:"idleSeconds"`           // since the last request
	Settling    bool    `json:"settling,omitempty"`    // the control plane has just started: nothing is scaled down
}

// ScaleWish is the number of replicas that one measure alone asks for.
type ScaleWish struct {
	Measure  string  `json:"measure"` // concurrency, rps, capacity, cpu, queue
	Load     float64 `json:"load"`    // of all replicas, in the measure's unit
	Target   float64 `json:"target"`  // of one replica
	Replicas int     `json:"replicas"`
	Held     string  `json:"held,omitempty"` // why Replicas is less than load ÷ target
}

// IdlePlan is what is to become of replicas that have nothing to do.
type IdlePlan struct {
	// Tier that an idle replica should be in now: running, frozen, parked or
	// none; see docs/scaling.md.
	Tier string `json:"tier"`
	// KeepAliveSeconds is how long the last replica stays without a request; 0:
	// it is never ended.
	KeepAliveSeconds float64 `json:"keepAliveSeconds,omitempty"`
	// From says who has chosen it: label, default, or learned from the
	// function's own gaps between requests.
	From string `json:"from,omitempty"`
	// The next request is expected when the function has been idle for so long:
	// a replica is started before it. Zeros: that is not known.
	PrewarmSeconds      float64 `json:"prewarmSeconds,omitempty"`
	PrewarmUntilSeconds float64 `json:"prewarmUntilSeconds,omitempty"`
}

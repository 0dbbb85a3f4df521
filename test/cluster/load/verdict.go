package load

import (
	"slices"
	"time"
)

// Verdict is what a ledger says about a fault.
type Verdict struct {
	Sent, Failed int
	// Gap is the longest time without an answer of success.
	Gap time.Duration
	// Recovered is how long after the fault the first call was sent after which
	// none failed; 0 when none did. Whole is false when there is no such call.
	Recovered time.Duration
	Whole     bool
	// Faults are the reasons, with how often each was seen.
	Faults map[string]int
}

// Judge reads a ledger of which all calls are done, from the moment of a fault.
// Calls that had failed before it fail the verdict by their number alone.
func Judge(calls []Call, fault time.Duration) Verdict {
	v := Verdict{Sent: len(calls), Faults: map[string]int{}, Whole: len(calls) > 0}
	calls = slices.Clone(calls)
	slices.SortStableFunc(calls, func(a, b Call) int { return int(a.Sent - b.Sent) })
	var answers []time.Duration
	last := -1 // call that failed
	for i, c := range calls {
		if c.Fault == "" {
			answers = append(answers, c.Answered)
			continue
		}
		v.Failed++
		v.Faults[c.Fault]++
		if c.Answered >= fault {
			last = i
		}
	}
	slices.Sort(answers)
	for i := 1; i < len(answers); i++ {
		v.Gap = max(v.Gap, answers[i]-answers[i-1])
	}
	if last >= 0 {
		v.Whole = last+1 < len(calls)
		if v.Whole {
			v.Recovered = max(0, calls[last+1].Sent-fault)
		}
	}
	return v
}

// Quiet is how long no call has failed, seen from now: since the last one that
// failed, or is not answered yet, was sent.
func Quiet(calls []Call, now time.Duration) time.Duration {
	var last time.Duration
	for _, c := range calls {
		// One that was sent just now has had no time to be answered.
		if c.Fault != "" && (c.Answered > 0 || now-c.Sent > 200*time.Millisecond) {
			last = max(last, c.Sent)
		}
	}
	return now - last
}

// Accepted lists the ids of the calls that succeeded.
func Accepted(calls []Call) (ids []string) {
	for _, c := range calls {
		if c.Fault == "" {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

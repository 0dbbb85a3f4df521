package meter

import (
	"iter"
	"time"
)

// ColdStart is one call's way from finding no replica to its answer. Its times
// feed the metrics, the answer's Server-Timing and what is remembered of the
// call.
type ColdStart struct {
	Queued    time.Time // it began to wait
	Created   time.Time // there was a replica for it
	Placed    time.Time // that had a node
	Ready     time.Time // and took calls
	Granted   time.Time // the call had its place there
	Connected time.Time
	FirstByte time.Time
}

// Explained reports whether Created, Placed and Ready are of this start: the
// replica may have been made for somebody else, or by a control plane with
// another clock.
func (c *ColdStart) Explained() bool {
	return !c.Created.IsZero() && !c.Created.Before(c.Queued) && !c.Placed.Before(c.Created) && !c.Ready.Before(c.Placed) && !c.Granted.Before(c.Ready)
}

// Stages are the durations by name. Those of StageCreate to StageHandOut are
// parts of StageQueued.
func (c *ColdStart) Stages() iter.Seq2[string, time.Duration] {
	return func(yield func(string, time.Duration) bool) {
		type stage struct {
			name     string
			from, to time.Time
		}
		all := []stage{{StageQueued, c.Queued, c.Granted}}
		if c.Explained() {
			all = append(all, stage{StageCreate, c.Queued, c.Created}, stage{StagePlace, c.Created, c.Placed},
				stage{StageStart, c.Placed, c.Ready}, stage{StageHandOut, c.Ready, c.Granted})
		}
		all = append(all, stage{StageConnect, c.Granted, c.Connected}, stage{StageFirstByte, c.Connected, c.FirstByte})
		for _, s := range all {
			if !yield(s.name, s.to.Sub(s.from)) {
				return
			}
		}
	}
}

package autoscale

import "github.com/podsnap/podsnap/api"

// kept is how many decisions a History holds.
const kept = 32

// History is the last decisions on one function. The zero value is empty; it
// takes memory as decisions come.
type History struct {
	all []api.ScaleDecision // oldest first
}

// Add takes a decision in. One that changes nothing and repeats the one before
// becomes one with it; a function at rest at zero leaves no trace of that.
func (h *History) Add(d api.ScaleDecision) {
	if d.From == d.To && len(h.all) == 0 && d.To == 0 {
		return
	}
	if n := len(h.all); n > 0 && repeats(h.all[n-1], d) {
		last := &h.all[n-1]
		since := last.Since
		if last.Repeated == 0 {
			since = last.Time
		}
		arrived, repeated := last.Inputs.Arrived+d.Inputs.Arrived, last.Repeated+1
		*last = d
		last.Since, last.Repeated, last.Inputs.Arrived = since, repeated, arrived
		return
	}
	if len(h.all) == kept {
		copy(h.all, h.all[1:])
		h.all = h.all[:kept-1]
	}
	h.all = append(h.all, d)
}

func repeats(last, d api.ScaleDecision) bool {
	busy := func(d api.ScaleDecision) bool { return d.Inputs.Queued+d.Inputs.InFlight > 0 }
	return d.From == d.To && last.From == last.To && d.To == last.To && d.Rule == last.Rule && d.Idle.Tier == last.Idle.Tier && busy(d) == busy(last)
}

// All are the decisions, oldest first; the caller may keep them.
func (h *History) All() []api.ScaleDecision { return append([]api.ScaleDecision(nil), h.all...) }

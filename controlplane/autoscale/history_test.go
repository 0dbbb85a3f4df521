package autoscale

import (
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
)

func TestHistory(t *testing.T) {
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	made := func(s, from, to int, rule string, arrived int) api.ScaleDecision {
		return api.ScaleDecision{Time: at(s), From: from, To: to, Rule: rule, Inputs: api.ScaleInputs{Arrived: arrived}}
	}
	var h History
	h.Add(made(0, 0, 0, RuleAtZero, 0)) // never asked for: no trace
	if len(h.All()) != 0 {
		t.Fatalf("%+v", h.All())
	}
	h.Add(made(1, 0, 1, RuleWake, 1))
	h.Add(made(2, 1, 1, RuleLoad, 2))
	h.Add(made(3, 1, 1, RuleLoad, 3))
	h.Add(made(4, 1, 1, RuleLoad, 4))
	h.Add(made(5, 1, 2, RuleLoad, 5))
	h.Add(made(6, 2, 2, RuleLoad, 6))
	h.Add(made(7, 2, 2, RuleWindow, 7))
	h.Add(made(8, 2, 0, RuleIdle, 0))
	h.Add(made(9, 0, 0, RuleAtZero, 0))
	all := h.All()
	if len(all) != 7 {
		t.Fatalf("%d decisions: %+v", len(all), all)
	}
	if d := all[1]; d.Repeated != 2 || !d.Since.Equal(at(2)) || !d.Time.Equal(at(4)) || d.Inputs.Arrived != 9 {
		t.Errorf("three that are alike became %+v", d)
	}
	all[0].Reason = "mine"
	if h.All()[0].Reason != "" {
		t.Error("the caller's list is the history's")
	}
	for i := range 10 * kept {
		h.Add(made(100+i, i, i+1, RuleLoad, 1))
	}
	if all = h.All(); len(all) != kept || all[kept-1].To != 10*kept {
		t.Errorf("%d are kept, the last of them to %d", len(all), all[len(all)-1].To)
	}
}

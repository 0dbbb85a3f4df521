package functions

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestScaling(t *testing.T) {
	std := Scale{Min: 1, Max: 20, ZeroAfter: 15 * time.Minute, Target: 50, Proportion: 0.9, Factor: 20}
	for _, c := range []struct {
		labels string // "min=1 max=5", without the prefix
		change func(*Scale)
		faults string // part of the one fault; "" is none
	}{
		{"", func(*Scale) {}, ""},
		{"min=2 max=5", func(s *Scale) { s.Min, s.Max = 2, 5 }, ""},
		{"min=30", func(s *Scale) { s.Min, s.Max = 30, 30 }, ""},
		{"min=0", func(s *Scale) { s.Min = 0 }, ""},
		{"min=6 max=5", func(s *Scale) { s.Min, s.Max = 6, 6 }, "must not be more than com.openfaas.scale.max (5)"},
		{"max=0", func(*Scale) {}, "from 1 to 10000"},
		{"min=-1", func(*Scale) {}, "from 0 to 10000"},
		{"min=two", func(*Scale) {}, "whole number"},
		{"zero=true zero-duration=90", func(s *Scale) { s.Zero, s.ZeroAfter, s.ZeroGiven = true, 90*time.Second, true }, ""},
		{"zero=true zero-worth=2m", func(s *Scale) { s.Zero, s.ZeroAfter = true, 2*time.Minute }, ""},
		{"zero-duration=1m zero-worth=2m", func(s *Scale) { s.ZeroAfter, s.ZeroGiven = time.Minute, true }, "must not be there beside"},
		{"zero=yes", func(*Scale) {}, "true or false"},
		{"zero-duration=0", func(*Scale) {}, "at least 1s"},
		{"type=capacity target=10 target-proportion=0.5", func(s *Scale) { s.Type, s.Target, s.Proportion = "capacity", 10, 0.5 }, ""},
		{"target=10", func(s *Scale) { s.Type, s.Target = "rps", 10 }, ""},
		{"type=capacity target=10 target.cpu=500 target.queue=7.5", func(s *Scale) {
			s.Type, s.Target, s.Also = "capacity", 10, Targets{CPU: 500, Queue: 7.5}
		}, ""},
		{"target.rps=5", func(s *Scale) { s.Type, s.Target, s.Also.RPS = "rps", 5, 5 }, ""},
		{"target.capacity=0", func(*Scale) {}, "above 0"},
		{"target.disk=1", func(*Scale) {}, "is no scaling label"},
		{"type=magic", func(*Scale) {}, "one of rps, capacity, cpu, queue"},
		{"target=0", func(s *Scale) { s.Type = "rps" }, "above 0"},
		{"target=NaN", func(s *Scale) { s.Type = "rps" }, "above 0"},
		{"target-proportion=1.5", func(*Scale) {}, "up to 1"},
		{"down.window=2m", func(s *Scale) { s.DownWindow = 2 * time.Minute }, ""},
		{"down.window=6m", func(*Scale) {}, "from 0s to 5m0s"},
		{"factor=0", func(s *Scale) { s.Factor = 0 }, ""},
		{"factor=101", func(*Scale) {}, "from 0 to 100"},
		{"minimum=1", func(*Scale) {}, "is no scaling label"},
	} {
		labels := map[string]string{"other": "x"}
		for kv := range strings.FieldsSeq(c.labels) {
			k, v, _ := strings.Cut(kv, "=")
			labels[LabelScalePrefix+k] = v
		}
		want := std
		c.change(&want)
		if diff := cmp.Diff(want, Scaling(labels)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.labels, diff)
		}
		errs := ValidateScaling(labels, field.NewPath("labels"))
		switch {
		case c.faults == "" && len(errs) > 0:
			t.Errorf("%q: unexpected %v", c.labels, errs)
		case c.faults != "" && (len(errs) != 1 || !strings.Contains(errs[0].Error(), c.faults)):
			t.Errorf("%q: got %v, want one fault with %q", c.labels, errs, c.faults)
		}
	}
}

func TestTimeoutAndConcurrency(t *testing.T) {
	for _, c := range []struct {
		env         map[string]string
		timeout     time.Duration
		concurrency int
	}{
		{nil, 0, 0},
		{map[string]string{"exec_timeout": "2m", "write_timeout": "30"}, 2 * time.Minute, 0},
		{map[string]string{"exec_timeout": "0", "write_timeout": "30s", "max_inflight": "3"}, 30 * time.Second, 3},
		{map[string]string{"exec_timeout": "x", "max_inflight": "x"}, 0, 0},
		{map[string]string{"exec_timeout": "99999999999999999"}, 0, 0},
	} {
		f := &api.Function{Spec: api.FunctionSpec{Environment: c.env}}
		if got := Timeout(f); got != c.timeout {
			t.Errorf("%v: timeout %v, want %v", c.env, got, c.timeout)
		}
		if got := Concurrency(f); got != c.concurrency {
			t.Errorf("%v: concurrency %v, want %v", c.env, got, c.concurrency)
		}
	}
}

package horizontal

import (
	"math"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
)

// History is what was decided of late. Its zero value is that of an autoscaler
// that nothing is known of.
type History struct {
	proposals []note // numbers of replicas that the metrics asked for
	changes   []note // differences that were carried out
}

type note struct {
	at time.Time
	n  int32
}

const (
	downWindow = 5 * time.Minute // of stabilization, where nothing is said
	longest    = time.Hour       // that a rule may look back
)

// begin makes the present number the first proposal, so that who has just begun to
// look does not take away at once.
func (h *History) begin(replicas int32, now time.Time) {
	if len(h.proposals) == 0 {
		h.proposals = []note{{now, replicas}}
	}
}

// Changed notes that the number of replicas was changed.
func (h *History) Changed(from, to int32, now time.Time) {
	h.changes = append(recent(h.changes, now), note{now, to - from})
}

func recent(all []note, now time.Time) []note {
	return slices.DeleteFunc(all, func(n note) bool { return now.Sub(n.at) > longest })
}

// rules are those of a direction, with defaults for what is not said.
func rules(b *autoscalingv2.HorizontalPodAutoscalerBehavior, growing bool) autoscalingv2.HPAScalingRules {
	var r *autoscalingv2.HPAScalingRules
	if b != nil {
		r = b.ScaleDown
		if growing {
			r = b.ScaleUp
		}
	}
	if r == nil {
		r = &autoscalingv2.HPAScalingRules{}
	}
	out := *r
	if out.SelectPolicy == nil {
		out.SelectPolicy = new(autoscalingv2.MaxChangePolicySelect)
	}
	if out.Policies == nil {
		out.Policies = []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}}
		if growing {
			out.Policies = append(out.Policies, autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15})
		}
	}
	return out
}

func window(r autoscalingv2.HPAScalingRules, otherwise time.Duration) time.Duration {
	if r.StabilizationWindowSeconds == nil {
		return otherwise
	}
	return time.Duration(*r.StabilizationWindowSeconds) * time.Second
}

// stabilize notes a proposal and answers with one that its neighbours in time
// agree to: no more than the lowest of the window for growing, no less than the
// highest of that for shrinking.
func (h *History) stabilize(b *autoscalingv2.HorizontalPodAutoscalerBehavior, replicas, want int32, now time.Time) int32 {
	upMost, downLeast := want, want
	upFrom, downFrom := now.Add(-window(rules(b, true), 0)), now.Add(-window(rules(b, false), downWindow))
	for _, p := range h.proposals {
		if p.at.After(upFrom) {
			upMost = min(upMost, p.n)
		}
		if p.at.After(downFrom) {
			downLeast = max(downLeast, p.n)
		}
	}
	h.proposals = append(recent(h.proposals, now), note{now, want})
	return min(max(replicas, upMost), downLeast)
}

// limitation is why a number of replicas is not the one that was wanted.
type limitation struct{ reason, message string }

// limit keeps a number within the rates of change and the bounds.
func (h *History) limit(b *autoscalingv2.HorizontalPodAutoscalerBehavior, replicas, want, least, most int32, now time.Time) (int32, *limitation) {
	switch {
	case want > replicas:
		l := limitation{"TooManyReplicas", "the desired replica count is more than the maximum replica count"}
		if rate := max(replicas, h.rate(rules(b, true), replicas, now, true)); rate < most {
			most, l = rate, limitation{"ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"}
		}
		if want > most {
			return most, &l
		}
	case want < replicas:
		l := limitation{"TooFewReplicas", "the desired replica count is less than the minimum replica count"}
		if rate := min(replicas, h.rate(rules(b, false), replicas, now, false)); rate > least {
			least, l = rate, limitation{"ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"}
		}
		if want < least {
			return least, &l
		}
	}
	return want, nil
}

// rate is the number that the rules of a direction allow now.
func (h *History) rate(r autoscalingv2.HPAScalingRules, replicas int32, now time.Time, growing bool) int32 {
	if *r.SelectPolicy == autoscalingv2.DisabledPolicySelect {
		return replicas
	}
	var out int32
	for i, p := range r.Policies {
		before := replicas
		for _, c := range h.changes {
			if c.at.After(now.Add(-time.Duration(p.PeriodSeconds) * time.Second)) {
				before -= c.n
			}
		}
		n := allowed(p, before, growing)
		most := growing == (*r.SelectPolicy != autoscalingv2.MinChangePolicySelect)
		switch {
		case i == 0:
			out = n
		case most:
			out = max(out, n)
		default:
			out = min(out, n)
		}
	}
	return out
}

// allowed is how far a policy lets a number go within its time.
func allowed(p autoscalingv2.HPAScalingPolicy, before int32, growing bool) int32 {
	change := float64(p.Value)
	if p.Type == autoscalingv2.PercentScalingPolicy {
		change = float64(before) * float64(p.Value) / 100
	}
	if growing {
		return int32(min(math.Ceil(float64(before)+change-1e-9), math.MaxInt32))
	}
	return int32(max(math.Trunc(float64(before)-change+1e-9), math.MinInt32))
}

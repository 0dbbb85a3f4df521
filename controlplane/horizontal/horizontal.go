// Package horizontal decides how many replicas a HorizontalPodAutoscaler wants:
// from what its pods use, what they ask for, and what it has decided of late. It
// does nothing else.
package horizontal

import (
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Sample is what a pod has used over a time.
type Sample struct {
	Time       time.Time // end of the time
	Window     time.Duration
	Containers map[string]Use
}

// Use is of resources.
type Use struct {
	Milli  float64 // thousandths of a core
	Memory uint64  // bytes
}

// Input is what a decision is made of.
type Input struct {
	Autoscaler *autoscalingv2.HorizontalPodAutoscaler
	Replicas   int32         // that the target asks for
	Pods       []*corev1.Pod // of the target
	Use        map[types.UID]Sample
	Now        time.Time
}

// Decision is what comes of it.
type Decision struct {
	Replicas int32                                           // that the target is to ask for
	Rescale  bool                                            // it asks for another number
	Reason   string                                          // of that
	Status   autoscalingv2.HorizontalPodAutoscalerStatus     // without the outcome of the write
	Fault    *autoscalingv2.HorizontalPodAutoscalerCondition // why there is no decision; nil is that there is one
}

// Decide makes a decision and notes it in the history.
func Decide(in Input, h *History) Decision {
	a := in.Autoscaler
	d := Decision{Replicas: in.Replicas, Status: *a.Status.DeepCopy()}
	d.Status.ObservedGeneration = &a.Generation
	d.Status.CurrentReplicas, d.Status.DesiredReplicas = in.Replicas, in.Replicas
	d.Status.CurrentMetrics = nil
	least := int32(1)
	if a.Spec.MinReplicas != nil {
		least = *a.Spec.MinReplicas
	}
	h.begin(in.Replicas, in.Now)
	switch {
	case in.Replicas == 0 && least != 0:
		d.set(in.Now, autoscalingv2.ScalingActive, false, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
		d.Status.DesiredReplicas = 0
		return d
	case in.Replicas > a.Spec.MaxReplicas:
		d.Replicas, d.Reason = a.Spec.MaxReplicas, "Current number of replicas above Spec.MaxReplicas"
	case in.Replicas < least:
		d.Replicas, d.Reason = least, "Current number of replicas below Spec.MinReplicas"
	default:
		if !d.byMetrics(in, h, least) {
			return d
		}
	}
	d.Rescale = d.Replicas != in.Replicas
	d.Status.DesiredReplicas = d.Replicas
	return d
}

// byMetrics is false when the metrics allow no decision.
func (d *Decision) byMetrics(in Input, h *History, least int32) bool {
	a := in.Autoscaler
	want, name, bad := d.propose(in)
	if bad != nil {
		d.Fault = d.set(in.Now, autoscalingv2.ScalingActive, false, bad.reason, bad.message)
		return false
	}
	d.set(in.Now, autoscalingv2.ScalingActive, true, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from "+name)
	stable := h.stabilize(a.Spec.Behavior, in.Replicas, want, in.Now)
	switch {
	case stable == want:
		d.set(in.Now, autoscalingv2.AbleToScale, true, "ReadyForNewScale", "recommended size matches current size")
	case want > in.Replicas:
		d.set(in.Now, autoscalingv2.AbleToScale, true, "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation")
	default:
		d.set(in.Now, autoscalingv2.AbleToScale, true, "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation")
	}
	var limit *limitation
	d.Replicas, limit = h.limit(a.Spec.Behavior, in.Replicas, stable, least, a.Spec.MaxReplicas, in.Now)
	if limit != nil {
		d.set(in.Now, autoscalingv2.ScalingLimited, true, limit.reason, limit.message)
	} else {
		d.set(in.Now, autoscalingv2.ScalingLimited, false, "DesiredWithinRange", "the desired count is within the acceptable range")
	}
	switch {
	case d.Replicas > in.Replicas:
		d.Reason = name + " above target"
	case d.Replicas < in.Replicas:
		d.Reason = "All metrics below target"
	}
	return true
}

// propose is the most that a metric asks for, and its name. A metric that cannot
// be read keeps the others from taking replicas away.
func (d *Decision) propose(in Input) (want int32, name string, bad *fault) {
	var first *fault
	for i := range in.Autoscaler.Spec.Metrics {
		m := &in.Autoscaler.Spec.Metrics[i]
		n, title, st, err := in.metric(m)
		if err != nil {
			if first == nil {
				first = err
			}
			continue
		}
		d.Status.CurrentMetrics = append(d.Status.CurrentMetrics, st)
		if name == "" || n > want {
			want, name = n, title
		}
	}
	if first != nil && (name == "" || want < in.Replicas) {
		return 0, "", first
	}
	return want, name, nil
}

// set writes a condition and answers with it.
func (d *Decision) set(now time.Time, t autoscalingv2.HorizontalPodAutoscalerConditionType, yes bool, reason, message string) *autoscalingv2.HorizontalPodAutoscalerCondition {
	return SetCondition(&d.Status, now, t, yes, reason, message)
}

// SetCondition writes a condition into a status and answers with a copy of it.
func SetCondition(st *autoscalingv2.HorizontalPodAutoscalerStatus, now time.Time, t autoscalingv2.HorizontalPodAutoscalerConditionType, yes bool, reason, message string) *autoscalingv2.HorizontalPodAutoscalerCondition {
	next := autoscalingv2.HorizontalPodAutoscalerCondition{
		Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
	}
	if yes {
		next.Status = corev1.ConditionTrue
	}
	for i := range st.Conditions {
		c := &st.Conditions[i]
		if c.Type != t {
			continue
		}
		if c.Status == next.Status {
			next.LastTransitionTime = c.LastTransitionTime
		}
		*c = next
		return &next
	}
	st.Conditions = append(st.Conditions, next)
	return &next
}

// fault is why a metric cannot be used.
type fault struct{ reason, message string }

func faultf(reason, format string, args ...any) *fault {
	return &fault{reason, fmt.Sprintf(format, args...)}
}

// Package disruption says how many pods of a PodDisruptionBudget may be evicted
// now, as Kubernetes does: by how many are healthy, and how many there should be.
package disruption

import (
	"context"
	"fmt"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/podstate"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Patience is how long a pod whose eviction was granted counts as gone though it
// is not.
const Patience = 2 * time.Minute

// Selector is the pods that a budget is for: an empty one is for all of its
// namespace, none for none.
func Selector(b *policyv1.PodDisruptionBudget) labels.Selector {
	s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return labels.Nothing() // the API refuses those
	}
	return s
}

// Status is a budget's, by its pods and the number of pods that their controllers
// are to have, together. again is when it has to be worked out anew though nothing
// changes; 0 is never.
func Status(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod, scale int32, now time.Time) (s policyv1.PodDisruptionBudgetStatus, again time.Duration) {
	b.Status.DeepCopyInto(&s)
	s.ObservedGeneration = b.Generation
	s.ExpectedPods, s.DesiredHealthy = wanted(&b.Spec, int32(len(pods)), scale)
	s.CurrentHealthy, s.DisruptedPods = 0, nil
	for _, p := range pods {
		if p.DeletionTimestamp != nil {
			continue
		}
		if since, granted := b.Status.DisruptedPods[p.Name]; granted {
			if left := since.Add(Patience).Sub(now); left > 0 {
				if s.DisruptedPods == nil {
					s.DisruptedPods = map[string]metav1.Time{}
				}
				s.DisruptedPods[p.Name] = since
				if again == 0 || left < again {
					again = left
				}
				continue
			}
		}
		if podstate.Ready(p) {
			s.CurrentHealthy++
		}
	}
	s.DisruptionsAllowed = 0
	if s.ExpectedPods > 0 {
		s.DisruptionsAllowed = max(0, s.CurrentHealthy-s.DesiredHealthy)
	}
	c := metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason, ObservedGeneration: b.Generation}
	if s.DisruptionsAllowed > 0 {
		c.Status, c.Reason = metav1.ConditionTrue, policyv1.SufficientPodsReason
	}
	meta.SetStatusCondition(&s.Conditions, c)
	return s, again
}

// wanted is how many pods there should be, and how many of them healthy.
func wanted(spec *policyv1.PodDisruptionBudgetSpec, there, scale int32) (expected, healthy int32) {
	switch {
	case spec.MaxUnavailable != nil:
		return scale, max(0, scale-share(spec.MaxUnavailable, scale))
	case spec.MinAvailable == nil:
		return there, 0
	case spec.MinAvailable.Type == intstr.Int:
		return there, spec.MinAvailable.IntVal
	}
	return scale, share(spec.MinAvailable, scale)
}

// share is a number, or a part of all, rounded up.
func share(v *intstr.IntOrString, all int32) int32 {
	n, err := intstr.GetScaledValueFromIntOrPercent(v, int(all), true)
	if err != nil {
		return 0 // the API refuses those
	}
	return int32(n)
}

// Grant answers with nil when a pod may be evicted, and counts it in its budget
// then. Otherwise it is a TooManyRequests that names the budget.
func Grant(ctx context.Context, o api.Objects, pod *corev1.Pod) error {
	if pod.DeletionTimestamp != nil || podstate.Ended(pod) || pod.Status.Phase == corev1.PodPending {
		return nil // nothing is disrupted
	}
	all, err := api.Items[*policyv1.PodDisruptionBudget](ctx, o, api.PodDisruptionBudgets, api.ListOptions{Namespace: pod.Namespace})
	if err != nil {
		return err
	}
	var budget *policyv1.PodDisruptionBudget
	for _, b := range all {
		if !Selector(b).Matches(labels.Set(pod.Labels)) {
			continue
		}
		if budget != nil {
			return apierrors.NewInternalError(fmt.Errorf("the pod has more than one PodDisruptionBudget (%s, %s), which eviction does not support", budget.Name, b.Name))
		}
		budget = b
	}
	if budget == nil {
		return nil
	}
	_, err = api.Mutate(ctx, o, api.PodDisruptionBudgets, budget.Namespace, budget.Name, api.UpdateOptions{Subresource: "status"}, func(b *policyv1.PodDisruptionBudget) (bool, error) {
		if !podstate.Ready(pod) && spared(b) {
			return false, nil
		}
		return true, take(b, pod.Name)
	})
	if apierrors.IsNotFound(err) {
		return nil // so there is none any more
	}
	return err
}

// spared tells whether a pod that is not ready may go without being counted.
func spared(b *policyv1.PodDisruptionBudget) bool {
	if p := b.Spec.UnhealthyPodEvictionPolicy; p != nil && *p == policyv1.AlwaysAllow {
		return true
	}
	return b.Status.DesiredHealthy > 0 && b.Status.CurrentHealthy >= b.Status.DesiredHealthy
}

// take counts a pod's eviction, if there is room for one.
func take(b *policyv1.PodDisruptionBudget, pod string) error {
	switch {
	case b.Status.ObservedGeneration < b.Generation:
		return refuse(10, fmt.Sprintf("The disruption budget %s is still being processed by the server.", b.Name))
	case b.Status.DisruptionsAllowed <= 0:
		return refuse(0, fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy))
	}
	b.Status.DisruptionsAllowed--
	if b.Status.DisruptionsAllowed == 0 {
		meta.SetStatusCondition(&b.Status.Conditions, metav1.Condition{
			Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason, ObservedGeneration: b.Generation,
		})
	}
	if b.Status.DisruptedPods == nil {
		b.Status.DisruptedPods = map[string]metav1.Time{}
	}
	b.Status.DisruptedPods[pod] = metav1.Now()
	return nil
}

func refuse(retry int, why string) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", retry)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: why})
	return err
}

package scheduler

import (
	"context"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// tell writes the condition that says why a pod has no node, and on which one
// others make way for it, if they do.
func (s *Scheduler) tell(ctx context.Context, pod *corev1.Pod, why, nominated string) error {
	return s.condition(ctx, pod, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: why,
	}, nominated)
}

// untell takes that back, where it was said, once the pod has a node.
func (s *Scheduler) untell(ctx context.Context, pod *corev1.Pod) error {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return s.condition(ctx, pod, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, "")
		}
	}
	return nil
}

func (s *Scheduler) condition(ctx context.Context, pod *corev1.Pod, c corev1.PodCondition, nominated string) error {
	_, err := api.Mutate(ctx, s.c.Objects, api.Pods, pod.Namespace, pod.Name, api.UpdateOptions{Subresource: "status"}, func(p *corev1.Pod) (bool, error) {
		if p.UID != pod.UID || c.Status == corev1.ConditionFalse && p.Spec.NodeName != "" {
			return false, nil
		}
		renamed := p.Status.NominatedNodeName != nominated
		p.Status.NominatedNodeName = nominated
		return set(&p.Status, c) || renamed, nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// set reports whether it changed anything.
func set(s *corev1.PodStatus, c corev1.PodCondition) bool {
	c.LastTransitionTime = metav1.Now()
	for i := range s.Conditions {
		o := &s.Conditions[i]
		if o.Type != c.Type {
			continue
		}
		if o.Status == c.Status && o.Reason == c.Reason && o.Message == c.Message {
			return false
		}
		if o.Status == c.Status {
			c.LastTransitionTime = o.LastTransitionTime
		}
		*o = c
		return true
	}
	s.Conditions = append(s.Conditions, c)
	return true
}

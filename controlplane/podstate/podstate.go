// Package podstate reads a pod's status: active, ready, available, failed, and
// why a pod does not come up.
package podstate

import (
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Ended reports whether the pod will run nothing any more.
func Ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// Active reports whether the pod counts as a replica: neither ended nor deleted.
func Active(p *corev1.Pod) bool { return p.DeletionTimestamp == nil && !Ended(p) }

// Same reports whether nothing has changed that counts for who keeps pods in
// number or in service: most updates of a pod tell only how far its start is.
func Same(old, now *corev1.Pod) bool {
	return old.UID == now.UID && Ended(old) == Ended(now) && Ready(old) == Ready(now) &&
		(old.DeletionTimestamp == nil) == (now.DeletionTimestamp == nil) &&
		old.Spec.NodeName == now.Spec.NodeName && old.Status.PodIP == now.Status.PodIP && Restarts(old) == Restarts(now) &&
		maps.Equal(old.Labels, now.Labels) && slices.EqualFunc(old.OwnerReferences, now.OwnerReferences, sameOwner)
}

func sameOwner(a, b metav1.OwnerReference) bool { return a.UID == b.UID }

// Condition finds a condition; nil when there is none of the type.
func Condition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// Ready reports whether the pod says it can serve.
func Ready(p *corev1.Pod) bool {
	c := Condition(p, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// Available reports whether the pod has been ready for least. When it is ready
// but not for long enough, wait is the time that is left.
func Available(p *corev1.Pod, least time.Duration, now time.Time) (ok bool, wait time.Duration) {
	c := Condition(p, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return false, 0
	}
	left := least - now.Sub(c.LastTransitionTime.Time)
	if least == 0 || left <= 0 {
		return true, 0
	}
	return false, left
}

// EndTime is when an ended pod's last container finished, as far as is known;
// the time of its creation otherwise.
func EndTime(p *corev1.Pod) time.Time {
	t := p.CreationTimestamp.Time
	for _, s := range p.Status.ContainerStatuses {
		if s.State.Terminated != nil && s.State.Terminated.FinishedAt.After(t) {
			t = s.State.Terminated.FinishedAt.Time
		}
	}
	if c := Condition(p, corev1.PodReady); c != nil && c.LastTransitionTime.After(t) {
		t = c.LastTransitionTime.Time
	}
	return t
}

// Restarts is the number of restarts of all its containers.
func Restarts(p *corev1.Pod) int32 {
	var n int32
	for i := range p.Status.ContainerStatuses {
		n += p.Status.ContainerStatuses[i].RestartCount
	}
	return n
}

// Trouble says why a pod does not come up and will not without help: the
// reason a container waits for, or that no node has room. "" is no trouble. The
// message is the same as long as the trouble is: times that grow stay out of
// it, as each would be a write of every status that quotes it.
func Trouble(p *corev1.Pod) (reason, message string) {
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for i := range list {
			w := list[i].State.Waiting
			if w == nil {
				continue
			}
			switch w.Reason {
			case "", "ContainerCreating", "PodInitializing", "Pulling":
				continue
			}
			if w.Reason == "CrashLoopBackOff" {
				return w.Reason, crashing(&list[i])
			}
			return w.Reason, w.Message
		}
	}
	if c := Condition(p, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionFalse && p.Spec.NodeName == "" {
		return c.Reason, c.Message
	}
	if p.Status.Phase == corev1.PodFailed {
		if p.Status.Reason != "" {
			return p.Status.Reason, p.Status.Message
		}
		return "Failed", p.Status.Message
	}
	return "", ""
}

func crashing(s *corev1.ContainerStatus) string {
	m := "Container " + s.Name + " ends each time it is started"
	if t := s.LastTerminationState.Terminated; t != nil {
		m = fmt.Sprintf("%s; it last ended with %s, exit code %d", m, t.Reason, t.ExitCode)
		if t.Message != "" {
			m += ": " + t.Message
		}
	}
	return m
}

// LastEnd is how the container of the pod that ended last has ended, of those
// that were or are to be started again; nil when none has.
func LastEnd(p *corev1.Pod) *corev1.ContainerStateTerminated {
	var last *corev1.ContainerStateTerminated
	for i := range p.Status.ContainerStatuses {
		s := &p.Status.ContainerStatuses[i]
		t := s.State.Terminated
		if t == nil {
			t = s.LastTerminationState.Terminated
		}
		if t != nil && (last == nil || last.FinishedAt.Before(&t.FinishedAt)) {
			last = t
		}
	}
	return last
}

package deployment

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// status works out what the deployment's status is, and when it will change
// by time alone.
func status(s state, p plan, now time.Time) (appsv1.DeploymentStatus, time.Duration) {
	d := s.d
	st := *d.Status.DeepCopy()
	st.ObservedGeneration = d.Generation
	st.Replicas, st.UpdatedReplicas, st.ReadyReplicas, st.AvailableReplicas = 0, 0, 0, 0
	asked := 0
	for _, m := range s.all {
		st.Replicas += int32(m.pods)
		st.ReadyReplicas += int32(m.ready)
		st.AvailableReplicas += int32(m.available)
		asked += m.spec()
	}
	if s.cur != nil {
		st.UpdatedReplicas = int32(s.cur.pods)
	}
	st.UnavailableReplicas = max(0, int32(asked)-st.AvailableReplicas)

	_, unavailable := limits(d)
	if int(st.AvailableReplicas) >= replicas(d.Spec.Replicas)-unavailable {
		set(&st, now, appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.")
	} else {
		set(&st, now, appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
	}
	failure(&st, s, now)
	return st, progress(&st, s, p, now)
}

// failure hands on that a set can't create pods.
func failure(st *appsv1.DeploymentStatus, s state, now time.Time) {
	for _, m := range slices.Backward(s.all) {
		for _, c := range m.rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
				set(st, now, appsv1.DeploymentReplicaFailure, corev1.ConditionTrue, c.Reason, c.Message)
				return
			}
		}
	}
	st.Conditions = slices.DeleteFunc(st.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == appsv1.DeploymentReplicaFailure })
}

// progress keeps the Progressing condition. A rollout that has nothing new to
// show for progressDeadlineSeconds has failed; a deployment that was complete
// and is scaled is not a rollout.
func progress(st *appsv1.DeploymentStatus, s state, p plan, now time.Time) time.Duration {
	d, deadline := s.d, time.Duration(0)
	switch n := d.Spec.ProgressDeadlineSeconds; {
	case n == nil:
		deadline = 10 * time.Minute
	case *n != math.MaxInt32: // that is none
		deadline = time.Duration(*n) * time.Second
	}
	c := condition(st, appsv1.DeploymentProgressing)
	say := func(status corev1.ConditionStatus, reason, message string) {
		set(st, now, appsv1.DeploymentProgressing, status, reason, message)
	}
	switch {
	case d.Spec.Paused:
		if c == nil || c.Reason != "DeploymentPaused" && c.Reason != "ProgressDeadlineExceeded" {
			say(corev1.ConditionUnknown, "DeploymentPaused", "Deployment is paused")
		}
		return 0
	case c != nil && c.Reason == "DeploymentPaused":
		say(corev1.ConditionUnknown, "DeploymentResumed", "Deployment is resumed")
		return deadline
	case p.create != nil:
		say(corev1.ConditionTrue, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", p.create.Name))
		return deadline
	case s.cur == nil:
		return 0
	case complete(d, st):
		if c == nil || c.Reason != "NewReplicaSetAvailable" {
			say(corev1.ConditionTrue, "NewReplicaSetAvailable", fmt.Sprintf("ReplicaSet %q has successfully progressed.", s.cur.rs.Name))
		}
		return 0
	case c != nil && c.Reason == "NewReplicaSetAvailable" && st.Replicas == st.UpdatedReplicas && len(rolling(s)) == 0:
		return 0
	case c == nil || moved(&d.Status, st) || c.Reason == "NewReplicaSetAvailable":
		touch(st, now, fmt.Sprintf("ReplicaSet %q is progressing.", s.cur.rs.Name))
		return deadline
	case deadline == 0 || c.Reason == "ProgressDeadlineExceeded":
		return 0
	}
	if left := deadline - now.Sub(c.LastUpdateTime.Time); left > 0 {
		return left
	}
	say(corev1.ConditionFalse, "ProgressDeadlineExceeded", fmt.Sprintf("ReplicaSet %q has timed out progressing.", s.cur.rs.Name))
	return 0
}

// rolling are the old sets that are still asked for replicas.
func rolling(s state) []*member {
	var out []*member
	for _, m := range s.old {
		if m.spec() > 0 {
			out = append(out, m)
		}
	}
	return out
}

func complete(d *appsv1.Deployment, st *appsv1.DeploymentStatus) bool {
	want := int32(replicas(d.Spec.Replicas))
	return st.UpdatedReplicas == want && st.Replicas == want && st.AvailableReplicas == want
}

// moved reports whether the rollout has something new to show.
func moved(was, is *appsv1.DeploymentStatus) bool {
	return is.UpdatedReplicas > was.UpdatedReplicas ||
		is.Replicas-is.UpdatedReplicas < was.Replicas-was.UpdatedReplicas ||
		is.ReadyReplicas > was.ReadyReplicas || is.AvailableReplicas > was.AvailableReplicas
}

func condition(st *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range st.Conditions {
		if st.Conditions[i].Type == t {
			return &st.Conditions[i]
		}
	}
	return nil
}

// set puts a condition where it says something new.
func set(st *appsv1.DeploymentStatus, now time.Time, t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	n := appsv1.DeploymentCondition{
		Type: t, Status: status, Reason: reason, Message: message,
		LastUpdateTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
	}
	c := condition(st, t)
	if c == nil {
		st.Conditions = append(st.Conditions, n)
		return
	}
	if c.Status == status && c.Reason == reason && c.Message == message {
		return
	}
	if c.Status == status {
		n.LastTransitionTime = c.LastTransitionTime
	}
	*c = n
}

// touch says that the rollout moves on, and when it last did.
func touch(st *appsv1.DeploymentStatus, now time.Time, message string) {
	set(st, now, appsv1.DeploymentProgressing, corev1.ConditionTrue, "ReplicaSetUpdated", message)
	condition(st, appsv1.DeploymentProgressing).LastUpdateTime = metav1.NewTime(now)
}

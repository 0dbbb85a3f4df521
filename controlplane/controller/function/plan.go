package function

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/podstate"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The types of a Function's conditions.
const (
	condReady       = "Ready"       // it can answer: a replica is available, or the first call starts one
	condHealthy     = "Healthy"     // as many replicas as asked for are available
	condReconciling = "Reconciling" // a change is on its way
	condStalled     = "Stalled"     // and will not arrive without help
)

// status works out a function's status from its deployment (nil: there is none)
// and its pods. applyErr is why the deployment could not be brought in line.
func status(f *api.Function, d *appsv1.Deployment, pods []*corev1.Pod, applyErr error, now time.Time) api.FunctionStatus {
	st := f.Status
	st.Conditions = slices.Clone(f.Status.Conditions)
	st.ObservedGeneration = f.Generation
	st.Replicas, st.AvailableReplicas, st.UnavailableReplicas = 0, 0, 0
	if d != nil {
		st.Replicas = 1
		if d.Spec.Replicas != nil {
			st.Replicas = *d.Spec.Replicas
		}
		st.AvailableReplicas = d.Status.AvailableReplicas
		st.UnavailableReplicas = max(0, st.Replicas-st.AvailableReplicas)
	}
	ps := replicas(pods)
	st.Restarts, st.LastTermination = ends(ps)
	reason, message := trouble(d, ps, applyErr)
	say := func(t string, is bool, reason, message string) {
		c := metav1.Condition{
			Type: t, Status: metav1.ConditionFalse, Reason: reason, Message: message,
			ObservedGeneration: f.Generation, LastTransitionTime: metav1.NewTime(now),
		}
		if is {
			c.Status = metav1.ConditionTrue
		}
		apimeta.SetStatusCondition(&st.Conditions, c)
	}
	switch {
	case st.AvailableReplicas > 0:
		say(condReady, true, "ReplicasAvailable", fmt.Sprintf("%d of %d replicas are available.", st.AvailableReplicas, st.Replicas))
	case reason != "":
		say(condReady, false, reason, message)
	case d != nil && st.Replicas == 0:
		say(condReady, true, "ScaledToZero", "The first call starts a replica.")
	default:
		say(condReady, false, "NoReplicaAvailable", "No replica is available yet.")
	}
	switch {
	case d != nil && st.UnavailableReplicas == 0 && reason == "":
		say(condHealthy, true, "AllAvailable", fmt.Sprintf("%d replicas are asked for and available.", st.Replicas))
	case reason != "":
		say(condHealthy, false, reason, message)
	default:
		say(condHealthy, false, "ReplicasUnavailable", fmt.Sprintf("%d of %d replicas are not available.", st.UnavailableReplicas, st.Replicas))
	}
	if moving(d, st.Replicas) {
		say(condReconciling, true, "Progressing", "Replicas are being brought in line with the function.")
	} else {
		say(condReconciling, false, "Settled", "Replicas are as the function says.")
	}
	if reason != "" {
		say(condStalled, true, reason, message)
	} else {
		say(condStalled, false, "NoFault", "Nothing stands in the way.")
	}
	return st
}

// moving reports whether the deployment still has to do something.
func moving(d *appsv1.Deployment, want int32) bool {
	return d == nil || d.Status.ObservedGeneration < d.Generation || d.Status.UpdatedReplicas != want ||
		d.Status.Replicas != want || d.Status.AvailableReplicas != want
}

// replicas are the pods that are to run, the newest first.
func replicas(pods []*corev1.Pod) []*corev1.Pod {
	ps := slices.DeleteFunc(slices.Clone(pods), func(p *corev1.Pod) bool { return !podstate.Active(p) })
	slices.SortFunc(ps, func(a, b *corev1.Pod) int {
		if c := b.CreationTimestamp.Compare(a.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return ps
}

// ends counts the restarts of pods and finds the end that came last.
func ends(pods []*corev1.Pod) (restarts int32, last *api.FunctionTermination) {
	for _, p := range pods {
		restarts += podstate.Restarts(p)
		t := podstate.LastEnd(p)
		if t == nil || last != nil && !last.Time.Before(&t.FinishedAt) {
			continue
		}
		last = &api.FunctionTermination{Pod: p.Name, Reason: t.Reason, ExitCode: t.ExitCode, Time: t.FinishedAt}
	}
	return restarts, last
}

// trouble is why replicas don't come up: the newest pod's reason, else the
// deployment's. Pods of an older revision don't count: they are on their way
// out, and what holds them up need not hold up the new ones.
func trouble(d *appsv1.Deployment, ps []*corev1.Pod, applyErr error) (reason, message string) {
	if applyErr != nil {
		return "ApplyFailed", applyErr.Error()
	}
	for _, p := range ps {
		if older := p.CreationTimestamp.Before(&ps[0].CreationTimestamp); older && p.Labels[api.LabelPodTemplateHash] != ps[0].Labels[api.LabelPodTemplateHash] {
			continue
		}
		if r, m := podstate.Trouble(p); r != "" {
			return r, strings.TrimSuffix("Pod "+p.Name+": "+m, ": ")
		}
	}
	if d == nil {
		return "", ""
	}
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue ||
			c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse {
			return c.Reason, c.Message
		}
	}
	return "", ""
}

package fleet

import (
	"net"
	"strconv"
	"time"

	"github.com/podsnap/podsnap/api"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// state is how a pod stands to the gateways.
type state struct {
	endpoint api.Endpoint
	draining bool
	frost    *frost // shared by all copies, guarded by the fleet's lock
}

// view is what a pod means to a gateway: nothing, ready or draining.
func view(p *corev1.Pod) (s state, there bool) {
	s.endpoint = endpoint(p)
	if s.endpoint.Address == "" || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		return s, false
	}
	if p.DeletionTimestamp != nil {
		s.draining = true
		return s, p.Annotations[api.AnnotationDrained] == ""
	}
	return s, condition(p, corev1.PodReady) == corev1.ConditionTrue
}

func endpoint(p *corev1.Pod) api.Endpoint {
	e := api.Endpoint{Pod: p.UID, Name: p.Name, Node: p.Spec.NodeName}
	port := int32(api.FunctionPort)
	for _, c := range p.Spec.Containers[:min(1, len(p.Spec.Containers))] {
		for _, cp := range c.Ports[:min(1, len(c.Ports))] {
			port = cp.ContainerPort
		}
	}
	if p.Status.PodIP != "" {
		e.Address = net.JoinHostPort(p.Status.PodIP, strconv.Itoa(int(port)))
	}
	e.Concurrency, _ = strconv.Atoi(p.Annotations[api.AnnotationConcurrency]) // absent is 0: no limit
	e.Timeout, _ = time.ParseDuration(p.Annotations[api.AnnotationTimeout])
	return e
}

// fresh is how old a pod may look that has just been made: its own time is
// whole seconds, and not of this process's clock.
const fresh = 2 * time.Second

// startOf notes how far a replica's start has come, as this process sees it: a
// pod's own times are whole seconds. f.mu is held.
func (f *Fleet) startOf(p *corev1.Pod, t api.EventType, ready bool) api.Start {
	if t == api.Deleted {
		defer delete(f.starts, p.UID)
	}
	s, known := f.starts[p.UID]
	now := time.Now().Round(0).UTC()
	if !known && (t != api.Added || now.Sub(p.CreationTimestamp.Time) > fresh) {
		return s // it may be older than this process
	}
	for _, step := range []struct {
		at   *time.Time
		done bool
	}{{&s.Created, true}, {&s.Placed, p.Spec.NodeName != ""}, {&s.Ready, ready}} {
		if step.at.IsZero() && step.done {
			*step.at = now
		}
	}
	f.starts[p.UID] = s
	return s
}

func condition(p *corev1.Pod, t corev1.PodConditionType) corev1.ConditionStatus {
	for _, c := range p.Status.Conditions {
		if c.Type == t {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}

func functionOf(p *corev1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: p.Namespace, Name: p.Labels[api.LabelFunction]}
}

// podChanged turns changes of pods into events for the gateways.
func (f *Fleet) podChanged(t api.EventType, old, now *corev1.Pod) {
	p := now
	if t == api.Deleted {
		p = old
	}
	k := functionOf(p)
	s, there := view(p)
	if t == api.Deleted {
		there = false
	}
	f.mu.Lock()
	fn := f.of(k)
	s.endpoint.Start = f.startOf(p, t, there && !s.draining)
	before, was := fn.endpoints[p.UID]
	f.carry(&s, before, p)
	switch {
	case there && s.draining:
		// One that was never told as ready, or not by this process, too: gateways of
		// before may still have it. Whatever else changes, it is not ready again.
		fn.endpoints[p.UID] = s
		if !before.draining {
			f.tell(api.EndpointEvent{Type: api.EndpointDrain, Function: k, Endpoint: s.endpoint})
		}
	case there && (!was || before.endpoint != s.endpoint):
		fn.endpoints[p.UID] = s
		fn.failing = ""
		f.tell(api.EndpointEvent{Type: api.EndpointReady, Function: k, Endpoint: s.endpoint})
	case !there && was:
		delete(fn.endpoints, p.UID)
		f.tell(api.EndpointEvent{Type: api.EndpointGone, Function: k, Endpoint: before.endpoint})
	}
	f.tellFailing(k, fn)
	if t == api.Deleted {
		delete(f.drained, p.UID)
		delete(f.asked, p.UID)
		delete(f.rounds, p.UID)
		f.forget(k)
	}
	f.mu.Unlock()
	if t != api.Deleted && p.DeletionTimestamp != nil && p.Annotations[api.AnnotationDrained] == "" {
		f.drains.Add(podKey{types.NamespacedName{Namespace: p.Namespace, Name: p.Name}, p.UID})
	}
}

// tellFailing says why a function has no replica, when it is one of the reasons
// that do not pass by waiting a little; f.mu is held.
func (f *Fleet) tellFailing(k types.NamespacedName, fn *function) {
	reason := ""
	for _, s := range fn.endpoints {
		if !s.draining {
			fn.failing = ""
			return
		}
	}
	for _, p := range f.pods.By("function", k.String()) {
		if p.DeletionTimestamp != nil {
			continue
		}
		r := why(p)
		if r == "" {
			fn.failing = "" // one is on its way
			return
		}
		reason = r
	}
	if reason == "" {
		reason = f.refused(k)
	}
	if reason == "" || reason == fn.failing {
		return
	}
	fn.failing = reason
	f.tell(api.EndpointEvent{Type: api.EndpointsFailing, Function: k, Reason: reason})
}

// refused is why no replica of a function can be made, such as a quota: what its
// Deployment says.
func (f *Fleet) refused(k types.NamespacedName) string {
	d, ok := f.deployments.Get(k.Namespace, k.Name)
	if !ok || wanted(d) == 0 {
		return ""
	}
	return replicaFailure(d)
}

// replicaFailure is what a Deployment says of pods that cannot be made; "" when
// they can.
func replicaFailure(d *appsv1.Deployment) string {
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
			return c.Message
		}
	}
	return ""
}

// hopeless are the reasons for which a container waits that only somebody's
// doing ends.
var hopeless = map[string]bool{
	"ErrImagePull": true, "ImagePullBackOff": true, "InvalidImageName": true, "ErrImageNeverPull": true,
	"CreateContainerConfigError": true, "CreateContainerError": true, "RunContainerError": true, "StartError": true,
}

// why is the reason for which a pod will not be ready soon, "" when there is
// none. A container that has ended once is given another chance.
func why(p *corev1.Pod) string {
	if p.Spec.NodeName == "" {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
				return "Unschedulable: " + c.Message
			}
		}
		return ""
	}
	for _, s := range p.Status.ContainerStatuses {
		w := s.State.Waiting
		if w == nil {
			continue
		}
		if hopeless[w.Reason] || (w.Reason == "CrashLoopBackOff" && s.RestartCount >= 1) {
			r := w.Reason
			if w.Message != "" {
				r += ": " + w.Message
			}
			if l := s.LastTerminationState.Terminated; l != nil && w.Reason == "CrashLoopBackOff" {
				r += " (it last ended with " + l.Reason + ", exit code " + strconv.Itoa(int(l.ExitCode)) + ")"
			}
			return r
		}
	}
	return ""
}

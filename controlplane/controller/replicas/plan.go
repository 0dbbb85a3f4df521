package replicas

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/podstate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	burst = 500 // at most so many creations or deletions in one round

	// A pod that has ended (evicted, refused by its node) is replaced after a
	// time that doubles with each such end of the last failureMemory.
	failureFirst  = time.Second
	failureMost   = time.Minute
	failureMemory = 10 * time.Minute
)

// set is what a ReplicaSet and a ReplicationController have in common.
type set struct {
	resource *api.Resource
	obj      api.Object
	desired  int
	minReady time.Duration
	selector labels.Selector
	template *corev1.PodTemplateSpec
	status   status
}

// status is what is observed of a set.
type status struct {
	replicas, labeled, ready, available int32
	observed                            int64
	failure                             string // why pods can't be created; "" is no failure
}

// plan is what a round does.
type plan struct {
	create int
	delete []*corev1.Pod
	again  time.Duration // look again after it; 0 is no need
	status status
}

// decide compares a set with its pods and what the ledger knows of it.
func decide(s set, pods []*corev1.Pod, k known, now time.Time) plan {
	var p plan
	var active []*corev1.Pod
	for _, pod := range pods {
		if !k.deleting[pod.UID] && podstate.Active(pod) {
			active = append(active, pod)
		}
	}
	p.status, p.again = observe(s, active, now)
	if s.obj.GetDeletionTimestamp() != nil {
		return p
	}
	missing := s.desired - len(active) - k.creating
	switch {
	case missing > 0:
		if wait := failureWait(k.ends, now); wait > 0 {
			p.again = sooner(p.again, wait)
			return p
		}
		p.create = min(missing, burst)
	case missing < 0 && k.creating == 0: // else wait until the newest can be chosen
		p.delete = Victims(active, min(-missing, burst))
	}
	return p
}

func observe(s set, active []*corev1.Pod, now time.Time) (st status, again time.Duration) {
	want := labels.SelectorFromSet(s.template.Labels)
	for _, pod := range active {
		st.replicas++
		if want.Matches(labels.Set(pod.Labels)) {
			st.labeled++
		}
		if !podstate.Ready(pod) {
			continue
		}
		st.ready++
		ok, wait := podstate.Available(pod, s.minReady, now)
		if ok {
			st.available++
		} else {
			again = sooner(again, wait)
		}
	}
	st.observed = s.obj.GetGeneration()
	st.failure = s.status.failure
	return st, again
}

// failureWait is how long to wait with a replacement after pods that ended.
func failureWait(ends []time.Time, now time.Time) time.Duration {
	if len(ends) == 0 {
		return 0
	}
	last := slices.MaxFunc(ends, time.Time.Compare)
	return min(failureMost, failureFirst<<min(len(ends)-1, 10)) - now.Sub(last)
}

// Victims are the n pods that are missed least, one after the other: each lowers
// the crowd on its node.
func Victims(active []*corev1.Pod, n int) []*corev1.Pod {
	crowd := map[string]int{}
	left := make([]candidate, len(active))
	for i, p := range active {
		crowd[p.Spec.NodeName]++
		left[i] = candidate{
			pod: p, assigned: p.Spec.NodeName != "", phase: phase(p), ready: podstate.Ready(p),
			cost: cost(p), since: readySince(p), restarts: podstate.Restarts(p),
		}
	}
	out := make([]*corev1.Pod, 0, n)
	for len(out) < n && len(left) > 0 {
		v := slices.MinFunc(left, func(a, b candidate) int { return a.compare(b, crowd) })
		out = append(out, v.pod)
		crowd[v.pod.Spec.NodeName]--
		left = slices.DeleteFunc(left, func(c candidate) bool { return c.pod == v.pod })
	}
	return out
}

// candidate is a pod as victims compares it.
type candidate struct {
	pod             *corev1.Pod
	assigned, ready bool
	phase, cost     int
	since           time.Time
	restarts        int32
}

// compare is negative when a goes before b: without a node, pending, not
// ready, cheap, on a crowded node, ready for a shorter time, often restarted,
// younger.
func (a candidate) compare(b candidate, crowd map[string]int) int {
	return cmp.Or(
		first(!a.assigned, !b.assigned),
		cmp.Compare(a.phase, b.phase),
		first(!a.ready, !b.ready),
		cmp.Compare(a.cost, b.cost),
		cmp.Compare(crowd[b.pod.Spec.NodeName], crowd[a.pod.Spec.NodeName]),
		b.since.Compare(a.since),
		cmp.Compare(b.restarts, a.restarts),
		b.pod.CreationTimestamp.Compare(a.pod.CreationTimestamp.Time),
		cmp.Compare(a.pod.Name, b.pod.Name),
	)
}

func phase(p *corev1.Pod) int {
	switch p.Status.Phase {
	case corev1.PodPending, "":
		return 0
	case corev1.PodUnknown:
		return 1
	default:
		return 2
	}
}

// cost is Kubernetes' annotation: pods with a lower one go first.
func cost(p *corev1.Pod) int {
	n, err := strconv.ParseInt(p.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return int(n)
}

func readySince(p *corev1.Pod) time.Time {
	if c := podstate.Condition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	default:
		return 1
	}
}

func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

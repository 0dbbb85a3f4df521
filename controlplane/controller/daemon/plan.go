package daemon

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/podstate"
	"github.com/podsnap/podsnap/controlplane/schedule"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// plan is what a set needs now.
type plan struct {
	create []string // nodes
	delete []*corev1.Pod
	status appsv1.DaemonSetStatus
	again  time.Duration // when to look again though nothing changes; 0 is never
}

// tolerations are what every pod of a set tolerates: it belongs to its node,
// whatever that is like.
func tolerations(hostNetwork bool) []corev1.Toleration {
	forever := func(key string, e corev1.TaintEffect) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: e}
	}
	out := []corev1.Toleration{
		forever(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute), forever(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute),
		forever(corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule), forever(corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule),
		forever(corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule), forever(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule),
	}
	if hostNetwork {
		out = append(out, forever(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule))
	}
	return out
}

// podFor is a set's pod for a node. Its name is always the same for a set, a node
// and a template, so that to make it twice is one pod.
func podFor(d *appsv1.DaemonSet, node, hash string) *corev1.Pod {
	t := d.Spec.Template.DeepCopy()
	if t.Labels == nil {
		t.Labels = map[string]string{}
	}
	t.Labels[appsv1.ControllerRevisionHashLabelKey] = hash
	for _, o := range tolerations(t.Spec.HostNetwork) {
		if !slices.ContainsFunc(t.Spec.Tolerations, func(has corev1.Toleration) bool { return has.MatchToleration(&o) }) {
			t.Spec.Tolerations = append(t.Spec.Tolerations, o)
		}
	}
	bindTo(&t.Spec, node)
	name := d.Name
	if len(name) > 52 {
		name = name[:52]
	}
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace, Name: name + "-" + digest(string(d.UID), node, hash),
			Labels: t.Labels, Annotations: t.Annotations, Finalizers: t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, api.DaemonSets.GVK())},
		},
		Spec: t.Spec,
	}
}

// bindTo has the scheduler put a pod on one node only; what else the template asks
// of nodes has been looked at.
func bindTo(s *corev1.PodSpec, node string) {
	if s.Affinity == nil {
		s.Affinity = &corev1.Affinity{}
	}
	if s.Affinity.NodeAffinity == nil {
		s.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchFields: []corev1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
	}}}
}

// nodeOf is the node that a pod of a set is for.
func nodeOf(p *corev1.Pod) string {
	if p.Spec.NodeName != "" || p.Spec.Affinity == nil || p.Spec.Affinity.NodeAffinity == nil {
		return p.Spec.NodeName
	}
	s := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if s == nil || len(s.NodeSelectorTerms) != 1 || len(s.NodeSelectorTerms[0].MatchFields) != 1 || len(s.NodeSelectorTerms[0].MatchFields[0].Values) != 1 {
		return ""
	}
	return s.NodeSelectorTerms[0].MatchFields[0].Values[0]
}

// hashOf names a template: pods that have been made of it are labelled so.
func hashOf(t *corev1.PodTemplateSpec) string {
	b, err := json.Marshal(t)
	if err != nil {
		panic(err) // it came as JSON
	}
	return digest(string(b))
}

func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil))[:10]
}

// fits tells whether a set's pod is to be on a node, and whether one that is there
// may stay.
func fits(pod *corev1.Pod, n *corev1.Node) (run, stay bool) {
	ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(n)
	if err != nil || !ok {
		return false, false
	}
	run, stay = true, true
	for i := range n.Spec.Taints {
		t := &n.Spec.Taints[i]
		if t.Effect == corev1.TaintEffectPreferNoSchedule || slices.ContainsFunc(pod.Spec.Tolerations, func(o corev1.Toleration) bool { return schedule.Tolerates(&o, t) }) {
			continue
		}
		run = false
		stay = stay && t.Effect != corev1.TaintEffectNoExecute
	}
	return run, stay
}

// decide compares what is there with what should be. resting tells how long a node
// gets no new pod because of ones that have failed there.
func decide(d *appsv1.DaemonSet, nodes []*corev1.Node, pods []*corev1.Pod, resting func(node string) time.Duration, now time.Time) plan {
	hash := hashOf(&d.Spec.Template)
	model := podFor(d, "", hash)
	model.Spec.Affinity = d.Spec.Template.Spec.Affinity
	on := map[string][]*corev1.Pod{}
	for _, p := range pods {
		on[nodeOf(p)] = append(on[nodeOf(p)], p)
	}
	p := plan{status: appsv1.DaemonSetStatus{ObservedGeneration: d.Generation, Conditions: d.Status.Conditions, CollisionCount: d.Status.CollisionCount}}
	later := func(t time.Duration) {
		if t > 0 && (p.again == 0 || t < p.again) {
			p.again = t
		}
	}
	var old []*corev1.Pod // that could be replaced by newer ones
	for _, n := range nodes {
		run, stay := fits(model, n)
		here := on[n.Name]
		delete(on, n.Name)
		best := choose(&p, here, run || stay)
		switch {
		case !run && best == nil:
			continue
		case !run:
			p.status.NumberMisscheduled++
			continue
		}
		p.status.DesiredNumberScheduled++
		if best == nil {
			if len(here) > 0 {
				continue // its former one is ending
			}
			if wait := resting(n.Name); wait > 0 {
				later(wait)
				continue
			}
			p.create = append(p.create, n.Name)
			continue
		}
		later(count(&p.status, best, d, hash, now))
		if best.Labels[appsv1.ControllerRevisionHashLabelKey] != hash {
			old = append(old, best)
		}
	}
	for _, left := range on { // of nodes that are gone; unbound ones, too
		p.delete = append(p.delete, slices.DeleteFunc(left, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })...)
	}
	p.status.NumberUnavailable = p.status.DesiredNumberScheduled - p.status.NumberAvailable
	p.delete = append(p.delete, roll(d, old, &p.status, now)...)
	return p
}

// choose keeps the one of a node's pods that is furthest, and has the others, and
// those that have ended, deleted; nil when there is none to keep.
func choose(p *plan, here []*corev1.Pod, wanted bool) *corev1.Pod {
	var best *corev1.Pod
	better := func(a, b *corev1.Pod) bool {
		if podstate.Ready(a) != podstate.Ready(b) {
			return podstate.Ready(a)
		}
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	for _, one := range here {
		if podstate.Active(one) && wanted && (best == nil || better(one, best)) {
			best = one
		}
	}
	for _, one := range here {
		if one != best && one.DeletionTimestamp == nil {
			p.delete = append(p.delete, one)
		}
	}
	return best
}

// count adds a pod to the status. It answers with the time until it is available,
// when it is ready and only that is missing.
func count(s *appsv1.DaemonSetStatus, p *corev1.Pod, d *appsv1.DaemonSet, hash string, now time.Time) time.Duration {
	s.CurrentNumberScheduled++
	if p.Labels[appsv1.ControllerRevisionHashLabelKey] == hash {
		s.UpdatedNumberScheduled++
	}
	if podstate.Ready(p) {
		s.NumberReady++
	}
	ok, wait := podstate.Available(p, time.Duration(d.Spec.MinReadySeconds)*time.Second, now)
	if ok {
		s.NumberAvailable++
	}
	return wait
}

// roll are the pods of former templates that go now: those that are not available
// anyhow, and of the others as many as may be missing.
func roll(d *appsv1.DaemonSet, old []*corev1.Pod, s *appsv1.DaemonSetStatus, now time.Time) []*corev1.Pod {
	u := d.Spec.UpdateStrategy
	if u.Type != appsv1.RollingUpdateDaemonSetStrategyType || u.RollingUpdate == nil {
		return nil
	}
	most, err := intstr.GetScaledValueFromIntOrPercent(u.RollingUpdate.MaxUnavailable, int(s.DesiredNumberScheduled), true)
	if err != nil {
		return nil // the API refuses those
	}
	room := most - int(s.NumberUnavailable)
	// In one order always: a look before the mirror shows the last deletion has to
	// come to the same pod.
	slices.SortFunc(old, func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	var out []*corev1.Pod
	for _, p := range old {
		ok, _ := podstate.Available(p, time.Duration(d.Spec.MinReadySeconds)*time.Second, now)
		if !ok {
			out = append(out, p)
		} else if room > 0 {
			out = append(out, p)
			room--
		}
	}
	return out
}

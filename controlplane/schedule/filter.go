package schedule

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// Reasons in the words of Kubernetes' scheduler, which people and tools search
// for.
const (
	reasonUnschedulable        = "node(s) were unschedulable"
	reasonNotReady             = "node(s) were not ready"
	reasonNodeAffinity         = "node(s) didn't match Pod's node affinity/selector"
	reasonPorts                = "node(s) didn't have free ports for the requested pod ports"
	reasonAffinity             = "node(s) didn't match pod affinity rules"
	reasonAntiAffinity         = "node(s) didn't match pod anti-affinity rules"
	reasonExistingAntiAffinity = "node(s) didn't satisfy existing pods anti-affinity rules"
	reasonPods                 = "Too many pods"
)

// fits reports whether r may run on n. With a tally it notes why not.
func fits(r *request, n *node, nb *neighbours, t tally) bool {
	if n.node.Spec.Unschedulable && !tolerates(r.pod, &unschedulable) {
		return t.no(reasonUnschedulable)
	}
	if taint := untolerated(r.pod, n.hard); taint != nil {
		if t == nil {
			return false
		}
		return t.no(fmt.Sprintf("node(s) had untolerated taint {%s: %s}", taint.Key, taint.Value))
	}
	if !n.ready && !tolerates(r.pod, &notReady) {
		return t.no(reasonNotReady)
	}
	if r.selector != nil {
		if ok, err := r.selector.Match(n.node); !ok || err != nil {
			return t.no(reasonNodeAffinity)
		}
	}
	if why := r.ask.Forbids(n.node); why != "" {
		return t.no(why)
	}
	for _, p := range r.ports {
		if taken(n.ports, p) {
			return t.no(reasonPorts)
		}
	}
	if !enough(r, n, t) {
		return false
	}
	if why := nb.forbids(r, n); why != "" {
		return t.no(why)
	}
	return true
}

// enough compares requests with what is free; every resource that is short is
// noted.
func enough(r *request, n *node, t tally) bool {
	ok, want, used := true, r.res, &n.used
	if len(n.nominated) > 0 {
		kept := n.taken(r)
		used = &kept
	}
	short := func(name string) { ok = t.no(name) }
	if used.pods+want.pods > n.alloc.pods {
		short(reasonPods)
	}
	if want.cpu > 0 && used.cpu+want.cpu > n.alloc.cpu {
		short("Insufficient cpu")
	}
	if want.memory > 0 && used.memory+want.memory > n.alloc.memory {
		short("Insufficient memory")
	}
	if want.disk > 0 && used.disk+want.disk > n.alloc.disk {
		short("Insufficient ephemeral-storage")
	}
	for name, v := range want.other {
		if v > 0 && used.other[name]+v > n.alloc.other[name] {
			short("Insufficient " + string(name))
		}
	}
	return ok
}

var (
	unschedulable = corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	notReady      = corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
)

func untolerated(pod *corev1.Pod, taints []corev1.Taint) *corev1.Taint {
	for i := range taints {
		if !tolerates(pod, &taints[i]) {
			return &taints[i]
		}
	}
	return nil
}

func tolerates(pod *corev1.Pod, taint *corev1.Taint) bool {
	for i := range pod.Spec.Tolerations {
		if Tolerates(&pod.Spec.Tolerations[i], taint) {
			return true
		}
	}
	return false
}

// Tolerates reports whether one toleration covers a taint, for however long.
func Tolerates(t *corev1.Toleration, taint *corev1.Taint) bool {
	if t.Effect != "" && t.Effect != taint.Effect {
		return false
	}
	if t.Key != "" && t.Key != taint.Key {
		return false
	}
	switch t.Operator {
	case corev1.TolerationOpExists:
		return true
	case "", corev1.TolerationOpEqual:
		return t.Key != "" && t.Value == taint.Value
	default:
		return false
	}
}

package node

import (
	"slices"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/podstate"
	"github.com/podsnap/podsnap/controlplane/schedule"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	reasonLost     = "NodeStatusUnknown"
	reasonBack     = "NodeAgentBack"
	messageLost    = "The node agent stopped renewing its lease."
	reasonPodLost  = "NodeLost"
	messagePodLost = "The node is unreachable."
)

// conditions brings the node's conditions in line with whether it is lost; it
// reports a change. before is what Ready said before the node was lost.
func conditions(n *corev1.Node, lost bool, before corev1.ConditionStatus, now time.Time) bool {
	changed := false
	for i := range n.Status.Conditions {
		c := &n.Status.Conditions[i]
		switch {
		case lost && c.Status != corev1.ConditionUnknown:
			c.Status, c.Reason, c.Message = corev1.ConditionUnknown, reasonLost, messageLost
		case !lost && c.Status == corev1.ConditionUnknown && c.Reason == reasonLost:
			c.Status, c.Reason, c.Message = corev1.ConditionFalse, reasonBack, "The node agent renews its lease again."
			if c.Type == corev1.NodeReady {
				c.Status = before
			}
		default:
			continue
		}
		c.LastTransitionTime = metav1.NewTime(now)
		changed = true
	}
	if lost && !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady }) {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
			Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: reasonLost, Message: messageLost, LastTransitionTime: metav1.NewTime(now),
		})
		changed = true
	}
	return changed
}

// taints brings the node's own taints in line with its Ready condition; it
// reports a change. Taints that people or tools set are left alone.
func taints(n *corev1.Node, now time.Time) bool {
	key := ""
	switch readiness(n) {
	case corev1.ConditionUnknown:
		key = corev1.TaintNodeUnreachable
	case corev1.ConditionFalse:
		key = corev1.TaintNodeNotReady
	case corev1.ConditionTrue: // none of the two
	}
	var next []corev1.Taint
	has := map[corev1.TaintEffect]bool{}
	for _, t := range n.Spec.Taints {
		if t.Key == key {
			has[t.Effect] = true
		}
		if t.Key == key || t.Key != corev1.TaintNodeUnreachable && t.Key != corev1.TaintNodeNotReady {
			next = append(next, t)
		}
	}
	changed := len(next) != len(n.Spec.Taints)
	if key != "" {
		at := metav1.NewTime(now)
		for _, e := range []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute} {
			if !has[e] {
				next = append(next, corev1.Taint{Key: key, Effect: e, TimeAdded: &at})
				changed = true
			}
		}
	}
	if changed {
		n.Spec.Taints = next
	}
	return changed
}

// readiness is what the Ready condition says; a node that has none yet is
// left alone, as one that is ready.
func readiness(n *corev1.Node) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return corev1.ConditionTrue
}

// eviction is a pod that has to leave its node now.
type eviction struct {
	pod   *corev1.Pod
	force bool // without its node: nobody is there to end it
	taint corev1.Taint
}

// statefulAway is how long the pod of a StatefulSet stays on a lost node when it does
// not say: what Kubernetes gives every pod. There is nothing to be won by haste, as it
// is replaced only when its node has ended it.
const statefulAway = 5 * time.Minute

// keepsName tells whether a pod of a lost node must stay until that is back, or known to
// be dead: there may be one only of a StatefulSet's pods of a name, and nobody can tell
// whether the node still runs it. That the node is dead somebody says by removing it,
// or by the taint node.kubernetes.io/out-of-service.
func keepsName(n *corev1.Node, p *corev1.Pod) bool {
	o := metav1.GetControllerOfNoCopy(p)
	return o != nil && o.Kind == api.StatefulSets.Kind && !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == corev1.TaintNodeOutOfService
	})
}

// evictions are the pods that don't tolerate the node's NoExecute taints any
// longer, and the time until the next pod stops to (0: there is none). unready and
// away are how long pods stay on a node that is not ready, or lost, when they don't say.
func evictions(n *corev1.Node, pods []*corev1.Pod, unready, away time.Duration, now time.Time) (out []eviction, again time.Duration) {
	lost := readiness(n) == corev1.ConditionUnknown
	for _, p := range pods {
		named := lost && keepsName(n, p)
		if (podstate.Ended(p) || p.DeletionTimestamp != nil) && (!lost || named) {
			continue
		}
		for _, t := range n.Spec.Taints {
			if t.Effect != corev1.TaintEffectNoExecute {
				continue
			}
			patience := unready
			if lost {
				patience = away
			}
			stay, forever := tolerated(p, &t, patience)
			if named && t.Key == corev1.TaintNodeUnreachable && !says(p, &t) {
				stay = max(stay, statefulAway)
			}
			if forever {
				continue
			}
			if left := stay - now.Sub(since(t, now)); left > 0 {
				if again == 0 || left < again {
					again = left
				}
				continue
			}
			out = append(out, eviction{pod: p, force: lost && !named, taint: t})
			break
		}
	}
	return out, again
}

// tolerated is how long a pod stays in spite of a taint.
func tolerated(p *corev1.Pod, t *corev1.Taint, after time.Duration) (stay time.Duration, forever bool) {
	if t.Key == corev1.TaintNodeUnreachable || t.Key == corev1.TaintNodeNotReady {
		stay = after
	}
	found := false
	least := time.Duration(0)
	for i := range p.Spec.Tolerations {
		o := &p.Spec.Tolerations[i]
		if !schedule.Tolerates(o, t) {
			continue
		}
		if o.TolerationSeconds == nil {
			if !found {
				forever = true
			}
			continue
		}
		d := max(0, time.Duration(*o.TolerationSeconds)*time.Second)
		if !found || d < least {
			least = d
		}
		found, forever = true, false
	}
	if found {
		return max(least, stay), false
	}
	return stay, forever
}

// says tells whether a pod has a toleration of its own for a taint.
func says(p *corev1.Pod, t *corev1.Taint) bool {
	return slices.ContainsFunc(p.Spec.Tolerations, func(o corev1.Toleration) bool { return schedule.Tolerates(&o, t) })
}

func since(t corev1.Taint, now time.Time) time.Time {
	if t.TimeAdded == nil {
		return now.Add(-time.Hour * 24 * 365) // a taint without a time is old
	}
	return t.TimeAdded.Time
}

// unready marks a pod of a lost node, and takes the mark back when the node
// returns before anybody else said more; it reports a change.
func unready(p *corev1.Pod, lost bool, now time.Time) bool {
	c := podstate.Condition(p, corev1.PodReady)
	switch {
	case c == nil:
		return false
	case lost && c.Status == corev1.ConditionTrue:
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, reasonPodLost, messagePodLost
	case !lost && c.Status == corev1.ConditionFalse && c.Reason == reasonPodLost:
		c.Status, c.Reason, c.Message = corev1.ConditionTrue, "", ""
	default:
		return false
	}
	c.LastTransitionTime = metav1.NewTime(now)
	return true
}

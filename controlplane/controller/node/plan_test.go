package node

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func nodeWith(ready corev1.ConditionStatus, taints ...corev1.Taint) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	n.Spec.Taints = taints
	if ready != "" {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	}
	return n
}

func taint(key string, effect corev1.TaintEffect, ago time.Duration) corev1.Taint {
	at := metav1.NewTime(begin.Add(-ago))
	return corev1.Taint{Key: key, Effect: effect, TimeAdded: &at}
}

func TestTaints(t *testing.T) {
	mine := taint("mine", corev1.TaintEffectNoSchedule, 0)
	lost := taint(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute, time.Hour)
	for name, tt := range map[string]struct {
		node    *corev1.Node
		want    []string
		changed bool
	}{
		"ready":          {nodeWith(corev1.ConditionTrue, mine), []string{"mine NoSchedule"}, false},
		"no word yet":    {nodeWith(""), nil, false},
		"unknown":        {nodeWith(corev1.ConditionUnknown), []string{corev1.TaintNodeUnreachable + " NoSchedule", corev1.TaintNodeUnreachable + " NoExecute"}, true},
		"unknown, half":  {nodeWith(corev1.ConditionUnknown, lost), []string{corev1.TaintNodeUnreachable + " NoExecute", corev1.TaintNodeUnreachable + " NoSchedule"}, true},
		"not ready":      {nodeWith(corev1.ConditionFalse, mine, lost), []string{"mine NoSchedule", corev1.TaintNodeNotReady + " NoSchedule", corev1.TaintNodeNotReady + " NoExecute"}, true},
		"back":           {nodeWith(corev1.ConditionTrue, lost, mine), []string{"mine NoSchedule"}, true},
		"nothing to add": {nodeWith(corev1.ConditionTrue), nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			changed := taints(tt.node, begin)
			var got []string
			for _, x := range tt.node.Spec.Taints {
				got = append(got, x.Key+" "+string(x.Effect))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || changed != tt.changed {
				t.Errorf("changed %v, taints (-want +got):\n%s", changed, diff)
			}
			if taints(tt.node, begin) {
				t.Error("a second time changes it again")
			}
		})
	}
}

func TestEvictions(t *testing.T) {
	seconds := func(n int64) *int64 { return &n }
	tolerate := func(key string, s *int64) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, TolerationSeconds: s})
		}
	}
	pod := func(with ...func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
		for _, f := range with {
			f(p)
		}
		return p
	}
	unreachable := func(ago time.Duration) *corev1.Node {
		return nodeWith(corev1.ConditionUnknown, taint(corev1.TaintNodeUnreachable, corev1.TaintEffectNoSchedule, ago), taint(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute, ago))
	}
	unready := func(ago time.Duration) *corev1.Node {
		return nodeWith(corev1.ConditionFalse, taint(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute, ago))
	}
	user := nodeWith(corev1.ConditionTrue, taint("mine", corev1.TaintEffectNoExecute, 0))
	ending := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: begin} }
	for name, tt := range map[string]struct {
		node  *corev1.Node
		pod   *corev1.Pod
		out   bool
		force bool
		again time.Duration
	}{
		"no taint":              {node: nodeWith(corev1.ConditionTrue), pod: pod()},
		"a moment to stay":      {node: unready(time.Second), pod: pod(), again: time.Second},
		"time is over":          {node: unready(2 * time.Second), pod: pod(), out: true},
		"lost this moment":      {node: unreachable(0), pod: pod(), out: true, force: true},
		"ending already":        {node: unreachable(2 * time.Second), pod: pod(ending), out: true, force: true},
		"tolerates for longer":  {node: unreachable(2 * time.Second), pod: pod(tolerate(corev1.TaintNodeUnreachable, seconds(300))), again: 298 * time.Second},
		"tolerates for shorter": {node: unready(time.Second), pod: pod(tolerate(corev1.TaintNodeNotReady, seconds(0))), again: time.Second},
		"tolerates all":         {node: unreachable(time.Hour), pod: pod(tolerate("", nil))},
		"the shorter counts":    {node: unreachable(time.Minute), pod: pod(tolerate("", nil), tolerate("", seconds(30))), out: true, force: true},
		"a person's taint":      {node: user, pod: pod(), out: true},
		"and the pod is ending": {node: user, pod: pod(ending)},
	} {
		t.Run(name, func(t *testing.T) {
			out, again := evictions(tt.node, []*corev1.Pod{tt.pod}, 2*time.Second, 0, begin)
			if (len(out) == 1) != tt.out || tt.out && out[0].force != tt.force || again != tt.again {
				t.Errorf("evicts %+v, again after %v: want %v (force %v), %v", out, again, tt.out, tt.force, tt.again)
			}
		})
	}
}

func TestConditionsGoAndReturn(t *testing.T) {
	n := nodeWith(corev1.ConditionFalse)
	n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse})
	if !conditions(n, true, "", begin) || conditions(n, true, "", begin) {
		t.Error("lost: want one change")
	}
	for _, c := range n.Status.Conditions {
		if c.Status != corev1.ConditionUnknown {
			t.Errorf("%s is %s on a lost node", c.Type, c.Status)
		}
	}
	if !wasLost(n) {
		t.Error("does not say that it was lost")
	}
	if !conditions(n, false, corev1.ConditionFalse, begin) || conditions(n, false, corev1.ConditionFalse, begin) {
		t.Error("back: want one change")
	}
	for _, c := range n.Status.Conditions {
		if c.Status != corev1.ConditionFalse {
			t.Errorf("%s is %s, want what it was", c.Type, c.Status)
		}
	}
}

package schedule_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/controlplane/schedule"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"
)

func priority(n int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &n } }

func labelled(kv string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { k, v, _ := strings.Cut(kv, "="); p.Labels[k] = v }
}

func started(minutes int) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.StartTime = &metav1.Time{Time: time.Unix(0, 0).Add(time.Duration(minutes) * time.Minute)}
	}
}

// there is a pod on a node that asks for cpu.
func there(name, cpu string, with ...func(*corev1.Pod)) *corev1.Pod {
	return pod(name, append([]func(*corev1.Pod){requests(cpu, "1Mi")}, with...)...)
}

func budget(sel string, allowed int32) schedule.Budget {
	s, _ := labels.Parse(sel)
	return schedule.Budget{Namespace: "d", Selector: s, Allowed: allowed, Counted: func(string) bool { return false }}
}

func TestPreempt(t *testing.T) {
	for _, c := range []struct {
		name    string
		on      map[string][]*corev1.Pod
		pod     *corev1.Pod
		budgets []schedule.Budget
		want    string
	}{
		{"no lower priority", map[string][]*corev1.Pod{"a": {there("x", "4", priority(10))}}, there("p", "1", priority(10)), nil, ""},
		{"one is enough", map[string][]*corev1.Pod{"a": {there("x", "2"), there("y", "2", priority(1))}}, there("p", "2", priority(10)), nil, "a: x"},
		{"the more important come back", map[string][]*corev1.Pod{"a": {there("x", "1", priority(3)), there("y", "2", priority(2)), there("z", "1", priority(1))}}, there("p", "1", priority(10)), nil, "a: z"},
		{"all are not enough", map[string][]*corev1.Pod{"a": {there("x", "2"), there("y", "2", priority(20))}}, there("p", "3", priority(10)), nil, ""},
		{"the lower highest priority", map[string][]*corev1.Pod{"a": {there("x", "4", priority(5))}, "b": {there("y", "2", priority(4)), there("z", "2", priority(4))}}, there("p", "4", priority(10)), nil, "b: y z"},
		{"the lower sum, else fewer", map[string][]*corev1.Pod{"a": {there("x", "2", priority(4)), there("w", "2", priority(4))}, "b": {there("y", "4", priority(4))}}, there("p", "4", priority(10)), nil, "b: y"},
		{"the younger", map[string][]*corev1.Pod{"a": {there("x", "4", started(1))}, "b": {there("y", "4", started(2))}}, there("p", "4", priority(10)), nil, "b: y"},
		{"budgets first", map[string][]*corev1.Pod{"a": {there("x", "4", labelled("app=x"))}, "b": {there("y", "4", priority(9))}}, there("p", "4", priority(10)), []schedule.Budget{budget("app=x", 0)}, "b: y"},
		{"budgets are broken if need be", map[string][]*corev1.Pod{"a": {there("x", "4", labelled("app=x"))}}, there("p", "4", priority(10)), []schedule.Budget{budget("app=x", 0)}, "a: x!1"},
		{"those that budgets protect come back first", map[string][]*corev1.Pod{"a": {there("x", "2", labelled("app=x")), there("y", "2", priority(5))}}, there("p", "2", priority(10)), []schedule.Budget{budget("app=x", 0)}, "a: y"},
		{"never", map[string][]*corev1.Pod{"a": {there("x", "4")}}, there("p", "4", priority(10), func(p *corev1.Pod) { p.Spec.PreemptionPolicy = new(corev1.PreemptNever) }), nil, "may not"},
		{"a port", map[string][]*corev1.Pod{"a": {there("x", "1", hostPort("", 80)), there("y", "1")}}, there("p", "1", priority(10), hostPort("", 80)), nil, "a: x"},
		{"nobody helps against a taint", map[string][]*corev1.Pod{"tainted": {there("x", "4")}}, there("p", "4", priority(10)), nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			cl := schedule.NewCluster()
			for name, pods := range c.on {
				n := node(name)
				if name == "tainted" {
					n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
				}
				cl.SetNode(n)
				for _, p := range pods {
					cl.Assign(p, name)
				}
			}
			got := "may not"
			if may := cl.MayPreempt(c.pod); may || c.want == "" {
				got = preempted(schedule.Preempt(c.pod, cl, nil, c.budgets))
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func preempted(p schedule.Preemption, ok bool) string {
	if !ok {
		return ""
	}
	var names []string
	for _, v := range p.Victims {
		names = append(names, v.Name)
	}
	out := p.Node + ": " + strings.Join(names, " ")
	if p.Violations > 0 {
		out += fmt.Sprintf("!%d", p.Violations)
	}
	return out
}

// Room on the node that others make way on is kept from pods of lower priority.
func TestNominatedRoomIsKept(t *testing.T) {
	c := schedule.NewCluster()
	c.SetNode(node("a"))
	p := there("p", "3", priority(10))
	c.Nominate(p, "a")
	if at, e := schedule.Pick(there("low", "2", priority(9)), c); at != "" || !strings.Contains(e.String(), "Insufficient cpu") {
		t.Errorf("a pod of lower priority got %q: %s", at, e)
	}
	if at, _ := schedule.Pick(there("high", "2", priority(11)), c); at != "a" {
		t.Errorf("a pod of higher priority got %q", at)
	}
	if at, _ := schedule.Pick(p, c); at != "a" {
		t.Errorf("the pod itself got %q", at)
	}
	c.Assign(p, "a")
	if got := c.Nominated("p"); got != "" {
		t.Errorf("still nominated for %q", got)
	}
	if at, _ := schedule.Pick(there("small", "1"), c); at != "a" {
		t.Errorf("what is left went to %q", at)
	}
}

// Whoever is told to go: all are of lower priority, the pod fits when they have
// gone, not one of them could stay, and the model is as it was.
func TestPreemptTakesNoMoreThanNeeded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := schedule.NewCluster()
		on := map[string][]*corev1.Pod{}
		for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
			name := fmt.Sprintf("n%d", i)
			c.SetNode(node(name))
			for left := 4000; left > 0; {
				m := rapid.IntRange(200, 2000).Draw(t, "milli")
				if m > left {
					break
				}
				left -= m
				p := there(fmt.Sprintf("%s-%d", name, len(on[name])), fmt.Sprintf("%dm", m), priority(rapid.Int32Range(-3, 12).Draw(t, "priority")))
				c.Assign(p, name)
				on[name] = append(on[name], p)
			}
		}
		in := there("in", fmt.Sprintf("%dm", rapid.IntRange(200, 4000).Draw(t, "wants")), priority(rapid.Int32Range(0, 10).Draw(t, "priority")))
		if at, _ := schedule.Pick(in, c); at != "" {
			t.Skip("it fits")
		}
		got, ok := schedule.Preempt(in, c, nil, nil)
		if at, _ := schedule.Pick(in, c); at != "" {
			t.Fatalf("the model has changed: it fits %s now", at)
		}
		if !ok {
			for name, pods := range on {
				for _, p := range pods {
					if schedule.Priority(p) < schedule.Priority(in) {
						c.Remove(p.UID)
					}
				}
				if why := schedule.Fits(in, c, name); len(why) == 0 {
					t.Fatalf("nobody has to go, but it would fit %s", name)
				}
			}
			return
		}
		for _, v := range got.Victims {
			if schedule.Priority(v) >= schedule.Priority(in) || !slices.Contains(on[got.Node], v) {
				t.Fatalf("%s of %d has to go from %s for %d", v.Name, schedule.Priority(v), got.Node, schedule.Priority(in))
			}
			c.Remove(v.UID)
		}
		if why := schedule.Fits(in, c, got.Node); len(why) > 0 {
			t.Fatalf("it does not fit %s after all: %v", got.Node, why)
		}
		for _, v := range got.Victims {
			c.Assign(v, got.Node)
			if why := schedule.Fits(in, c, got.Node); len(why) == 0 {
				t.Fatalf("%s could have stayed", v.Name)
			}
			c.Remove(v.UID)
		}
	})
}

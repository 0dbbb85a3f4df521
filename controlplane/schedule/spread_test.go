package schedule_test

import (
	"fmt"
	"testing"

	"github.com/podsnap/podsnap/controlplane/schedule"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

// even spreads pods with the label app=web over zones.
func even(with ...func(*corev1.TopologySpreadConstraint)) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": "web", "version": "1"}
		c := corev1.TopologySpreadConstraint{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}
		for _, f := range with {
			f(&c)
		}
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
}

func anyway(c *corev1.TopologySpreadConstraint) {
	c.WhenUnsatisfiable = corev1.ScheduleAnyway
}

func web(version string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels = map[string]string{"app": "web", "version": version} }
}

func TestSpread(t *testing.T) {
	selector := func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"zone": "1"} }
	full := size("1", "1Gi", 2)
	x := func(name string) *corev1.Pod { return pod(name, web("1")) }
	for name, tt := range map[string]struct {
		nodes []*corev1.Node
		there map[string][]*corev1.Pod // by node
		pod   *corev1.Pod
		want  string // one node, or the explanation
	}{
		"the emptier zone": {
			nodes: nodes(node("a", label("zone", "1")), node("b", label("zone", "2"))),
			there: map[string][]*corev1.Pod{"a": {x("x")}}, pod: pod("p", even()), want: "b",
		},
		"nowhere, as the emptier zone is full": {
			nodes: nodes(node("a", label("zone", "1")), node("b", label("zone", "2"), full)),
			there: map[string][]*corev1.Pod{"a": {x("x")}, "b": {pod("y"), pod("z")}}, pod: pod("p", even()),
			want: "0/2 nodes are available: 1 Too many pods, 1 node(s) didn't match pod topology spread constraints.",
		},
		"the fuller zone if it must be": {
			nodes: nodes(node("a", label("zone", "1")), node("b", label("zone", "2"), full)),
			there: map[string][]*corev1.Pod{"a": {x("x")}, "b": {pod("y"), pod("z")}}, pod: pod("p", even(anyway)), want: "a",
		},
		"the emptier zone if it can be": {
			nodes: nodes(node("a", label("zone", "1")), node("b", label("zone", "2"))),
			there: map[string][]*corev1.Pod{"a": {x("x")}, "b": {pod("y", requests("1", "1Gi"))}}, pod: pod("p", even(anyway)), want: "b",
		},
		"no label": {
			nodes: nodes(node("a"), node("b")), pod: pod("p", even()),
			want: "0/2 nodes are available: 2 node(s) didn't match pod topology spread constraints (missing required label).",
		},
		"other pods do not count": {
			nodes: nodes(node("a", label("zone", "1")), node("b", label("zone", "2"), full)),
			there: map[string][]*corev1.Pod{"a": {pod("x"), pod("w", web("1"), func(p *corev1.Pod) { p.Namespace = "other" }), pod("v", web("1"), func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} })}, "b": {pod("y"), pod("z")}},
			pod:   pod("p", even()), want: "a",
		},
		"zones that the pod may not be in do not count": {
			nodes: nodes(node("a", label("zone", "1")), node("b", label("zone", "2"))),
			there: map[string][]*corev1.Pod{"a": {x("x")}}, pod: pod("p", even(), selector), want: "a",
		},
		"unless they are to": {
			nodes: nodes(node("a", label("zone", "1")), node("b", label("zone", "2"))),
			there: map[string][]*corev1.Pod{"a": {x("x")}},
			pod: pod("p", even(func(c *corev1.TopologySpreadConstraint) {
				c.NodeAffinityPolicy = new(corev1.NodeInclusionPolicyIgnore)
			}), selector),
			want: "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) didn't match pod topology spread constraints.",
		},
		"too few zones": {
			nodes: nodes(node("a", label("zone", "1")), node("b", label("zone", "2"))),
			there: map[string][]*corev1.Pod{"a": {x("x")}, "b": {x("y")}}, pod: pod("p", even(func(c *corev1.TopologySpreadConstraint) { c.MinDomains = new(int32(3)) })),
			want: "0/2 nodes are available: 2 node(s) didn't match pod topology spread constraints.",
		},
		"each version for itself": {
			nodes: nodes(node("a", label("zone", "1")), node("b", label("zone", "2"), full)),
			there: map[string][]*corev1.Pod{"a": {pod("x", web("0"))}, "b": {pod("y"), pod("z")}},
			pod:   pod("p", even(func(c *corev1.TopologySpreadConstraint) { c.MatchLabelKeys = []string{"version"} })), want: "a",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := schedule.NewCluster()
			for _, n := range tt.nodes {
				c.SetNode(n)
			}
			for n, ps := range tt.there {
				for _, p := range ps {
					c.Assign(p, n)
				}
			}
			got, why := schedule.Pick(tt.pod, c)
			if got == "" {
				got = why.String()
			}
			if got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// As long as there is room everywhere, the zones never differ by more than the
// skew.
func TestSpreadInvariant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := schedule.NewCluster()
		zones := rapid.IntRange(1, 4).Draw(t, "zones")
		zoneOf := map[string]string{}
		for i := range zones {
			for j := range rapid.IntRange(1, 3).Draw(t, "nodes") {
				n, z := fmt.Sprintf("n%d-%d", i, j), fmt.Sprint("z", i)
				zoneOf[n] = z
				c.SetNode(node(n, label("zone", z), size("100", "100Gi", 100)))
			}
		}
		skew := rapid.IntRange(1, 3).Draw(t, "skew")
		in := map[string]int{}
		for i := range rapid.IntRange(1, 30).Draw(t, "pods") {
			p := pod(fmt.Sprint("p", i), even(func(c *corev1.TopologySpreadConstraint) { c.MaxSkew = int32(skew) }))
			n, why := schedule.Pick(p, c)
			if n == "" {
				t.Fatalf("pod %d: %s", i, why)
			}
			c.Assign(p, n)
			in[zoneOf[n]]++
			least, most := 1<<30, 0
			for z := range zones {
				least, most = min(least, in[fmt.Sprint("z", z)]), max(most, in[fmt.Sprint("z", z)])
			}
			if most-least > skew {
				t.Fatalf("zones have %v, the skew is %d", in, skew)
			}
		}
	})
}

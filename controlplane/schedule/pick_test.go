package schedule_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/controlplane/schedule"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestPick(t *testing.T) {
	tainted := func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "a", Value: "b", Effect: corev1.TaintEffectNoSchedule}}
	}
	for name, tt := range map[string]struct {
		nodes []*corev1.Node
		there map[string][]*corev1.Pod // by node
		pod   *corev1.Pod
		want  string // one node, or the explanation
	}{
		"no nodes": {pod: pod("p"), want: "no nodes available to schedule pods"},
		"one fits": {nodes: nodes(node("a")), pod: pod("p"), want: "a"},
		"emptier wins": {
			nodes: nodes(node("a"), node("b")),
			there: map[string][]*corev1.Pod{"a": {pod("x", requests("1", "1Gi"))}},
			pod:   pod("p"), want: "b",
		},
		"kubernetes' form": {
			nodes: nodes(node("a", size("4", "1Gi", 10)), node("b", size("4", "1Gi", 10)), node("c", tainted)),
			pod:   pod("p", requests("1", "2Gi")),
			want:  "0/3 nodes are available: 2 Insufficient memory, 1 node(s) had untolerated taint {a: b}.",
		},
		"a node lacks several": {
			nodes: nodes(node("a", size("1", "1Gi", 0))), pod: pod("p", requests("2", "2Gi")),
			want: "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, 1 Too many pods.",
		},
		"what is assigned counts, ended pods do not": {
			nodes: nodes(node("a", size("1", "1Gi", 10)), node("b", size("1", "1Gi", 10))),
			there: map[string][]*corev1.Pod{
				"a": {pod("x", requests("600m", "1Mi"))},
				"b": {pod("y", requests("900m", "1Mi"), phase(corev1.PodSucceeded))},
			},
			pod: pod("p", requests("500m", "1Mi")), want: "b",
		},
		"pod count": {
			nodes: nodes(node("a", size("1", "1Gi", 1))), there: map[string][]*corev1.Pod{"a": {pod("x")}},
			pod: pod("p"), want: "0/1 nodes are available: 1 Too many pods.",
		},
		"extended resource": {
			nodes: nodes(node("a"), node("b", func(n *corev1.Node) { n.Status.Allocatable["x.org/gpu"] = resource.MustParse("1") })),
			pod: pod("p", func(p *corev1.Pod) {
				p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"x.org/gpu": resource.MustParse("1")}
			}), want: "b",
		},
		"node selector": {
			nodes: nodes(node("a"), node("b", label("disk", "ssd"))),
			pod:   pod("p", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }), want: "b",
		},
		"node selector unmatched": {
			nodes: nodes(node("a")),
			pod:   pod("p", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }),
			want:  "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
		},
		"required node affinity": {
			nodes: nodes(node("a", label("zone", "1")), node("b", label("zone", "2"))),
			pod:   pod("p", nodeAffinity("zone", corev1.NodeSelectorOpNotIn, "1")), want: "b",
		},
		"preferred node affinity": {
			nodes: nodes(node("a"), node("b", label("zone", "2")), node("c")),
			pod: pod("p", func(p *corev1.Pod) {
				p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
					PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 1, Preference: requirement("zone", corev1.NodeSelectorOpIn, "2")}},
				}}
			}), want: "b",
		},
		"cordoned": {
			nodes: nodes(node("a", func(n *corev1.Node) { n.Spec.Unschedulable = true })), pod: pod("p"),
			want: "0/1 nodes are available: 1 node(s) were unschedulable.",
		},
		"not ready": {
			nodes: nodes(node("a", unready)), pod: pod("p"),
			want: "0/1 nodes are available: 1 node(s) were not ready.",
		},
		"not ready and tolerated": {
			nodes: nodes(node("a", unready)), pod: pod("p", tolerate("", "", corev1.TolerationOpExists)), want: "a",
		},
		"taint tolerated": {nodes: nodes(node("a", tainted)), pod: pod("p", tolerate("a", "b", "")), want: "a"},
		"taint of another value": {
			nodes: nodes(node("a", tainted)), pod: pod("p", tolerate("a", "c", "")),
			want: "0/1 nodes are available: 1 node(s) had untolerated taint {a: b}.",
		},
		"PreferNoSchedule": {
			nodes: nodes(node("a", func(n *corev1.Node) {
				n.Spec.Taints = []corev1.Taint{{Key: "a", Effect: corev1.TaintEffectPreferNoSchedule}}
			}), node("b")),
			there: map[string][]*corev1.Pod{"b": {pod("x", requests("1", "1Gi"))}},
			pod:   pod("p"), want: "b",
		},
		"host port": {
			nodes: nodes(node("a"), node("b")), there: map[string][]*corev1.Pod{"a": {pod("x", hostPort("", 80))}},
			pod: pod("p", hostPort("10.0.0.1", 80), requests("3", "1Gi")), want: "b",
		},
		"host port of another address": {
			nodes: nodes(node("a")), there: map[string][]*corev1.Pod{"a": {pod("x", hostPort("10.0.0.2", 80))}},
			pod: pod("p", hostPort("10.0.0.1", 80)), want: "a",
		},
		"host port taken": {
			nodes: nodes(node("a")), there: map[string][]*corev1.Pod{"a": {pod("x", hostPort("10.0.0.2", 80))}},
			pod: pod("p", hostPort("0.0.0.0", 80)), want: "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.",
		},
		"anti-affinity to its own kind": {
			nodes: nodes(node("a"), node("b")),
			there: map[string][]*corev1.Pod{"a": {pod("x", app("web"))}},
			pod:   pod("p", app("web"), antiAffinity("web"), requests("3", "1Gi")), want: "b",
		},
		"anti-affinity of those that are there": {
			nodes: nodes(node("a")), there: map[string][]*corev1.Pod{"a": {pod("x", app("db"), antiAffinity("web"))}},
			pod: pod("p", app("web")), want: "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.",
		},
		"affinity": {
			nodes: nodes(node("a"), node("b")), there: map[string][]*corev1.Pod{"b": {pod("x", app("db"), requests("2", "2Gi"))}},
			pod: pod("p", affinity("db")), want: "b",
		},
		"affinity unmatched": {
			nodes: nodes(node("a")), pod: pod("p", affinity("db")),
			want: "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.",
		},
		"the first of a group that wants to be together": {
			nodes: nodes(node("a")), pod: pod("p", app("db"), affinity("db")), want: "a",
		},
		"spread": {
			nodes: nodes(node("a"), node("b")),
			there: map[string][]*corev1.Pod{"a": {pod("x", function("f"))}, "b": {pod("y", requests("1", "1Gi"))}},
			pod:   pod("p", function("f")), want: "b",
		},
		"image is there": {
			nodes: nodes(node("a"), node("b", func(n *corev1.Node) {
				n.Status.Images = []corev1.ContainerImage{{Names: []string{"docker.io/library/resize:latest"}}}
			})),
			pod: pod("p", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "resize" }), want: "b",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := schedule.NewCluster()
			for _, n := range tt.nodes {
				c.SetNode(n)
			}
			for on, ps := range tt.there {
				for _, p := range ps {
					c.Assign(p, on)
				}
			}
			got, e := schedule.Pick(tt.pod, c)
			if got == "" {
				got = e.String()
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestClusterForgets(t *testing.T) {
	c := schedule.NewCluster()
	c.Assign(pod("early", requests("4", "1Gi")), "a") // before its node is known
	c.SetNode(node("a"))
	p := pod("p", requests("1", "1Gi"))
	if got, e := schedule.Pick(p, c); got != "" {
		t.Fatalf("got %q, want none: %s", got, e)
	}
	if diff := cmp.Diff([]string{"Insufficient cpu"}, schedule.Fits(p, c, "a")); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
	c.Remove("early")
	if got, e := schedule.Pick(p, c); got != "a" {
		t.Errorf("after the removal: got %q, want a: %s", got, e)
	}
	c.Assign(p, "a")
	c.RemoveNode("a")
	if c.Len() != 0 {
		t.Errorf("%d nodes after the removal of the only one", c.Len())
	}
	c.SetNode(node("a", size("1", "4Gi", 10)))
	if got, _ := schedule.Pick(pod("q", requests("1", "1Gi")), c); got != "" {
		t.Errorf("a node that came back forgot its pod: picked %q", got)
	}
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{1000, 5000, 10000} {
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) {
			c := schedule.NewCluster()
			for i := range n {
				c.SetNode(node(fmt.Sprintf("n%05d", i), size("32", "128Gi", 250)))
			}
			pods := make([]*corev1.Pod, 4096)
			for i := range pods {
				pods[i] = pod(fmt.Sprintf("p%d", i), requests("100m", "128Mi"), function(fmt.Sprintf("f%d", i%64)))
			}
			i := 0
			for b.Loop() {
				p := pods[i%len(pods)]
				i++
				c.Remove(p.UID)
				got, e := schedule.Pick(p, c)
				if got == "" {
					b.Fatal(e)
				}
				c.Assign(p, got)
			}
		})
	}
}

func nodes(ns ...*corev1.Node) []*corev1.Node { return ns }

func node(name string, with ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	size("4", "8Gi", 110)(n)
	for _, f := range with {
		f(n)
	}
	return n
}

func size(cpu, memory string, pods int64) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Status.Allocatable = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
			corev1.ResourcePods: *resource.NewQuantity(pods, resource.DecimalSI),
		}
	}
}

func label(k, v string) func(*corev1.Node) { return func(n *corev1.Node) { n.Labels[k] = v } }

func unready(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionFalse }

func pod(name string, with ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, UID: types.UID(name), Labels: map[string]string{}}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
	for _, f := range with {
		f(p)
	}
	return p
}

func requests(cpu, memory string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
		}
	}
}

func phase(ph corev1.PodPhase) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Status.Phase = ph } }

func app(v string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Labels["app"] = v } }

func function(v string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels["faas_function"] = v }
}

func hostPort(ip string, n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostIP: ip, HostPort: n, ContainerPort: n}}
	}
}

func tolerate(key, value string, op corev1.TolerationOperator) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Key: key, Value: value, Operator: op}} }
}

func requirement(key string, op corev1.NodeSelectorOperator, values ...string) corev1.NodeSelectorTerm {
	return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: op, Values: values}}}
}

func nodeAffinity(key string, op corev1.NodeSelectorOperator, values ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{requirement(key, op, values...)}},
		}}
	}
}

func byHost(v string) []corev1.PodAffinityTerm {
	return []corev1.PodAffinityTerm{{
		TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": v}},
	}}
}

func antiAffinity(v string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: byHost(v)}}
	}
}

func affinity(v string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: byHost(v)}}
	}
}

// A function that comes back from zero begins where its image and its root file
// system are; replicas beyond the first are spread nevertheless, and what is no
// function, or was there long ago, is not remembered.
func TestWarmNodes(t *testing.T) {
	c := schedule.NewCluster()
	for _, n := range []string{"a", "b", "c"} {
		c.SetNode(node(n))
	}
	on := func(name string, with ...func(*corev1.Pod)) string {
		t.Helper()
		got, why := schedule.Pick(pod(name, with...), c)
		if got == "" {
			t.Fatal(why)
		}
		return got
	}
	had := func(node, name string, with ...func(*corev1.Pod)) {
		p := pod(name, with...)
		c.Assign(p, node)
		c.Remove(p.UID)
	}
	had("c", "was", function("f"))
	if got := on("first", function("f")); got != "c" {
		t.Errorf("the function comes back on %s, want c", got)
	}
	c.Assign(pod("first", function("f")), "c")
	if got := on("second", function("f")); got == "c" {
		t.Error("the second replica is where the first one is")
	}
	if got := on("other", function("g")); got != "a" {
		t.Errorf("another function begins on %s, want the first of those that are empty", got)
	}
	had("b", "plain", app("x"))
	if got := on("again", app("x")); got != "a" {
		t.Errorf("what is no function comes back on %s, want the first node", got)
	}
	for i := range 300 {
		had("b", fmt.Sprint("many", i), function(fmt.Sprint("many", i)))
	}
	for name, want := range map[string]string{"many0": "a", "many43": "a", "many44": "b", "many299": "b"} {
		if got := on("late", function(name)); got != want {
			t.Errorf("%s comes back on %s, want %s: a node is remembered for 256 functions", name, got, want)
		}
	}
}

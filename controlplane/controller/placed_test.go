package controller_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/controller"
	"github.com/podsnap/podsnap/controlplane/disruption"
	"github.com/podsnap/podsnap/controlplane/podstate"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func daemonSet(image string) *appsv1.DaemonSet {
	l := map[string]string{"app": "log"}
	d := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "log"}}
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: l}
	d.Spec.Template.Labels = l
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: image}}
	d.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{
		Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: new(intstr.FromInt32(1))},
	}
	return d
}

// on says on which nodes the set's live pods are, and tells if that is not so of
// its status.
func (c *cluster) on(image string, want ...string) func() error {
	return func() error {
		d, err := api.Get[*appsv1.DaemonSet](c.ctx, c, api.DaemonSets, "default", "log")
		if err != nil {
			return err
		}
		var on []string
		for _, p := range c.pods("default") {
			if podstate.Active(p) && podstate.Ready(p) && p.Spec.Containers[0].Image == image {
				on = append(on, p.Spec.NodeName)
			}
		}
		slices.Sort(on)
		n := int32(len(want))
		got := d.Status
		got.Conditions = nil
		full := appsv1.DaemonSetStatus{
			CurrentNumberScheduled: n, DesiredNumberScheduled: n, NumberReady: n, UpdatedNumberScheduled: n, NumberAvailable: n, ObservedGeneration: d.Generation,
		}
		if !slices.Equal(on, want) || fmt.Sprint(got) != fmt.Sprint(full) {
			return fmt.Errorf("pods of %s are on %v, want %v; the status is %+v", image, on, want, got)
		}
		return nil
	}
}

func (c *cluster) mutateNode(name string, f func(*corev1.Node)) {
	c.t.Helper()
	_, err := api.Mutate(c.ctx, c, api.Nodes, "", name, api.UpdateOptions{}, func(n *corev1.Node) (bool, error) {
		f(n)
		return true, nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// A pod of the set is on every node that it is for, whatever comes and goes.
func TestDaemonSet(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		c.node("b")
		d := daemonSet("i:1")
		d.Spec.Template.Spec.NodeSelector = map[string]string{"logs": "yes"}
		c.create(d)
		c.eventually("nowhere", c.on("i:1"))
		for _, n := range []string{"a", "b"} {
			c.mutateNode(n, func(n *corev1.Node) { n.Labels["logs"] = "yes" })
		}
		c.eventually("on nodes that are labelled", c.on("i:1", "a", "b"))
		c.mutateNode("b", func(n *corev1.Node) { n.Spec.Unschedulable = true })
		c.node("c")
		c.mutateNode("c", func(n *corev1.Node) { n.Labels["logs"] = "yes" })
		c.eventually("a new node, one closed", c.on("i:1", "a", "b", "c"))
		// One that is deleted, and one that has failed, are made anew, the failed
		// one after a while and longer each time.
		for _, p := range c.pods("default") {
			if p.Spec.NodeName == "a" {
				if _, err := c.Delete(c.ctx, api.Pods, p.Namespace, p.Name, api.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
			}
		}
		c.eventually("again on a", c.on("i:1", "a", "b", "c"))
		fail := func() time.Duration {
			for _, p := range c.pods("default") {
				if p.Spec.NodeName == "b" {
					next := p.DeepCopy()
					next.Status.Phase = corev1.PodFailed
					if _, err := c.Update(c.ctx, next, api.UpdateOptions{Subresource: "status"}); err != nil {
						t.Fatal(err)
					}
				}
			}
			return c.eventually("again on b", c.on("i:1", "a", "b", "c"))
		}
		if first, second := fail(), fail(); first < time.Second || second < 2*time.Second {
			t.Errorf("failed pods were replaced after %v and %v, want 1 and 2 s at least", first, second)
		}
		c.mutateNode("a", func(n *corev1.Node) { delete(n.Labels, "logs") })
		c.eventually("no more on a", c.on("i:1", "b", "c"))
		c.mutateNode("c", func(n *corev1.Node) {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "own", Effect: corev1.TaintEffectNoExecute})
		})
		c.eventually("not on a tainted one", c.on("i:1", "b"))
		if _, err := c.Delete(c.ctx, api.DaemonSets, "default", "log", api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually("the end", func() error { return c.gone(api.Pods, "default") })
	})
}

// A new template comes to one node after the other.
func TestDaemonSetRolls(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		nodes := []string{"a", "b", "c", "d"}
		for _, n := range nodes {
			c.node(n)
		}
		c.create(daemonSet("i:1"))
		c.eventually("first version", c.on("i:1", nodes...))
		_, err := api.Mutate(c.ctx, c, api.DaemonSets, "default", "log", api.UpdateOptions{}, func(d *appsv1.DaemonSet) (bool, error) {
			d.Spec.Template.Spec.Containers[0].Image = "i:2"
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		least := len(nodes)
		c.eventually("second version", func() error {
			least = min(least, c.ready("i:1")+c.ready("i:2"))
			return c.on("i:2", nodes...)()
		})
		if least != len(nodes)-1 {
			t.Errorf("%d pods were there at least, want %d", least, len(nodes)-1)
		}
	})
}

// evict is what the API does for those who empty a node.
func (c *cluster) evict(p *corev1.Pod) error {
	if err := disruption.Grant(c.ctx, c, p); err != nil {
		return err
	}
	_, err := c.Delete(c.ctx, api.Pods, p.Namespace, p.Name, api.DeleteOptions{UID: p.UID})
	return err
}

func budget(spec policyv1.PodDisruptionBudgetSpec) *policyv1.PodDisruptionBudget {
	spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	return &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: spec}
}

// So many pods may be evicted at a time as the budget has, and more when others
// have taken their places; however often and by how many it is asked for.
func TestDisruptionBudget(t *testing.T) {
	three, half := intstr.FromInt32(3), intstr.FromString("50%")
	for name, tt := range map[string]struct {
		spec  policyv1.PodDisruptionBudgetSpec
		allow int
	}{
		"at least three of five":   {policyv1.PodDisruptionBudgetSpec{MinAvailable: &three}, 2},
		"at least half of five":    {policyv1.PodDisruptionBudgetSpec{MinAvailable: &half}, 2},
		"at most half of five":     {policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &half}, 3},
		"nothing is asked for":     {policyv1.PodDisruptionBudgetSpec{}, 5},
		"at most three of five":    {policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &three}, 3},
		"at most none may be away": {policyv1.PodDisruptionBudgetSpec{MaxUnavailable: new(intstr.FromInt32(0))}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			start(t, controller.Config{}, func(c *cluster) {
				c.node("a")
				c.create(deployment("web", "i:1", 5))
				c.eventually("five", c.complete(5))
				c.create(budget(tt.spec))
				status := func() policyv1.PodDisruptionBudgetStatus {
					b, err := api.Get[*policyv1.PodDisruptionBudget](c.ctx, c, api.PodDisruptionBudgets, "default", "web")
					if err != nil {
						t.Fatal(err)
					}
					return b.Status
				}
				settled := func() error {
					if s := status(); int(s.DisruptionsAllowed) != tt.allow || s.CurrentHealthy != 5 || s.ObservedGeneration != 1 || s.ExpectedPods != 5 {
						return fmt.Errorf("the status is %+v, want %d disruptions allowed", s, tt.allow)
					}
					return nil
				}
				for range 2 {
					c.eventually("the budget", settled)
					gone := 0
					for _, p := range c.pods("default") {
						err := c.evict(p)
						if err == nil {
							gone++
							continue
						}
						s, ok := err.(apierrors.APIStatus)
						if !apierrors.IsTooManyRequests(err) || !ok || !strings.Contains(s.Status().Details.Causes[0].Message, "The disruption budget web needs") {
							t.Fatalf("evict %s: %v", p.Name, err)
						}
					}
					if gone != tt.allow {
						t.Errorf("%d pods were evicted at once, want %d", gone, tt.allow)
					}
					c.eventually("five again", c.complete(5))
				}
				if n := len(status().DisruptedPods); n != 0 {
					t.Errorf("%d pods count as disrupted", n)
				}
			})
		})
	}
}

// A grant of which nothing came is given back; who is not ready may go when enough
// others are; and two budgets are one too many.
func TestDisruptionBudgetEdges(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		c.create(deployment("web", "i:1", 2))
		c.eventually("two", c.complete(2))
		one := intstr.FromInt32(1)
		c.create(budget(policyv1.PodDisruptionBudgetSpec{MinAvailable: &one}))
		pods := c.pods("default")
		granted := func() error { return disruption.Grant(c.ctx, c, pods[0]) }
		c.eventually("one may go", granted)
		if err := disruption.Grant(c.ctx, c, pods[1]); !apierrors.IsTooManyRequests(err) {
			t.Errorf("a second one: %v", err)
		}
		if waited := c.eventually("the grant comes back", granted); waited < disruption.Patience-time.Second {
			t.Errorf("the grant came back after %v, want %v", waited, disruption.Patience)
		}

		sick := pods[1].DeepCopy()
		sick.Status.Conditions[0].Status = corev1.ConditionFalse
		now, err := api.Update(c.ctx, c.Objects, sick, api.UpdateOptions{Subresource: "status"})
		if err != nil {
			t.Fatal(err)
		}
		c.pass(disruption.Patience + time.Second)
		if err := disruption.Grant(c.ctx, c, now); err != nil {
			t.Errorf("one that is not ready, while the other is: %v", err)
		}
		if err := granted(); !apierrors.IsTooManyRequests(err) {
			t.Errorf("the last healthy one: %v", err)
		}
		other := budget(policyv1.PodDisruptionBudgetSpec{})
		other.Name = "too"
		c.create(other)
		if err := granted(); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "more than one") {
			t.Errorf("a pod of two budgets: %v", err)
		}
	})
}

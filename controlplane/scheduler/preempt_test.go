package scheduler_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/podstate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func priority(n int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &n } }

// gone ends a pod as its node does when its grace period is over.
func (b *bench) gone(name string) {
	b.t.Helper()
	if _, err := b.Delete(b.ctx, api.Pods, "d", name, api.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) events(reason string) int {
	b.t.Helper()
	b.after(10 * time.Second)
	all, err := api.Items[*corev1.Event](b.ctx, b, api.Events, api.ListOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	n := 0
	for _, e := range all {
		if e.Reason == reason {
			n++
		}
	}
	return n
}

func TestOthersMakeWay(t *testing.T) {
	run(t, func(b *bench) {
		b.node("a", "2", 10)
		b.pod("low", "1", priority(1))
		b.pod("mid", "1", priority(5))
		b.placed()
		b.pod("high", "1", priority(10))
		p := b.get("high")
		if p.Spec.NodeName != "" || p.Status.NominatedNodeName != "a" {
			t.Fatalf("on %q, nominated for %q", p.Spec.NodeName, p.Status.NominatedNodeName)
		}
		low := b.get("low")
		c := podstate.Condition(low, corev1.DisruptionTarget)
		if low.DeletionTimestamp == nil || *low.DeletionGracePeriodSeconds != 30 || c == nil || c.Reason != "PreemptionByScheduler" {
			t.Fatalf("low: deleted %v, condition %+v", low.DeletionTimestamp, c)
		}
		if b.get("mid").DeletionTimestamp != nil {
			t.Fatal("mid makes way as well")
		}
		if n := b.events("Preempted"); n != 1 {
			t.Errorf("%d events Preempted, want 1", n)
		}
		// While low ends, nobody of lower priority takes the room, and nobody else goes.
		b.pod("other", "1", priority(2))
		b.pod("mid2", "500m", priority(5))
		b.gone("low")
		if p := b.get("high"); p.Spec.NodeName != "a" || p.Status.NominatedNodeName != "" {
			t.Errorf("high is on %q, nominated for %q", p.Spec.NodeName, p.Status.NominatedNodeName)
		}
		for _, name := range []string{"other", "mid2"} {
			if got := b.get(name).Spec.NodeName; got != "" {
				t.Errorf("%s is on %s", name, got)
			}
		}
		if b.get("mid").DeletionTimestamp != nil {
			t.Error("mid had to go")
		}
	})
}

func TestNeverPreempts(t *testing.T) {
	run(t, func(b *bench) {
		b.node("a", "1", 10)
		b.pod("low", "1", priority(1))
		b.placed()
		b.pod("high", "1", priority(10), func(p *corev1.Pod) { p.Spec.PreemptionPolicy = new(corev1.PreemptNever) })
		b.pod("same", "1", priority(1))
		for _, name := range []string{"high", "same"} {
			if p := b.get(name); p.Spec.NodeName != "" || p.Status.NominatedNodeName != "" {
				t.Errorf("%s: on %q, nominated for %q", name, p.Spec.NodeName, p.Status.NominatedNodeName)
			}
		}
		if b.get("low").DeletionTimestamp != nil {
			t.Error("low had to go")
		}
	})
}

// Room goes to those of the highest priority that wait for it, in the order of
// their arrival.
func TestPriorityComesFirst(t *testing.T) {
	run(t, func(b *bench) {
		b.node("a", "0", 10)
		for i := range 12 {
			b.pod(fmt.Sprint("p", i), "1", priority(int32(i%3)), func(p *corev1.Pod) { p.Spec.PreemptionPolicy = new(corev1.PreemptNever) })
			b.placed()
		}
		b.after(20 * time.Second)
		// In one step: of a node that comes, and then is ready, some would be tried in
		// between and have to rest.
		if _, err := api.Mutate(b.ctx, b, api.Nodes, "", "a", api.UpdateOptions{Subresource: "status"}, func(n *corev1.Node) (bool, error) {
			n.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse("4")
			return true, nil
		}); err != nil {
			b.t.Fatal(err)
		}
		b.after(20 * time.Second)
		for i := range 12 {
			if got := b.get(fmt.Sprint("p", i)).Spec.NodeName; (got == "a") != (i%3 == 2) {
				t.Errorf("p%d of priority %d is on %q", i, i%3, got)
			}
		}
	})
}

package scheduler_test

import (
	"testing"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Room that is given to a pod before it exists is nobody else's, until the pod
// is gone or was not created after all.
func TestPlace(t *testing.T) {
	run(t, func(b *bench) {
		b.node("n", "1", 10)
		b.placed() // the scheduler has seen it
		small := func(name string) *corev1.Pod {
			return &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("600m")},
				}}}},
			}
		}
		place := func(name, want string) func(*corev1.Pod) {
			t.Helper()
			node, settle := b.s.Place(small(name))
			if node != want {
				t.Fatalf("%s: got node %q, want %q", name, node, want)
			}
			return settle
		}
		first := place("a", "n")
		place("b", "")(nil)
		first(nil) // it was not created
		second := place("b", "n")
		p := small("b")
		p.Spec.NodeName = "n"
		created, err := api.Create(b.ctx, b, p)
		if err != nil {
			t.Fatal(err)
		}
		place("c", "")(nil)
		second(created)
		b.placed()
		place("c", "")(nil) // seen by now, and counted once:
		if _, err := b.Delete(b.ctx, api.Pods, "d", "b", api.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
			t.Fatal(err)
		}
		b.placed()
		last := place("c", "n")
		b.pod("waits", "600m")
		if got := b.get("waits").Spec.NodeName; got != "" {
			t.Errorf("a pod got node %q, whose room was kept for another", got)
		}
		last(nil)
		if got := b.get("waits").Spec.NodeName; got != "n" {
			t.Errorf("a pod is on node %q, want n, whose room was given back", got)
		}
		gated := small("gated")
		gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "wait"}}
		if node, _ := b.s.Place(gated); node != "" {
			t.Errorf("a pod that is held back got node %q", node)
		}
	})
}

// A pod that has come and gone before its creator is told of it leaves nothing.
func TestPlaceOfShortLife(t *testing.T) {
	run(t, func(b *bench) {
		b.node("n", "1", 1)
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "short"}}
		p.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
		node, settle := b.s.Place(p)
		p.Spec.NodeName = node
		created, err := api.Create(b.ctx, b, p)
		if err != nil || node != "n" {
			t.Fatal(node, err)
		}
		b.placed()
		if _, err := b.Delete(b.ctx, api.Pods, "d", "short", api.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
			t.Fatal(err)
		}
		b.placed()
		settle(created)
		b.pod("next", "1m")
		if got := b.get("next").Spec.NodeName; got != "n" {
			t.Errorf("on node %q, want n, which is empty", got)
		}
	})
}

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
		place("c", "n")(nil)
		gated := small("gated")
		gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "wait"}}
		if node, _ := b.s.Place(gated); node != "" {
			t.Errorf("a pod that is held back got node %q", node)
		}
	})
}

package fleet_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/functions"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// function deploys one with ready replicas on node "n", which the agent has.
func (r *rig) function(name string, replicas int, labels map[string]string) {
	r.Helper()
	l := map[string]string{api.LabelFunction: name}
	for k, v := range labels {
		l[functions.LabelScalePrefix+k] = v
	}
	_, err := r.objects.Create(r.ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: resize.Namespace, Name: name, Labels: l},
		Spec:       appsv1.DeploymentSpec{Replicas: new(int32(replicas))},
	})
	if err != nil {
		r.Fatal(err)
	}
	for i := range replicas {
		p, err := api.Create(r.ctx, r.objects, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: resize.Namespace, Name: name + "-" + string(rune('a'+i)), Labels: map[string]string{api.LabelFunction: name}},
			Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		})
		if err != nil {
			r.Fatal(err)
		}
		if err := r.agent.Start(r.ctx, []*corev1.Pod{p}); err != nil {
			r.Fatal(err)
		}
		r.status(p.Name, running("10.0.1."+string(rune('1'+i))))
	}
}

// memory says whether node "n" is short of it.
func (r *rig) memory(short bool) {
	r.Helper()
	status := corev1.ConditionFalse
	if short {
		status = corev1.ConditionTrue
	}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{
		Capacity:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeMemoryPressure, Status: status}},
	}}
	if _, err := r.objects.Get(r.ctx, api.Nodes, "", "n"); err != nil {
		if _, err := r.objects.Create(r.ctx, n); err != nil {
			r.Fatal(err)
		}
		n.Status.Conditions[0].Status = status
	}
	_, err := api.Mutate(r.ctx, r.objects, api.Nodes, "", "n", api.UpdateOptions{Subresource: "status"}, func(have *corev1.Node) (bool, error) {
		have.Status = n.Status
		return true, nil
	})
	if err != nil {
		r.Fatal(err)
	}
	synctest.Wait()
}

func (r *rig) replicasOf(name string) int {
	r.Helper()
	d, err := api.Get[*appsv1.Deployment](r.ctx, r.objects, api.Deployments, resize.Namespace, name)
	if err != nil {
		r.Fatal(err)
	}
	return int(*d.Spec.Replicas)
}

func (r *rig) asks(name string, d api.Demand) {
	r.Helper()
	d.Function = types.NamespacedName{Namespace: resize.Namespace, Name: name}
	if err := r.fleet.Report(r.ctx, "g", []api.Demand{d}); err != nil {
		r.Fatal(err)
	}
	synctest.Wait()
}

// A node that is short of memory loses idle replicas, one after the other; what
// is called, and the least that a function is to have, stays.
func TestEvicts(t *testing.T) {
	in(t, func(r *rig) {
		r.memory(false)
		r.function("idle", 1, map[string]string{"zero": "true"})
		r.function("busy", 1, map[string]string{"zero": "true"})
		r.function("kept", 2, map[string]string{"min": "2", "max": "4"})
		r.pass(20 * time.Second)
		r.asks("busy", api.Demand{InFlight: 1})
		r.memory(true)
		for range 4 {
			r.asks("busy", api.Demand{InFlight: 1})
			r.pass(time.Second)
		}
		want(r, r.replicasOf("idle"), 0)
		want(r, r.replicasOf("busy"), 1)
		want(r, r.replicasOf("kept"), 2)
		all, err := r.fleet.Decisions(r.ctx, types.NamespacedName{Namespace: resize.Namespace, Name: "idle"})
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, d := range all {
			found = found || d.Rule == "evict" && d.From == 1 && d.To == 0 && strings.Contains(d.Reason, "node n is short of memory")
		}
		if !found {
			t.Errorf("decisions %+v", all)
		}
		p, err := api.Get[*corev1.Pod](r.ctx, r.objects, api.Pods, resize.Namespace, "idle-a")
		if err != nil || p.Annotations[corev1.PodDeletionCost] == "" {
			t.Errorf("the set does not know which pod is to go: %v, %v", p.Annotations, err)
		}
	})
}

// It ends when the condition does.
func TestEvictsNoMoreThanNeeded(t *testing.T) {
	in(t, func(r *rig) {
		r.memory(false)
		for _, name := range []string{"a", "b", "c"} {
			r.function(name, 1, map[string]string{"zero": "true"})
		}
		r.pass(20 * time.Second)
		r.memory(true)
		r.pass(time.Second)
		r.memory(false)
		r.pass(time.Minute)
		if left := r.replicasOf("a") + r.replicasOf("b") + r.replicasOf("c"); left != 2 {
			t.Errorf("%d replicas are left, want 2", left)
		}
	})
}

// A fleet that has just started does not know what is idle.
func TestEvictsNothingAfterAStart(t *testing.T) {
	in(t, func(r *rig) {
		r.memory(true)
		r.function("idle", 1, map[string]string{"zero": "true"})
		r.pass(9 * time.Second)
		want(r, r.replicasOf("idle"), 1)
		r.pass(5 * time.Second)
		want(r, r.replicasOf("idle"), 0)
	})
}

package soft_test

import (
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/soft"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestReplicas(t *testing.T) {
	deployment := func(change func(*appsv1.Deployment)) *appsv1.Deployment {
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "f", Labels: map[string]string{api.LabelFunction: "f"}}}
		d.Spec.Replicas = new(int32(1))
		d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "f", Image: "i:1"}}
		if change != nil {
			change(d)
		}
		return d
	}
	replica := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name: "f-1", Labels: map[string]string{api.LabelFunction: "f"}, OwnerReferences: []metav1.OwnerReference{{Name: "f", Controller: new(true)}},
		}}
		if change != nil {
			change(p)
		}
		return p
	}
	set := func(n int32) *appsv1.ReplicaSet {
		return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "f", Generation: int64(n), Labels: map[string]string{api.LabelFunction: "f"}}, Spec: appsv1.ReplicaSetSpec{Replicas: &n}}
	}
	lease := func(node string, at metav1.Time) *coordinationv1.Lease {
		return &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: api.SystemNamespace, Name: "n"},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &node, RenewTime: &metav1.MicroTime{Time: at.Time}},
		}
	}
	now := metav1.NewTime(time.Unix(1, 0))
	plain := deployment(func(d *appsv1.Deployment) { d.Labels = nil })
	for name, c := range map[string]struct {
		old, next api.Object
		want      bool
	}{
		"scale":                     {deployment(nil), deployment(func(d *appsv1.Deployment) { d.Spec.Replicas, d.Generation = new(int32(7)), 1 }), true},
		"status":                    {deployment(nil), deployment(func(d *appsv1.Deployment) { d.Status.Replicas = 7 }), true},
		"annotation":                {deployment(nil), deployment(func(d *appsv1.Deployment) { d.Annotations = map[string]string{"a": "b"} }), true},
		"new image":                 {deployment(nil), deployment(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image, d.Generation = "i:2", 1 }), false},
		"new limits of scaling":     {deployment(nil), deployment(func(d *appsv1.Deployment) { d.Labels["com.openfaas.scale.max"] = "3" }), false},
		"first deploy":              {nil, deployment(nil), false},
		"removal":                   {deployment(nil), nil, false},
		"deletion begins":           {deployment(nil), deployment(func(d *appsv1.Deployment) { d.DeletionTimestamp = &now }), false},
		"scale of another's":        {plain, deployment(func(d *appsv1.Deployment) { d.Labels, d.Generation, d.Spec.Replicas = nil, 1, new(int32(7)) }), false},
		"size of a set":             {set(1), set(2), true},
		"a new set":                 {nil, set(1), false},
		"a new replica":             {nil, replica(nil), true},
		"a StatefulSet's pod":       {nil, replica(func(p *corev1.Pod) { p.OwnerReferences[0].Kind = "StatefulSet" }), false},
		"a replica ends":            {replica(nil), nil, true},
		"a replica's status":        {replica(nil), replica(func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }), true},
		"a pod of a person":         {nil, replica(func(p *corev1.Pod) { p.OwnerReferences = nil }), false},
		"a person's pod ends":       {replica(func(p *corev1.Pod) { p.Labels = nil }), nil, false},
		"an event":                  {nil, &corev1.Event{}, true},
		"a node renews its lease":   {lease("n", now), lease("n", metav1.NewTime(time.Unix(2, 0))), true},
		"a lease's holder changes":  {lease("n", now), lease("m", now), false},
		"a node's first lease":      {nil, lease("n", now), true},
		"a lease of somebody else":  {nil, lease("m", now), false},
		"the end of a lease":        {lease("n", now), nil, false},
		"a replica that is let go ": {replica(nil), replica(func(p *corev1.Pod) { p.OwnerReferences = nil }), false},
	} {
		if got := soft.Replicas(c.old, c.next); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

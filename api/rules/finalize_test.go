package rules_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
)

// A write of a namespace's finalizers changes nothing else, and ends one that was deleted.
func TestFinalize(t *testing.T) {
	deleted := metav1.Now()
	for name, c := range map[string]struct {
		deleted       *metav1.Time
		left          []corev1.FinalizerName
		remove, stays bool
	}{
		"the last of a deleted one": {deleted: &deleted, remove: true},
		"another is left":           {deleted: &deleted, left: []corev1.FinalizerName{"example.com/x"}},
		"of one that stays":         {},
		"nothing":                   {left: []corev1.FinalizerName{"kubernetes"}, stays: true},
	} {
		old := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "u", DeletionTimestamp: c.deleted}, Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{"kubernetes"}}}
		obj := old.DeepCopy()
		obj.Labels, obj.Status.Phase, obj.Spec.Finalizers = map[string]string{"a": "b"}, corev1.NamespaceTerminating, c.left
		v, err := rules.Update(old, obj, api.UpdateOptions{Subresource: "finalize"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := v.Object.(*corev1.Namespace)
		if v.Remove != c.remove || v.Unchanged != c.stays || len(got.Spec.Finalizers) != len(c.left) || got.Labels != nil || got.Status.Phase != "" {
			t.Errorf("%s: %+v, removed %t, unchanged %t", name, got, v.Remove, v.Unchanged)
		}
	}
	if _, err := rules.Update(&corev1.ConfigMap{}, &corev1.ConfigMap{}, api.UpdateOptions{Subresource: "finalize"}, nil); err == nil {
		t.Error("a ConfigMap has finalizers of its own kind")
	}
}

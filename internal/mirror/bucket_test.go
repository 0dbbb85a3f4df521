package mirror

import (
	"fmt"
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A bucket answers with what is under a key, few or many.
func TestBucket(t *testing.T) {
	var b bucket[*corev1.Pod]
	want := map[string]string{}
	check := func() {
		t.Helper()
		got := map[string]string{}
		for _, p := range b.all() {
			got[p.Name] = p.Spec.NodeName
		}
		if !maps.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
	for i := range 20 {
		name := fmt.Sprint("p", i)
		for _, node := range []string{"old", "new"} { // the second in the place of the first
			b.put(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}, Spec: corev1.PodSpec{NodeName: node}})
			want[name] = node
			check()
		}
	}
	for i := range 20 {
		name := fmt.Sprint("p", i)
		delete(want, name)
		if left := b.drop(types.NamespacedName{Namespace: "a", Name: name}); left != (len(want) > 0) {
			t.Fatalf("left: %v, with %d there", left, len(want))
		}
		check()
	}
}

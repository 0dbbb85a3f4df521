package access

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

// A node sees its own pods, and of others nothing that is anybody's secret.
func TestTrim(t *testing.T) {
	node := User{Name: NodeUser("n1"), Groups: []string{Nodes}}
	on := func(n string) fields.Selector { return fields.OneTermEqualSelector("spec.nodeName", n) }
	for _, tt := range []struct {
		name string
		u    User
		q    Request
		trim bool
	}{
		{"all", node, Request{Verb: "list", Resource: api.Pods}, true},
		{"all, followed", node, Request{Verb: "watch", Resource: api.Pods, Namespace: "fn", Fields: fields.Everything()}, true},
		{"another node's", node, Request{Verb: "list", Resource: api.Pods, Fields: on("n2")}, true},
		{"not its own", node, Request{Verb: "list", Resource: api.Pods, Fields: fields.OneTermNotEqualSelector("spec.nodeName", "n1")}, true},
		{"its own", node, Request{Verb: "watch", Resource: api.Pods, Fields: fields.AndSelectors(on("n1"), fields.OneTermEqualSelector("status.phase", "Running"))}, false},
		{"one of its own", node, Request{Verb: "get", Resource: api.Pods}, false},
		{"other kinds", node, Request{Verb: "list", Resource: api.Services}, false},
		{"an administrator", User{Name: "admin", Groups: []string{Masters}}, Request{Verb: "list", Resource: api.Pods}, false},
		{"who says that it is a node", User{Name: NodeUser("n1"), Groups: []string{Masters}}, Request{Verb: "list", Resource: api.Pods}, false},
	} {
		if got := Trim(tt.u, tt.q) != nil; got != tt.trim {
			t.Errorf("%s: trimmed %v, want %v", tt.name, got, tt.trim)
		}
	}
	port := []corev1.ContainerPort{{Name: "http", ContainerPort: 80, Protocol: corev1.ProtocolTCP}}
	always := corev1.ContainerRestartPolicyAlways
	whole := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "fn", Name: "p", UID: "u", ResourceVersion: "7", Labels: labels.Set{"a": "b"}, Annotations: map[string]string{"secret": "x"},
			OwnerReferences: []metav1.OwnerReference{{Name: "x"}},
		},
		Spec: corev1.PodSpec{
			NodeName: "n2", ServiceAccountName: "x",
			Containers:     []corev1.Container{{Name: "c", Image: "secret", Env: []corev1.EnvVar{{Name: "PASSWORD", Value: "secret"}}, Args: []string{"secret"}, Ports: port}},
			InitContainers: []corev1.Container{{Name: "s", Image: "secret", RestartPolicy: &always, Ports: port}},
			Volumes:        []corev1.Volume{{Name: "x"}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", Message: "secret"},
	}
	want := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fn", Name: "p", UID: "u", ResourceVersion: "7", Labels: labels.Set{"a": "b"}},
		Spec: corev1.PodSpec{
			NodeName: "n2", Containers: []corev1.Container{{Name: "c", Ports: port}}, InitContainers: []corev1.Container{{Name: "s", RestartPolicy: &always, Ports: port}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"},
	}
	if d := cmp.Diff(want, Trim(node, Request{Verb: "list", Resource: api.Pods})(whole)); d != "" {
		t.Errorf("a pod of another node (-want +got):\n%s", d)
	}
}

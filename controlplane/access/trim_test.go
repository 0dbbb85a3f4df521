package access

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	appsv1 "k8s.io/api/apps/v1"
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
		{"functions", node, Request{Verb: "get", Resource: api.Functions}, true},
		{"Deployments", node, Request{Verb: "watch", Resource: api.Deployments}, true},
		{"functions, for an administrator", User{Name: "admin", Groups: []string{Masters}}, Request{Verb: "get", Resource: api.Functions}, false},
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

// A node's gateway gets what limits calls, and nothing that replicas are told.
func TestTrimmedFunctions(t *testing.T) {
	node := User{Name: NodeUser("n1"), Groups: []string{Nodes}}
	env := map[string]string{"exec_timeout": "10s", "PASSWORD": "secret"}
	f := &api.Function{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fn", Name: "f", UID: "u", Generation: 3},
		Spec: api.FunctionSpec{
			Name: "f", Image: "i", Process: "run --secret", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"},
			Environment: env, Secrets: []string{"x"},
		},
	}
	want := f.DeepCopy()
	want.Spec.Process, want.Spec.Environment, want.Spec.Secrets = "", map[string]string{"exec_timeout": "10s"}, nil
	trim := Trim(node, Request{Verb: "list", Resource: api.Functions})
	if d := cmp.Diff(want, trim(f)); d != "" {
		t.Errorf("a function (-want +got):\n%s", d)
	}
	if len(env) != 2 {
		t.Error("the function itself was changed")
	}
	d := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{
		Replicas: new(int32(2)),
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels.Set{"a": "b"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "secret"}}}},
	}, Status: appsv1.DeploymentStatus{AvailableReplicas: 1}}
	wantD := d.DeepCopy()
	wantD.Spec.Template.Spec = corev1.PodSpec{}
	if d := cmp.Diff(wantD, Trim(node, Request{Verb: "watch", Resource: api.Deployments})(d)); d != "" {
		t.Errorf("a Deployment (-want +got):\n%s", d)
	}
}

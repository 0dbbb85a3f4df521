package access

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

// A node sees its own pods, and of others nothing that is anybody's secret.
func TestView(t *testing.T) {
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
		{"nodes", node, Request{Verb: "list", Resource: api.Nodes}, true},
		{"nodes, followed", node, Request{Verb: "watch", Resource: api.Nodes}, true},
		{"another node, followed", node, Request{Verb: "watch", Resource: api.Nodes, Fields: fields.OneTermEqualSelector("metadata.name", "n2")}, true},
		{"itself, followed", node, Request{Verb: "watch", Resource: api.Nodes, Fields: fields.OneTermEqualSelector("metadata.name", "n1")}, false},
		{"itself, followed by its path", node, Request{Verb: "watch", Resource: api.Nodes, Name: "n1"}, false},
		{"another node", node, Request{Verb: "get", Resource: api.Nodes, Name: "n2"}, false},
		{"nodes, for an administrator", User{Name: "admin", Groups: []string{Masters}}, Request{Verb: "watch", Resource: api.Nodes}, false},
		{"functions", node, Request{Verb: "get", Resource: api.Functions}, true},
		{"Deployments", node, Request{Verb: "watch", Resource: api.Deployments}, true},
		{"functions, for an administrator", User{Name: "admin", Groups: []string{Masters}}, Request{Verb: "get", Resource: api.Functions}, false},
		{"other kinds", node, Request{Verb: "list", Resource: api.Services}, false},
		{"an administrator", User{Name: "admin", Groups: []string{Masters}}, Request{Verb: "list", Resource: api.Pods}, false},
		{"who says that it is a node", User{Name: NodeUser("n1"), Groups: []string{Masters}}, Request{Verb: "list", Resource: api.Pods}, false},
	} {
		if got := View(tt.u, tt.q) != nil; got != tt.trim {
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
	if d := cmp.Diff(want, View(node, Request{Verb: "list", Resource: api.Pods}).Show(whole)); d != "" {
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
	trim := View(node, Request{Verb: "list", Resource: api.Functions}).Show
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
	if d := cmp.Diff(wantD, View(node, Request{Verb: "watch", Resource: api.Deployments}).Show(d)); d != "" {
		t.Errorf("a Deployment (-want +got):\n%s", d)
	}
}

// What nodes are shown of one another, and what they are told of, is the same: a
// change that is not told changes nothing that is shown.
func TestNodesOfOneAnother(t *testing.T) {
	at := metav1.Unix(1000, 0)
	base := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: "n2", UID: "u", ResourceVersion: "7", Generation: 1, CreationTimestamp: at, Labels: map[string]string{corev1.LabelTopologyZone: "a"},
			Annotations: map[string]string{api.AnnotationFunctionPorts: "53", "other": "x"},
		},
		Spec: corev1.NodeSpec{PodCIDR: "10.62.16.0/20", PodCIDRs: []string{"10.62.16.0/20"}},
		Status: corev1.NodeStatus{
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: at}},
			Images:     []corev1.ContainerImage{{Names: []string{"i"}, SizeBytes: 1}},
		},
	}
	v := View(User{Name: NodeUser("n1"), Groups: []string{Nodes}}, Request{Verb: "watch", Resource: api.Nodes})
	for _, tt := range []struct {
		name   string
		change func(*corev1.Node)
		told   bool
	}{
		{"nothing", func(*corev1.Node) {}, false},
		{"a heartbeat", func(n *corev1.Node) { n.Status.Conditions[0].LastHeartbeatTime = metav1.Unix(1060, 0) }, false},
		{"its loss", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }, false},
		{"images", func(n *corev1.Node) { n.Status.Images[0].SizeBytes = 2 }, false},
		{"capacity", func(n *corev1.Node) {
			n.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
		}, false},
		{"managed fields", func(n *corev1.Node) { n.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m"}} }, false},
		{"a taint", func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "k"}} }, false},
		{"a cordon", func(n *corev1.Node) { n.Spec.Unschedulable = true; n.Generation++ }, false},
		{"an annotation", func(n *corev1.Node) { n.Annotations["other"] = "y" }, false},
		{"a label", func(n *corev1.Node) { n.Labels["l"] = "" }, true},
		{"its zone", func(n *corev1.Node) { n.Labels[corev1.LabelTopologyZone] = "b" }, true},
		{"ports for functions", func(n *corev1.Node) { n.Annotations[api.AnnotationFunctionPorts] = "80" }, true},
		{"no ports for functions", func(n *corev1.Node) { delete(n.Annotations, api.AnnotationFunctionPorts) }, true},
		{"an empty list of them", func(n *corev1.Node) { n.Annotations[api.AnnotationFunctionPorts] = "" }, true},
		{"its pods' network", func(n *corev1.Node) { n.Spec.PodCIDR = "10.62.32.0/20" }, true},
		{"another network", func(n *corev1.Node) { n.Spec.PodCIDRs = append(n.Spec.PodCIDRs, "fd00::/64") }, true},
		{"an address", func(n *corev1.Node) { n.Status.Addresses[0].Address = "192.0.2.2" }, true},
		{"its end", func(n *corev1.Node) { n.DeletionTimestamp = &at }, true},
		{"another machine of the name", func(n *corev1.Node) { n.UID = "v" }, true},
	} {
		next := base.DeepCopy()
		tt.change(next)
		next.ResourceVersion = "8"
		if told := !v.Hides(base, next); told != tt.told {
			t.Errorf("%s: told %v, want %v", tt.name, told, tt.told)
		}
		was, is := v.Show(base).(*corev1.Node), v.Show(next).(*corev1.Node)
		if was.ResourceVersion != "7" || is.ResourceVersion != "8" {
			t.Errorf("%s: shown at %s and %s, want 7 and 8", tt.name, was.ResourceVersion, is.ResourceVersion)
		}
		is.ResourceVersion = "7"
		if shown := cmp.Diff(was, is) != ""; shown != tt.told {
			t.Errorf("%s: what is shown changes: %v, want %v", tt.name, shown, tt.told)
		}
	}
	if v.Hides(nil, base) || v.Hides(base, nil) {
		t.Error("a node that comes or goes is hidden")
	}
}

package access

import (
	"context"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/api/rules"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestMirrors says which pods a node makes.
func TestMirrors(t *testing.T) {
	o := memory.New()
	n, err := api.Create(t.Context(), api.Objects(o), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	if err != nil {
		t.Fatal(err)
	}
	g := &Gate{Objects: o}
	admit := g.Guard(func(context.Context, rules.Op, *api.Resource, api.Object, api.Object, string) error { return nil })
	node := With(t.Context(), User{Name: NodeUser("n1"), Groups: []string{Nodes}, UID: string(n.UID)})
	owner := *metav1.NewControllerRef(n, corev1.SchemeGroupVersion.WithKind("Node"))
	owner.BlockOwnerDeletion = nil
	for _, c := range []struct {
		name   string
		change func(*corev1.Pod)
		want   string
	}{
		{"a mirror", func(*corev1.Pod) {}, ""},
		{"a plain pod", func(p *corev1.Pod) { p.Annotations = nil }, "no pods but mirrors"},
		{"of another node", func(p *corev1.Pod) { p.Spec.NodeName = "n2" }, "its own static pods only"},
		{"of none", func(p *corev1.Pod) { p.Spec.NodeName = "" }, "its own static pods only"},
		{"a function's", func(p *corev1.Pod) { p.Labels = map[string]string{api.LabelFunction: "f"} }, "no function's"},
		{"without an owner", func(p *corev1.Pod) { p.OwnerReferences = nil }, "the owner of a mirror is its node"},
		{"with two owners", func(p *corev1.Pod) { p.OwnerReferences = append(p.OwnerReferences, owner) }, "the owner of a mirror is its node"},
		{"of a Node of old", func(p *corev1.Pod) { p.OwnerReferences[0].UID = "u" }, "another node of the name"},
		{"that blocks", func(p *corev1.Pod) { p.OwnerReferences[0].BlockOwnerDeletion = new(true) }, "block the deletion"},
	} {
		p := pod("p-n1", "n1", corev1.PodSpec{})
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "h"}
		p.OwnerReferences = []metav1.OwnerReference{owner}
		c.change(p)
		err := admit(node, rules.OpCreate, api.Pods, nil, p, "")
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if err := admit(t.Context(), rules.OpCreate, api.Pods, nil, p, ""); err != nil {
			t.Errorf("%s, by the platform itself: %v", c.name, err)
		}
	}
}

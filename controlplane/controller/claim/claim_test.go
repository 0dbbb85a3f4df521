package claim_test

import (
	"testing"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/controlplane/controller/claim"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestSettle(t *testing.T) {
	o := memory.New()
	must := func(obj api.Object) api.Object {
		t.Helper()
		got, err := o.Create(t.Context(), obj)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	set := must(&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "set"}})
	other := must(&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "other"}})
	pod := func(name, label string, owner api.Object) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, Labels: map[string]string{"of": label}}}
		if owner != nil {
			p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, api.ReplicaSets.GVK())}
		}
		return must(p).(*corev1.Pod)
	}
	rules := func(owner api.Object) claim.Rules[*corev1.Pod] {
		return claim.Rules[*corev1.Pod]{
			Objects: o, Owner: owner, OwnerKind: api.ReplicaSets, Kind: api.Pods,
			Mine:  func(p *corev1.Pod) bool { return p.Labels["of"] == "set" },
			Stays: func(p *corev1.Pod) bool { return p.Name == "stays" },
			Taken: func(p *corev1.Pod) { p.Annotations = map[string]string{"taken": "yes"} },
			Left:  func(p *corev1.Pod) { p.Annotations = map[string]string{"left": "yes"} },
		}
	}
	mine, stays, strange := pod("mine", "set", set), pod("stays", "else", set), pod("strange", "else", set)
	free, foreign := pod("free", "set", nil), pod("foreign", "else", nil)
	// The mirror does not show yet that it has an owner, or that it is gone.
	had := pod("had", "set", other).DeepCopy()
	had.OwnerReferences = nil
	gone := pod("gone", "set", nil)
	if _, err := o.Delete(t.Context(), api.Pods, "d", "gone", api.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}

	dead := set.DeepCopyObject().(api.Object)
	dead.SetUID("former")
	got, err := rules(dead).Settle(t.Context(), nil, []*corev1.Pod{free})
	if err != nil || len(got) != 0 {
		t.Errorf("an owner that is another by now got %v, %v", names(got), err)
	}

	got, err = rules(set).Settle(t.Context(), []*corev1.Pod{mine, stays, strange}, []*corev1.Pod{free, foreign, had, gone})
	if err != nil {
		t.Fatal(err)
	}
	if n := names(got); len(n) != 3 || n[0] != "mine" || n[1] != "stays" || n[2] != "free" {
		t.Errorf("got %v", n)
	}
	for name, want := range map[string]struct {
		owner api.Object
		mark  string
	}{
		"free": {set, "taken"}, "strange": {nil, "left"}, "foreign": {}, "had": {owner: other}, "stays": {owner: set},
	} {
		p, err := api.Get[*corev1.Pod](t.Context(), o, api.Pods, "d", name)
		if err != nil {
			t.Fatal(err)
		}
		if c := metav1.GetControllerOf(p); want.owner == nil && c != nil || want.owner != nil && !metav1.IsControlledBy(p, want.owner) {
			t.Errorf("%s has the controller %v", name, c)
		}
		if want.mark != "" && p.Annotations[want.mark] != "yes" || want.mark == "" && len(p.Annotations) > 0 {
			t.Errorf("%s has %v, want %q", name, p.Annotations, want.mark)
		}
	}
}

func names(pods []*corev1.Pod) (out []string) {
	for _, p := range pods {
		out = append(out, p.Name)
	}
	return out
}

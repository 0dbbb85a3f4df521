package role

import (
	"testing"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/controlplane/admission"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestEnsure makes what is missing, gives back what was lost, leaves what was added
// and what says that it is its owner's, and writes nothing the second time.
func TestEnsure(t *testing.T) {
	o := memory.New(memory.Config{Admit: admission.Admit})
	if err := Ensure(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	change := func(name string, f func(*rbacv1.ClusterRole)) {
		t.Helper()
		_, err := api.Mutate(t.Context(), o, api.ClusterRoles, "", name, api.UpdateOptions{}, func(r *rbacv1.ClusterRole) (bool, error) { f(r); return true, nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	extra := rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics"}}
	change("system:discovery", func(r *rbacv1.ClusterRole) { r.Rules = []rbacv1.PolicyRule{extra} })
	change("system:basic-user", func(r *rbacv1.ClusterRole) {
		r.Rules, r.Annotations[rbacv1.AutoUpdateAnnotationKey] = nil, "false"
	})
	change("edit", func(r *rbacv1.ClusterRole) { r.AggregationRule = nil })
	if _, err := o.Delete(t.Context(), api.ClusterRoleBindings, "", "cluster-admin", api.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.Mutate(t.Context(), o, api.ClusterRoleBindings, "", "system:discovery", api.UpdateOptions{}, func(b *rbacv1.ClusterRoleBinding) (bool, error) {
		b.Subjects = []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: "x"}}
		return true, nil
	}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Ensure(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	get := func(name string) *rbacv1.ClusterRole {
		t.Helper()
		r, err := api.Get[*rbacv1.ClusterRole](t.Context(), o, api.ClusterRoles, "", name)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := get("system:discovery"); len(r.Rules) < 2 || r.Rules[0].NonResourceURLs[0] != "/metrics" {
		t.Errorf("the mended role has %v", r.Rules)
	}
	if r := get("system:basic-user"); len(r.Rules) != 0 {
		t.Errorf("the role that is not to be updated has %v", r.Rules)
	}
	if get("edit").AggregationRule == nil {
		t.Error("edit is not aggregated any more")
	}
	b, err := api.Get[*rbacv1.ClusterRoleBinding](t.Context(), o, api.ClusterRoleBindings, "", "system:discovery")
	if err != nil || len(b.Subjects) != 2 {
		t.Errorf("the mended binding: %v, %v", b, err)
	}
	l, err := o.List(t.Context(), api.ClusterRoles, api.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := Ensure(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if again, err := o.List(t.Context(), api.ClusterRoles, api.ListOptions{}); err != nil || again.ResourceVersion != l.ResourceVersion {
		t.Errorf("a start writes though all is well: %v", err)
	}
}

func TestAggregated(t *testing.T) {
	role := func(name, label string, verbs ...string) *rbacv1.ClusterRole {
		r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{label: "true"}}}
		for _, v := range verbs {
			r.Rules = append(r.Rules, rbacv1.PolicyRule{Verbs: []string{v}})
		}
		return r
	}
	o := role("whole", "to")
	o.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to": "true"}}, {MatchLabels: map[string]string{"too": "true"}}}}
	other := role("x", "no", "z")
	all := []*rbacv1.ClusterRole{o, role("b", "too", "c", "a"), other, role("a", "to", "a", "b")}
	text := ""
	for _, r := range aggregated(o, all) {
		text += r.Verbs[0]
	}
	if text != "abc" {
		t.Errorf("the rules are %q, want each once and by the roles' names", text)
	}
	if concerns(o, other, other) || !concerns(o, nil, all[0]) || !concerns(o, role("y", "to"), nil) || concerns(other, nil, other) {
		t.Error("it is looked at for the wrong changes")
	}
}

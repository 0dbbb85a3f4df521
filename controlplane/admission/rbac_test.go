package admission

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
)

// TestRolesAndBindings: what is wrong, and what may not change.
func TestRolesAndBindings(t *testing.T) {
	role := func(r rbacv1.PolicyRule) api.Object { return &rbacv1.Role{Rules: []rbacv1.PolicyRule{r}} }
	cluster := func(r rbacv1.PolicyRule) api.Object { return &rbacv1.ClusterRole{Rules: []rbacv1.PolicyRule{r}} }
	bind := func(kind, name string, s ...rbacv1.Subject) api.Object {
		return &rbacv1.RoleBinding{RoleRef: rbacv1.RoleRef{Kind: kind, Name: name}, Subjects: s}
	}
	all := func(kind string, s ...rbacv1.Subject) api.Object {
		return &rbacv1.ClusterRoleBinding{RoleRef: rbacv1.RoleRef{Kind: kind, Name: "r"}, Subjects: s}
	}
	get := []string{"get"}
	for _, c := range []struct {
		name string
		obj  api.Object
		want string // "" is valid
	}{
		{"a rule", role(rbacv1.PolicyRule{Verbs: get, APIGroups: []string{""}, Resources: []string{"pods"}}), ""},
		{"no verbs", role(rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}}), "rules[0].verbs: Required value: verbs must contain at least one value"},
		{"no group", role(rbacv1.PolicyRule{Verbs: get, Resources: []string{"pods"}}), "rules[0].apiGroups: Required value"},
		{"no resource", role(rbacv1.PolicyRule{Verbs: get, APIGroups: []string{""}}), "rules[0].resources: Required value"},
		{"a path in a namespace", role(rbacv1.PolicyRule{Verbs: get, NonResourceURLs: []string{"/x"}}), "namespaced rules cannot apply to non-resource URLs"},
		{"a path", cluster(rbacv1.PolicyRule{Verbs: get, NonResourceURLs: []string{"/x", "/y/*", "*"}}), ""},
		{"a star within", cluster(rbacv1.PolicyRule{Verbs: get, NonResourceURLs: []string{"/x/*/y"}}), "rules[0].nonResourceURLs[0]"},
		{"no path", cluster(rbacv1.PolicyRule{Verbs: get, NonResourceURLs: []string{"x"}}), "rules[0].nonResourceURLs[0]"},
		{"both", cluster(rbacv1.PolicyRule{Verbs: get, NonResourceURLs: []string{"/x"}, Resources: []string{"pods"}, APIGroups: []string{""}}), "both regular resources and non-resource URLs"},
		{"no selector", &rbacv1.ClusterRole{AggregationRule: &rbacv1.AggregationRule{}}, "at least one clusterRoleSelector required"},
		{"a bad selector", &rbacv1.ClusterRole{AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"-": ""}}}}}, "clusterRoleSelectors[0].matchLabels"},
		{"a binding", bind("ClusterRole", "r", rbacv1.Subject{Kind: "User", Name: "system:x y"}, rbacv1.Subject{Kind: "ServiceAccount", Name: "a"}), ""},
		{"of no kind", bind("Thing", "r"), `roleRef.kind: Unsupported value: "Thing"`},
		{"of no name", bind("Role", ""), "roleRef.name: Required value"},
		{"of another group", &rbacv1.RoleBinding{RoleRef: rbacv1.RoleRef{APIGroup: "x", Kind: "Role", Name: "r"}}, "roleRef.apiGroup"},
		{"to no kind", bind("Role", "r", rbacv1.Subject{Kind: "Robot", Name: "x"}), `subjects[0].kind: Unsupported value: "Robot"`},
		{"to nobody", bind("Role", "r", rbacv1.Subject{Kind: "Group"}), "subjects[0].name: Required value"},
		{"to an odd account", bind("Role", "r", rbacv1.Subject{Kind: "ServiceAccount", Name: "A"}), "subjects[0].name: Invalid value"},
		{"to an account of a group", bind("Role", "r", rbacv1.Subject{Kind: "ServiceAccount", Name: "a", APIGroup: "x"}), "subjects[0].apiGroup"},
		{"to an account of no namespace", all("ClusterRole", rbacv1.Subject{Kind: "ServiceAccount", Name: "a"}), "subjects[0].namespace: Required value"},
		{"of a role everywhere", all("Role"), `roleRef.kind: Unsupported value: "Role"`},
	} {
		Default(c.obj)
		var text string
		if errs := Validate(c.obj); len(errs) > 0 {
			text = errs.ToAggregate().Error()
		}
		if (text == "") != (c.want == "") || !strings.Contains(text, c.want) {
			t.Errorf("%s: %q, want %q", c.name, text, c.want)
		}
	}
	old, now := bind("Role", "r").(*rbacv1.RoleBinding), bind("Role", "s").(*rbacv1.RoleBinding)
	if errs := ValidateUpdate(now, old); len(errs) != 1 || !strings.Contains(errs[0].Error(), "cannot change roleRef") {
		t.Errorf("another role: %v", errs)
	}
}

// TestAccountOfPod: a new pod has an account, and one that was stored without stays so.
func TestAccountOfPod(t *testing.T) {
	pod := func() *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "d"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	}
	p := pod()
	if err := Admit(t.Context(), "", api.Pods, nil, p, ""); err != nil || p.Spec.ServiceAccountName != "default" || p.Spec.DeprecatedServiceAccount != "default" {
		t.Errorf("a new pod: %v, %q", err, p.Spec.ServiceAccountName)
	}
	old, now := pod(), pod()
	Default(old)
	if err := Admit(t.Context(), "", api.Pods, old, now, ""); err != nil || now.Spec.ServiceAccountName != "" {
		t.Errorf("a stored one: %v, %q", err, now.Spec.ServiceAccountName)
	}
	p = pod()
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: new(int64(60))}},
	}}}}}
	err := Admit(t.Context(), "", api.Pods, nil, p, "")
	for _, want := range []string{"serviceAccountToken.path: Required value", "expirationSeconds: Invalid value: 60"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a token that is too short: %v, want %q", err, want)
		}
	}
}

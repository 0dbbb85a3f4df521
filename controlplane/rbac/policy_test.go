package rbac

import (
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
)

func rules(r ...rbacv1.PolicyRule) []rbacv1.PolicyRule { return r }

func user(name string) []rbacv1.Subject {
	return []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name}}
}

func ref(kind, name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
}

// TestRules holds one rule at a time to what Kubernetes documents.
func TestRules(t *testing.T) {
	pods := rule([]string{"get", "list"}, "", "pods")
	named := pods
	named.ResourceNames = []string{"one"}
	for _, c := range []struct {
		name string
		rule rbacv1.PolicyRule
		r    Request
		want bool
	}{
		{"verb and resource", pods, Request{Verb: "get", Resource: "pods", Namespace: "n", Name: "x"}, true},
		{"another verb", pods, Request{Verb: "delete", Resource: "pods", Namespace: "n"}, false},
		{"another group", pods, Request{Verb: "get", Group: "apps", Resource: "pods"}, false},
		{"another resource", pods, Request{Verb: "get", Resource: "secrets"}, false},
		{"a subresource is another resource", pods, Request{Verb: "get", Resource: "pods/log"}, false},
		{"the subresource", rule([]string{"get"}, "", "pods/log"), Request{Verb: "get", Resource: "pods/log"}, true},
		{"and not what it is of", rule([]string{"get"}, "", "pods/log"), Request{Verb: "get", Resource: "pods"}, false},
		{"the subresource of all", rule([]string{"get"}, "apps", "*/scale"), Request{Verb: "get", Group: "apps", Resource: "deployments/scale"}, true},
		{"another subresource of all", rule([]string{"get"}, "apps", "*/scale"), Request{Verb: "get", Group: "apps", Resource: "deployments/status"}, false},
		{"every resource", rule([]string{"get"}, "", "*"), Request{Verb: "get", Resource: "pods/log"}, true},
		{"every group", rule([]string{"get"}, "*", "pods"), Request{Verb: "get", Group: "metrics.k8s.io", Resource: "pods"}, true},
		{"every verb", rule(all, "", "pods"), Request{Verb: "impersonate", Resource: "pods"}, true},
		{"a name", named, Request{Verb: "get", Resource: "pods", Name: "one"}, true},
		{"another name", named, Request{Verb: "get", Resource: "pods", Name: "two"}, false},
		{"no name", named, Request{Verb: "list", Resource: "pods"}, false},
		{"a path", paths("/version"), Request{Verb: "get", Path: "/version"}, true},
		{"below a path", paths("/version"), Request{Verb: "get", Path: "/version/x"}, false},
		{"below a path with a star", paths("/apis/*"), Request{Verb: "get", Path: "/apis/apps/v1"}, true},
		{"beside a path with a star", paths("/apis/*"), Request{Verb: "get", Path: "/apis"}, false},
		{"every path", paths("*"), Request{Verb: "get", Path: "/x"}, true},
		{"a path by a rule for resources", rule(all, "*", "*"), Request{Verb: "get", Path: "/version"}, false},
		{"a resource by a rule for paths", paths("*"), Request{Verb: "get", Resource: "pods"}, false},
	} {
		if got := allows(&c.rule, c.r); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestBindings gives roles to subjects, here and everywhere, and takes them away.
func TestBindings(t *testing.T) {
	p := New()
	p.SetRole("a", "reader", rules(rule(reads, "", "pods")))
	p.SetRole("", "reader", rules(rule(reads, "", "secrets"), paths("/metrics")))
	p.SetBinding("a", "jane", ref("Role", "reader"), user("jane"))
	p.SetBinding("b", "joe", ref("ClusterRole", "reader"), user("joe"))
	p.SetBinding("", "ops", ref("ClusterRole", "reader"), []rbacv1.Subject{{Kind: rbacv1.GroupKind, Name: "ops"}})
	p.SetBinding("a", "bot", ref("Role", "reader"), []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "bot"}, {Kind: rbacv1.ServiceAccountKind, Namespace: "b", Name: "bot"}})
	p.SetBinding("a", "lost", ref("Role", "none"), user("lost"))
	pods := func(ns string) Request { return Request{Verb: "list", Resource: "pods", Namespace: ns} }
	secrets := func(ns string) Request { return Request{Verb: "list", Resource: "secrets", Namespace: ns} }
	for _, c := range []struct {
		u    User
		r    Request
		want bool
	}{
		{User{Name: "jane"}, pods("a"), true},
		{User{Name: "jane"}, pods("b"), false},
		{User{Name: "jane"}, pods(""), false},
		{User{Name: "jane"}, secrets("a"), false},
		{User{Name: "x", Groups: []string{"jane"}}, pods("a"), false},
		{User{Name: "joe"}, secrets("b"), true},
		{User{Name: "joe"}, secrets(""), false},
		{User{Name: "joe"}, Request{Verb: "get", Path: "/metrics"}, false}, // by a binding of a namespace
		{User{Name: "x", Groups: []string{"dev", "ops"}}, secrets(""), true},
		{User{Name: "x", Groups: []string{"ops"}}, secrets("c"), true},
		{User{Name: "x", Groups: []string{"ops"}}, Request{Verb: "get", Path: "/metrics"}, true},
		{User{Name: "ops"}, secrets("c"), false},
		{User{Name: AccountUser("a", "bot")}, pods("a"), true},
		{User{Name: AccountUser("b", "bot")}, pods("a"), true},
		{User{Name: AccountUser("c", "bot")}, pods("a"), false},
		{User{Name: "lost"}, pods("a"), false},
		{User{}, pods("a"), false},
	} {
		by, ok := p.Allows(c.u, c.r)
		if ok != c.want || ok == (by == "") {
			t.Errorf("%+v %+v: %v by %q, want %v", c.u, c.r, ok, by, c.want)
		}
	}
	if by, _ := p.Allows(User{Name: "jane"}, pods("a")); by != `RBAC: allowed by RoleBinding "jane/a" of Role "reader"` {
		t.Errorf("the reason is %q", by)
	}
	p.SetBinding("a", "jane", ref("Role", "reader"), user("june"))
	p.DropRole("", "reader")
	p.DropBinding("a", "bot")
	p.DropBinding("a", "bot")
	for _, c := range []struct {
		u    User
		r    Request
		want bool
	}{
		{User{Name: "jane"}, pods("a"), false},
		{User{Name: "june"}, pods("a"), true},
		{User{Name: "joe"}, secrets("b"), false},
		{User{Name: AccountUser("a", "bot")}, pods("a"), false},
	} {
		if _, ok := p.Allows(c.u, c.r); ok != c.want {
			t.Errorf("afterwards %+v %+v: %v, want %v", c.u, c.r, ok, c.want)
		}
	}
	if got := p.Rules(User{Name: "june", Groups: []string{"ops"}}, "a"); len(got) != 1 || got[0].Resources[0] != "pods" {
		t.Errorf("the rules of june are %v", got)
	}
}

func TestUncovered(t *testing.T) {
	text := func(rs []rbacv1.PolicyRule) string {
		var out []string
		for _, r := range rs {
			out = append(out, strings.Join(slices.Concat(r.Verbs, r.APIGroups, r.Resources, r.ResourceNames, r.NonResourceURLs), " "))
		}
		return strings.Join(out, "; ")
	}
	one := func(r rbacv1.PolicyRule, names ...string) rbacv1.PolicyRule { r.ResourceNames = names; return r }
	for _, c := range []struct {
		name       string
		have, want []rbacv1.PolicyRule
		missing    string
	}{
		{"nothing is wanted", nil, nil, ""},
		{"nothing is there", nil, rules(rule([]string{"get"}, "", "pods")), "get  pods"},
		{"put together of two", rules(rule([]string{"get"}, "", "pods"), rule([]string{"list"}, "", "pods")), rules(rule([]string{"get", "list"}, "", "pods")), ""},
		{"one verb too many", rules(rule([]string{"get"}, "", "pods", "secrets")), rules(rule([]string{"get", "list"}, "", "pods")), "list  pods"},
		{"a star is more than all that is named", rules(rule([]string{"get", "list"}, "", "pods")), rules(rule(all, "", "pods")), "*  pods"},
		{"a star has all", rules(rule(all, "*", "*")), rules(rule([]string{"get"}, "apps", "deployments/scale")), ""},
		{"a name of all", rules(rule(reads, "", "pods")), rules(one(rule([]string{"get"}, "", "pods"), "a")), ""},
		{"all of a name", rules(one(rule([]string{"get"}, "", "pods"), "a")), rules(rule([]string{"get"}, "", "pods")), "get  pods"},
		{"another name", rules(one(rule([]string{"get"}, "", "pods"), "a")), rules(one(rule([]string{"get"}, "", "pods"), "a", "b")), "get  pods b"},
		{"a path below a star", rules(paths("/apis/*")), rules(paths("/apis/apps", "/api")), "get /api"},
		{"a star below a star", rules(paths("/*")), rules(paths("/apis/*")), ""},
	} {
		if got := text(Uncovered(c.have, c.want)); got != c.missing {
			t.Errorf("%s: missing is %q, want %q", c.name, got, c.missing)
		}
	}
}

// TestBootstrap sees that nobody gets by edit or view what is the administrators'.
func TestBootstrap(t *testing.T) {
	byName := map[string]*rbacv1.ClusterRole{}
	for _, r := range ClusterRoles() {
		byName[r.Name] = r
	}
	for _, b := range ClusterRoleBindings() {
		if byName[b.RoleRef.Name] == nil {
			t.Errorf("%s binds %s, which is not there", b.Name, b.RoleRef.Name)
		}
	}
	can := func(role string, r Request) bool {
		return slices.ContainsFunc(byName[role].Rules, func(p rbacv1.PolicyRule) bool { return allows(&p, r) })
	}
	for _, c := range []struct {
		role string
		r    Request
		want bool
	}{
		{"system:aggregate-to-view", Request{Verb: "get", Resource: "secrets"}, false},
		{"system:aggregate-to-view", Request{Verb: "list", Resource: "pods"}, true},
		{"system:aggregate-to-view", Request{Verb: "get", Resource: "pods/log"}, true},
		{"system:aggregate-to-view", Request{Verb: "create", Resource: "pods"}, false},
		{"system:aggregate-to-view", Request{Verb: "list", Group: "openfaas.com", Resource: "functions"}, true},
		{"system:aggregate-to-view", Request{Verb: "list", Resource: "nodes"}, false},
		{"system:aggregate-to-edit", Request{Verb: "get", Resource: "secrets"}, true},
		{"system:aggregate-to-edit", Request{Verb: "create", Resource: "pods/exec"}, true},
		{"system:aggregate-to-edit", Request{Verb: "update", Resource: "pods/status"}, false},
		{"system:aggregate-to-edit", Request{Verb: "create", Group: "rbac.authorization.k8s.io", Resource: "roles"}, false},
		{"system:aggregate-to-edit", Request{Verb: "create", Resource: "serviceaccounts/token"}, true},
		{"system:aggregate-to-admin", Request{Verb: "create", Group: "rbac.authorization.k8s.io", Resource: "roles"}, true},
		{"system:aggregate-to-admin", Request{Verb: "create", Group: "rbac.authorization.k8s.io", Resource: "clusterroles"}, false},
		{"cluster-admin", Request{Verb: "escalate", Group: "rbac.authorization.k8s.io", Resource: "clusterroles"}, true},
		{"cluster-admin", Request{Verb: "get", Path: "/anything"}, true},
		{"system:discovery", Request{Verb: "get", Path: "/apis/apps/v1"}, true},
		{"system:discovery", Request{Verb: "get", Path: "/podsnap/v1/servers"}, false},
	} {
		if got := can(c.role, c.r); got != c.want {
			t.Errorf("%s %+v: %v, want %v", c.role, c.r, got, c.want)
		}
	}
}

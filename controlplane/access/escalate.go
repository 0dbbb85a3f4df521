package access

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/controlplane/rbac"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Guard is next, but nobody gives away by a role or a binding what he has not got
// himself, unless he may escalate or bind, a node makes no pods but mirrors of its
// static ones, and requests for certificates are signed as package access says of them. What the platform itself writes is not looked at.
func (g *Gate) Guard(next rules.Admit) rules.Admit {
	return func(ctx context.Context, op rules.Op, r *api.Resource, old, obj api.Object, subresource string) error {
		if err := next(ctx, op, r, old, obj, subresource); err != nil {
			return err
		}
		u := Of(ctx)
		if p, ok := obj.(*corev1.Pod); ok && old == nil && u.Node() != "" {
			return g.mirror(ctx, u, p)
		}
		if u.Name != "" {
			if err := g.signing(ctx, u, r, old, obj, subresource); err != nil {
				return err
			}
		}
		if u.Name == "" || slices.Contains(u.Groups, Masters) || g.Roles == nil {
			return nil
		}
		switch o := obj.(type) {
		case *rbacv1.Role:
			return g.mayWrite(ctx, u, r, o, o.Rules, rulesOf(old))
		case *rbacv1.ClusterRole:
			was := rulesOf(old)
			want := o.Rules
			if o.AggregationRule != nil && !equality.Semantic.DeepEqual(o.AggregationRule, aggregationOf(old)) {
				want, was = append(slices.Clone(want), everything()...), nil // it may come to hold whatever there is
			}
			return g.mayWrite(ctx, u, r, o, want, was)
		case *rbacv1.RoleBinding:
			return g.mayBind(ctx, u, r, o, old, o.RoleRef, sameSubjects(o.Subjects, old))
		case *rbacv1.ClusterRoleBinding:
			return g.mayBind(ctx, u, r, o, old, o.RoleRef, sameSubjects(o.Subjects, old))
		}
		return nil
	}
}

func everything() []rbacv1.PolicyRule {
	all := []string{rbacv1.VerbAll}
	return []rbacv1.PolicyRule{{Verbs: all, APIGroups: all, Resources: all}, {Verbs: all, NonResourceURLs: all}}
}

func rulesOf(obj api.Object) []rbacv1.PolicyRule {
	switch o := obj.(type) {
	case *rbacv1.Role:
		return o.Rules
	case *rbacv1.ClusterRole:
		return o.Rules
	}
	return nil
}

func aggregationOf(obj api.Object) *rbacv1.AggregationRule {
	if o, ok := obj.(*rbacv1.ClusterRole); ok {
		return o.AggregationRule
	}
	return nil
}

func sameSubjects(now []rbacv1.Subject, old api.Object) bool {
	switch o := old.(type) {
	case *rbacv1.RoleBinding:
		return equality.Semantic.DeepEqual(now, o.Subjects)
	case *rbacv1.ClusterRoleBinding:
		return equality.Semantic.DeepEqual(now, o.Subjects)
	}
	return false
}

func (g *Gate) mayWrite(ctx context.Context, u User, r *api.Resource, obj api.Object, want, was []rbacv1.PolicyRule) error {
	if was != nil && equality.Semantic.DeepEqual(want, was) {
		return nil
	}
	if _, ok, err := g.Decide(ctx, u, Request{Verb: "escalate", Resource: r, Namespace: obj.GetNamespace(), Name: obj.GetName()}); ok || err != nil {
		return err
	}
	return g.covers(u, r, obj, want)
}

func (g *Gate) mayBind(ctx context.Context, u User, r *api.Resource, obj, old api.Object, ref rbacv1.RoleRef, same bool) error {
	if old != nil && same {
		return nil
	}
	role, namespace := api.ClusterRoles, obj.GetNamespace()
	if ref.Kind == api.Roles.Kind {
		role = api.Roles
	}
	if _, ok, err := g.Decide(ctx, u, Request{Verb: "bind", Resource: role, Namespace: namespace, Name: ref.Name}); ok || err != nil {
		return err
	}
	rules, ok := g.Roles.Role(namespace, ref)
	if !ok {
		return apierrors.NewNotFound(role.GR(), ref.Name)
	}
	return g.covers(u, r, obj, rules)
}

// covers says what of want a user has not got where an object gives it.
func (g *Gate) covers(u User, r *api.Resource, obj api.Object, want []rbacv1.PolicyRule) error {
	missing := rbac.Uncovered(g.Roles.Rules(u.subject(), obj.GetNamespace()), want)
	if len(missing) == 0 {
		return nil
	}
	lines := make([]string, len(missing))
	for i, m := range missing {
		lines[i] = ruleText(&m)
	}
	slices.Sort(lines)
	return apierrors.NewForbidden(r.GR(), obj.GetName(), fmt.Errorf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s", u.Name, u.Groups, strings.Join(slices.Compact(lines), "\n")))
}

// ruleText is a rule in the words of Kubernetes: {APIGroups:[""], Resources:["pods"], Verbs:["get"]}.
func ruleText(r *rbacv1.PolicyRule) string {
	var parts []string
	for _, f := range []struct {
		name   string
		values []string
	}{{"APIGroups", r.APIGroups}, {"Resources", r.Resources}, {"ResourceNames", r.ResourceNames}, {"NonResourceURLs", r.NonResourceURLs}, {"Verbs", r.Verbs}} {
		if len(f.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", f.name, f.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

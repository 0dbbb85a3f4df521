// Package role makes the roles and bindings that each cluster has, and puts cluster
// roles together of others.
package role

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/rbac"
	"github.com/podsnap/podsnap/controlplane/view"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/prometheus/client_golang/prometheus"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Config says what the controller works with.
type Config struct {
	Objects api.Objects
	View    *view.View
	Policy  *rbac.Policy // that is kept as roles and bindings are; nil is none
	Log     *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Controller aggregates cluster roles.
type Controller struct {
	c    Config
	loop *loop.Loop[string]
}

// New makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func New(c Config) *Controller {
	r := &Controller{c: c}
	r.loop = loop.New(loop.Config{Name: "role", Log: c.Log, Metrics: c.Metrics}, r.reconcile)
	c.View.ClusterRoles.OnChange(func(_ api.EventType, old, now *rbacv1.ClusterRole) {
		for _, o := range c.View.ClusterRoles.List() {
			if concerns(o, old, now) {
				r.loop.Add(o.Name)
			}
		}
	})
	if c.Policy != nil {
		follow(c.Policy, c.View)
	}
	return r
}

// follow keeps a policy as the mirrors are.
func follow(p *rbac.Policy, v *view.View) {
	v.Roles.OnChange(func(t api.EventType, old, now *rbacv1.Role) {
		if t == api.Deleted {
			p.DropRole(old.Namespace, old.Name)
			return
		}
		p.SetRole(now.Namespace, now.Name, now.Rules)
	})
	v.ClusterRoles.OnChange(func(t api.EventType, old, now *rbacv1.ClusterRole) {
		if t == api.Deleted {
			p.DropRole("", old.Name)
			return
		}
		p.SetRole("", now.Name, now.Rules)
	})
	v.RoleBindings.OnChange(func(t api.EventType, old, now *rbacv1.RoleBinding) {
		if t == api.Deleted {
			p.DropBinding(old.Namespace, old.Name)
			return
		}
		p.SetBinding(now.Namespace, now.Name, now.RoleRef, now.Subjects)
	})
	v.ClusterRoleBindings.OnChange(func(t api.EventType, old, now *rbacv1.ClusterRoleBinding) {
		if t == api.Deleted {
			p.DropBinding("", old.Name)
			return
		}
		p.SetBinding("", now.Name, now.RoleRef, now.Subjects)
	})
}

// concerns tells whether a role that others are aggregated to has to be looked at
// because of a change.
func concerns(o, old, now *rbacv1.ClusterRole) bool {
	if o.AggregationRule == nil {
		return false
	}
	return now != nil && now.Name == o.Name || old != nil && selects(o, old) || now != nil && selects(o, now)
}

// selects tells whether a role is one of those that are aggregated to o.
func selects(o, other *rbacv1.ClusterRole) bool {
	if o.Name == other.Name {
		return false
	}
	return slices.ContainsFunc(o.AggregationRule.ClusterRoleSelectors, func(s metav1.LabelSelector) bool {
		sel, err := metav1.LabelSelectorAsSelector(&s)
		return err == nil && sel.Matches(labels.Set(other.Labels))
	})
}

// Run works until ctx is done and returns nil then.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func (r *Controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	o, ok := r.c.View.ClusterRoles.Get("", name)
	if !ok || o.AggregationRule == nil || o.DeletionTimestamp != nil {
		return 0, nil
	}
	want := aggregated(o, r.c.View.ClusterRoles.List())
	if equality.Semantic.DeepEqual(o.Rules, want) {
		return 0, nil
	}
	_, err := api.Mutate(ctx, r.c.Objects, api.ClusterRoles, "", name, api.UpdateOptions{}, func(o *rbacv1.ClusterRole) (bool, error) {
		if o.AggregationRule == nil {
			return false, nil
		}
		o.Rules = want
		return true, nil
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("aggregate cluster role %s: %w", name, err)
	}
	return 0, nil
}

// aggregated are the rules of the roles that are aggregated to o, by name, each once.
func aggregated(o *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) (rules []rbacv1.PolicyRule) {
	slices.SortFunc(all, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	for _, other := range all {
		if !selects(o, other) {
			continue
		}
		for _, rule := range other.Rules {
			if !slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(r, rule) }) {
				rules = append(rules, rule)
			}
		}
	}
	return rules
}

// Ensure makes the roles and bindings that each cluster has where they are missing,
// and gives back to them what they have lost, unless they say that they are not to
// be updated.
func Ensure(ctx context.Context, o api.Objects) error {
	var errs []error
	for _, want := range rbac.ClusterRoles() {
		errs = append(errs, api.Ensure(ctx, o, want, func(now *rbacv1.ClusterRole) bool {
			if !mends(now) {
				return false
			}
			changed := describe(now, want)
			if want.AggregationRule != nil {
				same := equality.Semantic.DeepEqual(now.AggregationRule, want.AggregationRule)
				now.AggregationRule = want.AggregationRule
				return changed || !same
			}
			missing := rbac.Uncovered(now.Rules, want.Rules)
			if len(missing) > 0 {
				now.Rules = append(slices.Clone(now.Rules), missing...)
			}
			return changed || len(missing) > 0
		}))
	}
	for _, want := range rbac.ClusterRoleBindings() {
		errs = append(errs, api.Ensure(ctx, o, want, func(now *rbacv1.ClusterRoleBinding) bool {
			if !mends(now) {
				return false
			}
			changed := describe(now, want)
			for _, s := range want.Subjects {
				if !slices.Contains(now.Subjects, s) {
					now.Subjects, changed = append(slices.Clone(now.Subjects), s), true
				}
			}
			return changed
		}))
	}
	return errors.Join(errs...)
}

// mends tells whether an object is kept up to date by the platform.
func mends(o api.Object) bool { return o.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] != "false" }

// describe adds the labels and annotations that want has to an object; true when it
// had to.
func describe(now, want api.Object) bool {
	l, changedLabels := merged(now.GetLabels(), want.GetLabels())
	a, changed := merged(now.GetAnnotations(), want.GetAnnotations())
	now.SetLabels(l)
	now.SetAnnotations(a)
	return changedLabels || changed
}

func merged(have, want map[string]string) (map[string]string, bool) {
	out, changed := maps.Clone(have), false
	for k, v := range want {
		if _, ok := out[k]; ok {
			continue
		}
		if changed = true; out == nil {
			out = map[string]string{}
		}
		out[k] = v
	}
	return out, changed
}

package apiserver

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
)

// dryRun is an api.Objects that answers with what a write would make, and
// stores nothing. What is handed out at a real write only, such as a Service's
// address, is missing.
type dryRun struct {
	api.Objects
	admit rules.Admit
}

var _ api.Objects = (*dryRun)(nil)

// Create implements api.Objects.
func (d *dryRun) Create(ctx context.Context, obj api.Object) (api.Object, error) {
	r := api.ResourceOf(obj)
	facts := rules.Facts{Now: time.Now(), UID: uuid.NewUUID(), Suffix: rand.String(5)}
	next, err := rules.Create(facts, obj, func(next api.Object) error {
		return d.admit(ctx, rules.OpCreate, r, nil, next, "")
	})
	if err != nil {
		return nil, err
	}
	if r.Namespaced {
		ns, err := api.Get[*corev1.Namespace](ctx, d.Objects, api.Namespaces, "", next.GetNamespace())
		if err != nil {
			return nil, err
		}
		if err := rules.Admissible(next, ns); err != nil {
			return nil, err
		}
	}
	switch _, err := d.Get(ctx, r, next.GetNamespace(), next.GetName()); {
	case err == nil:
		return nil, apierrors.NewAlreadyExists(r.GR(), next.GetName())
	case !apierrors.IsNotFound(err):
		return nil, err
	}
	return next, nil
}

// Update implements api.Objects.
func (d *dryRun) Update(ctx context.Context, obj api.Object, o api.UpdateOptions) (api.Object, error) {
	return d.decide(ctx, api.ResourceOf(obj), obj.GetNamespace(), obj.GetName(), func(old api.Object) (rules.Verdict, error) {
		return rules.Update(old, obj, o, d.admitting(ctx, o.Subresource))
	})
}

// Patch implements api.Objects.
func (d *dryRun) Patch(ctx context.Context, r *api.Resource, namespace, name string, p api.Patch) (api.Object, error) {
	return d.decide(ctx, r, namespace, name, func(old api.Object) (rules.Verdict, error) {
		next, err := rules.Patch(old, p)
		if err != nil {
			return rules.Verdict{}, err
		}
		return rules.Update(old, next, api.UpdateOptions{Subresource: p.Subresource}, d.admitting(ctx, p.Subresource))
	})
}

// Delete implements api.Objects.
func (d *dryRun) Delete(ctx context.Context, r *api.Resource, namespace, name string, o api.DeleteOptions) (api.Object, error) {
	return d.decide(ctx, r, namespace, name, func(old api.Object) (rules.Verdict, error) {
		return rules.Delete(rules.Facts{Now: time.Now()}, old, o)
	})
}

func (d *dryRun) decide(ctx context.Context, r *api.Resource, namespace, name string, f func(old api.Object) (rules.Verdict, error)) (api.Object, error) {
	old, err := d.Get(ctx, r, namespace, name)
	if err != nil {
		return nil, err
	}
	v, err := f(old)
	return v.Object, err
}

func (d *dryRun) admitting(ctx context.Context, subresource string) func(old, next api.Object) error {
	return func(old, next api.Object) error {
		return d.admit(ctx, rules.OpUpdate, api.ResourceOf(next), old, next, subresource)
	}
}

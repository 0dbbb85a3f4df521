package api

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

// Get is Objects.Get with the object's own type.
func Get[T Object](ctx context.Context, o Objects, r *Resource, namespace, name string) (T, error) {
	return as[T](o.Get(ctx, r, namespace, name))
}

// Create is Objects.Create with the object's own type.
func Create[T Object](ctx context.Context, o Objects, obj T) (T, error) {
	return as[T](o.Create(ctx, obj))
}

// Update is Objects.Update with the object's own type.
func Update[T Object](ctx context.Context, o Objects, obj T, uo UpdateOptions) (T, error) {
	return as[T](o.Update(ctx, obj, uo))
}

// Items is Objects.List with the objects' own type.
func Items[T Object](ctx context.Context, o Objects, r *Resource, lo ListOptions) ([]T, error) {
	l, err := o.List(ctx, r, lo)
	if err != nil {
		return nil, err
	}
	out := make([]T, len(l.Items))
	for i, it := range l.Items {
		out[i] = it.(T)
	}
	return out, nil
}

// Mutate reads the object, lets change work on a copy of it and writes it back,
// as often as somebody else was faster. When change answers false nothing is
// written. The subresource is that of UpdateOptions.
func Mutate[T Object](ctx context.Context, o Objects, r *Resource, namespace, name string, uo UpdateOptions, change func(T) (bool, error)) (T, error) {
	for {
		old, err := Get[T](ctx, o, r, namespace, name)
		if err != nil {
			return old, err
		}
		next := old.DeepCopyObject().(T)
		write, err := change(next)
		if err != nil || !write {
			return old, err
		}
		got, err := Update(ctx, o, next, uo)
		if !apierrors.IsConflict(err) || ctx.Err() != nil {
			return got, err
		}
	}
}

// Ensure creates want, or has mend change the object of its name that is there as
// Mutate does: where mend answers false, nothing is written.
func Ensure[T Object](ctx context.Context, o Objects, want T, mend func(now T) bool) error {
	r := ResourceOf(want)
	mutate := func() error {
		_, err := Mutate(ctx, o, r, want.GetNamespace(), want.GetName(), UpdateOptions{}, func(now T) (bool, error) { return mend(now), nil })
		return err
	}
	err := mutate()
	if apierrors.IsNotFound(err) {
		if _, err = o.Create(ctx, want); apierrors.IsAlreadyExists(err) {
			err = mutate()
		}
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", r.Singular, want.GetName(), err)
	}
	return nil
}

func as[T Object](obj Object, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return obj.(T), nil
}

func matches(obj Object, namespace string, l labels.Selector, f fields.Selector) bool {
	if namespace != "" && obj.GetNamespace() != namespace {
		return false
	}
	if l != nil && !l.Empty() && !l.Matches(labels.Set(obj.GetLabels())) {
		return false
	}
	return f == nil || f.Empty() || f.Matches(FieldSet(obj))
}

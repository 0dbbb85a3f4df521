// Package claim settles which objects are a controller's: it makes those that are
// its by their labels and have no controller its own, and lets go of those that are
// not its any more.
package claim

import (
	"context"
	"fmt"
	"slices"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/view"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Rules say what is an owner's. Mine is required.
type Rules[T api.Object] struct {
	Objects   api.Objects
	Owner     api.Object
	OwnerKind *api.Resource
	Kind      *api.Resource // of what it owns

	Mine  func(T) bool // by labels and name
	Takes func(T) bool // whether one without a controller may be taken that is Mine; nil: any
	Stays func(T) bool // whether one stays that is not Mine any more; nil: none
	Taken func(T)      // what else changes in one that is taken; nil: nothing
	Left  func(T)      // and in one that is let go
}

// Settle answers with what is the owner's in the end, of what it has and of what has
// no controller. An owner that is being deleted changes nothing.
func (r Rules[T]) Settle(ctx context.Context, owned, orphans []T) ([]T, error) {
	if r.Owner.GetDeletionTimestamp() != nil {
		return owned, nil
	}
	var out []T
	for _, o := range owned {
		if r.Mine(o) || r.stays(o) {
			out = append(out, o)
			continue
		}
		if err := r.leave(ctx, o); err != nil {
			return nil, err
		}
	}
	sure := false
	for _, o := range orphans {
		if !r.takes(o) {
			continue
		}
		if !sure { // the mirror may be behind, and who is gone must not take anything
			now, err := r.Objects.Get(ctx, r.OwnerKind, r.Owner.GetNamespace(), r.Owner.GetName())
			if err != nil || now.GetUID() != r.Owner.GetUID() || now.GetDeletionTimestamp() != nil {
				return out, missing(err)
			}
			sure = true
		}
		got, ok, err := r.take(ctx, o)
		if err != nil {
			return nil, err
		}
		if ok && !slices.ContainsFunc(out, func(o T) bool { return o.GetUID() == got.GetUID() }) {
			out = append(out, got)
		}
	}
	return out, nil
}

// take makes one object the owner's, without asking whether the owner is still there.
// It answers with the newest state; false is that it did not become the owner's.
func (r Rules[T]) take(ctx context.Context, o T) (T, bool, error) {
	got, err := api.Mutate(ctx, r.Objects, r.Kind, o.GetNamespace(), o.GetName(), api.UpdateOptions{}, func(now T) (bool, error) {
		if now.GetUID() != o.GetUID() || metav1.GetControllerOfNoCopy(now) != nil || !r.takes(now) {
			return false, nil
		}
		now.SetOwnerReferences(append(now.GetOwnerReferences(), *metav1.NewControllerRef(r.Owner, r.OwnerKind.GVK())))
		if r.Taken != nil {
			r.Taken(now)
		}
		return true, nil
	})
	if err != nil {
		var none T
		if missing(err) == nil {
			return none, false, nil
		}
		return none, false, fmt.Errorf("adopt %s %s: %w", r.Kind, view.Key(o), err)
	}
	return got, metav1.IsControlledBy(got, r.Owner), nil
}

func (r Rules[T]) leave(ctx context.Context, o T) error {
	_, err := api.Mutate(ctx, r.Objects, r.Kind, o.GetNamespace(), o.GetName(), api.UpdateOptions{}, func(now T) (bool, error) {
		if now.GetUID() != o.GetUID() || !metav1.IsControlledBy(now, r.Owner) || r.Mine(now) || r.stays(now) {
			return false, nil
		}
		now.SetOwnerReferences(slices.DeleteFunc(now.GetOwnerReferences(), func(ref metav1.OwnerReference) bool { return ref.UID == r.Owner.GetUID() }))
		if r.Left != nil {
			r.Left(now)
		}
		return true, nil
	})
	if missing(err) != nil {
		return fmt.Errorf("let go of %s %s: %w", r.Kind, view.Key(o), err)
	}
	return nil
}

func (r Rules[T]) takes(o T) bool {
	return o.GetDeletionTimestamp() == nil && r.Mine(o) && (r.Takes == nil || r.Takes(o))
}

func (r Rules[T]) stays(o T) bool { return r.Stays != nil && r.Stays(o) }

func missing(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

package view

import (
	"context"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/mirror"
)

// Kind is a mirror of any kind.
type Kind interface {
	Resource() *api.Resource
	Get(namespace, name string) (api.Object, bool)
	By(index, key string) []api.Object
	// OnChange is the mirror's: old is nil for Added, now for Deleted.
	OnChange(func(t api.EventType, old, now api.Object))
	Synced() <-chan struct{}
	Run(ctx context.Context) error
}

type kind[T api.Object] struct {
	r *api.Resource
	m *mirror.Mirror[T]
}

func kindOf[T api.Object](r *api.Resource, m *mirror.Mirror[T]) kind[T] {
	m.Index(Dependents, func(o T) []string {
		refs := o.GetOwnerReferences()
		if len(refs) == 0 {
			return nil
		}
		out := make([]string, len(refs))
		for i := range refs {
			out[i] = string(refs[i].UID)
		}
		return out
	})
	if r.Namespaced {
		m.Index(Namespace, func(o T) []string { return []string{o.GetNamespace()} })
	}
	return kind[T]{r, m}
}

func (k kind[T]) Resource() *api.Resource { return k.r }

func (k kind[T]) Get(namespace, name string) (api.Object, bool) {
	o, ok := k.m.Get(namespace, name)
	if !ok {
		return nil, false
	}
	return o, true
}

func (k kind[T]) By(index, key string) []api.Object {
	found := k.m.By(index, key)
	out := make([]api.Object, len(found))
	for i, o := range found {
		out[i] = o
	}
	return out
}

func (k kind[T]) OnChange(f func(t api.EventType, old, now api.Object)) {
	k.m.OnChange(func(t api.EventType, old, now T) {
		switch t {
		case api.Added:
			f(t, nil, now)
		case api.Deleted:
			f(t, old, nil)
		default:
			f(t, old, now)
		}
	})
}

func (k kind[T]) Synced() <-chan struct{} { return k.m.Synced() }

func (k kind[T]) Run(ctx context.Context) error { return k.m.Run(ctx) }

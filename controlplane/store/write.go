package store

import (
	"context"
	"strconv"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// Create implements api.Objects.
func (s *Store) Create(ctx context.Context, obj api.Object) (api.Object, error) {
	r := api.ResourceOf(obj)
	facts := rules.Facts{Now: time.Now(), UID: uuid.NewUUID(), Suffix: rand.String(5)}
	return s.write(ctx, "create", func(ctx context.Context) (api.Object, error) {
		var admit func(api.Object) error
		if s.c.Admit != nil {
			admit = func(next api.Object) error { return s.c.Admit(ctx, rules.OpCreate, r, nil, next, "") }
		}
		next, err := rules.Create(facts, obj, admit)
		if err != nil {
			return nil, err
		}
		return s.insert(ctx, idOf(r, next), next)
	})
}

// insert stores a new object, if its namespace is there and stays as it is, and so
// does the definition of its kind.
func (s *Store) insert(ctx context.Context, i id, next api.Object) (api.Object, error) {
	if _, err := s.cache(i.r); err != nil {
		return nil, err
	}
	value, err := s.encode(next)
	if err != nil {
		return nil, err
	}
	x := txn{id: i, key: i.key(s.c.Prefix), value: value, obj: next}
	for fresh := false; ; fresh = true {
		x.guards = x.guards[:0]
		if i.r.Definition != nil {
			g, err := s.guardKind(ctx, i.r, fresh)
			if err != nil {
				return nil, err
			}
			x.guards = append(x.guards, g)
		}
		if i.r.Namespaced {
			ns, err := s.namespace(ctx, i.namespace, fresh)
			if err != nil {
				return nil, err
			}
			// A cache that is behind must not be the reason to refuse.
			if err := rules.Admissible(next, ns); err != nil && fresh {
				return nil, err
			} else if err != nil {
				continue
			}
			x.guards = append(x.guards, guard{id{api.Namespaces, "", i.namespace}.key(s.c.Prefix), revOf(ns)})
		}
		out, err := s.commit(ctx, x)
		switch {
		case err != nil:
			return nil, err
		case out.done:
			return out.obj, nil
		case out.now != nil:
			if err := s.show(ctx, out.now.ModRevision); err != nil {
				return nil, err
			}
			return nil, apierrors.NewAlreadyExists(i.r.GR(), i.name)
		}
		// Neither done nor there: it was the namespace that changed, or the definition.
	}
}

// namespace is the object of that name, nil when there is none; with fresh it
// is read from etcd.
func (s *Store) namespace(ctx context.Context, name string, fresh bool) (*corev1.Namespace, error) {
	if !fresh {
		obj, _ := s.caches[api.Namespaces].Get("", name)
		ns, _ := obj.(*corev1.Namespace)
		return ns, nil
	}
	obj, err := s.fetch(ctx, id{api.Namespaces, "", name})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Namespace), nil
}

// Update implements api.Objects.
func (s *Store) Update(ctx context.Context, obj api.Object, o api.UpdateOptions) (api.Object, error) {
	i := idOf(api.ResourceOf(obj), obj)
	return s.write(ctx, "update", func(ctx context.Context) (api.Object, error) {
		return s.change(ctx, i, func(old api.Object) (rules.Verdict, error) {
			return rules.Update(old, obj, o, s.admit(ctx, i.r, o.Subresource))
		})
	})
}

// Patch implements api.Objects.
func (s *Store) Patch(ctx context.Context, r *api.Resource, namespace, name string, p api.Patch) (api.Object, error) {
	return s.write(ctx, "patch", func(ctx context.Context) (api.Object, error) {
		return s.change(ctx, id{r, namespace, name}, func(old api.Object) (rules.Verdict, error) {
			obj, err := rules.Patch(old, p)
			if err != nil {
				return rules.Verdict{}, err
			}
			return rules.Update(old, obj, api.UpdateOptions{Subresource: p.Subresource}, s.admit(ctx, r, p.Subresource))
		})
	})
}

// Delete implements api.Objects.
func (s *Store) Delete(ctx context.Context, r *api.Resource, namespace, name string, o api.DeleteOptions) (api.Object, error) {
	facts := rules.Facts{Now: time.Now()}
	return s.write(ctx, "delete", func(ctx context.Context) (api.Object, error) {
		return s.change(ctx, id{r, namespace, name}, func(old api.Object) (rules.Verdict, error) {
			return rules.Delete(facts, old, o)
		})
	})
}

// write runs a write: when the store is open, for at most Config.Timeout,
// measured.
func (s *Store) write(ctx context.Context, op string, f func(context.Context) (api.Object, error)) (api.Object, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	start := time.Now()
	bounded, cancel := context.WithTimeoutCause(ctx, s.c.Timeout, errSilent)
	defer cancel()
	obj, err := f(bounded)
	s.m.wrote(op, start, err)
	return obj, err
}

// change carries out what decide says about the newest state, as often as
// somebody else was faster. An answer that a stale cache could explain is
// given only after a look at etcd.
func (s *Store) change(ctx context.Context, i id, decide func(api.Object) (rules.Verdict, error)) (api.Object, error) {
	if i.r.Namespaced && i.namespace == "" {
		i.namespace = corev1.NamespaceDefault
	}
	c, err := s.cache(i.r)
	if err != nil {
		return nil, err
	}
	old, cached := c.Get(i.namespace, i.name)
	for {
		if old == nil {
			var err error
			if old, err = s.fetch(ctx, i); err != nil {
				return nil, err
			}
		}
		v, err := decide(i.r.As(old))
		if cached && (v.Unchanged || apierrors.IsConflict(err) || apierrors.IsInvalid(err)) {
			now, e := s.fetch(ctx, i)
			if e != nil {
				return nil, e
			}
			cached = false
			if now.GetResourceVersion() != old.GetResourceVersion() {
				old = now
				continue
			}
		}
		if err != nil || v.Unchanged {
			if e := s.show(ctx, revOf(old)); e != nil {
				return nil, e
			}
			return v.Object, err
		}
		out, err := s.replace(ctx, i, old, v)
		if err != nil {
			return nil, err
		}
		if out.done {
			return out.obj, nil
		}
		cached, old = false, nil
		if out.now != nil {
			if old, err = s.decode(i, out.now); err != nil {
				return nil, err
			}
		}
	}
}

// replace tries to put v in the place of old.
func (s *Store) replace(ctx context.Context, i id, old api.Object, v rules.Verdict) (outcome, error) {
	x := txn{id: i, key: i.key(s.c.Prefix), expect: revOf(old), obj: v.Object}
	if !v.Remove {
		var err error
		if x.value, err = s.encode(v.Object); err != nil {
			return outcome{}, err
		}
	}
	return s.commit(ctx, x)
}

func (s *Store) admit(ctx context.Context, r *api.Resource, subresource string) func(old, next api.Object) error {
	if s.c.Admit == nil {
		return nil
	}
	return func(old, next api.Object) error {
		return s.c.Admit(ctx, rules.OpUpdate, r, old, next, subresource)
	}
}

// revOf is the object's revision; 0 for none.
func revOf[T api.Object](obj T) int64 {
	rev, _ := strconv.ParseInt(obj.GetResourceVersion(), 10, 64) // the store itself wrote it
	return rev
}

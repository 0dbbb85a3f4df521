package store

import (
	"context"
	"iter"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/cache"
	"github.com/podsnap/podsnap/api/rules"
	clientv3 "go.etcd.io/etcd/client/v3"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// customKinds are those that CustomResourceDefinitions have made. The feed alone
// changes them.
type customKinds struct {
	now atomic.Pointer[map[schema.GroupResource]*customKind] // the map is never changed
}

// customKind is one. Its objects are decoded as what it is now, and counted under
// what it was first: that is their id's resource as long as the definition exists.
type customKind struct {
	name  string        // of the definition
	first *api.Resource // the same as long as there is the definition
	now   atomic.Pointer[api.Resource]
	cache *cache.Cache
}

func (k *customKinds) all() map[schema.GroupResource]*customKind {
	if m := k.now.Load(); m != nil {
		return *m
	}
	return nil
}

// resource is the kind's, for ids; nil when there is none.
func (k *customKinds) resource(gr schema.GroupResource) *api.Resource {
	if c := k.all()[gr]; c != nil {
		return c.first
	}
	return nil
}

// asStored is an object that was read as its kind's present state has it.
func (k *customKinds) asStored(obj *api.CustomObject) api.Object {
	if c := k.all()[obj.Of.GR()]; c != nil {
		return c.now.Load().Definition.Adopt(obj)
	}
	return obj
}

func (k *customKinds) change(f func(map[schema.GroupResource]*customKind)) {
	next := maps.Clone(k.all())
	if next == nil {
		next = map[schema.GroupResource]*customKind{}
	}
	f(next)
	k.now.Store(&next)
}

// cache is that of a kind.
func (s *Store) cache(r *api.Resource) (*cache.Cache, error) {
	if r.Definition == nil {
		return s.caches[r], nil
	}
	if c := s.custom.all()[r.GR()]; c != nil {
		return c.cache, nil
	}
	return nil, api.NoSuchKind(r)
}

// kinds are all caches, by the resources of ids.
func (s *Store) kinds() iter.Seq2[*api.Resource, *cache.Cache] {
	return func(yield func(*api.Resource, *cache.Cache) bool) {
		for r, c := range s.caches {
			if !yield(r, c) {
				return
			}
		}
		for _, c := range s.custom.all() {
			if !yield(c.first, c.cache) {
				return
			}
		}
	}
}

// define takes in a definition, before what it defines; nil when it is gone.
func (s *Store) define(name string, obj api.Object) {
	if s.c.Define == nil {
		return
	}
	crd, _ := obj.(*apiextensionsv1.CustomResourceDefinition)
	r := s.c.Define(name, crd)
	if r == nil {
		s.forget(name)
		return
	}
	if c := s.custom.all()[r.GR()]; c != nil {
		c.now.Store(r)
		return
	}
	c := &customKind{name: name, first: r, cache: cache.New(r, cache.Config{History: s.c.History, Revision: &s.rev, Lag: s.m.delivered})}
	c.now.Store(r)
	c.cache.Load(nil, s.rev.Load())
	s.custom.change(func(m map[schema.GroupResource]*customKind) { m[r.GR()] = c })
}

// forget drops the kind of a definition, with whatever there may be of it.
func (s *Store) forget(name string) {
	s.custom.change(func(m map[schema.GroupResource]*customKind) {
		maps.DeleteFunc(m, func(_ schema.GroupResource, c *customKind) bool {
			if c.name != name {
				return false
			}
			c.cache.Fail(apierrors.NewResourceExpired("the kind " + c.first.String() + " is not defined any more"))
			return true
		})
	})
}

// definitions reads what kinds there are as of a revision: objects of a kind can be
// read only when the kind is known.
func (s *Store) definitions(ctx context.Context, at int64) error {
	bounded, cancel := context.WithTimeout(ctx, s.patience())
	defer cancel()
	resp, err := s.etcd.Get(bounded, id{r: api.CustomResourceDefinitions}.dir(s.c.Prefix), clientv3.WithPrefix(), clientv3.WithRev(at))
	if err != nil {
		return err
	}
	var known []string
	for _, kv := range resp.Kvs {
		if st, ok := s.read(kv); ok {
			s.define(st.id.name, st.obj)
			known = append(known, st.id.name)
		}
	}
	for _, c := range s.custom.all() {
		if !slices.Contains(known, c.name) {
			s.define(c.name, nil)
		}
	}
	return nil
}

// encode is what is stored of an object: a custom one in its kind's storage
// version, of which only the name differs.
func (s *Store) encode(obj api.Object) ([]byte, error) {
	if c, ok := obj.(*api.CustomObject); ok {
		if k := s.custom.all()[c.Of.GR()]; k != nil {
			stored := *c
			stored.SetGroupVersionKind(k.now.Load().GVK())
			obj = &stored
		}
	}
	return rules.Encode(obj)
}

// guardKind is that the definition of a kind stays as it is, which must not be
// being deleted: else an object could come after all others were deleted. What the
// cache says of it is read from etcd before it is a reason to refuse.
func (s *Store) guardKind(ctx context.Context, r *api.Resource, fresh bool) (guard, error) {
	i := id{r: api.CustomResourceDefinitions, name: r.GR().String()}
	obj, ok := s.caches[i.r].Get("", i.name)
	if fresh || !ok || obj.GetDeletionTimestamp() != nil {
		var err error
		if obj, err = s.fetch(ctx, i); apierrors.IsNotFound(err) {
			return guard{}, api.NoSuchKind(r)
		} else if err != nil {
			return guard{}, err
		}
	}
	if obj.GetDeletionTimestamp() != nil {
		return guard{}, api.EndingKind()
	}
	return guard{i.key(s.c.Prefix), revOf(obj)}, nil
}

// Package memory implements the seams in memory: Objects with the very rules of
// the real store, for tests and for tools that need no durable state.
package memory

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/cache"
	"github.com/podsnap/podsnap/api/rules"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// Config says how Objects behave. The zero value admits everything.
type Config struct {
	// Namespaces refuses objects in namespaces that do not exist or are being
	// deleted.
	Namespaces bool
	// Admit, when not nil, fills defaults and judges what is to be written.
	Admit rules.Admit
	// Define, when not nil, makes kinds of CustomResourceDefinitions.
	Define api.Define
	// History is how many changes of a kind are kept for watches; 0 is 4096.
	History int
}

// Objects is an api.Objects in memory. It starts no goroutines but those of
// running watches.
type Objects struct {
	c      Config
	caches map[*api.Resource]*cache.Cache

	mu     sync.Mutex // held while a change is taken in
	rev    int64
	custom sync.Map // schema.GroupResource to *cache.Cache: of kinds that definitions have made
}

var _ api.Objects = (*Objects)(nil)

// New makes Objects with nothing in them. Of several configs the first counts;
// none is the zero Config.
func New(c ...Config) *Objects {
	o := &Objects{caches: make(map[*api.Resource]*cache.Cache, len(api.Resources)), rev: 1}
	if len(c) > 0 {
		o.c = c[0]
	}
	for _, r := range api.Resources {
		o.caches[r] = cache.New(r, cache.Config{History: o.c.History})
		o.caches[r].Load(nil, o.rev)
	}
	return o
}

// Get implements api.Objects.
func (o *Objects) Get(ctx context.Context, r *api.Resource, namespace, name string) (api.Object, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	c, err := o.cache(r)
	if err != nil {
		return nil, err
	}
	obj, ok := c.Get(namespace, name)
	if !ok {
		return nil, apierrors.NewNotFound(r.GR(), name)
	}
	return r.As(obj), nil
}

// cache finds the one of a kind.
func (o *Objects) cache(r *api.Resource) (*cache.Cache, error) {
	if r.Definition == nil {
		return o.caches[r], nil
	}
	if c, ok := o.custom.Load(r.GR()); ok {
		return c.(*cache.Cache), nil
	}
	return nil, api.NoSuchKind(r)
}

// List implements api.Objects.
func (o *Objects) List(ctx context.Context, r *api.Resource, lo api.ListOptions) (api.List, error) {
	if ctx.Err() != nil {
		return api.List{}, context.Cause(ctx)
	}
	c, err := o.cache(r)
	if err != nil {
		return api.List{}, err
	}
	return c.ListAs(r, lo)
}

// Watch implements api.Objects.
func (o *Objects) Watch(ctx context.Context, r *api.Resource, wo api.WatchOptions) (api.Watch, error) {
	c, err := o.cache(r)
	if err != nil {
		return nil, err
	}
	return c.WatchAs(ctx, r, wo)
}

// Create implements api.Objects.
func (o *Objects) Create(ctx context.Context, obj api.Object) (api.Object, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	r := api.ResourceOf(obj)
	facts := rules.Facts{Now: time.Now(), UID: uuid.NewUUID(), Suffix: rand.String(5)}
	var admit func(api.Object) error
	if o.c.Admit != nil {
		admit = func(next api.Object) error { return o.c.Admit(ctx, rules.OpCreate, r, nil, next, "") }
	}
	next, err := rules.Create(facts, obj, admit)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	c, err := o.cache(r)
	if err != nil {
		return nil, err
	}
	if o.c.Namespaces && r.Namespaced {
		found, _ := o.caches[api.Namespaces].Get("", next.GetNamespace())
		ns, _ := found.(*corev1.Namespace)
		if err := rules.Admissible(next, ns); err != nil {
			return nil, err
		}
	}
	if _, ok := c.Get(next.GetNamespace(), next.GetName()); ok {
		return nil, apierrors.NewAlreadyExists(r.GR(), next.GetName())
	}
	return o.put(c, next, false), nil
}

// Update implements api.Objects.
func (o *Objects) Update(ctx context.Context, obj api.Object, uo api.UpdateOptions) (api.Object, error) {
	r := api.ResourceOf(obj)
	return o.change(ctx, r, obj.GetNamespace(), obj.GetName(), func(old api.Object) (rules.Verdict, error) {
		return rules.Update(old, obj, uo, o.admit(ctx, r, uo.Subresource))
	})
}

// Patch implements api.Objects.
func (o *Objects) Patch(ctx context.Context, r *api.Resource, namespace, name string, p api.Patch) (api.Object, error) {
	return o.change(ctx, r, namespace, name, func(old api.Object) (rules.Verdict, error) {
		obj, err := rules.Patch(old, p)
		if err != nil {
			return rules.Verdict{}, err
		}
		return rules.Update(old, obj, api.UpdateOptions{Subresource: p.Subresource}, o.admit(ctx, r, p.Subresource))
	})
}

// Delete implements api.Objects.
func (o *Objects) Delete(ctx context.Context, r *api.Resource, namespace, name string, do api.DeleteOptions) (api.Object, error) {
	return o.change(ctx, r, namespace, name, func(old api.Object) (rules.Verdict, error) {
		return rules.Delete(rules.Facts{Now: time.Now()}, old, do)
	})
}

// change carries out what decide says about the present object.
func (o *Objects) change(ctx context.Context, r *api.Resource, namespace, name string, decide func(api.Object) (rules.Verdict, error)) (api.Object, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if r.Namespaced && namespace == "" {
		namespace = corev1.NamespaceDefault
	}
	c, err := o.cache(r)
	if err != nil {
		return nil, err
	}
	for {
		old, ok := c.Get(namespace, name)
		if !ok {
			return nil, apierrors.NewNotFound(r.GR(), name)
		}
		v, err := decide(r.As(old))
		if err != nil || v.Unchanged {
			return v.Object, err
		}
		if obj, ok := o.commit(c, old, v); ok {
			return obj, nil
		}
	}
}

// commit carries out v, unless old is not the present state any more.
func (o *Objects) commit(c *cache.Cache, old api.Object, v rules.Verdict) (api.Object, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now, _ := c.Get(old.GetNamespace(), old.GetName()); now != old {
		return nil, false
	}
	return o.put(c, v.Object, v.Remove), true
}

// put takes in the new or, with remove, the last state of an object. Called
// with o.mu held.
func (o *Objects) put(c *cache.Cache, obj api.Object, remove bool) api.Object {
	o.rev++
	obj.SetResourceVersion(strconv.FormatInt(o.rev, 10))
	now := obj
	if remove {
		now = nil
	}
	if crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition); ok && o.c.Define != nil {
		o.define(crd, remove)
	}
	c.Apply(o.rev, cache.Change{Namespace: obj.GetNamespace(), Name: obj.GetName(), Object: now})
	return obj
}

// define makes room for the objects of a new kind, or takes it away. Called with
// o.mu held.
func (o *Objects) define(crd *apiextensionsv1.CustomResourceDefinition, remove bool) {
	gr := schema.GroupResource{Group: crd.Spec.Group, Resource: crd.Spec.Names.Plural}
	if remove {
		o.c.Define(crd.Name, nil)
		if c, ok := o.custom.LoadAndDelete(gr); ok {
			c.(*cache.Cache).Fail(apierrors.NewResourceExpired("the kind is not defined any more"))
		}
		return
	}
	r := o.c.Define(crd.Name, crd)
	if _, ok := o.custom.Load(gr); !ok {
		c := cache.New(r, cache.Config{History: o.c.History})
		c.Load(nil, o.rev)
		o.custom.Store(gr, c)
	}
}

func (o *Objects) admit(ctx context.Context, r *api.Resource, subresource string) func(old, next api.Object) error {
	if o.c.Admit == nil {
		return nil
	}
	return func(old, next api.Object) error {
		return o.c.Admit(ctx, rules.OpUpdate, r, old, next, subresource)
	}
}

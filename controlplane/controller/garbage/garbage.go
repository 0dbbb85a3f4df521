// Package garbage deletes what nobody wants any more: objects whose owners are
// gone, pods of nodes that are gone, and ended pods beyond a number.
package garbage

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/view"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// conflictWait is when to look again at an object that changed meanwhile.
const conflictWait = 5 * time.Millisecond

// Config says what is garbage.
type Config struct {
	Objects  api.Objects
	View     *view.View
	Ended    int           // ended pods that are kept; 0 is 500, negative is none
	NodeGone time.Duration // how long a node has to be missing before its pods are deleted; 0 is 5 s
	Workers  int           // objects worked on at once; 0 is 8
	Log      *slog.Logger  // nil discards
	Metrics  prometheus.Registerer
}

// Controller collects garbage.
type Controller struct {
	c      Config
	owners *loop.Loop[key]
	pods   *loop.Loop[string] // a node's name, or "" for the cap of ended pods

	mu      sync.Mutex
	missing map[string]time.Time // nodes that pods name and that are not there, since
}

type key struct {
	resource  *api.Resource
	namespace string
	name      string
	uid       types.UID
}

// String is the key in logs.
func (k key) String() string {
	return k.resource.Singular + "/" + types.NamespacedName{Namespace: k.namespace, Name: k.name}.String()
}

// New makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func New(c Config) *Controller {
	if c.Ended == 0 {
		c.Ended = 500
	}
	if c.NodeGone == 0 {
		c.NodeGone = 5 * time.Second
	}
	if c.Workers == 0 {
		c.Workers = 8
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Controller{c: c, missing: map[string]time.Time{}}
	r.owners = loop.New(loop.Config{Name: "garbage", Workers: c.Workers, Log: c.Log, Metrics: c.Metrics}, r.reconcile)
	r.pods = loop.New(loop.Config{Name: "garbage-pods", Log: c.Log, Metrics: c.Metrics}, r.reconcilePods)
	c.View.Each(func(k view.Kind) {
		k.OnChange(func(t api.EventType, old, now api.Object) { r.changed(k.Resource(), t, old, now) })
	})
	r.watchPods()
	return r
}

// Run collects until ctx is done and returns nil then. The view must have
// synced: an owner that is not mirrored yet is looked up, at a price.
func (r *Controller) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.owners.Run(ctx) })
	g.Go(func() error { return r.pods.Run(ctx) })
	return g.Wait()
}

func (r *Controller) changed(res *api.Resource, t api.EventType, old, now api.Object) {
	if t == api.Deleted || old != nil && old.GetUID() != now.GetUID() {
		r.dependents(old.GetUID(), func(k key, _ api.Object) { r.owners.Add(k) })
		r.wakeOwners(old)
	}
	if t == api.Deleted {
		return
	}
	fresh := old == nil || !slices.EqualFunc(old.GetOwnerReferences(), now.GetOwnerReferences(), func(a, b metav1.OwnerReference) bool { return a.UID == b.UID })
	if fresh && len(now.GetOwnerReferences()) > 0 || foreground(now) || orphaning(now) {
		r.owners.Add(keyOf(res, now))
	}
	if old != nil && fresh {
		r.wakeOwners(old)
	}
}

// wakeOwners looks at owners that wait for this dependent to go.
func (r *Controller) wakeOwners(dep api.Object) {
	for _, ref := range dep.GetOwnerReferences() {
		k := r.c.View.Kind(r.resourceOf(ref))
		if k == nil {
			continue
		}
		if o, ok := k.Get(namespaceOf(k.Resource(), dep), ref.Name); ok && foreground(o) {
			r.owners.Add(keyOf(k.Resource(), o))
		}
	}
}

func (r *Controller) dependents(owner types.UID, f func(key, api.Object)) {
	for _, k := range r.c.View.All() {
		for _, o := range k.By(view.Dependents, string(owner)) {
			f(keyOf(k.Resource(), o), o)
		}
	}
}

func (r *Controller) reconcile(ctx context.Context, k key) (time.Duration, error) {
	m := r.c.View.Kind(k.resource)
	if m == nil {
		return 0, nil // the kind has gone, and its objects with it
	}
	o, ok := m.Get(k.namespace, k.name)
	if !ok || o.GetUID() != k.uid {
		return 0, nil
	}
	switch {
	case orphaning(o):
		return 0, r.orphan(ctx, k)
	case foreground(o):
		if err := r.foreground(ctx, k); err != nil {
			return 0, err
		}
	}
	v, err := r.judge(ctx, k, o)
	if err != nil || !v.remove && len(v.drop) == 0 {
		return 0, err
	}
	// The mirror may be behind: a reference may have been taken out. What is
	// deleted is judged as it is now, and as that only.
	o, err = r.c.Objects.Get(ctx, k.resource, k.namespace, k.name)
	if err != nil || o.GetUID() != k.uid {
		return 0, settled(err)
	}
	if v, err = r.judge(ctx, k, o); err != nil {
		return 0, err
	}
	if err := r.carryOut(ctx, k, o, v); !apierrors.IsConflict(err) {
		return 0, settled(err)
	}
	return conflictWait, nil
}

// judge says what becomes of an object in the state given.
func (r *Controller) judge(ctx context.Context, k key, o api.Object) (verdict, error) {
	refs := o.GetOwnerReferences()
	if len(refs) == 0 || o.GetDeletionTimestamp() != nil {
		return verdict{}, nil
	}
	owners := make([]standing, len(refs))
	for i, ref := range refs {
		s, err := r.standing(ctx, ref, o)
		if err != nil {
			return verdict{}, err
		}
		owners[i] = s
	}
	blocking := false
	r.dependents(k.uid, func(_ key, dep api.Object) { blocking = blocking || blocks(dep, k.uid) })
	return decide(refs, owners, blocking), nil
}

// standing finds an owner: in the mirror, and, where that has none, in the
// store, as the mirror of one kind may be behind that of another.
func (r *Controller) standing(ctx context.Context, ref metav1.OwnerReference, dep api.Object) (standing, error) {
	res := r.resourceOf(ref)
	if res == nil || res.Namespaced && dep.GetNamespace() == "" {
		return present, nil
	}
	ns := namespaceOf(res, dep)
	var o api.Object
	if k := r.c.View.Kind(res); k != nil {
		if m, ok := k.Get(ns, ref.Name); ok && m.GetUID() == ref.UID {
			o = m
		}
	}
	if o == nil {
		got, err := r.c.Objects.Get(ctx, res, ns, ref.Name)
		switch {
		case apierrors.IsNotFound(err):
			return absent, nil
		case err != nil:
			return present, fmt.Errorf("look up the owner %s %s of %s: %w", ref.Kind, ref.Name, view.Key(dep), err)
		case got.GetUID() != ref.UID:
			return absent, nil
		}
		o = got
	}
	if foreground(o) && ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion {
		return waiting, nil
	}
	return present, nil
}

func (r *Controller) carryOut(ctx context.Context, k key, o api.Object, v verdict) error {
	switch {
	case v.remove:
		_, err := r.c.Objects.Delete(ctx, k.resource, k.namespace, k.name, api.DeleteOptions{
			UID: k.uid, ResourceVersion: o.GetResourceVersion(), Propagation: v.propagation,
		})
		if err == nil {
			r.c.Log.Info("deleted after its owner", slog.String("object", k.String()))
		}
		return err
	case len(v.drop) > 0:
		return r.mutate(ctx, k, func(o api.Object) bool { return without(o, v.drop...) })
	}
	return nil
}

// foreground lets an owner go when no dependent blocks it any more, and sees to
// those that do.
func (r *Controller) foreground(ctx context.Context, k key) error {
	left := 0
	r.dependents(k.uid, func(dep key, o api.Object) {
		if !blocks(o, k.uid) {
			return
		}
		left++
		if o.GetDeletionTimestamp() == nil {
			r.owners.Add(dep)
		}
	})
	if left > 0 {
		return nil
	}
	return r.mutate(ctx, k, func(o api.Object) bool { return unfinalize(o, api.FinalizerForeground) })
}

// orphan lets the dependents go, then the owner. It asks the store, not the
// mirror: a dependent that is overlooked here would be deleted.
func (r *Controller) orphan(ctx context.Context, k key) error {
	for _, res := range r.c.View.Resources() {
		if res == api.Events {
			continue
		}
		l, err := r.c.Objects.List(ctx, res, api.ListOptions{Namespace: k.namespace})
		if err != nil {
			return fmt.Errorf("list %s to let those of %s go: %w", res, k, err)
		}
		for _, o := range l.Items {
			if !slices.ContainsFunc(o.GetOwnerReferences(), func(ref metav1.OwnerReference) bool { return ref.UID == k.uid }) {
				continue
			}
			if err := r.mutate(ctx, keyOf(res, o), func(o api.Object) bool { return without(o, k.uid) }); err != nil {
				return err
			}
		}
	}
	return r.mutate(ctx, k, func(o api.Object) bool { return unfinalize(o, api.FinalizerOrphan) })
}

func (r *Controller) mutate(ctx context.Context, k key, change func(api.Object) bool) error {
	_, err := api.Mutate(ctx, r.c.Objects, k.resource, k.namespace, k.name, api.UpdateOptions{}, func(o api.Object) (bool, error) {
		return o.GetUID() == k.uid && change(o), nil
	})
	return settled(err)
}

func keyOf(r *api.Resource, o api.Object) key {
	return key{r, o.GetNamespace(), o.GetName(), o.GetUID()}
}

func (r *Controller) resourceOf(ref metav1.OwnerReference) *api.Resource {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil
	}
	return r.c.View.ResourceFor(gv.WithKind(ref.Kind))
}

func namespaceOf(owner *api.Resource, dep api.Object) string {
	if owner.Namespaced {
		return dep.GetNamespace()
	}
	return ""
}

// settled drops the errors of an object that is gone or is another one by now.
func settled(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// Package endpoint keeps the EndpointSlices and the Endpoints of Services with
// a selector.
package endpoint

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/podstate"
	"github.com/podsnap/podsnap/controlplane/view"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

const conflictWait = 5 * time.Millisecond

// Config says what the controller works with.
type Config struct {
	Objects api.Objects
	View    *view.View
	Workers int          // services worked on at once; 0 is 4
	Log     *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Controller reconciles all services.
type Controller struct {
	c    Config
	loop *loop.Loop[types.NamespacedName]
}

// batch is how long changes of a function's replicas are gathered: gateways know
// them already, so its endpoints are for onlookers, and there are many changes.
const batch = 200 * time.Millisecond

// New makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func New(c Config) *Controller {
	if c.Workers == 0 {
		c.Workers = 4
	}
	r := &Controller{c: c}
	r.loop = loop.New(loop.Config{Name: "endpoint", Workers: c.Workers, Log: c.Log, Metrics: c.Metrics}, r.reconcile)
	c.View.Services.OnChange(func(t api.EventType, old, now *corev1.Service) {
		if t == api.Deleted {
			now = old
		}
		r.loop.Add(view.Key(now))
	})
	c.View.Pods.OnChange(r.podChanged)
	c.View.Nodes.OnChange(r.nodeChanged)
	c.View.EndpointSlices.OnChange(func(t api.EventType, old, now *discoveryv1.EndpointSlice) {
		if t == api.Deleted {
			now = old
		}
		if now.Labels[discoveryv1.LabelManagedBy] == managedBy {
			r.loop.AddAfter(types.NamespacedName{Namespace: now.Namespace, Name: now.Labels[api.LabelServiceName]}, view.Calm)
		}
	})
	c.View.Endpoints.OnChange(func(t api.EventType, old, now *corev1.Endpoints) {
		if t == api.Deleted {
			now = old
		}
		r.loop.AddAfter(view.Key(now), view.Calm)
	})
	return r
}

// Run reconciles until ctx is done and returns nil then.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func (r *Controller) podChanged(t api.EventType, old, now *corev1.Pod) {
	switch {
	case t == api.Added:
		r.wake(now)
	case t == api.Deleted:
		r.wake(old)
	case !maps.Equal(old.Labels, now.Labels) || old.UID != now.UID:
		r.wake(old)
		r.wake(now)
	case !podstate.Same(old, now):
		r.wake(now)
	}
}

// nodeChanged has the endpoints on a node looked at when it comes to another zone, or
// is seen after its pods.
func (r *Controller) nodeChanged(t api.EventType, old, now *corev1.Node) {
	if t == api.Deleted || zoneOf(old) == zoneOf(now) {
		return
	}
	for _, p := range r.c.View.Pods.By(view.Node, now.Name) {
		r.wake(p)
	}
}

// zone is a node's; "" is none.
func (r *Controller) zone(node string) string {
	n, ok := r.c.View.Nodes.Get("", node)
	if !ok {
		return ""
	}
	return zoneOf(n)
}

// zoneOf is the zone of a node; nil is in none.
func zoneOf(n *corev1.Node) string {
	if n == nil {
		return ""
	}
	return n.Labels[corev1.LabelTopologyZone]
}

// wake has the services that select a pod looked at.
func (r *Controller) wake(p *corev1.Pod) {
	for k, v := range p.Labels {
		for _, svc := range r.c.View.Services.By(view.Selector, view.LabelKey(p.Namespace, k, v)) {
			if !labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(p.Labels)) {
				continue
			}
			if p.Labels[api.LabelFunction] != "" {
				r.loop.AddAfter(view.Key(svc), batch)
				continue
			}
			r.loop.Add(view.Key(svc))
		}
	}
}

func (r *Controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	svc, ok := r.c.View.Services.Get(key.Namespace, key.Name)
	if !ok {
		return 0, r.remove(ctx, key)
	}
	if len(svc.Spec.Selector) == 0 || svc.Spec.Type == corev1.ServiceTypeExternalName || svc.DeletionTimestamp != nil {
		return 0, nil // somebody else keeps its endpoints
	}
	gs := groups(svc, r.pods(svc))
	have := r.own(key)
	again, err := r.apply(ctx, wantSlices(svc, gs, have, r.zone), have)
	if again > 0 || err != nil {
		return again, err
	}
	return r.applyEndpoints(ctx, wantEndpoints(svc, gs))
}

func (r *Controller) pods(svc *corev1.Service) []*corev1.Pod {
	k := view.First(svc.Spec.Selector)
	sel := labels.SelectorFromSet(svc.Spec.Selector)
	var out []*corev1.Pod
	for _, p := range r.c.View.Pods.By(view.Label, view.LabelKey(svc.Namespace, k, svc.Spec.Selector[k])) {
		if sel.Matches(labels.Set(p.Labels)) {
			out = append(out, p)
		}
	}
	return out
}

func (r *Controller) own(key types.NamespacedName) []*discoveryv1.EndpointSlice {
	var out []*discoveryv1.EndpointSlice
	for _, s := range r.c.View.EndpointSlices.By(view.Service, key.String()) {
		if s.Labels[discoveryv1.LabelManagedBy] == managedBy {
			out = append(out, s)
		}
	}
	return out
}

// apply writes slices: new and changed ones first, so that no endpoint is
// missing for a moment, then it removes what is not wanted.
func (r *Controller) apply(ctx context.Context, want, have []*discoveryv1.EndpointSlice) (time.Duration, error) {
	old := map[string]*discoveryv1.EndpointSlice{}
	for _, s := range have {
		old[s.Name] = s
	}
	for _, s := range want {
		was := old[s.Name]
		delete(old, s.Name)
		var err error
		if was == nil {
			_, err = r.c.Objects.Create(ctx, s)
		} else if !sameSlice(was, s) {
			next := was.DeepCopy()
			next.Labels, next.OwnerReferences, next.Ports, next.Endpoints = s.Labels, s.OwnerReferences, s.Ports, s.Endpoints
			_, err = r.c.Objects.Update(ctx, next, api.UpdateOptions{})
		}
		if again, err := retry(err); again > 0 || err != nil {
			return again, wrap(err, "EndpointSlice", s.Namespace, s.Name)
		}
	}
	for _, s := range old {
		_, err := r.c.Objects.Delete(ctx, api.EndpointSlices, s.Namespace, s.Name, api.DeleteOptions{UID: s.UID})
		if again, err := retry(err); again > 0 || err != nil {
			return again, wrap(err, "EndpointSlice", s.Namespace, s.Name)
		}
	}
	return 0, nil
}

func (r *Controller) applyEndpoints(ctx context.Context, want *corev1.Endpoints) (time.Duration, error) {
	was, ok := r.c.View.Endpoints.Get(want.Namespace, want.Name)
	var err error
	if !ok {
		_, err = r.c.Objects.Create(ctx, want)
	} else if !maps.Equal(was.Labels, want.Labels) || !equality.Semantic.DeepEqual(was.Subsets, want.Subsets) {
		next := was.DeepCopy()
		next.Labels, next.Subsets = want.Labels, want.Subsets
		_, err = r.c.Objects.Update(ctx, next, api.UpdateOptions{})
	}
	again, err := retry(err)
	return again, wrap(err, "Endpoints", want.Namespace, want.Name)
}

// remove ends what was kept for a service that is gone.
func (r *Controller) remove(ctx context.Context, key types.NamespacedName) error {
	if e, ok := r.c.View.Endpoints.Get(key.Namespace, key.Name); ok && e.Labels[managedEndpoints] == endpointsManager {
		_, err := r.c.Objects.Delete(ctx, api.Endpoints, key.Namespace, key.Name, api.DeleteOptions{UID: e.UID})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return wrap(err, "Endpoints", key.Namespace, key.Name)
		}
	}
	for _, s := range r.own(key) {
		_, err := r.c.Objects.Delete(ctx, api.EndpointSlices, s.Namespace, s.Name, api.DeleteOptions{UID: s.UID})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return wrap(err, "EndpointSlice", s.Namespace, s.Name)
		}
	}
	return nil
}

func sameSlice(a, b *discoveryv1.EndpointSlice) bool {
	return maps.Equal(a.Labels, b.Labels) && equality.Semantic.DeepEqual(a.OwnerReferences, b.OwnerReferences) &&
		equality.Semantic.DeepEqual(a.Ports, b.Ports) && equality.Semantic.DeepEqual(a.Endpoints, b.Endpoints)
}

// retry turns an error that only says that the mirror is behind into a short
// wait.
func retry(err error) (time.Duration, error) {
	switch {
	case apierrors.IsConflict(err):
		return conflictWait, nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return 0, nil
	}
	return 0, err
}

func wrap(err error, kind, namespace, name string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("write %s %s/%s: %w", kind, namespace, name, err)
}

// Package function keeps the Deployment and the Service of each Function and
// writes the Function's status.
package function

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/view"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/podsnap/podsnap/internal/record"
	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

const conflictWait = 5 * time.Millisecond

// Config says what the controller works with.
type Config struct {
	Objects api.Objects
	View    *view.View
	// Apply brings a function's Deployment and Service in line with it, sets
	// their owner, and does nothing when they are.
	Apply   func(ctx context.Context, o api.Objects, f *api.Function) error
	Record  *record.Recorder // nil: no events
	Workers int              // functions worked on at once; 0 is 4
	Log     *slog.Logger     // nil discards
	Metrics prometheus.Registerer
}

// Controller reconciles all functions.
type Controller struct {
	c    Config
	loop *loop.Loop[types.NamespacedName]

	mu      sync.Mutex
	applied map[types.NamespacedName]generation // what Apply last worked on with success
}

// generation tells states apart that Apply has something to do with.
type generation struct {
	function, deployment, service types.UID
	f, d                          int64
	s                             string // resourceVersion of the Service: it changes rarely
}

// batch is how long changes of replicas are gathered before the function's
// status tells of them.
const batch = 50 * time.Millisecond

// New makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func New(c Config) *Controller {
	if c.Workers == 0 {
		c.Workers = 4
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Controller{c: c, applied: map[types.NamespacedName]generation{}}
	r.loop = loop.New(loop.Config{Name: "function", Workers: c.Workers, Log: c.Log, Metrics: c.Metrics}, r.reconcile)
	c.View.Functions.OnChange(func(t api.EventType, old, now *api.Function) {
		if t == api.Deleted {
			r.mu.Lock()
			delete(r.applied, view.Key(old))
			r.mu.Unlock()
			return
		}
		if view.StatusOnly(old, now) {
			r.loop.AddAfter(view.Key(now), view.Calm)
			return
		}
		r.loop.Add(view.Key(now))
	})
	c.View.Deployments.OnChange(func(t api.EventType, old, now *appsv1.Deployment) {
		if t == api.Modified {
			r.loop.AddAfter(view.Key(now), batch) // its status, or how many there are to be: the function's status
			return
		}
		r.wake(either(t, old, now))
	})
	c.View.Services.OnChange(func(t api.EventType, old, now *corev1.Service) { r.wake(either(t, old, now)) })
	c.View.Pods.OnChange(func(t api.EventType, old, now *corev1.Pod) {
		p := either(t, old, now)
		if f := p.Labels[api.LabelFunction]; f != "" {
			r.loop.AddAfter(types.NamespacedName{Namespace: p.Namespace, Name: f}, batch)
		}
	})
	return r
}

// Run works until ctx is done and returns nil then.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

// wake looks at the function of the same name, if there is one.
func (r *Controller) wake(o api.Object) {
	if _, ok := r.c.View.Functions.Get(o.GetNamespace(), o.GetName()); ok {
		r.loop.Add(view.Key(o))
	}
}

func (r *Controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	f, ok := r.c.View.Functions.Get(key.Namespace, key.Name)
	if !ok || f.DeletionTimestamp != nil {
		return 0, nil
	}
	err := r.apply(ctx, f)
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return 0, nil
	}
	if apierrors.IsConflict(err) {
		return conflictWait, nil
	}
	d, ok := r.c.View.Deployments.Get(key.Namespace, key.Name)
	if !ok {
		d = nil
	}
	st := status(f, d, r.c.View.Pods.By(view.Label, view.LabelKey(f.Namespace, api.LabelFunction, f.Name)), err, time.Now())
	again, serr := r.report(ctx, f, st)
	if err != nil {
		return 0, fmt.Errorf("apply function %s: %w", key, err)
	}
	return again, serr
}

// apply calls Apply unless nothing has changed since it last succeeded: every
// change of a pod comes by here.
func (r *Controller) apply(ctx context.Context, f *api.Function) error {
	key, g := view.Key(f), generation{function: f.UID, f: f.Generation}
	if d, ok := r.c.View.Deployments.Get(f.Namespace, f.Name); ok {
		g.deployment, g.d = d.UID, d.Generation
	}
	if s, ok := r.c.View.Services.Get(f.Namespace, f.Name); ok {
		g.service, g.s = s.UID, s.ResourceVersion
	}
	r.mu.Lock()
	same := r.applied[key] == g
	r.mu.Unlock()
	if same && g.deployment != "" && g.service != "" {
		return nil
	}
	if err := r.c.Apply(ctx, r.c.Objects, f); err != nil {
		if !apierrors.IsConflict(err) && ctx.Err() == nil {
			r.c.Record.Eventf(f, corev1.EventTypeWarning, "ApplyFailed", "Could not bring the deployment in line: %v", err)
		}
		return err
	}
	r.mu.Lock()
	r.applied[key] = g
	r.mu.Unlock()
	return nil
}

func (r *Controller) report(ctx context.Context, f *api.Function, st api.FunctionStatus) (time.Duration, error) {
	if equality.Semantic.DeepEqual(f.Status, st) {
		return 0, nil
	}
	next := f.DeepCopy()
	next.Status = st
	_, err := r.c.Objects.Update(ctx, next, api.UpdateOptions{Subresource: "status"})
	switch {
	case apierrors.IsNotFound(err):
		return 0, nil
	case apierrors.IsConflict(err):
		return conflictWait, nil
	}
	return 0, err
}

func either[T any](t api.EventType, old, now T) T {
	if t == api.Deleted {
		return old
	}
	return now
}

// Package namespace empties namespaces that are being deleted and makes those
// that the platform needs.
package namespace

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/view"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// recheck is how often a namespace that is not empty yet is looked at when no
// event says that something in it went.
const recheck = 5 * time.Second

// Config says what the controller works with.
type Config struct {
	Objects api.Objects
	View    *view.View
	Log     *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Controller ends namespaces.
type Controller struct {
	c    Config
	loop *loop.Loop[string]
}

// New makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func New(c Config) *Controller {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Controller{c: c}
	r.loop = loop.New(loop.Config{Name: "namespace", Workers: 2, Log: c.Log, Metrics: c.Metrics}, r.reconcile)
	c.View.Namespaces.OnChange(func(t api.EventType, _, now *corev1.Namespace) {
		if t != api.Deleted && now.DeletionTimestamp != nil {
			r.loop.Add(now.Name)
		}
	})
	c.View.Each(func(k view.Kind) {
		if !k.Resource().Namespaced {
			return
		}
		k.OnChange(func(t api.EventType, old, _ api.Object) {
			if t != api.Deleted {
				return
			}
			if ns, ok := c.View.Namespaces.Get("", old.GetNamespace()); ok && ns.DeletionTimestamp != nil {
				r.loop.Add(ns.Name)
			}
		})
	})
	return r
}

// Run works until ctx is done and returns nil then.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func (r *Controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	ns, ok := r.c.View.Namespaces.Get("", name)
	if !ok || ns.DeletionTimestamp == nil {
		return 0, nil
	}
	left, err := r.empty(ctx, name)
	if err != nil {
		return 0, err
	}
	if left > 0 {
		return recheck, nil
	}
	_, err = api.Mutate(ctx, r.c.Objects, api.Namespaces, "", name, api.UpdateOptions{}, func(o *corev1.Namespace) (bool, error) {
		if o.UID != ns.UID || len(o.Spec.Finalizers) == 0 {
			return false, nil
		}
		o.Spec.Finalizers = nil
		return true, nil
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("finish namespace %s: %w", name, err)
	}
	r.c.Log.Info("namespace deleted", slog.String("namespace", name))
	return 0, nil
}

// empty deletes everything in a namespace and answers with how much is still
// there: pods that are being stopped, objects with finalizers.
func (r *Controller) empty(ctx context.Context, name string) (left int, err error) {
	for _, res := range r.c.View.Resources() {
		if !res.Namespaced {
			continue
		}
		n, err := r.purge(ctx, res, name)
		if res.Definition != nil && apierrors.IsNotFound(err) {
			continue // the kind has gone, and its objects with it
		}
		if err != nil {
			return 0, fmt.Errorf("empty namespace %s of %s: %w", name, res, err)
		}
		left += n
	}
	return left, nil
}

// purge asks the store, which must not be behind when it says that there is
// nothing.
func (r *Controller) purge(ctx context.Context, res *api.Resource, name string) (left int, err error) {
	l, err := r.c.Objects.List(ctx, res, api.ListOptions{Namespace: name})
	if err != nil || len(l.Items) == 0 {
		return 0, err
	}
	var g errgroup.Group
	g.SetLimit(16)
	for _, o := range l.Items {
		if o.GetDeletionTimestamp() != nil {
			continue
		}
		g.Go(func() error {
			_, err := r.c.Objects.Delete(ctx, res, name, o.GetName(), api.DeleteOptions{UID: o.GetUID(), Propagation: metav1.DeletePropagationBackground})
			if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	l, err = r.c.Objects.List(ctx, res, api.ListOptions{Namespace: name})
	return len(l.Items), err
}

// Ensure creates the namespaces that the platform and its clients count on,
// where they are missing.
func Ensure(ctx context.Context, o api.Objects) error {
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, api.SystemNamespace, api.FunctionNamespace} {
		if _, err := o.Get(ctx, api.Namespaces, "", name); err == nil {
			continue
		}
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelMetadataName: name}}}
		if name == api.FunctionNamespace {
			ns.Labels[api.LabelFunctionNamespace] = "1"
		}
		if _, err := o.Create(ctx, ns); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create namespace %s: %w", name, err)
		}
	}
	return nil
}

// Package account gives each namespace what its pods need towards the API server:
// the service account of pods that name none, and the authority by which the server
// is known.
package account

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/view"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Config says what the controller works with.
type Config struct {
	Objects   api.Objects
	View      *view.View
	Authority string       // PEM; "" makes no ConfigMaps
	Log       *slog.Logger // nil discards
	Metrics   prometheus.Registerer
}

// Controller works by namespace.
type Controller struct {
	c    Config
	loop *loop.Loop[string]
}

// New makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func New(c Config) *Controller {
	r := &Controller{c: c}
	r.loop = loop.New(loop.Config{Name: "account", Log: c.Log, Metrics: c.Metrics}, r.reconcile)
	c.View.Namespaces.OnChange(func(t api.EventType, _, now *corev1.Namespace) {
		if t != api.Deleted {
			r.loop.Add(now.Name)
		}
	})
	c.View.ServiceAccounts.OnChange(func(t api.EventType, old, _ *corev1.ServiceAccount) {
		if t == api.Deleted && old.Name == api.DefaultAccount {
			r.loop.Add(old.Namespace)
		}
	})
	c.View.ConfigMaps.OnChange(func(t api.EventType, old, now *corev1.ConfigMap) {
		if t == api.Deleted {
			now = old
		}
		if now.Name == api.RootCA {
			r.loop.Add(now.Namespace)
		}
	})
	return r
}

// Run works until ctx is done and returns nil then.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func (r *Controller) reconcile(ctx context.Context, namespace string) (time.Duration, error) {
	ns, ok := r.c.View.Namespaces.Get("", namespace)
	if !ok || ns.DeletionTimestamp != nil {
		return 0, nil
	}
	at := metav1.ObjectMeta{Namespace: namespace, Name: api.DefaultAccount}
	if _, ok := r.c.View.ServiceAccounts.Get(namespace, api.DefaultAccount); !ok {
		if err := r.create(ctx, &corev1.ServiceAccount{ObjectMeta: at}); err != nil {
			return 0, err
		}
	}
	if r.c.Authority == "" {
		return 0, nil
	}
	at.Name = api.RootCA
	cm, ok := r.c.View.ConfigMaps.Get(namespace, api.RootCA)
	if !ok {
		return 0, r.create(ctx, &corev1.ConfigMap{ObjectMeta: at, Data: map[string]string{api.RootCAKey: r.c.Authority}})
	}
	if len(cm.Data) == 1 && cm.Data[api.RootCAKey] == r.c.Authority {
		return 0, nil
	}
	_, err := api.Mutate(ctx, r.c.Objects, api.ConfigMaps, namespace, api.RootCA, api.UpdateOptions{}, func(o *corev1.ConfigMap) (bool, error) {
		o.Data, o.BinaryData = map[string]string{api.RootCAKey: r.c.Authority}, nil
		return true, nil
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("authority in namespace %s: %w", namespace, err)
	}
	return 0, nil
}

// create makes an object, unless it is there or the namespace goes meanwhile.
func (r *Controller) create(ctx context.Context, obj api.Object) error {
	_, err := r.c.Objects.Create(ctx, obj)
	if err == nil || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return fmt.Errorf("%s in namespace %s: %w", obj.GetName(), obj.GetNamespace(), err)
}

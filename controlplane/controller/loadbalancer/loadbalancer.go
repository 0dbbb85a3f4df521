// Package loadbalancer gives Services of the type LoadBalancer the addresses of
// nodes: each node leads connections to them, as it does those to a cluster
// address, so that no other machine is needed.
package loadbalancer

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
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// Config says what the controller works with.
type Config struct {
	Objects api.Objects
	View    *view.View
	Record  *record.Recorder // nil: no events
	// Reserved are TCP ports of nodes that no Service may take, such as the API's.
	Reserved []int32
	Log      *slog.Logger // nil discards
	Metrics  prometheus.Registerer
}

// Controller looks after the Services of the type LoadBalancer.
type Controller struct {
	c    Config
	loop *loop.Loop[types.NamespacedName]

	mu    sync.Mutex
	known map[types.NamespacedName]bool
}

// New makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func New(c Config) *Controller {
	r := &Controller{c: c, known: map[types.NamespacedName]bool{}}
	r.loop = loop.New(loop.Config{Name: "loadbalancer", Workers: 2, Log: c.Log, Metrics: c.Metrics}, r.reconcile)
	c.View.Services.OnChange(func(t api.EventType, old, now *corev1.Service) {
		is := t != api.Deleted && now.Spec.Type == corev1.ServiceTypeLoadBalancer
		was := t != api.Added && old.Spec.Type == corev1.ServiceTypeLoadBalancer
		if !is && !was {
			return
		}
		if now == nil {
			now = old
		}
		r.mu.Lock()
		if is {
			r.known[view.Key(now)] = true
		} else {
			delete(r.known, view.Key(now))
		}
		r.mu.Unlock()
		r.loop.Add(view.Key(now))
	})
	c.View.Nodes.OnChange(func(t api.EventType, old, now *corev1.Node) {
		if t == api.Modified && AddressOf(old) == AddressOf(now) {
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for k := range r.known {
			r.loop.Add(k)
		}
	})
	c.View.EndpointSlices.OnChange(func(t api.EventType, old, now *discoveryv1.EndpointSlice) {
		if t == api.Deleted {
			now = old
		}
		k := types.NamespacedName{Namespace: now.Namespace, Name: now.Labels[api.LabelServiceName]}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.known[k] {
			r.loop.Add(k)
		}
	})
	return r
}

// Run reconciles until ctx is done and returns nil then.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func (r *Controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	svc, ok := r.c.View.Services.Get(key.Namespace, key.Name)
	if !ok || svc.DeletionTimestamp != nil || svc.Spec.LoadBalancerClass != nil {
		return 0, nil // gone, or somebody else's
	}
	if p, taken := reserved(svc, r.c.Reserved); taken {
		r.c.Record.Eventf(svc, corev1.EventTypeWarning, "PortUnavailable", "port %d belongs to the nodes themselves: choose another", p)
	}
	want := announce(svc, r.c.View.Nodes.List(), r.c.View.EndpointSlices.By(view.Service, key.String()), r.c.Reserved)
	if equality.Semantic.DeepEqual(svc.Status.LoadBalancer.Ingress, want) {
		return 0, nil
	}
	_, err := api.Mutate(ctx, r.c.Objects, api.Services, key.Namespace, key.Name, api.UpdateOptions{Subresource: "status"}, func(s *corev1.Service) (bool, error) {
		if s.UID != svc.UID {
			return false, nil // another one, which comes by itself
		}
		changed := !equality.Semantic.DeepEqual(s.Status.LoadBalancer.Ingress, want)
		s.Status.LoadBalancer.Ingress = want
		return changed, nil
	})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("write the status of Service %s: %w", key, err)
	}
	return 0, nil
}

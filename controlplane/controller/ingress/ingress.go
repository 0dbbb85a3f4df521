// Package ingress says of each Ingress where it is reached: at the nodes, each of
// which has a gateway. It makes the class that Ingresses have by default.
package ingress

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/controller/loadbalancer"
	"github.com/podsnap/podsnap/controlplane/view"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Config says what the controller works with.
type Config struct {
	Objects api.Objects
	View    *view.View
	Log     *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Controller looks after the status of Ingresses.
type Controller struct {
	c    Config
	loop *loop.Loop[types.NamespacedName]
}

// New makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func New(c Config) *Controller {
	r := &Controller{c: c}
	r.loop = loop.New(loop.Config{Name: "ingress", Workers: 1, Log: c.Log, Metrics: c.Metrics}, r.reconcile)
	c.View.Ingresses.OnChange(func(t api.EventType, _, now *networkingv1.Ingress) {
		if t != api.Deleted {
			r.loop.Add(view.Key(now))
		}
	})
	c.View.IngressClasses.OnChange(func(api.EventType, *networkingv1.IngressClass, *networkingv1.IngressClass) { r.all() })
	c.View.Nodes.OnChange(func(t api.EventType, old, now *corev1.Node) {
		if t != api.Modified || loadbalancer.AddressOf(old) != loadbalancer.AddressOf(now) {
			r.all()
		}
	})
	return r
}

func (r *Controller) all() {
	for _, i := range r.c.View.Ingresses.List() {
		r.loop.Add(view.Key(i))
	}
}

// Run reconciles until ctx is done and returns nil then.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func (r *Controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	i, ok := r.c.View.Ingresses.Get(key.Namespace, key.Name)
	if !ok || i.DeletionTimestamp != nil || !api.ServesIngress(i, r.controllerOf) {
		return 0, nil // gone, or somebody else's
	}
	want := addresses(r.c.View.Nodes.List())
	if equality.Semantic.DeepEqual(i.Status.LoadBalancer.Ingress, want) {
		return 0, nil
	}
	_, err := api.Mutate(ctx, r.c.Objects, api.Ingresses, key.Namespace, key.Name, api.UpdateOptions{Subresource: "status"}, func(n *networkingv1.Ingress) (bool, error) {
		if n.UID != i.UID {
			return false, nil // another one, which comes by itself
		}
		changed := !equality.Semantic.DeepEqual(n.Status.LoadBalancer.Ingress, want)
		n.Status.LoadBalancer.Ingress = want
		return changed, nil
	})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("write the status of Ingress %s: %w", key, err)
	}
	return 0, nil
}

func (r *Controller) controllerOf(class string) string {
	if c, ok := r.c.View.IngressClasses.Get("", class); ok {
		return c.Spec.Controller
	}
	return ""
}

// addresses are those of the nodes that take connections, by node name; nil is
// none.
func addresses(nodes []*corev1.Node) []networkingv1.IngressLoadBalancerIngress {
	var out []networkingv1.IngressLoadBalancerIngress
	for _, n := range slices.SortedFunc(slices.Values(nodes), func(a, b *corev1.Node) int { return cmp.Compare(a.Name, b.Name) }) {
		if a := loadbalancer.AddressOf(n); a != "" {
			out = append(out, networkingv1.IngressLoadBalancerIngress{IP: a})
		}
	}
	return out
}

// Ensure makes the class of the gateways if it is not there.
func Ensure(ctx context.Context, o api.Objects) error {
	if _, err := o.Get(ctx, api.IngressClasses, "", api.IngressClass); err == nil {
		return nil
	}
	_, err := o.Create(ctx, &networkingv1.IngressClass{
		ObjectMeta: metav1.ObjectMeta{Name: api.IngressClass, Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}},
		Spec:       networkingv1.IngressClassSpec{Controller: api.IngressController},
	})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create the class %s of Ingresses: %w", api.IngressClass, err)
	}
	return nil
}

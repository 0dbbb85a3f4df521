// Package disruption keeps the status of PodDisruptionBudgets: how many of their
// pods may be evicted.
package disruption

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/disruption"
	"github.com/podsnap/podsnap/controlplane/podstate"
	"github.com/podsnap/podsnap/controlplane/view"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Config says what the controller works with. Objects and View have to be set.
type Config struct {
	Objects api.Objects
	View    *view.View
	Log     *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Controller is the loop.
type Controller struct {
	c    Config
	loop *loop.Loop[types.NamespacedName]
}

// New makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func New(c Config) *Controller {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Controller{c: c}
	r.loop = loop.New(loop.Config{Name: "disruption", Workers: 2, Log: c.Log, Metrics: c.Metrics}, r.reconcile)
	c.View.PodDisruptionBudgets.OnChange(func(t api.EventType, _, now *policyv1.PodDisruptionBudget) {
		if t != api.Deleted {
			r.loop.Add(view.Key(now))
		}
	})
	c.View.Pods.OnChange(func(t api.EventType, old, now *corev1.Pod) {
		if t == api.Modified && podstate.Same(old, now) {
			return
		}
		for _, p := range []*corev1.Pod{old, now} {
			if p != nil {
				r.wake(p)
			}
		}
	})
	// How many pods there are to be, says who keeps them: it may be seen after them.
	for _, kind := range []*api.Resource{api.Deployments, api.ReplicaSets, api.StatefulSets, api.ReplicationControllers} {
		c.View.Kind(kind).OnChange(func(_ api.EventType, old, now api.Object) {
			if now == nil || old == nil || old.GetGeneration() != now.GetGeneration() {
				r.wakeAll(old, now)
			}
		})
	}
	return r
}

// wake looks at the budgets of a pod.
func (r *Controller) wake(p *corev1.Pod) {
	for _, o := range r.c.View.Kind(api.PodDisruptionBudgets).By(view.Namespace, p.Namespace) {
		if disruption.Selector(o.(*policyv1.PodDisruptionBudget)).Matches(labels.Set(p.Labels)) {
			r.loop.Add(view.Key(o))
		}
	}
}

// wakeAll looks at the budgets of a namespace.
func (r *Controller) wakeAll(old, now api.Object) {
	if now == nil {
		now = old
	}
	for _, o := range r.c.View.Kind(api.PodDisruptionBudgets).By(view.Namespace, now.GetNamespace()) {
		r.loop.Add(view.Key(o))
	}
}

// Run reconciles until ctx is done and returns nil then.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func (r *Controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	b, ok := r.c.View.PodDisruptionBudgets.Get(key.Namespace, key.Name)
	if !ok || b.DeletionTimestamp != nil {
		return 0, nil
	}
	selects := disruption.Selector(b)
	var pods []*corev1.Pod
	for _, o := range r.c.View.Kind(api.Pods).By(view.Namespace, key.Namespace) {
		if p := o.(*corev1.Pod); !podstate.Ended(p) && selects.Matches(labels.Set(p.Labels)) {
			pods = append(pods, p)
		}
	}
	want, again := disruption.Status(b, pods, r.scale(pods), time.Now())
	if equality.Semantic.DeepEqual(want, b.Status) {
		return again, nil
	}
	// Grants of meanwhile are not to be lost: the write is for the version that was
	// judged.
	next := b.DeepCopy()
	next.Status = want
	if _, err := r.c.Objects.Update(ctx, next, api.UpdateOptions{Subresource: "status"}); err != nil {
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return again, nil // its change comes by the mirror
		}
		return 0, fmt.Errorf("write the status of PodDisruptionBudget %s: %w", key, err)
	}
	return again, nil
}

// scale is how many pods the controllers of some pods are to have, together.
func (r *Controller) scale(pods []*corev1.Pod) int32 {
	seen, n := map[types.UID]bool{}, int32(0)
	count := func(uid types.UID, replicas *int32) {
		if !seen[uid] && replicas != nil {
			n += *replicas
		}
		seen[uid] = true
	}
	for _, p := range pods {
		o := metav1.GetControllerOfNoCopy(p)
		if o == nil {
			continue
		}
		switch o.Kind {
		case api.ReplicaSets.Kind:
			rs, ok := r.c.View.ReplicaSets.Get(p.Namespace, o.Name)
			if !ok || rs.UID != o.UID {
				continue
			}
			if above := metav1.GetControllerOfNoCopy(rs); above != nil && above.Kind == api.Deployments.Kind {
				if d, ok := r.c.View.Deployments.Get(p.Namespace, above.Name); ok && d.UID == above.UID {
					count(d.UID, d.Spec.Replicas)
				}
				continue
			}
			count(rs.UID, rs.Spec.Replicas)
		case api.StatefulSets.Kind:
			if set, ok := r.c.View.StatefulSets.Get(p.Namespace, o.Name); ok && set.UID == o.UID {
				count(set.UID, set.Spec.Replicas)
			}
		case api.ReplicationControllers.Kind:
			if rc, ok := r.c.View.ReplicationControllers.Get(p.Namespace, o.Name); ok && rc.UID == o.UID {
				count(rc.UID, rc.Spec.Replicas)
			}
		}
	}
	return n
}

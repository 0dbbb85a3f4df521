// Package deployment moves Deployments: a ReplicaSet for each template, rolling
// updates within maxSurge and maxUnavailable, history, progress.
package deployment

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/podstate"
	"github.com/podsnap/podsnap/controlplane/view"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/podsnap/podsnap/internal/record"
	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// conflictWait is when to look again after a write met a newer object: the
// mirror has it by then, or its event comes first.
const conflictWait = 5 * time.Millisecond

// Config says what the controller works with.
type Config struct {
	Objects api.Objects
	View    *view.View
	Record  *record.Recorder // nil: no events
	Workers int              // deployments worked on at once; 0 is 8
	Log     *slog.Logger     // nil discards
	Metrics prometheus.Registerer
}

// Controller reconciles all deployments.
type Controller struct {
	c       Config
	loop    *loop.Loop[types.NamespacedName]
	written *written

	templates templates
}

// New makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func New(c Config) *Controller {
	if c.Workers == 0 {
		c.Workers = 8
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Controller{c: c, written: newWritten()}
	r.loop = loop.New(loop.Config{Name: "deployment", Workers: c.Workers, Log: c.Log, Metrics: c.Metrics}, r.reconcile)
	c.View.Deployments.OnChange(func(t api.EventType, old, now *appsv1.Deployment) {
		if t == api.Deleted {
			r.written.forget(old.UID)
			r.templates.forget(old.UID)
			return
		}
		if view.StatusOnly(old, now) {
			r.loop.AddAfter(view.Key(now), view.Calm)
			return
		}
		r.loop.Add(view.Key(now))
	})
	c.View.ReplicaSets.OnChange(r.setChanged)
	c.View.Pods.OnChange(func(t api.EventType, old, now *corev1.Pod) {
		if t == api.Modified && podstate.Same(old, now) {
			return
		}
		if t != api.Deleted {
			old = now
		}
		o := metav1.GetControllerOfNoCopy(old)
		if o == nil || o.Kind != api.ReplicaSets.Kind {
			return
		}
		if rs, ok := c.View.ReplicaSets.Get(old.Namespace, o.Name); ok {
			r.wake(rs, view.Batch)
		}
	})
	return r
}

// Run reconciles until ctx is done and returns nil then.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func (r *Controller) setChanged(t api.EventType, old, now *appsv1.ReplicaSet) {
	if t == api.Deleted {
		r.written.seen(old, true)
		r.wake(old, 0)
		return
	}
	r.written.seen(now, false)
	if view.StatusOnly(old, now) {
		r.wake(now, view.Calm)
		return
	}
	if old != nil && metav1.GetControllerOfNoCopy(old) != nil {
		r.wake(old, 0)
	}
	r.wake(now, 0)
	if metav1.GetControllerOfNoCopy(now) == nil {
		for _, o := range r.c.View.Kind(api.Deployments).By(view.Namespace, now.Namespace) {
			if selects(o.(*appsv1.Deployment), now) {
				r.loop.Add(view.Key(o))
			}
		}
	}
}

func (r *Controller) wake(rs *appsv1.ReplicaSet, after time.Duration) {
	if o := metav1.GetControllerOfNoCopy(rs); o != nil && o.Kind == api.Deployments.Kind {
		r.loop.AddAfter(types.NamespacedName{Namespace: rs.Namespace, Name: o.Name}, after)
	}
}

func (r *Controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	d, ok := r.c.View.Deployments.Get(key.Namespace, key.Name)
	if !ok || d.Spec.Selector == nil {
		return 0, nil
	}
	now := time.Now()
	newer := r.written.open(d.UID, now)
	sets, err := r.claim(ctx, d, r.c.View.ReplicaSets.By(view.Owner, string(d.UID)))
	if err != nil {
		return 0, err
	}
	members := make([]*member, 0, len(sets))
	for _, rs := range merge(sets, newer) {
		members = append(members, r.member(rs, d, now))
	}
	p, err := decide(d, members, now)
	if err != nil {
		return 0, err
	}
	again, err := r.carryOut(ctx, d, members, p)
	if err != nil {
		if apierrors.IsConflict(err) {
			return conflictWait, nil
		}
		return 0, err
	}
	if again > 0 {
		return again, nil
	}
	return p.again, nil
}

func (r *Controller) member(rs *appsv1.ReplicaSet, d *appsv1.Deployment, now time.Time) *member {
	m := &member{rs: rs, current: r.templates.same(rs, d)}
	least := time.Duration(d.Spec.MinReadySeconds) * time.Second
	for _, p := range r.c.View.Pods.By(view.Owner, string(rs.UID)) {
		if podstate.Ended(p) {
			continue
		}
		m.all++
		if !podstate.Active(p) {
			continue
		}
		m.pods++
		if podstate.Ready(p) {
			m.ready++
		}
		if ok, wait := podstate.Available(p, least, now); ok {
			m.available++
		} else if wait > 0 {
			r.loop.AddAfter(view.Key(d), wait)
		}
	}
	return m
}

// carryOut writes what was planned: sets first, then the deployment's own
// revision and status.
func (r *Controller) carryOut(ctx context.Context, d *appsv1.Deployment, members []*member, p plan) (time.Duration, error) {
	if p.why != "" {
		r.c.Log.Info("deployment step", slog.String("deployment", view.Key(d).String()), slog.String("reason", p.why))
	}
	current := newState(d, members).cur
	if p.create != nil {
		collided, err := r.create(ctx, d, p.create)
		if err != nil {
			return 0, err
		}
		if collided {
			p.status.CollisionCount = count(p.status.CollisionCount)
		}
	}
	for _, rs := range p.update {
		got, err := api.Update(ctx, r.c.Objects, rs, api.UpdateOptions{})
		if err != nil {
			if apierrors.IsNotFound(err) {
				continue
			}
			return 0, fmt.Errorf("update ReplicaSet %s: %w", view.Key(rs), err)
		}
		r.written.wrote(d.UID, got, r.mirrored)
		r.scaledEvent(d, members, got)
		if current != nil && current.rs.UID == got.UID {
			current.rs = got
		}
	}
	for _, rs := range p.delete {
		_, err := r.c.Objects.Delete(ctx, api.ReplicaSets, rs.Namespace, rs.Name, api.DeleteOptions{UID: rs.UID})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return 0, fmt.Errorf("delete ReplicaSet %s: %w", view.Key(rs), err)
		}
	}
	if current != nil {
		if err := r.revise(ctx, d, current.rs.Annotations[revisionAnnotation]); err != nil {
			return 0, err
		}
	}
	return r.report(ctx, d, p.status)
}

// create answers with true when another set has the name: then the collision
// count makes another one.
func (r *Controller) create(ctx context.Context, d *appsv1.Deployment, rs *appsv1.ReplicaSet) (collided bool, err error) {
	got, err := api.Create(ctx, r.c.Objects, rs)
	if apierrors.IsAlreadyExists(err) {
		got, err = api.Get[*appsv1.ReplicaSet](ctx, r.c.Objects, api.ReplicaSets, rs.Namespace, rs.Name)
		if err == nil && (!metav1.IsControlledBy(got, d) || !sameTemplate(&got.Spec.Template, &d.Spec.Template)) {
			return true, nil
		}
	}
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return false, nil
	}
	if err != nil {
		r.c.Record.Eventf(d, corev1.EventTypeWarning, "ReplicaSetCreateError", "Failed to create new replica set %q: %v", rs.Name, err)
		return false, fmt.Errorf("create ReplicaSet %s: %w", view.Key(rs), err)
	}
	r.written.wrote(d.UID, got, r.mirrored)
	if n := replicas(got.Spec.Replicas); n > 0 {
		r.c.Record.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", got.Name, n)
	}
	return false, nil
}

func (r *Controller) scaledEvent(d *appsv1.Deployment, members []*member, got *appsv1.ReplicaSet) {
	for _, m := range members {
		if was, is := m.spec(), replicas(got.Spec.Replicas); m.rs.UID == got.UID && was != is {
			verb := "up"
			if is < was {
				verb = "down"
			}
			r.c.Record.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", verb, got.Name, was, is)
		}
	}
}

// revise puts the current set's revision on the deployment.
func (r *Controller) revise(ctx context.Context, d *appsv1.Deployment, rev string) error {
	if rev == "" || d.Annotations[revisionAnnotation] == rev {
		return nil
	}
	_, err := api.Mutate(ctx, r.c.Objects, api.Deployments, d.Namespace, d.Name, api.UpdateOptions{}, func(o *appsv1.Deployment) (bool, error) {
		if o.UID != d.UID || o.Annotations[revisionAnnotation] == rev {
			return false, nil
		}
		o.Annotations = with(o.Annotations, revisionAnnotation, rev)
		return true, nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (r *Controller) report(ctx context.Context, d *appsv1.Deployment, st appsv1.DeploymentStatus) (time.Duration, error) {
	if api.Alike(&d.Status, &st) {
		return 0, nil
	}
	next := d.DeepCopy()
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

func (r *Controller) mirrored(namespace, name string) (*appsv1.ReplicaSet, bool) {
	return r.c.View.ReplicaSets.Get(namespace, name)
}

func count(n *int32) *int32 {
	next := int32(1)
	if n != nil {
		next = *n + 1
	}
	return &next
}

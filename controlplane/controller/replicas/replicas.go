// Package replicas keeps as many pods as ReplicaSets and
// ReplicationControllers ask for: one logic for both.
package replicas

import (
	"context"
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

// Config says what the controller works with.
type Config struct {
	Objects api.Objects
	View    *view.View
	// Place picks a node for a pod that is about to be created, "" for none;
	// settle is told what was created, nil for nothing. A nil Place leaves all
	// to the scheduler.
	Place   func(*corev1.Pod) (node string, settle func(created *corev1.Pod))
	Record  *record.Recorder // nil: no events
	Workers int              // sets worked on at once; 0 is 8
	Log     *slog.Logger     // nil discards
	Metrics prometheus.Registerer
}

// Controller reconciles all sets.
type Controller struct {
	c      Config
	loop   *loop.Loop[key]
	ledger *ledger
}

type key struct {
	resource *api.Resource
	name     types.NamespacedName
}

// String is the key in logs.
func (k key) String() string { return k.resource.Singular + "/" + k.name.String() }

// New makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func New(c Config) *Controller {
	if c.Workers == 0 {
		c.Workers = 8
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Controller{c: c, ledger: newLedger()}
	r.loop = loop.New(loop.Config{Name: "replicas", Workers: c.Workers, Log: c.Log, Metrics: c.Metrics}, r.reconcile)
	c.View.ReplicaSets.OnChange(func(t api.EventType, old, now *appsv1.ReplicaSet) {
		if t == api.Deleted {
			r.ledger.forget(old.UID)
			return
		}
		if view.StatusOnly(old, now) {
			r.loop.AddAfter(key{api.ReplicaSets, view.Key(now)}, view.Calm)
			return
		}
		r.loop.Add(key{api.ReplicaSets, view.Key(now)})
	})
	c.View.ReplicationControllers.OnChange(func(t api.EventType, old, now *corev1.ReplicationController) {
		if t == api.Deleted {
			r.ledger.forget(old.UID)
			return
		}
		r.loop.Add(key{api.ReplicationControllers, view.Key(now)})
	})
	c.View.Pods.OnChange(r.podChanged)
	return r
}

// Run reconciles until ctx is done and returns nil then.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func (r *Controller) podChanged(t api.EventType, old, now *corev1.Pod) {
	pod, gone := now, false
	if t == api.Deleted {
		pod, gone = old, true
	} else if old != nil && old.UID != now.UID {
		r.podChanged(api.Deleted, old, nil)
	} else if old != nil {
		if was := metav1.GetControllerOfNoCopy(old); was != nil && !metav1.IsControlledBy(now, &metav1.ObjectMeta{UID: was.UID}) {
			r.wake(was, old.Namespace) // released
		}
	}
	if o := metav1.GetControllerOfNoCopy(pod); o != nil {
		r.ledger.seen(o.UID, pod.Name, pod.UID, gone || pod.DeletionTimestamp != nil)
		if podstate.Ended(pod) && pod.DeletionTimestamp == nil {
			r.ledger.ended(o.UID, pod.UID, podstate.EndTime(pod))
		}
		if t != api.Modified || !podstate.Same(old, now) {
			r.wake(o, pod.Namespace)
		}
		return
	}
	if !gone && podstate.Active(pod) {
		r.wakeAdopters(pod)
	}
}

func (r *Controller) wake(o *metav1.OwnerReference, namespace string) {
	name := types.NamespacedName{Namespace: namespace, Name: o.Name}
	switch o.Kind {
	case api.ReplicaSets.Kind:
		r.loop.AddAfter(key{api.ReplicaSets, name}, view.Batch)
	case api.ReplicationControllers.Kind:
		r.loop.AddAfter(key{api.ReplicationControllers, name}, view.Batch)
	}
}

func (r *Controller) wakeAdopters(pod *corev1.Pod) {
	for _, k := range []view.Kind{r.c.View.Kind(api.ReplicaSets), r.c.View.Kind(api.ReplicationControllers)} {
		for _, o := range k.By(view.Namespace, pod.Namespace) {
			if s, ok := setOf(o); ok && s.selector.Matches(labelsOf(pod)) {
				r.loop.Add(key{k.Resource(), view.Key(o)})
			}
		}
	}
}

func (r *Controller) reconcile(ctx context.Context, k key) (time.Duration, error) {
	o, ok := r.c.View.Kind(k.resource).Get(k.name.Namespace, k.name.Name)
	if !ok {
		return 0, nil
	}
	s, ok := setOf(o)
	if !ok {
		return 0, nil // the API refuses such selectors; there is nothing to keep
	}
	uid := o.GetUID()
	now := time.Now()
	notes := r.ledger.open(uid, now, func(pod types.UID) bool { return r.owns(uid, pod) })
	pods, err := r.claim(ctx, s, r.c.View.Pods.By(view.Owner, string(uid)))
	if err != nil {
		return 0, err
	}
	p := decide(s, pods, notes, now)
	err = r.carryOut(ctx, s, p)
	if err != nil {
		p.status.failure = err.Error()
	} else if p.create > 0 || s.desired <= int(p.status.replicas) {
		p.status.failure = ""
	}
	if conflict, serr := r.write(ctx, s, p.status); err == nil {
		if err = serr; conflict {
			return 5 * time.Millisecond, nil
		}
	}
	return p.again, err
}

func (r *Controller) owns(set, pod types.UID) bool {
	for _, p := range r.c.View.Pods.By(view.Owner, string(set)) {
		if p.UID == pod {
			return true
		}
	}
	return false
}

// write puts the status into the object where it differs.
func (r *Controller) write(ctx context.Context, s set, st status) (conflict bool, err error) {
	if st == s.status {
		return false, nil
	}
	_, err = r.c.Objects.Update(ctx, withStatus(s, st), api.UpdateOptions{Subresource: "status"})
	switch {
	case apierrors.IsNotFound(err):
		return false, nil
	case apierrors.IsConflict(err):
		return true, nil
	}
	return false, err
}

func setOf(o api.Object) (set, bool) {
	switch o := o.(type) {
	case *appsv1.ReplicaSet:
		return ofReplicaSet(o)
	case *corev1.ReplicationController:
		return ofController(o)
	default:
		return set{}, false
	}
}

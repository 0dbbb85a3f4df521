// Package daemon keeps one pod of each DaemonSet on every node that it is for.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/podstate"
	"github.com/podsnap/podsnap/controlplane/view"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/podsnap/podsnap/internal/record"
	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Config says what the controller works with. Objects, View and Record have to be
// set.
type Config struct {
	Objects api.Objects
	View    *view.View
	Record  *record.Recorder
	Log     *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Controller is the loop.
type Controller struct {
	c    Config
	loop *loop.Loop[types.NamespacedName]

	mu     sync.Mutex
	failed map[place]failure
}

// place is a set's on a node.
type place struct {
	set  types.UID
	node string
}

// failure is of pods that have ended there by themselves.
type failure struct {
	times int
	last  time.Time
}

// A place whose pod has failed rests, for longer each time, until none has failed
// for a while.
const (
	restMin = time.Second
	restMax = 15 * time.Minute
	forget  = 10 * time.Minute
)

// New makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func New(c Config) *Controller {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Controller{c: c, failed: map[place]failure{}}
	r.loop = loop.New(loop.Config{Name: "daemon", Workers: 4, Log: c.Log, Metrics: c.Metrics}, r.reconcile)
	c.View.DaemonSets.OnChange(func(t api.EventType, old, now *appsv1.DaemonSet) {
		if t != api.Deleted {
			r.loop.Add(view.Key(now))
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for p := range r.failed {
			if p.set == old.UID {
				delete(r.failed, p)
			}
		}
	})
	c.View.Nodes.OnChange(func(t api.EventType, old, now *corev1.Node) {
		if t == api.Modified && equality.Semantic.DeepEqual(old.Labels, now.Labels) && equality.Semantic.DeepEqual(old.Spec, now.Spec) {
			return
		}
		for _, d := range c.View.DaemonSets.List() {
			r.loop.Add(view.Key(d))
		}
	})
	c.View.Pods.OnChange(func(t api.EventType, old, now *corev1.Pod) {
		if t == api.Modified && podstate.Same(old, now) {
			return
		}
		if t != api.Deleted {
			old = now
		}
		if o := metav1.GetControllerOfNoCopy(old); o != nil && o.Kind == api.DaemonSets.Kind {
			r.loop.Add(types.NamespacedName{Namespace: old.Namespace, Name: o.Name})
		}
	})
	return r
}

// Run reconciles until ctx is done and returns nil then.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func (r *Controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	d, ok := r.c.View.DaemonSets.Get(key.Namespace, key.Name)
	if !ok || d.DeletionTimestamp != nil {
		return 0, nil
	}
	now := time.Now()
	p := decide(d, r.c.View.Nodes.List(), r.c.View.Pods.By(view.Owner, string(d.UID)), func(node string) time.Duration { return r.resting(place{d.UID, node}, now) }, now)
	var errs []error
	for _, pod := range p.delete {
		errs = append(errs, r.remove(ctx, d, pod, now))
	}
	hash := hashOf(&d.Spec.Template)
	for _, node := range p.create {
		errs = append(errs, r.create(ctx, d, podFor(d, node, hash)))
	}
	errs = append(errs, r.status(ctx, d, p.status))
	return p.again, errors.Join(errs...)
}

func (r *Controller) create(ctx context.Context, d *appsv1.DaemonSet, pod *corev1.Pod) error {
	_, err := api.Create(ctx, r.c.Objects, pod)
	switch {
	case err == nil:
		r.c.Record.Event(d, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: "+pod.Name)
		return nil
	case apierrors.IsAlreadyExists(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // the mirror is behind, or all of it ends
	}
	r.c.Record.Eventf(d, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
	return fmt.Errorf("create pod %s: %w", view.Key(pod), err)
}

func (r *Controller) remove(ctx context.Context, d *appsv1.DaemonSet, pod *corev1.Pod, now time.Time) error {
	if _, err := r.c.Objects.Delete(ctx, api.Pods, pod.Namespace, pod.Name, api.DeleteOptions{UID: pod.UID}); err != nil {
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil // the mirror is behind
		}
		return fmt.Errorf("delete pod %s: %w", view.Key(pod), err)
	}
	r.c.Record.Event(d, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: "+pod.Name)
	if pod.Status.Phase != corev1.PodFailed {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at := place{d.UID, nodeOf(pod)}
	f := r.failed[at]
	if now.Sub(f.last) > forget+rest(f.times) {
		f.times = 0
	}
	r.failed[at] = failure{f.times + 1, now}
	r.c.Record.Eventf(d, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s on node %s, will try to kill it", view.Key(pod), at.node)
	return nil
}

func (r *Controller) resting(at place, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, ok := r.failed[at]
	if !ok {
		return 0
	}
	return max(0, rest(f.times)-now.Sub(f.last))
}

func rest(times int) time.Duration {
	if times == 0 {
		return 0
	}
	return min(restMin<<min(times-1, 20), restMax)
}

func (r *Controller) status(ctx context.Context, d *appsv1.DaemonSet, want appsv1.DaemonSetStatus) error {
	if equality.Semantic.DeepEqual(d.Status, want) {
		return nil
	}
	_, err := api.Mutate(ctx, r.c.Objects, api.DaemonSets, d.Namespace, d.Name, api.UpdateOptions{Subresource: "status"}, func(o *appsv1.DaemonSet) (bool, error) {
		if o.UID != d.UID || o.Generation != d.Generation {
			return false, nil // its change comes by the mirror
		}
		o.Status = want
		return true, nil
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write the status of DaemonSet %s: %w", view.Key(d), err)
	}
	return nil
}

// Package job runs the pods of Jobs until enough of them have succeeded, and
// counts each that ends once (docs/design/019-jobs.md).
package job

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
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	conflictWait = 5 * time.Millisecond   // when to look again at a Job that changed meanwhile
	doubtWait    = 100 * time.Millisecond // and at one of which a write was not seen yet
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
	c      Config
	loop   *loop.Loop[key]
	unseen *unseen
}

// key is a Job, or a pod that had one.
type key struct {
	types.NamespacedName
	uid types.UID
	pod bool
}

// New makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func New(c Config) *Controller {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Controller{c: c, unseen: newUnseen()}
	r.loop = loop.New(loop.Config{Name: "job", Workers: 8, Log: c.Log, Metrics: c.Metrics}, r.reconcile)
	c.View.Jobs.OnChange(func(t api.EventType, old, now *batchv1.Job) {
		if t == api.Deleted || old != nil && old.UID != now.UID {
			r.unseen.forget(old.UID)
			r.loop.Add(key{NamespacedName: view.Key(old), uid: old.UID}) // its pods are to be let go
		}
		if t != api.Deleted {
			r.loop.Add(key{NamespacedName: view.Key(now), uid: now.UID})
		}
	})
	c.View.Pods.OnChange(r.podChanged)
	return r
}

// Run reconciles until ctx is done and returns nil then.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func (r *Controller) podChanged(t api.EventType, old, now *corev1.Pod) {
	if t == api.Modified && podstate.Same(old, now) && tracked(old) == tracked(now) {
		return
	}
	for _, p := range []*corev1.Pod{old, now} {
		if p == nil {
			continue
		}
		switch o := metav1.GetControllerOfNoCopy(p); {
		case o != nil && o.Kind == api.Jobs.Kind && o.APIVersion == api.Jobs.GVK().GroupVersion().String():
			r.loop.AddAfter(key{NamespacedName: types.NamespacedName{Namespace: p.Namespace, Name: o.Name}, uid: o.UID}, view.Batch)
		case p == now && t != api.Deleted && o == nil:
			r.orphaned(p)
		}
	}
}

// orphaned sees to a pod without a controller: one that was a Job's has to be let
// go, and one that a Job selects becomes its own.
func (r *Controller) orphaned(p *corev1.Pod) {
	if tracked(p) {
		r.loop.Add(key{NamespacedName: view.Key(p), uid: p.UID, pod: true})
	}
	for _, o := range r.c.View.Kind(api.Jobs).By(view.Namespace, p.Namespace) {
		if j := o.(*batchv1.Job); adopts(j, p) {
			r.loop.Add(key{NamespacedName: view.Key(j), uid: j.UID})
		}
	}
}

func (r *Controller) reconcile(ctx context.Context, k key) (time.Duration, error) {
	if k.pod {
		return 0, r.freeOrphan(ctx, k)
	}
	// What the mirror has may be older than what was written here last: pods that
	// are counted would be made again.
	j, err := api.Get[*batchv1.Job](ctx, r.c.Objects, api.Jobs, k.Namespace, k.Name)
	switch {
	case apierrors.IsNotFound(err), err == nil && j.UID != k.uid:
		return 0, all(withFinalizer(r.c.View.Pods.By(view.Owner, string(k.uid))), func(p *corev1.Pod) error {
			return r.letGo(ctx, p, func(*corev1.Pod) bool { return true })
		})
	case err != nil:
		return 0, err
	case j.Spec.ManagedBy != nil && *j.Spec.ManagedBy != batchv1.JobControllerName:
		return 0, nil
	}
	now := time.Now()
	left, doubtful := r.unseen.look(j.UID, now, func(name string) (types.UID, bool) {
		if p, ok := r.c.View.Pods.Get(j.Namespace, name); ok {
			return p.UID, p.DeletionTimestamp != nil
		}
		return "", false
	})
	if err := r.clearUp(ctx, j, doubtful); err != nil {
		return 0, err
	}
	pods, err := r.claim(ctx, j, r.c.View.Pods.By(view.Owner, string(j.UID)))
	if err != nil {
		return 0, err
	}
	p := decide(j, pods, left, now)
	if left {
		p.later(doubtWait)
	}
	ok, err := r.carryOut(ctx, j, p)
	if !ok && err == nil {
		return conflictWait, nil
	}
	return p.again, err
}

// clearUp asks what became of creations of which that is not known.
func (r *Controller) clearUp(ctx context.Context, j *batchv1.Job, names []string) error {
	for _, name := range names {
		_, err := r.c.Objects.Get(ctx, api.Pods, j.Namespace, name)
		switch {
		case apierrors.IsNotFound(err):
			r.unseen.notCreated(j.UID, name)
		case err != nil:
			return err
		}
	}
	return nil
}

// Package stateful keeps the pods of StatefulSets: each has a name, a place in an order
// and claims of its own, and there is never more than one of a name.
//
// What keeps that promise is the store: a pod's name is there once, and a pod that is
// bound to a node stays until its node says that it has ended, or is no node any more.
package stateful

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/controller/claim"
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
	"k8s.io/apimachinery/pkg/labels"
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
}

// New makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func New(c Config) *Controller {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Controller{c: c}
	r.loop = loop.New(loop.Config{Name: "stateful", Workers: 4, Log: c.Log, Metrics: c.Metrics}, r.reconcile)
	c.View.StatefulSets.OnChange(func(t api.EventType, _, now *appsv1.StatefulSet) {
		if t != api.Deleted {
			r.loop.Add(view.Key(now))
		}
	})
	c.View.ControllerRevisions.OnChange(func(t api.EventType, old, now *appsv1.ControllerRevision) {
		if t == api.Deleted {
			now = old
		}
		r.wake(now)
	})
	c.View.PersistentVolumeClaims.OnChange(func(t api.EventType, old, _ *corev1.PersistentVolumeClaim) {
		if t != api.Deleted {
			return
		}
		for _, o := range c.View.Kind(api.StatefulSets).By(view.Namespace, old.Namespace) {
			if s := o.(*appsv1.StatefulSet); uses(s, old.Name) {
				r.loop.Add(view.Key(s)) // its pod may wait for another one
			}
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
		if t != api.Deleted && metav1.GetControllerOfNoCopy(now) == nil {
			for _, o := range c.View.Kind(api.StatefulSets).By(view.Namespace, now.Namespace) {
				if s := o.(*appsv1.StatefulSet); belongs(s, now) {
					r.loop.Add(view.Key(s))
				}
			}
		}
	})
	return r
}

// wake looks at the set that an object is of.
func (r *Controller) wake(o metav1.Object) {
	if c := metav1.GetControllerOfNoCopy(o); c != nil && c.Kind == api.StatefulSets.Kind {
		r.loop.Add(types.NamespacedName{Namespace: o.GetNamespace(), Name: c.Name})
	}
}

// Run reconciles until ctx is done and returns nil then.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func (r *Controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	s, ok := r.c.View.StatefulSets.Get(key.Namespace, key.Name)
	if !ok {
		return 0, nil
	}
	pods, err := r.claim(ctx, s, r.c.View.Pods.By(view.Owner, string(s.UID)))
	if err != nil {
		return 0, err
	}
	if s.DeletionTimestamp != nil {
		return 0, r.status(ctx, s, decide(s, s.Status.CurrentRevision, s.Status.UpdateRevision, pods, time.Now()).status)
	}
	h, err := r.history(ctx, s, pods)
	if err != nil {
		return 0, err
	}
	p := decide(s, h.current.Name, h.update.Name, pods, time.Now())
	p.status.CollisionCount = h.collisions
	err = r.keep(ctx, s, pods)
	errs := []error{err}
	for _, pod := range p.delete {
		if err == nil { // else a claim could outlive the pod that is to take it along
			errs = append(errs, r.remove(ctx, s, pod))
		}
	}
	for _, b := range p.create {
		errs = append(errs, r.create(ctx, s, h, b))
	}
	errs = append(errs, r.status(ctx, s, p.status))
	return p.again, errors.Join(errs...)
}

func (r *Controller) create(ctx context.Context, s *appsv1.StatefulSet, h history, b birth) error {
	rev := h.update
	if b.revision == h.current.Name {
		rev = h.current
	}
	t, err := templateOf(rev)
	if err != nil {
		return err
	}
	pod := podFor(s, t, rev.Name, b.ordinal)
	if err := r.claims(ctx, s, b.ordinal); err != nil {
		r.c.Record.Eventf(s, corev1.EventTypeWarning, "FailedCreate", "create Claim for Pod %s in StatefulSet %s failed error: %v", pod.Name, s.Name, err)
		return fmt.Errorf("claims of pod %s: %w", view.Key(pod), err)
	}
	_, err = api.Create(ctx, r.c.Objects, pod)
	switch {
	case err == nil:
		r.c.Log.Info("pod created", slog.String("pod", view.Key(pod).String()), slog.String("revision", rev.Name))
		r.c.Record.Eventf(s, corev1.EventTypeNormal, "SuccessfulCreate", "create Pod %s in StatefulSet %s successful", pod.Name, s.Name)
		return nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // all of it ends
	case apierrors.IsAlreadyExists(err):
		there, gerr := api.Get[*corev1.Pod](ctx, r.c.Objects, api.Pods, pod.Namespace, pod.Name)
		switch {
		case gerr == nil && metav1.IsControlledBy(there, s):
			return nil // the mirror is behind
		case apierrors.IsNotFound(gerr): // it may have been anybody's
			return fmt.Errorf("create pod %s: one of that name has just gone", view.Key(pod))
		}
	}
	r.c.Record.Eventf(s, corev1.EventTypeWarning, "FailedCreate", "create Pod %s in StatefulSet %s failed error: %v", pod.Name, s.Name, err)
	return fmt.Errorf("create pod %s: %w", view.Key(pod), err)
}

func (r *Controller) remove(ctx context.Context, s *appsv1.StatefulSet, pod *corev1.Pod) error {
	if podstate.Ended(pod) {
		r.c.Record.Eventf(s, corev1.EventTypeWarning, "RecreatingTerminatedPod", "StatefulSet %s is recreating terminated Pod %s", view.Key(s), pod.Name)
	}
	_, err := r.c.Objects.Delete(ctx, api.Pods, pod.Namespace, pod.Name, api.DeleteOptions{UID: pod.UID})
	switch {
	case err == nil:
		r.c.Log.Info("pod deleted", slog.String("pod", view.Key(pod).String()), slog.String("revision", revisionOf(pod)))
		r.c.Record.Eventf(s, corev1.EventTypeNormal, "SuccessfulDelete", "delete Pod %s in StatefulSet %s successful", pod.Name, s.Name)
		return nil
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return nil // the mirror is behind
	}
	return fmt.Errorf("delete pod %s: %w", view.Key(pod), err)
}

func (r *Controller) status(ctx context.Context, s *appsv1.StatefulSet, want appsv1.StatefulSetStatus) error {
	if equality.Semantic.DeepEqual(s.Status, want) {
		return nil
	}
	_, err := api.Mutate(ctx, r.c.Objects, api.StatefulSets, s.Namespace, s.Name, api.UpdateOptions{Subresource: "status"}, func(o *appsv1.StatefulSet) (bool, error) {
		if o.UID != s.UID || o.Generation != s.Generation {
			return false, nil // its change comes by the mirror
		}
		o.Status = want
		return true, nil
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write the status of StatefulSet %s: %w", view.Key(s), err)
	}
	return nil
}

// belongs tells whether a pod is one that the set would make.
func belongs(s *appsv1.StatefulSet, p *corev1.Pod) bool {
	sel, err := metav1.LabelSelectorAsSelector(s.Spec.Selector)
	_, ok := ordinalOf(s, p.Name)
	return err == nil && !sel.Empty() && ok && sel.Matches(labels.Set(p.Labels))
}

// claim answers with the pods that are the set's once it is settled which are.
func (r *Controller) claim(ctx context.Context, s *appsv1.StatefulSet, owned []*corev1.Pod) ([]*corev1.Pod, error) {
	return claim.Rules[*corev1.Pod]{
		Objects: r.c.Objects, Owner: s, OwnerKind: api.StatefulSets, Kind: api.Pods,
		Mine:  func(p *corev1.Pod) bool { return belongs(s, p) },
		Takes: podstate.Active,
		Stays: func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil },
		Taken: func(p *corev1.Pod) {
			ordinal, _ := ordinalOf(s, p.Name)
			identify(s, p, ordinal)
		},
	}.Settle(ctx, owned, r.c.View.Pods.By(view.Orphan, s.Namespace))
}

func missing(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

package replicas

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
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/rand"
)

const writers = 16 // creations or deletions of one set at once

// claim answers with the pods that are the set's once it is settled which are.
func (r *Controller) claim(ctx context.Context, s set, owned []*corev1.Pod) ([]*corev1.Pod, error) {
	return claim.Rules[*corev1.Pod]{
		Objects: r.c.Objects, Owner: s.obj, OwnerKind: s.resource, Kind: api.Pods,
		Mine:  func(p *corev1.Pod) bool { return s.selector.Matches(labelsOf(p)) },
		Takes: podstate.Active,
		Stays: func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil },
	}.Settle(ctx, owned, r.c.View.Pods.By(view.Orphan, s.obj.GetNamespace()))
}

// carryOut does what was planned and answers with the first fault.
func (r *Controller) carryOut(ctx context.Context, s set, p plan) error {
	if p.create > 0 {
		r.c.Log.Info("creating pods", slog.String("set", key{s.resource, view.Key(s.obj)}.String()), slog.Int("count", p.create), slog.Int("desired", s.desired))
		return r.create(ctx, s, p.create)
	}
	if len(p.delete) > 0 {
		r.c.Log.Info("deleting pods", slog.String("set", key{s.resource, view.Key(s.obj)}.String()), slog.Int("count", len(p.delete)), slog.Int("desired", s.desired))
		return r.remove(ctx, s, p.delete)
	}
	return nil
}

// create makes n pods: one, then more and more at once, so that a fault that
// all of them would meet costs one try.
func (r *Controller) create(ctx context.Context, s set, n int) error {
	for batch := 1; n > 0; batch *= 4 {
		var g errgroup.Group
		g.SetLimit(writers)
		for range min(batch, n) {
			g.Go(func() error { return r.createOne(ctx, s) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
		n -= min(batch, n)
	}
	return nil
}

func (r *Controller) createOne(ctx context.Context, s set) error {
	uid := s.obj.GetUID()
	pod := podOf(s)
	pod.Name = r.ledger.name(uid, time.Now(), func() string { return podName(s.obj.GetName()) })
	settle := func(*corev1.Pod) {}
	if r.c.Place != nil {
		pod.Spec.NodeName, settle = r.c.Place(pod)
	}
	got, err := api.Create(ctx, r.c.Objects, pod)
	settle(got)
	switch {
	case err == nil:
		r.c.Record.Event(s.obj, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: "+got.Name)
		return nil
	case apierrors.IsAlreadyExists(err):
		there, gerr := api.Get[*corev1.Pod](ctx, r.c.Objects, api.Pods, pod.Namespace, pod.Name)
		if gerr == nil && metav1.IsControlledBy(there, s.obj) {
			if p, ok := r.c.View.Pods.Get(pod.Namespace, pod.Name); ok {
				r.ledger.seen(uid, p.Name, p.UID, false)
				r.loop.Add(key{s.resource, view.Key(s.obj)}) // it was counted twice
			}
			return nil // an earlier try of ours
		}
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		r.ledger.notCreated(uid, pod.Name, false)
		return nil // the namespace ends, and the set with it
	}
	r.ledger.notCreated(uid, pod.Name, unknown(err))
	r.c.Record.Eventf(s.obj, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
	return fmt.Errorf("create a pod of %s: %w", key{s.resource, view.Key(s.obj)}, err)
}

func (r *Controller) remove(ctx context.Context, s set, pods []*corev1.Pod) error {
	var g errgroup.Group
	g.SetLimit(writers)
	for _, p := range pods {
		g.Go(func() error {
			r.ledger.delete(s.obj.GetUID(), p.UID)
			_, err := r.c.Objects.Delete(ctx, api.Pods, p.Namespace, p.Name, api.DeleteOptions{UID: p.UID})
			if err == nil {
				r.c.Record.Event(s.obj, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: "+p.Name)
				return nil
			}
			if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
				return nil // it is gone, the mirror will show it
			}
			r.ledger.notDeleted(s.obj.GetUID(), p.UID)
			return fmt.Errorf("delete pod %s: %w", view.Key(p), err)
		})
	}
	return g.Wait()
}

// podOf is a new pod from the set's template.
func podOf(s set) *corev1.Pod {
	t := s.template.DeepCopy()
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.obj.GetNamespace(), GenerateName: s.obj.GetName() + "-",
			Labels: t.Labels, Annotations: t.Annotations, Finalizers: t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(s.obj, s.resource.GVK())},
		},
		Spec: t.Spec,
	}
}

// podName is made here and not by the store, so that a creation can be tried
// again without becoming two pods.
func podName(set string) string {
	if len(set) > 57 {
		set = set[:57]
	}
	return set + "-" + rand.String(5)
}

// unknown reports whether a write that answered err may have taken place.
func unknown(err error) bool {
	var s apierrors.APIStatus
	return !errors.As(err, &s) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) ||
		apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err)
}

func labelsOf(o metav1.Object) labels.Set { return o.GetLabels() }

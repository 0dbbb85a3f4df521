package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/podstate"
	"github.com/podsnap/podsnap/controlplane/view"
	"golang.org/x/sync/errgroup"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const writers = 16 // writes of one Job at once

// carryOut does what was planned; false is that the Job has changed meanwhile,
// and nothing was done.
func (r *Controller) carryOut(ctx context.Context, j *batchv1.Job, p plan) (bool, error) {
	if ok, err := r.store(ctx, j, p.status); !ok || err != nil {
		return ok, err
	}
	for _, e := range p.events {
		r.c.Record.Event(j, e.kind, e.reason, e.message)
	}
	errs := []error{
		all(p.release, func(pod *corev1.Pod) error { return r.letGo(ctx, pod, func(*corev1.Pod) bool { return true }) }),
		all(p.retire, func(pod *corev1.Pod) error { return r.retire(ctx, j, pod) }),
		all(p.end, func(pod *corev1.Pod) error { return r.delete(ctx, j, pod) }),
		r.create(ctx, j, p.create),
	}
	if p.remove {
		errs = append(errs, r.remove(ctx, j))
	}
	return true, errors.Join(errs...)
}

// store writes the status for the version of the Job that was judged.
func (r *Controller) store(ctx context.Context, j *batchv1.Job, st batchv1.JobStatus) (bool, error) {
	if equality.Semantic.DeepEqual(j.Status, st) {
		return true, nil
	}
	next := j.DeepCopy()
	next.Status = st
	_, err := r.c.Objects.Update(ctx, next, api.UpdateOptions{Subresource: "status"})
	switch {
	case err == nil:
		return true, nil
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return false, nil
	}
	return false, fmt.Errorf("write the status of Job %s: %w", view.Key(j), err)
}

// all does f for each pod, some at once.
func all(pods []*corev1.Pod, f func(*corev1.Pod) error) error {
	var g errgroup.Group
	g.SetLimit(writers)
	for _, p := range pods {
		g.Go(func() error { return f(p) })
	}
	return g.Wait()
}

// letGo takes the finalizer off a pod, if may says so of its newest version.
func (r *Controller) letGo(ctx context.Context, pod *corev1.Pod, may func(*corev1.Pod) bool) error {
	_, err := api.Mutate(ctx, r.c.Objects, api.Pods, pod.Namespace, pod.Name, api.UpdateOptions{}, func(p *corev1.Pod) (bool, error) {
		if p.UID != pod.UID || !tracked(p) || !may(p) {
			return false, nil
		}
		p.Finalizers = slices.DeleteFunc(p.Finalizers, func(f string) bool { return f == batchv1.JobTrackingFinalizer })
		return true, nil
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("take the finalizer off pod %s: %w", view.Key(pod), err)
	}
	return nil
}

// retire deletes a pod that is not wanted any more. One that has ended meanwhile
// stays: it counts.
func (r *Controller) retire(ctx context.Context, j *batchv1.Job, pod *corev1.Pod) error {
	ended := false
	err := r.letGo(ctx, pod, func(p *corev1.Pod) bool {
		ended = podstate.Ended(p)
		return !ended
	})
	if err != nil || ended {
		return err
	}
	return r.delete(ctx, j, pod)
}

func (r *Controller) delete(ctx context.Context, j *batchv1.Job, pod *corev1.Pod) error {
	_, err := r.c.Objects.Delete(ctx, api.Pods, pod.Namespace, pod.Name, api.DeleteOptions{UID: pod.UID})
	switch {
	case err == nil:
		r.unseen.delete(j.UID, pod.Name, pod.UID)
		r.c.Record.Event(j, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: "+pod.Name)
		return nil
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return nil // it is gone, the mirror will show it
	}
	return fmt.Errorf("delete pod %s: %w", view.Key(pod), err)
}

// create makes pods: one, then more and more at once, so that a fault that all of
// them would meet costs one try.
func (r *Controller) create(ctx context.Context, j *batchv1.Job, cs []creation) error {
	if len(cs) > 0 {
		r.c.Log.Info("creating pods", slog.String("job", view.Key(j).String()), slog.Int("count", len(cs)))
	}
	for batch := 1; len(cs) > 0; batch *= 4 {
		n := min(batch, len(cs))
		var g errgroup.Group
		g.SetLimit(writers)
		for _, c := range cs[:n] {
			g.Go(func() error { return r.createOne(ctx, j, c) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
		cs = cs[n:]
	}
	return nil
}

func (r *Controller) createOne(ctx context.Context, j *batchv1.Job, c creation) error {
	pod := podOf(j, c)
	pod.Name = nameOf(j, c)
	r.unseen.create(j.UID, pod.Name, birth{at: time.Now()})
	got, err := api.Create(ctx, r.c.Objects, pod)
	switch {
	case err == nil:
		r.c.Record.Event(j, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: "+got.Name)
		return nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		r.unseen.notCreated(j.UID, pod.Name)
		return nil // the namespace ends, and the Job with it
	case unknown(err):
		r.unseen.create(j.UID, pod.Name, birth{at: time.Now(), doubtful: true})
	default:
		r.unseen.notCreated(j.UID, pod.Name)
	}
	r.c.Record.Eventf(j, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
	return fmt.Errorf("create a pod of Job %s: %w", view.Key(j), err)
}

// unknown reports whether a write that answered err may have taken place.
func unknown(err error) bool {
	var s apierrors.APIStatus
	return !errors.As(err, &s) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) ||
		apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err)
}

// remove deletes a Job that has outlived its time, after its pods.
func (r *Controller) remove(ctx context.Context, j *batchv1.Job) error {
	_, err := r.c.Objects.Delete(ctx, api.Jobs, j.Namespace, j.Name, api.DeleteOptions{
		UID: j.UID, Propagation: metav1.DeletePropagationForeground,
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete Job %s, whose time is over: %w", view.Key(j), err)
	}
	return nil
}

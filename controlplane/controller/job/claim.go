package job

import (
	"context"
	"fmt"
	"slices"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/podstate"
	"github.com/podsnap/podsnap/controlplane/view"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// adopts tells whether a pod without a controller is to become a Job's. One that
// has ended is not: it may have been counted.
func adopts(j *batchv1.Job, p *corev1.Pod) bool {
	sel, err := metav1.LabelSelectorAsSelector(j.Spec.Selector)
	return err == nil && !sel.Empty() && j.DeletionTimestamp == nil && finished(&j.Status) == nil &&
		podstate.Active(p) && sel.Matches(labels.Set(p.Labels))
}

// claim makes orphans that the Job selects its own, lets go of owned pods that it
// does not select any more, and answers with the pods that are the Job's then.
func (r *Controller) claim(ctx context.Context, j *batchv1.Job, owned []*corev1.Pod) ([]*corev1.Pod, error) {
	sel, err := metav1.LabelSelectorAsSelector(j.Spec.Selector)
	if err != nil || j.DeletionTimestamp != nil {
		return owned, nil
	}
	out := make([]*corev1.Pod, 0, len(owned))
	for _, p := range owned {
		if sel.Matches(labels.Set(p.Labels)) {
			out = append(out, p)
			continue
		}
		if err := r.disown(ctx, j, p); err != nil {
			return nil, err
		}
	}
	for _, p := range r.c.View.Pods.By(view.Orphan, j.Namespace) {
		if !adopts(j, p) {
			continue
		}
		got, err := r.adopt(ctx, j, p)
		if err != nil {
			return nil, err
		}
		if got != nil {
			out = append(out, got)
		}
	}
	return out, nil
}

// adopt answers with the pod's newest state; nil when it did not become the
// Job's.
func (r *Controller) adopt(ctx context.Context, j *batchv1.Job, pod *corev1.Pod) (*corev1.Pod, error) {
	got, err := api.Mutate(ctx, r.c.Objects, api.Pods, pod.Namespace, pod.Name, api.UpdateOptions{}, func(p *corev1.Pod) (bool, error) {
		if p.UID != pod.UID || metav1.GetControllerOfNoCopy(p) != nil || !adopts(j, p) {
			return false, nil
		}
		p.OwnerReferences = append(p.OwnerReferences, *metav1.NewControllerRef(j, api.Jobs.GVK()))
		if !tracked(p) {
			p.Finalizers = append(p.Finalizers, batchv1.JobTrackingFinalizer)
		}
		return true, nil
	})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("adopt pod %s: %w", view.Key(pod), err)
	case !metav1.IsControlledBy(got, j):
		return nil, nil
	}
	return got, nil
}

func (r *Controller) disown(ctx context.Context, j *batchv1.Job, pod *corev1.Pod) error {
	_, err := api.Mutate(ctx, r.c.Objects, api.Pods, pod.Namespace, pod.Name, api.UpdateOptions{}, func(p *corev1.Pod) (bool, error) {
		if p.UID != pod.UID || !metav1.IsControlledBy(p, j) {
			return false, nil
		}
		p.OwnerReferences = slices.DeleteFunc(p.OwnerReferences, func(o metav1.OwnerReference) bool { return o.UID == j.UID })
		p.Finalizers = slices.DeleteFunc(p.Finalizers, func(f string) bool { return f == batchv1.JobTrackingFinalizer })
		return true, nil
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("let go of pod %s: %w", view.Key(pod), err)
	}
	return nil
}

// freeOrphan takes the finalizer off a pod that has no Job any more.
func (r *Controller) freeOrphan(ctx context.Context, k key) error {
	p, ok := r.c.View.Pods.Get(k.Namespace, k.Name)
	if !ok || p.UID != k.uid {
		return nil
	}
	return r.letGo(ctx, p, func(now *corev1.Pod) bool { return metav1.GetControllerOfNoCopy(now) == nil })
}

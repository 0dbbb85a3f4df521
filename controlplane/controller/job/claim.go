package job

import (
	"context"
	"slices"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/controller/claim"
	"github.com/podsnap/podsnap/controlplane/podstate"
	"github.com/podsnap/podsnap/controlplane/view"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
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

// claim answers with the pods that are the Job's once it is settled which are.
func (r *Controller) claim(ctx context.Context, j *batchv1.Job, owned []*corev1.Pod) ([]*corev1.Pod, error) {
	sel, err := metav1.LabelSelectorAsSelector(j.Spec.Selector)
	if err != nil {
		return owned, nil
	}
	return claim.Rules[*corev1.Pod]{
		Objects: r.c.Objects, Owner: j, OwnerKind: api.Jobs, Kind: api.Pods,
		Mine:  func(p *corev1.Pod) bool { return sel.Matches(labels.Set(p.Labels)) },
		Takes: func(p *corev1.Pod) bool { return adopts(j, p) },
		Taken: func(p *corev1.Pod) {
			if !tracked(p) {
				p.Finalizers = append(p.Finalizers, batchv1.JobTrackingFinalizer)
			}
		},
		Left: func(p *corev1.Pod) {
			p.Finalizers = slices.DeleteFunc(p.Finalizers, func(f string) bool { return f == batchv1.JobTrackingFinalizer })
		},
	}.Settle(ctx, owned, r.c.View.Pods.By(view.Orphan, j.Namespace))
}

// freeOrphan takes the finalizer off a pod that has no Job any more.
func (r *Controller) freeOrphan(ctx context.Context, k key) error {
	p, ok := r.c.View.Pods.Get(k.Namespace, k.Name)
	if !ok || p.UID != k.uid {
		return nil
	}
	return r.letGo(ctx, p, func(now *corev1.Pod) bool { return metav1.GetControllerOfNoCopy(now) == nil })
}

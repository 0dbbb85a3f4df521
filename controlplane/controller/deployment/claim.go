package deployment

import (
	"context"
	"slices"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/view"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// selects reports whether the set's labels match the deployment's selector.
func selects(d *appsv1.Deployment, rs *appsv1.ReplicaSet) bool {
	s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	return err == nil && !s.Empty() && s.Matches(labels.Set(rs.Labels))
}

// claim adopts sets without an owner that match the selector, lets go of those
// that do not match any more, and answers with the deployment's own.
func (r *Controller) claim(ctx context.Context, d *appsv1.Deployment, owned []*appsv1.ReplicaSet) ([]*appsv1.ReplicaSet, error) {
	if d.DeletionTimestamp != nil {
		return owned, nil
	}
	var out []*appsv1.ReplicaSet
	for _, rs := range owned {
		if selects(d, rs) {
			out = append(out, rs)
			continue
		}
		if _, err := r.own(ctx, d, rs, false); err != nil {
			return nil, err
		}
	}
	for _, rs := range r.c.View.ReplicaSets.By(view.Orphan, d.Namespace) {
		if rs.DeletionTimestamp != nil || !selects(d, rs) {
			continue
		}
		now, err := r.c.Objects.Get(ctx, api.Deployments, d.Namespace, d.Name)
		if err != nil || now.GetUID() != d.UID || now.GetDeletionTimestamp() != nil {
			return out, missing(err)
		}
		got, err := r.own(ctx, d, rs, true)
		if err != nil {
			return nil, err
		}
		if got != nil && metav1.IsControlledBy(got, d) {
			out = append(out, got)
		}
	}
	return out, nil
}

// own takes or leaves a set; it answers with the set's newest state, nil when
// there is none.
func (r *Controller) own(ctx context.Context, d *appsv1.Deployment, rs *appsv1.ReplicaSet, take bool) (*appsv1.ReplicaSet, error) {
	got, err := api.Mutate(ctx, r.c.Objects, api.ReplicaSets, rs.Namespace, rs.Name, api.UpdateOptions{}, func(o *appsv1.ReplicaSet) (bool, error) {
		if o.UID != rs.UID || o.DeletionTimestamp != nil || selects(d, o) != take {
			return false, nil
		}
		if take {
			if metav1.GetControllerOfNoCopy(o) != nil {
				return false, nil
			}
			o.OwnerReferences = append(o.OwnerReferences, *metav1.NewControllerRef(d, api.Deployments.GVK()))
			return true, nil
		}
		n := len(o.OwnerReferences)
		o.OwnerReferences = slices.DeleteFunc(o.OwnerReferences, func(ref metav1.OwnerReference) bool { return ref.UID == d.UID })
		return len(o.OwnerReferences) != n, nil
	})
	if err != nil {
		return nil, missing(err)
	}
	return got, nil
}

func missing(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

package stateful

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/controlplane/view"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// claims makes the claims that a pod needs and that are not there.
func (r *Controller) claims(ctx context.Context, s *appsv1.StatefulSet, ordinal int) error {
	for _, c := range claimsFor(s, ordinal) {
		there, ok := r.c.View.PersistentVolumeClaims.Get(c.Namespace, c.Name)
		if !ok {
			c.OwnerReferences = ownersOf(s, c, nil, false)
			_, err := r.c.Objects.Create(ctx, c)
			if err == nil {
				r.c.Record.Eventf(s, corev1.EventTypeNormal, "SuccessfulCreate", "create Claim %s Pod %s in StatefulSet %s success", c.Name, podName(s, ordinal), s.Name)
				continue
			}
			if !apierrors.IsAlreadyExists(err) {
				return err
			}
			if there, err = api.Get[*corev1.PersistentVolumeClaim](ctx, r.c.Objects, api.PersistentVolumeClaims, c.Namespace, c.Name); err != nil {
				return err
			}
		}
		if there.DeletionTimestamp != nil {
			return fmt.Errorf("claim %s is being deleted", c.Name) // a pod that uses it would keep it from that
		}
	}
	return nil
}

// uses tells whether a claim of the name is one of the set's.
func uses(s *appsv1.StatefulSet, claim string) bool {
	for i := range s.Spec.VolumeClaimTemplates {
		pod, ok := strings.CutPrefix(claim, s.Spec.VolumeClaimTemplates[i].Name+"-")
		if _, is := ordinalOf(s, pod); ok && is {
			return true
		}
	}
	return false
}

// keep brings the owners of the claims in line with what is to become of them when the
// set, or a pod that it has no place for, is gone; and makes claims anew that pods wait
// for.
func (r *Controller) keep(ctx context.Context, s *appsv1.StatefulSet, pods []*corev1.Pod) error {
	if len(s.Spec.VolumeClaimTemplates) == 0 {
		return nil
	}
	var errs []error
	for _, p := range pods {
		ordinal, ok := ordinalOf(s, p.Name)
		if !ok {
			continue
		}
		leaving := !inRange(s, ordinal)
		if !leaving && p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodPending {
			errs = append(errs, r.claims(ctx, s, ordinal))
		}
		for _, c := range claimsFor(s, ordinal) {
			errs = append(errs, r.hand(ctx, s, c.Name, p, leaving))
		}
	}
	return errors.Join(errs...)
}

func (r *Controller) hand(ctx context.Context, s *appsv1.StatefulSet, claim string, p *corev1.Pod, leaving bool) error {
	c, ok := r.c.View.PersistentVolumeClaims.Get(s.Namespace, claim)
	if !ok || rules.SameOwners(c.OwnerReferences, ownersOf(s, c, p, leaving)) {
		return nil
	}
	_, err := api.Mutate(ctx, r.c.Objects, api.PersistentVolumeClaims, c.Namespace, c.Name, api.UpdateOptions{}, func(o *corev1.PersistentVolumeClaim) (bool, error) {
		if o.UID != c.UID {
			return false, nil
		}
		o.OwnerReferences = ownersOf(s, o, p, leaving)
		return true, nil
	})
	if missing(err) != nil {
		return fmt.Errorf("owners of claim %s: %w", view.Key(c), err)
	}
	return nil
}

package functions

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/podsnap/podsnap/api"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Apply makes the Deployment and the Service of f what Plan says. f must be the
// stored function. It may be called at any time by anybody: nothing is written
// when all is as planned. The number of replicas of an existing Deployment is
// left alone, but kept inside min..max (0 stays 0: that is scaled to zero).
// An object of that name that belongs to somebody else, or one that is being
// deleted, is a Conflict.
func Apply(ctx context.Context, o api.Objects, f *api.Function) error {
	d, s := Plan(f)
	scale := Scaling(f.Spec.Labels)
	if err := apply(ctx, o, api.Deployments, d, func(have *appsv1.Deployment) bool { return setDeployment(have, d, scale) }); err != nil {
		return err
	}
	return apply(ctx, o, api.Services, s, func(have *corev1.Service) bool { return setService(have, s) })
}

// apply creates want, or lets set change what is there.
func apply[T api.Object](ctx context.Context, o api.Objects, r *api.Resource, want T, set func(have T) (write bool)) error {
	change := func(have T) (bool, error) {
		if err := mine(have, want, r); err != nil {
			return false, err
		}
		return set(have), nil
	}
	for {
		_, err := api.Mutate(ctx, o, r, want.GetNamespace(), want.GetName(), api.UpdateOptions{}, change)
		if apierrors.IsNotFound(err) {
			_, err = api.Create(ctx, o, want)
			if apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
				continue // somebody was faster: look at theirs
			}
		}
		if err != nil {
			return fmt.Errorf("apply %s %s/%s: %w", r.Singular, want.GetNamespace(), want.GetName(), err)
		}
		return nil
	}
}

// mine reports why have cannot be taken as the function's: it is being deleted,
// or neither an owner nor a label says that it was made for this function.
func mine(have, want metav1.Object, r *api.Resource) error {
	conflict := func(why string) error {
		return apierrors.NewConflict(r.GR(), have.GetName(), fmt.Errorf("%s", why))
	}
	if have.GetDeletionTimestamp() != nil {
		return conflict("it is being deleted: try again when it is gone")
	}
	owner := metav1.GetControllerOf(have)
	switch {
	case owner != nil && owner.Kind == api.Functions.Kind && owner.Name == want.GetName():
		return nil // also that of a function deleted before and deployed anew
	case owner == nil && have.GetLabels()[api.LabelFunction] == want.GetName():
		return nil
	}
	return conflict("it was not made for a function: delete it or give the function another name")
}

func setDeployment(have, want *appsv1.Deployment, scale Scale) (write bool) {
	if n := clamp(have.Spec.Replicas, scale); have.Spec.Replicas == nil || n != *have.Spec.Replicas {
		have.Spec.Replicas, write = &n, true
	}
	same := have.Annotations[AnnotationPlan] == want.Annotations[AnnotationPlan] &&
		sameMeta(have, want) &&
		equality.Semantic.DeepDerivative(want.Spec.Strategy, have.Spec.Strategy) &&
		equality.Semantic.DeepDerivative(want.Spec.Template, have.Spec.Template)
	if same {
		return write
	}
	setMeta(have, want)
	template := want.Spec.Template.DeepCopy()
	template.Annotations = keep(have.Spec.Template.Annotations, template.Annotations)
	have.Spec.Template = *template
	have.Spec.Strategy = want.Spec.Strategy
	return true
}

// clamp keeps a number of replicas inside the function's bounds.
func clamp(have *int32, s Scale) int32 {
	switch {
	case have == nil:
		return int32(s.Min)
	case *have == 0:
		return 0
	}
	return min(max(*have, int32(s.Min)), int32(s.Max))
}

func setService(have, want *corev1.Service) (write bool) {
	same := have.Annotations[AnnotationPlan] == want.Annotations[AnnotationPlan] &&
		sameMeta(have, want) &&
		equality.Semantic.DeepEqual(want.Spec.Selector, have.Spec.Selector) &&
		len(want.Spec.Ports) == len(have.Spec.Ports) &&
		equality.Semantic.DeepDerivative(want.Spec.Ports, have.Spec.Ports)
	if same {
		return false
	}
	setMeta(have, want)
	have.Spec.Selector, have.Spec.Ports = want.Spec.Selector, want.Spec.Ports
	return true
}

func sameMeta(have, want metav1.Object) bool {
	return equality.Semantic.DeepDerivative(want.GetLabels(), have.GetLabels()) &&
		equality.Semantic.DeepDerivative(want.GetAnnotations(), have.GetAnnotations()) &&
		equality.Semantic.DeepEqual(want.GetOwnerReferences(), have.GetOwnerReferences())
}

func setMeta(have, want metav1.Object) {
	have.SetLabels(want.GetLabels())
	have.SetAnnotations(keep(have.GetAnnotations(), want.GetAnnotations()))
	have.SetOwnerReferences(want.GetOwnerReferences())
}

// keep is want, and of have what Kubernetes tools keep for themselves: a
// revision, the time of a `kubectl rollout restart`, the last applied manifest.
func keep(have, want map[string]string) map[string]string {
	out := maps.Clone(want)
	for k, v := range have {
		prefix, _, ok := strings.Cut(k, "/")
		if _, planned := out[k]; ok && !planned && (prefix == "kubernetes.io" || strings.HasSuffix(prefix, ".kubernetes.io")) {
			out[k] = v
		}
	}
	return out
}

// Package admission says what an object becomes before it is stored and
// whether it may be: the defaults that Kubernetes clients rely on, and the
// checks that protect the platform. It decides purely; what an object is
// called and how its metadata may change is the business of api/rules.
package admission

import (
	"context"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/functions"
)

// Admit is a rules.Admit: it defaults obj in place and checks it, before every
// write. old is nil for a create. A write of a subresource changes nothing
// that is checked here but the status, or the ephemeral containers. The error is Invalid, with every cause.
func Admit(_ context.Context, _ rules.Op, r *api.Resource, old, obj api.Object, subresource string) error {
	Default(obj)
	var errs field.ErrorList
	switch {
	case old == nil:
		protect(obj)
		errs = Validate(obj)
	case subresource == "":
		keep(obj, old)
		errs = append(fresh(Validate(obj), old), ValidateUpdate(obj, old)...)
	case subresource == "ephemeralcontainers":
		errs = validateEphemeral(obj.(*corev1.Pod), old.(*corev1.Pod))
	default:
		errs = validateStatus(obj)
	}
	if len(errs) == 0 {
		return nil
	}
	slices.SortStableFunc(errs, func(a, b *field.Error) int { return strings.Compare(a.Field, b.Field) })
	return apierrors.NewInvalid(r.GVK().GroupKind(), obj.GetName(), errs)
}

// fresh leaves out the faults that old has as well: rules may have become
// stricter since it was stored, and it must still be possible to label or
// delete it.
func fresh(errs field.ErrorList, old api.Object) field.ErrorList {
	if len(errs) == 0 {
		return nil
	}
	was := old.DeepCopyObject().(api.Object)
	Default(was)
	known := map[string]bool{}
	for _, e := range Validate(was) {
		known[e.Error()] = true
	}
	return slices.DeleteFunc(errs, func(e *field.Error) bool { return known[e.Error()] })
}

// Default fills what the writer left open, as Kubernetes does. It changes obj.
func Default(obj api.Object) {
	switch o := obj.(type) {
	case *corev1.Namespace:
		defaultNamespace(o)
	case *corev1.Node:
		defaultNode(o)
	case *corev1.Pod:
		defaultPod(o)
	case *corev1.ReplicationController:
		defaultReplicationController(o)
	case *corev1.Service:
		defaultService(o)
	case *corev1.Endpoints:
		defaultEndpoints(o)
	case *corev1.Secret:
		defaultSecret(o)
	case *appsv1.ReplicaSet:
		defaultReplicaSet(o)
	case *appsv1.Deployment:
		defaultDeployment(o)
	case *appsv1.DaemonSet:
		defaultDaemonSet(o)
	case *appsv1.StatefulSet:
		defaultStatefulSet(o)
	case *corev1.PersistentVolume:
		defaultVolumeObject(o)
	case *corev1.PersistentVolumeClaim:
		defaultClaim(o)
	case *storagev1.StorageClass:
		defaultStorageClass(o)
	case *batchv1.Job:
		defaultJob(o)
	case *batchv1.CronJob:
		defaultCronJob(o)
	case *autoscalingv2.HorizontalPodAutoscaler:
		defaultAutoscaler(o)
	case *discoveryv1.EndpointSlice:
		defaultEndpointSlice(o)
	case *networkingv1.Ingress:
		defaultIngress(o)
	case *networkingv1.NetworkPolicy:
		defaultNetworkPolicy(o)
	case *api.Function:
		functions.Default(o)
	}
}

// Validate checks a defaulted object on its own.
func Validate(obj api.Object) field.ErrorList {
	switch o := obj.(type) {
	case *corev1.Node:
		return validateNode(o)
	case *corev1.Pod:
		return validatePod(o)
	case *corev1.ReplicationController:
		return validateReplicationController(o)
	case *corev1.Service:
		return validateService(o)
	case *corev1.Endpoints:
		return validateEndpoints(o)
	case *corev1.Secret:
		return validateSecret(o)
	case *corev1.ConfigMap:
		return validateConfigMap(o)
	case *corev1.Event:
		return validateEvent(o)
	case *appsv1.ReplicaSet:
		return validateReplicaSet(o)
	case *appsv1.Deployment:
		return validateDeployment(o)
	case *appsv1.DaemonSet:
		return validateDaemonSet(o)
	case *appsv1.StatefulSet:
		return validateStatefulSet(o)
	case *appsv1.ControllerRevision:
		return atLeast(o.Revision, 0, field.NewPath("revision"))
	case *corev1.PersistentVolume:
		return validateVolumeObject(o)
	case *corev1.PersistentVolumeClaim:
		return validateClaim(o)
	case *storagev1.StorageClass:
		return validateStorageClass(o)
	case *batchv1.Job:
		return validateJob(o)
	case *batchv1.CronJob:
		return validateCronJob(o)
	case *autoscalingv2.HorizontalPodAutoscaler:
		return validateAutoscaler(o)
	case *policyv1.PodDisruptionBudget:
		return validateDisruptionBudget(o)
	case *discoveryv1.EndpointSlice:
		return validateEndpointSlice(o)
	case *networkingv1.IngressClass:
		return validateIngressClass(o)
	case *networkingv1.Ingress:
		return validateIngress(o)
	case *networkingv1.NetworkPolicy:
		return validateNetworkPolicy(o)
	case *coordinationv1.Lease:
		return validateLease(o)
	case *api.Function:
		return functions.Validate(o)
	}
	return nil
}

// ValidateUpdate checks what may not change from old to obj, both defaulted.
func ValidateUpdate(obj, old api.Object) field.ErrorList {
	spec := field.NewPath("spec")
	switch o := obj.(type) {
	case *corev1.Node:
		return validateNodeUpdate(o, old.(*corev1.Node))
	case *corev1.Pod:
		return validatePodUpdate(o, old.(*corev1.Pod))
	case *corev1.Service:
		return validateServiceUpdate(o, old.(*corev1.Service))
	case *corev1.Secret:
		return validateSecretUpdate(o, old.(*corev1.Secret))
	case *corev1.ConfigMap:
		return validateConfigMapUpdate(o, old.(*corev1.ConfigMap))
	case *appsv1.ReplicaSet:
		return immutable(o.Spec.Selector, old.(*appsv1.ReplicaSet).Spec.Selector, spec.Child("selector"))
	case *appsv1.Deployment:
		return immutable(o.Spec.Selector, old.(*appsv1.Deployment).Spec.Selector, spec.Child("selector"))
	case *appsv1.DaemonSet:
		return immutable(o.Spec.Selector, old.(*appsv1.DaemonSet).Spec.Selector, spec.Child("selector"))
	case *appsv1.StatefulSet:
		return validateStatefulSetUpdate(o, old.(*appsv1.StatefulSet))
	case *appsv1.ControllerRevision:
		return immutable(o.Data, old.(*appsv1.ControllerRevision).Data, field.NewPath("data"))
	case *corev1.PersistentVolume:
		return validateVolumeObjectUpdate(o, old.(*corev1.PersistentVolume))
	case *corev1.PersistentVolumeClaim:
		return validateClaimUpdate(o, old.(*corev1.PersistentVolumeClaim))
	case *storagev1.StorageClass:
		return validateStorageClassUpdate(o, old.(*storagev1.StorageClass))
	case *batchv1.Job:
		return validateJobUpdate(o, old.(*batchv1.Job))
	case *discoveryv1.EndpointSlice:
		return immutable(o.AddressType, old.(*discoveryv1.EndpointSlice).AddressType, field.NewPath("addressType"))
	case *networkingv1.IngressClass:
		return immutable(o.Spec.Controller, old.(*networkingv1.IngressClass).Spec.Controller, spec.Child("controller"))
	}
	return nil
}

// keep carries over what an update that does not name it must not lose.
func keep(obj, old api.Object) {
	switch o := obj.(type) {
	case *corev1.Service:
		keepService(o, old.(*corev1.Service))
	case *corev1.Node:
		keepNode(o, old.(*corev1.Node))
	}
}

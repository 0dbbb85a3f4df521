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
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/controlplane/custom"
	"github.com/podsnap/podsnap/controlplane/podsecurity"
	"github.com/podsnap/podsnap/functions"
)

// Admit is a rules.Admit: it defaults obj in place and checks it, before every
// write. old is nil for a create. A write of a subresource changes nothing
// that is checked here but the status, or the ephemeral containers. The error is Invalid, with every cause.
func Admit(_ context.Context, _ rules.Op, r *api.Resource, old, obj api.Object, subresource string) error {
	if c, ok := obj.(*api.CustomObject); ok {
		before, _ := old.(*api.CustomObject)
		return c.Of.Definition.Admit(before, c, subresource)
	}
	Default(obj)
	var errs field.ErrorList
	switch {
	case old == nil:
		if p, ok := obj.(*corev1.Pod); ok && !rules.IsMirror(p) {
			defaultAccount(p)
		}
		protect(obj)
		errs = Validate(obj)
	case subresource == "":
		keep(obj, old)
		errs = append(fresh(Validate(obj), old), ValidateUpdate(obj, old)...)
	case subresource == "ephemeralcontainers":
		errs = validateEphemeral(obj.(*corev1.Pod), old.(*corev1.Pod))
	default:
		errs = validateStatus(obj)
		if c, ok := obj.(*certificatesv1.CertificateSigningRequest); ok {
			errs = validateRequestStatus(c, old.(*certificatesv1.CertificateSigningRequest), subresource == api.Approval)
		}
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
	case *api.CustomObject:
		o.Of.Definition.Default(o)
	case *apiextensionsv1.CustomResourceDefinition:
		custom.DefaultDefinition(o)
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
	case *corev1.LimitRange:
		defaultLimitRange(o)
	case *schedulingv1.PriorityClass:
		orNew(&o.PreemptionPolicy, corev1.PreemptLowerPriority)
	case *rbacv1.RoleBinding:
		defaultBinding(&o.RoleRef, o.Subjects)
	case *rbacv1.ClusterRoleBinding:
		defaultBinding(&o.RoleRef, o.Subjects)
	case *api.Function:
		functions.Default(o)
	}
}

// Validate checks a defaulted object on its own.
func Validate(obj api.Object) field.ErrorList {
	switch o := obj.(type) {
	case *corev1.Namespace:
		return podsecurity.ValidateLabels(o.Labels)
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
	case *corev1.LimitRange:
		return validateLimitRange(o)
	case *corev1.ResourceQuota:
		return validateResourceQuota(o)
	case *schedulingv1.PriorityClass:
		return validatePriorityClass(o)
	case *coordinationv1.Lease:
		return validateLease(o)
	case *apiextensionsv1.CustomResourceDefinition:
		return custom.ValidateDefinition(o)
	case *certificatesv1.CertificateSigningRequest:
		return validateCertificateRequest(o)
	case *rbacv1.Role:
		return validatePolicyRules(o.Rules, true)
	case *rbacv1.ClusterRole:
		return validateClusterRole(o)
	case *rbacv1.RoleBinding:
		return validateBinding(o.RoleRef, o.Subjects, true)
	case *rbacv1.ClusterRoleBinding:
		return validateBinding(o.RoleRef, o.Subjects, false)
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
	case *corev1.ResourceQuota:
		return validateResourceQuotaUpdate(o, old.(*corev1.ResourceQuota))
	case *schedulingv1.PriorityClass:
		return validatePriorityClassUpdate(o, old.(*schedulingv1.PriorityClass))
	case *batchv1.Job:
		return validateJobUpdate(o, old.(*batchv1.Job))
	case *discoveryv1.EndpointSlice:
		return immutable(o.AddressType, old.(*discoveryv1.EndpointSlice).AddressType, field.NewPath("addressType"))
	case *apiextensionsv1.CustomResourceDefinition:
		return custom.ValidateDefinitionUpdate(o, old.(*apiextensionsv1.CustomResourceDefinition))
	case *networkingv1.IngressClass:
		return immutable(o.Spec.Controller, old.(*networkingv1.IngressClass).Spec.Controller, spec.Child("controller"))
	case *rbacv1.RoleBinding:
		return roleRefStays(o.RoleRef, old.(*rbacv1.RoleBinding).RoleRef)
	case *rbacv1.ClusterRoleBinding:
		return roleRefStays(o.RoleRef, old.(*rbacv1.ClusterRoleBinding).RoleRef)
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
	case *corev1.Pod:
		keepPriority(o, old.(*corev1.Pod))
		keepAccount(o, old.(*corev1.Pod))
	case *certificatesv1.CertificateSigningRequest:
		o.Spec = *old.(*certificatesv1.CertificateSigningRequest).Spec.DeepCopy() // who approves has to know what
	}
}

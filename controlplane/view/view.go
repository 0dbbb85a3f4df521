// Package view holds the mirrors that the controllers share: one local copy of
// every kind but Event, with the indexes that controllers ask.
package view

import (
	"context"
	"log/slog"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/custom"
	"github.com/podsnap/podsnap/internal/mirror"
	"golang.org/x/sync/errgroup"
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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// The indexes, by name, and what their keys are.
const (
	Owner      = "owner"      // pods, replica sets, jobs: UID of the controlling owner
	Orphan     = "orphan"     // pods, replica sets: namespace, of those that have no controlling owner
	Dependents = "dependents" // every kind: UID of each owner
	Namespace  = "namespace"  // every namespaced kind: namespace
	Node       = "node"       // pods: spec.nodeName
	Label      = "label"      // pods: LabelKey of each label
	Terminated = "terminated" // pods that have ended: ""
	Selector   = "selector"   // services: LabelKey of one label of the selector
	Service    = "service"    // endpoint slices: namespace/name of the service
)

// View is the set of mirrors. Its objects are immutable.
type View struct {
	Definitions              *mirror.Mirror[*apiextensionsv1.CustomResourceDefinition]
	Namespaces               *mirror.Mirror[*corev1.Namespace]
	CertificateRequests      *mirror.Mirror[*certificatesv1.CertificateSigningRequest]
	PriorityClasses          *mirror.Mirror[*schedulingv1.PriorityClass]
	LimitRanges              *mirror.Mirror[*corev1.LimitRange]
	ResourceQuotas           *mirror.Mirror[*corev1.ResourceQuota]
	Nodes                    *mirror.Mirror[*corev1.Node]
	NetworkPolicies          *mirror.Mirror[*networkingv1.NetworkPolicy]
	ConfigMaps               *mirror.Mirror[*corev1.ConfigMap]
	Secrets                  *mirror.Mirror[*corev1.Secret]
	ServiceAccounts          *mirror.Mirror[*corev1.ServiceAccount]
	ClusterRoles             *mirror.Mirror[*rbacv1.ClusterRole]
	ClusterRoleBindings      *mirror.Mirror[*rbacv1.ClusterRoleBinding]
	Roles                    *mirror.Mirror[*rbacv1.Role]
	RoleBindings             *mirror.Mirror[*rbacv1.RoleBinding]
	Functions                *mirror.Mirror[*api.Function]
	Deployments              *mirror.Mirror[*appsv1.Deployment]
	HorizontalPodAutoscalers *mirror.Mirror[*autoscalingv2.HorizontalPodAutoscaler]
	CronJobs                 *mirror.Mirror[*batchv1.CronJob]
	Jobs                     *mirror.Mirror[*batchv1.Job]
	DaemonSets               *mirror.Mirror[*appsv1.DaemonSet]
	StatefulSets             *mirror.Mirror[*appsv1.StatefulSet]
	ControllerRevisions      *mirror.Mirror[*appsv1.ControllerRevision]
	StorageClasses           *mirror.Mirror[*storagev1.StorageClass]
	PersistentVolumes        *mirror.Mirror[*corev1.PersistentVolume]
	PersistentVolumeClaims   *mirror.Mirror[*corev1.PersistentVolumeClaim]
	PodDisruptionBudgets     *mirror.Mirror[*policyv1.PodDisruptionBudget]
	ReplicaSets              *mirror.Mirror[*appsv1.ReplicaSet]
	ReplicationControllers   *mirror.Mirror[*corev1.ReplicationController]
	Pods                     *mirror.Mirror[*corev1.Pod]
	Services                 *mirror.Mirror[*corev1.Service]
	Endpoints                *mirror.Mirror[*corev1.Endpoints]
	EndpointSlices           *mirror.Mirror[*discoveryv1.EndpointSlice]
	IngressClasses           *mirror.Mirror[*networkingv1.IngressClass]
	Ingresses                *mirror.Mirror[*networkingv1.Ingress]
	Leases                   *mirror.Mirror[*coordinationv1.Lease]

	// Kinds are the same mirrors without their types, in api.Resources' order.
	Kinds []Kind

	customs *customs
}

// New makes empty mirrors; Run fills them. kinds are the custom kinds that there
// are; nil is none.
func New(o api.Objects, kinds *custom.Kinds, log *slog.Logger) *View {
	opts := mirror.Options{Log: log}
	v := &View{
		Definitions:              mirror.New[*apiextensionsv1.CustomResourceDefinition](o, api.CustomResourceDefinitions, opts),
		Namespaces:               mirror.New[*corev1.Namespace](o, api.Namespaces, opts),
		CertificateRequests:      mirror.New[*certificatesv1.CertificateSigningRequest](o, api.CertificateSigningRequests, opts),
		PriorityClasses:          mirror.New[*schedulingv1.PriorityClass](o, api.PriorityClasses, opts),
		LimitRanges:              mirror.New[*corev1.LimitRange](o, api.LimitRanges, opts),
		ResourceQuotas:           mirror.New[*corev1.ResourceQuota](o, api.ResourceQuotas, opts),
		Nodes:                    mirror.New[*corev1.Node](o, api.Nodes, opts),
		NetworkPolicies:          mirror.New[*networkingv1.NetworkPolicy](o, api.NetworkPolicies, opts),
		ConfigMaps:               mirror.New[*corev1.ConfigMap](o, api.ConfigMaps, opts),
		Secrets:                  mirror.New[*corev1.Secret](o, api.Secrets, opts),
		ServiceAccounts:          mirror.New[*corev1.ServiceAccount](o, api.ServiceAccounts, opts),
		ClusterRoles:             mirror.New[*rbacv1.ClusterRole](o, api.ClusterRoles, opts),
		ClusterRoleBindings:      mirror.New[*rbacv1.ClusterRoleBinding](o, api.ClusterRoleBindings, opts),
		Roles:                    mirror.New[*rbacv1.Role](o, api.Roles, opts),
		RoleBindings:             mirror.New[*rbacv1.RoleBinding](o, api.RoleBindings, opts),
		Functions:                mirror.New[*api.Function](o, api.Functions, opts),
		Deployments:              mirror.New[*appsv1.Deployment](o, api.Deployments, opts),
		HorizontalPodAutoscalers: mirror.New[*autoscalingv2.HorizontalPodAutoscaler](o, api.HorizontalPodAutoscalers, opts),
		CronJobs:                 mirror.New[*batchv1.CronJob](o, api.CronJobs, opts),
		Jobs:                     mirror.New[*batchv1.Job](o, api.Jobs, opts),
		DaemonSets:               mirror.New[*appsv1.DaemonSet](o, api.DaemonSets, opts),
		StatefulSets:             mirror.New[*appsv1.StatefulSet](o, api.StatefulSets, opts),
		ControllerRevisions:      mirror.New[*appsv1.ControllerRevision](o, api.ControllerRevisions, opts),
		StorageClasses:           mirror.New[*storagev1.StorageClass](o, api.StorageClasses, opts),
		PersistentVolumes:        mirror.New[*corev1.PersistentVolume](o, api.PersistentVolumes, opts),
		PersistentVolumeClaims:   mirror.New[*corev1.PersistentVolumeClaim](o, api.PersistentVolumeClaims, opts),
		PodDisruptionBudgets:     mirror.New[*policyv1.PodDisruptionBudget](o, api.PodDisruptionBudgets, opts),
		ReplicaSets:              mirror.New[*appsv1.ReplicaSet](o, api.ReplicaSets, opts),
		ReplicationControllers:   mirror.New[*corev1.ReplicationController](o, api.ReplicationControllers, opts),
		Pods:                     mirror.New[*corev1.Pod](o, api.Pods, opts),
		Services:                 mirror.New[*corev1.Service](o, api.Services, opts),
		Endpoints:                mirror.New[*corev1.Endpoints](o, api.Endpoints, opts),
		EndpointSlices:           mirror.New[*discoveryv1.EndpointSlice](o, api.EndpointSlices, opts),
		IngressClasses:           mirror.New[*networkingv1.IngressClass](o, api.IngressClasses, opts),
		Ingresses:                mirror.New[*networkingv1.Ingress](o, api.Ingresses, opts),
		Leases:                   mirror.New[*coordinationv1.Lease](o, api.Leases, opts),
	}
	v.customs = newCustoms(kinds, o, opts, v.Definitions)
	v.Kinds = []Kind{
		kindOf(api.CustomResourceDefinitions, v.Definitions),
		kindOf(api.Namespaces, v.Namespaces), kindOf(api.PriorityClasses, v.PriorityClasses), kindOf(api.LimitRanges, v.LimitRanges), kindOf(api.ResourceQuotas, v.ResourceQuotas),
		kindOf(api.Nodes, v.Nodes), kindOf(api.NetworkPolicies, v.NetworkPolicies), kindOf(api.ConfigMaps, v.ConfigMaps),
		kindOf(api.Secrets, v.Secrets), kindOf(api.ServiceAccounts, v.ServiceAccounts), kindOf(api.ClusterRoles, v.ClusterRoles),
		kindOf(api.ClusterRoleBindings, v.ClusterRoleBindings), kindOf(api.Roles, v.Roles), kindOf(api.RoleBindings, v.RoleBindings), kindOf(api.CertificateSigningRequests, v.CertificateRequests), kindOf(api.Functions, v.Functions),
		kindOf(api.HorizontalPodAutoscalers, v.HorizontalPodAutoscalers), kindOf(api.CronJobs, v.CronJobs), kindOf(api.Jobs, v.Jobs), kindOf(api.Deployments, v.Deployments),
		kindOf(api.DaemonSets, v.DaemonSets), kindOf(api.StatefulSets, v.StatefulSets), kindOf(api.ReplicaSets, v.ReplicaSets), kindOf(api.ReplicationControllers, v.ReplicationControllers),
		kindOf(api.ControllerRevisions, v.ControllerRevisions), kindOf(api.PodDisruptionBudgets, v.PodDisruptionBudgets), kindOf(api.Pods, v.Pods),
		kindOf(api.StorageClasses, v.StorageClasses), kindOf(api.PersistentVolumes, v.PersistentVolumes), kindOf(api.PersistentVolumeClaims, v.PersistentVolumeClaims), kindOf(api.Services, v.Services), kindOf(api.Endpoints, v.Endpoints),
		kindOf(api.EndpointSlices, v.EndpointSlices), kindOf(api.IngressClasses, v.IngressClasses),
		kindOf(api.Ingresses, v.Ingresses), kindOf(api.Leases, v.Leases),
	}
	v.Pods.Index(Owner, ownerKey[*corev1.Pod])
	v.Pods.Index(Orphan, orphanKey[*corev1.Pod])
	v.Pods.Index(Node, func(p *corev1.Pod) []string { return some(p.Spec.NodeName) })
	v.Pods.Index(Label, func(p *corev1.Pod) []string {
		out := make([]string, 0, len(p.Labels))
		for k, val := range p.Labels {
			out = append(out, LabelKey(p.Namespace, k, val))
		}
		return out
	})
	v.Pods.Index(Terminated, func(p *corev1.Pod) []string {
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			return []string{""}
		}
		return nil
	})
	v.Jobs.Index(Owner, ownerKey[*batchv1.Job])
	v.ReplicaSets.Index(Owner, ownerKey[*appsv1.ReplicaSet])
	v.ReplicaSets.Index(Orphan, orphanKey[*appsv1.ReplicaSet])
	v.Services.Index(Selector, func(s *corev1.Service) []string {
		k := First(s.Spec.Selector)
		if k == "" {
			return nil
		}
		return []string{LabelKey(s.Namespace, k, s.Spec.Selector[k])}
	})
	v.EndpointSlices.Index(Service, func(s *discoveryv1.EndpointSlice) []string {
		return []string{s.Namespace + "/" + s.Labels[api.LabelServiceName]}
	})
	return v
}

// Run follows all kinds until ctx is done and returns nil then.
func (v *View) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, k := range v.Kinds {
		g.Go(func() error { return k.Run(ctx) })
	}
	g.Go(func() error { return v.customs.run(ctx) })
	return g.Wait()
}

// Wait returns when every mirror first holds everything, or with ctx's error.
func (v *View) Wait(ctx context.Context) error {
	for _, k := range v.Kinds {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-k.Synced():
		}
	}
	return nil
}

// Kind finds a kind's mirror; nil for one that is not mirrored.
func (v *View) Kind(r *api.Resource) Kind {
	if r == nil {
		return nil
	}
	if r.Definition != nil {
		v.customs.mu.Lock()
		defer v.customs.mu.Unlock()
		if k := v.customs.running[r.GR()]; k != nil {
			return k
		}
		return nil
	}
	for _, k := range v.Kinds {
		if k.Resource() == r {
			return k
		}
	}
	return nil
}

// LabelKey is the key of one label in a namespace.
func LabelKey(namespace, key, value string) string { return namespace + "/" + key + "=" + value }

// First is the first key of m in alphabetical order; "" when it is empty.
func First(m map[string]string) string {
	first := ""
	for k := range m {
		if first == "" || k < first {
			first = k
		}
	}
	return first
}

// Key is an object's namespace and name.
func Key(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

func ownerKey[T api.Object](o T) []string {
	if c := metav1.GetControllerOfNoCopy(o); c != nil {
		return []string{string(c.UID)}
	}
	return nil
}

func orphanKey[T api.Object](o T) []string {
	if metav1.GetControllerOfNoCopy(o) == nil {
		return []string{o.GetNamespace()}
	}
	return nil
}

func some(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

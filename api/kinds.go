package api

import (
	"fmt"
	"reflect"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
)

// Object is any API object: typed, with metadata. Objects that come out of a
// seam or a cache are immutable; DeepCopyObject before changing one.
type Object interface {
	metav1.Object
	runtime.Object
}

// Resource describes one kind as the API serves it. Resources are compared by
// pointer: there is exactly one per kind, in Resources.
type Resource struct {
	Group, Version, Kind string
	Plural, Singular     string
	Short                []string
	Namespaced           bool
	Status               bool // has a status subresource: a plain update leaves .status alone
	Scale                bool // has a scale subresource
	New                  func() Object
	NewList              func() runtime.Object // a pointer to the typed list

	// Definition is what a CustomResourceDefinition says of the kind; nil for those
	// of this package. Of such a kind there is a Resource for each version, and
	// another one when the definition changes.
	Definition Definition
}

// GVK is the kind's name on the wire.
func (r *Resource) GVK() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
}

// GR names the resource in errors.
func (r *Resource) GR() schema.GroupResource {
	return schema.GroupResource{Group: r.Group, Resource: r.Plural}
}

func (r *Resource) String() string { return r.GR().String() }

// The kinds. The list is closed: an object of another type has no Resource.
var (
	Namespaces = &Resource{
		Version: "v1", Kind: "Namespace", Plural: "namespaces", Singular: "namespace", Short: []string{"ns"}, Status: true,
		New: func() Object { return &corev1.Namespace{} }, NewList: func() runtime.Object { return &corev1.NamespaceList{} },
	}
	Nodes = &Resource{
		Version: "v1", Kind: "Node", Plural: "nodes", Singular: "node", Short: []string{"no"}, Status: true,
		New: func() Object { return &corev1.Node{} }, NewList: func() runtime.Object { return &corev1.NodeList{} },
	}
	Pods = &Resource{
		Version: "v1", Kind: "Pod", Plural: "pods", Singular: "pod", Short: []string{"po"}, Namespaced: true, Status: true,
		New: func() Object { return &corev1.Pod{} }, NewList: func() runtime.Object { return &corev1.PodList{} },
	}
	ReplicationControllers = &Resource{
		Version: "v1", Kind: "ReplicationController", Plural: "replicationcontrollers", Singular: "replicationcontroller", Short: []string{"rc"}, Namespaced: true, Status: true, Scale: true,
		New: func() Object { return &corev1.ReplicationController{} }, NewList: func() runtime.Object { return &corev1.ReplicationControllerList{} },
	}
	Services = &Resource{
		Version: "v1", Kind: "Service", Plural: "services", Singular: "service", Short: []string{"svc"}, Namespaced: true, Status: true,
		New: func() Object { return &corev1.Service{} }, NewList: func() runtime.Object { return &corev1.ServiceList{} },
	}
	Endpoints = &Resource{
		Version: "v1", Kind: "Endpoints", Plural: "endpoints", Singular: "endpoints", Short: []string{"ep"}, Namespaced: true,
		New: func() Object { return &corev1.Endpoints{} }, NewList: func() runtime.Object { return &corev1.EndpointsList{} },
	}
	Secrets = &Resource{
		Version: "v1", Kind: "Secret", Plural: "secrets", Singular: "secret", Namespaced: true,
		New: func() Object { return &corev1.Secret{} }, NewList: func() runtime.Object { return &corev1.SecretList{} },
	}
	ConfigMaps = &Resource{
		Version: "v1", Kind: "ConfigMap", Plural: "configmaps", Singular: "configmap", Short: []string{"cm"}, Namespaced: true,
		New: func() Object { return &corev1.ConfigMap{} }, NewList: func() runtime.Object { return &corev1.ConfigMapList{} },
	}
	Events = &Resource{
		Version: "v1", Kind: "Event", Plural: "events", Singular: "event", Short: []string{"ev"}, Namespaced: true,
		New: func() Object { return &corev1.Event{} }, NewList: func() runtime.Object { return &corev1.EventList{} },
	}
	ReplicaSets = &Resource{
		Group: "apps", Version: "v1", Kind: "ReplicaSet", Plural: "replicasets", Singular: "replicaset", Short: []string{"rs"}, Namespaced: true, Status: true, Scale: true,
		New: func() Object { return &appsv1.ReplicaSet{} }, NewList: func() runtime.Object { return &appsv1.ReplicaSetList{} },
	}
	Deployments = &Resource{
		Group: "apps", Version: "v1", Kind: "Deployment", Plural: "deployments", Singular: "deployment", Short: []string{"deploy"}, Namespaced: true, Status: true, Scale: true,
		New: func() Object { return &appsv1.Deployment{} }, NewList: func() runtime.Object { return &appsv1.DeploymentList{} },
	}
	EndpointSlices = &Resource{
		Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice", Plural: "endpointslices", Singular: "endpointslice", Namespaced: true,
		New: func() Object { return &discoveryv1.EndpointSlice{} }, NewList: func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
	}
	IngressClasses = &Resource{
		Group: "networking.k8s.io", Version: "v1", Kind: "IngressClass", Plural: "ingressclasses", Singular: "ingressclass",
		New: func() Object { return &networkingv1.IngressClass{} }, NewList: func() runtime.Object { return &networkingv1.IngressClassList{} },
	}
	Ingresses = &Resource{
		Group: "networking.k8s.io", Version: "v1", Kind: "Ingress", Plural: "ingresses", Singular: "ingress", Short: []string{"ing"}, Namespaced: true, Status: true,
		New: func() Object { return &networkingv1.Ingress{} }, NewList: func() runtime.Object { return &networkingv1.IngressList{} },
	}
	NetworkPolicies = &Resource{
		Group: "networking.k8s.io", Version: "v1", Kind: "NetworkPolicy", Plural: "networkpolicies", Singular: "networkpolicy", Short: []string{"netpol"}, Namespaced: true,
		New: func() Object { return &networkingv1.NetworkPolicy{} }, NewList: func() runtime.Object { return &networkingv1.NetworkPolicyList{} },
	}
	Leases = &Resource{
		Group: "coordination.k8s.io", Version: "v1", Kind: "Lease", Plural: "leases", Singular: "lease", Namespaced: true,
		New: func() Object { return &coordinationv1.Lease{} }, NewList: func() runtime.Object { return &coordinationv1.LeaseList{} },
	}
	DaemonSets = &Resource{
		Group: "apps", Version: "v1", Kind: "DaemonSet", Plural: "daemonsets", Singular: "daemonset", Short: []string{"ds"}, Namespaced: true, Status: true,
		New: func() Object { return &appsv1.DaemonSet{} }, NewList: func() runtime.Object { return &appsv1.DaemonSetList{} },
	}
	StatefulSets = &Resource{
		Group: "apps", Version: "v1", Kind: "StatefulSet", Plural: "statefulsets", Singular: "statefulset", Short: []string{"sts"}, Namespaced: true, Status: true, Scale: true,
		New: func() Object { return &appsv1.StatefulSet{} }, NewList: func() runtime.Object { return &appsv1.StatefulSetList{} },
	}
	ControllerRevisions = &Resource{
		Group: "apps", Version: "v1", Kind: "ControllerRevision", Plural: "controllerrevisions", Singular: "controllerrevision", Namespaced: true,
		New: func() Object { return &appsv1.ControllerRevision{} }, NewList: func() runtime.Object { return &appsv1.ControllerRevisionList{} },
	}
	PersistentVolumes = &Resource{
		Version: "v1", Kind: "PersistentVolume", Plural: "persistentvolumes", Singular: "persistentvolume", Short: []string{"pv"}, Status: true,
		New: func() Object { return &corev1.PersistentVolume{} }, NewList: func() runtime.Object { return &corev1.PersistentVolumeList{} },
	}
	PersistentVolumeClaims = &Resource{
		Version: "v1", Kind: "PersistentVolumeClaim", Plural: "persistentvolumeclaims", Singular: "persistentvolumeclaim", Short: []string{"pvc"}, Namespaced: true, Status: true,
		New: func() Object { return &corev1.PersistentVolumeClaim{} }, NewList: func() runtime.Object { return &corev1.PersistentVolumeClaimList{} },
	}
	StorageClasses = &Resource{
		Group: "storage.k8s.io", Version: "v1", Kind: "StorageClass", Plural: "storageclasses", Singular: "storageclass", Short: []string{"sc"},
		New: func() Object { return &storagev1.StorageClass{} }, NewList: func() runtime.Object { return &storagev1.StorageClassList{} },
	}
	PodDisruptionBudgets = &Resource{
		Group: "policy", Version: "v1", Kind: "PodDisruptionBudget", Plural: "poddisruptionbudgets", Singular: "poddisruptionbudget", Short: []string{"pdb"}, Namespaced: true, Status: true,
		New: func() Object { return &policyv1.PodDisruptionBudget{} }, NewList: func() runtime.Object { return &policyv1.PodDisruptionBudgetList{} },
	}
	Functions = &Resource{
		Group: FunctionGroup, Version: "v1", Kind: "Function", Plural: "functions", Singular: "function", Short: []string{"fn"}, Namespaced: true, Status: true,
		New: func() Object { return &Function{} }, NewList: func() runtime.Object { return &FunctionList{} },
	}
)

// Resources lists every kind, in the order in which a start should create and a
// namespace's end should delete them.
var Resources = []*Resource{
	CustomResourceDefinitions, Namespaces, PriorityClasses, LimitRanges, ResourceQuotas, Nodes, NetworkPolicies, ConfigMaps, Secrets,
	ServiceAccounts, ClusterRoles, ClusterRoleBindings, Roles, RoleBindings, CertificateSigningRequests, Functions, HorizontalPodAutoscalers, CronJobs, Jobs,
	Deployments, DaemonSets, StatefulSets, ReplicaSets, ReplicationControllers,
	ControllerRevisions, PodDisruptionBudgets, Pods, StorageClasses, PersistentVolumes, PersistentVolumeClaims, Services, Endpoints, EndpointSlices, IngressClasses, Ingresses, Leases, Events,
}

var byType = sync.OnceValue(func() map[reflect.Type]*Resource {
	m := make(map[reflect.Type]*Resource, len(Resources))
	for _, r := range Resources {
		m[reflect.TypeOf(r.New())] = r
	}
	return m
})

// ResourceOf is the Resource of obj's Go type, or that of a custom object's kind. It panics for a type that is not
// one of the kinds: that is a programming error, never input.
func ResourceOf(obj Object) *Resource {
	if c, ok := obj.(*CustomObject); ok {
		return c.Of
	}
	r := byType()[reflect.TypeOf(obj)]
	if r == nil {
		panic(fmt.Sprintf("api: %T is not a kind of this API", obj))
	}
	return r
}

// ResourceFor finds a kind by group, version and plural; nil when there is none.
func ResourceFor(group, version, plural string) *Resource {
	for _, r := range Resources {
		if r.Group == group && r.Version == version && r.Plural == plural {
			return r
		}
	}
	return nil
}

// ResourceForKind finds a kind by its name on the wire; nil when there is none.
func ResourceForKind(gvk schema.GroupVersionKind) *Resource {
	for _, r := range Resources {
		if r.GVK() == gvk {
			return r
		}
	}
	return nil
}

// Scheme knows every kind; built once, safe for concurrent use.
var Scheme = sync.OnceValue(func() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(corev1.AddToScheme(s))
	utilruntime.Must(appsv1.AddToScheme(s))
	utilruntime.Must(discoveryv1.AddToScheme(s))
	utilruntime.Must(networkingv1.AddToScheme(s))
	utilruntime.Must(coordinationv1.AddToScheme(s))
	utilruntime.Must(policyv1.AddToScheme(s))
	utilruntime.Must(storagev1.AddToScheme(s))
	utilruntime.Must(batchv1.AddToScheme(s))
	utilruntime.Must(schedulingv1.AddToScheme(s))
	utilruntime.Must(autoscalingv2.AddToScheme(s))
	utilruntime.Must(apiextensionsv1.AddToScheme(s))
	utilruntime.Must(rbacv1.AddToScheme(s))
	utilruntime.Must(certificatesv1.AddToScheme(s))
	utilruntime.Must(eventsv1.AddToScheme(s))
	utilruntime.Must(resourcev1.AddToScheme(s))
	fn := schema.GroupVersion{Group: FunctionGroup, Version: "v1"}
	s.AddKnownTypes(fn, &Function{}, &FunctionList{})
	metav1.AddToGroupVersion(s, fn)
	return s
})

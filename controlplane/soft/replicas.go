package soft

import (
	"maps"
	"slices"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ReplicaKinds are the kinds that Replicas judges.
func ReplicaKinds() []*api.Resource {
	return []*api.Resource{api.Functions, api.Deployments, api.ReplicaSets, api.Pods, api.Endpoints, api.EndpointSlices, api.Events, api.Leases}
}

// Replicas says which writes are soft: those of functions' replicas, and of
// how many there are. Everything about a pod that a set of a function owns is;
// of the set and its Deployment, the number of replicas, the status and
// annotations; of the function, its status; and the endpoints that a controller
// works out from pods; all Events, which are hints; and nodes' signs of life. What was deployed, and that it was deleted, is not.
func Replicas(old, next api.Object) bool {
	switch next := next.(type) {
	case *api.Function:
		old, ok := old.(*api.Function)
		return ok && old.Generation == next.Generation && old.DeletionTimestamp == nil && next.DeletionTimestamp == nil &&
			sameIdentity(old, next) && maps.Equal(old.Annotations, next.Annotations)
	case *corev1.Event:
		return true
	case *coordinationv1.Lease:
		return old == nil && isSign(next) || IsRenewal(old, next)
	case *corev1.Endpoints, *discoveryv1.EndpointSlice:
		return isDerived(next) && (old == nil || isDerived(old))
	case *appsv1.Deployment:
		old, ok := old.(*appsv1.Deployment)
		if !ok || !ofFunction(old) || !sameIdentity(old, next) {
			return false
		}
		if old.Generation == next.Generation { // the rules of writing raise it with any change of the spec
			return true
		}
		spec := old.Spec
		spec.Replicas = next.Spec.Replicas
		return api.Alike(&spec, &next.Spec)
	case *appsv1.ReplicaSet:
		old, ok := old.(*appsv1.ReplicaSet)
		if !ok || !ofFunction(old) || !sameIdentity(old, next) {
			return false
		}
		if old.Generation == next.Generation { // the rules of writing raise it with any change of the spec
			return true
		}
		spec := old.Spec
		spec.Replicas = next.Spec.Replicas
		return api.Alike(&spec, &next.Spec)
	case *corev1.Pod:
		return isReplica(next) && (old == nil || isReplica(old.(*corev1.Pod)))
	}
	switch old := old.(type) {
	case *corev1.Event:
		return true
	case *corev1.Pod:
		return isReplica(old)
	}
	return isDerived(old)
}

// IsRenewal says which writes need not be stored: those by which a node says
// that it is alive. They are worth nothing after a restart, when every node gets
// time to say it again.
func IsRenewal(old, next api.Object) bool {
	was, ok := old.(*coordinationv1.Lease)
	if !ok {
		return false
	}
	is, ok := next.(*coordinationv1.Lease)
	if !ok || was.Namespace != api.SystemNamespace || !sameIdentity(was, is) {
		return false
	}
	spec := was.Spec
	spec.RenewTime = is.Spec.RenewTime
	return maps.Equal(was.Annotations, is.Annotations) && rules.SameLease(&spec, &is.Spec)
}

// isSign reports whether a lease is a node's: held by the one whose name it has. It
// is made anew by the node if it is not there.
func isSign(l *coordinationv1.Lease) bool {
	return l.Namespace == api.SystemNamespace && l.Spec.HolderIdentity != nil && *l.Spec.HolderIdentity == l.Name && len(l.OwnerReferences) == 0
}

// isDerived reports whether a controller keeps an object in line with pods, so
// that it would make it anew.
func isDerived(o api.Object) bool {
	switch o := o.(type) {
	case *corev1.Endpoints:
		return o.Labels["endpoints.kubernetes.io/managed-by"] != ""
	case *discoveryv1.EndpointSlice:
		return o.Labels[discoveryv1.LabelManagedBy] != ""
	}
	return false
}

func ofFunction(o api.Object) bool { return o.GetLabels()[api.LabelFunction] != "" }

// isReplica is never a StatefulSet's pod, whatever its labels: one that is forgotten
// with its server would be made a second time.
func isReplica(p *corev1.Pod) bool {
	o := metav1.GetControllerOfNoCopy(p)
	return ofFunction(p) && o != nil && o.Kind != api.StatefulSets.Kind
}

// sameIdentity compares the metadata that says what an object is and whether
// it is to stay.
func sameIdentity(a, b api.Object) bool {
	return maps.Equal(a.GetLabels(), b.GetLabels()) &&
		rules.SameOwners(a.GetOwnerReferences(), b.GetOwnerReferences()) &&
		slices.Equal(a.GetFinalizers(), b.GetFinalizers()) &&
		(a.GetDeletionTimestamp() == nil) == (b.GetDeletionTimestamp() == nil)
}

package soft

import (
	"maps"

	"github.com/podsnap/podsnap/api"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ReplicaKinds are the kinds that Replicas judges.
func ReplicaKinds() []*api.Resource {
	return []*api.Resource{api.Deployments, api.ReplicaSets, api.Pods}
}

// Replicas says which writes are soft: those of functions' replicas, and of
// how many there are. Everything about a pod that a set of a function owns is;
// of the set and its Deployment, the number of replicas, the status and
// annotations. What was deployed, and that it was deleted, is not.
func Replicas(old, next api.Object) bool {
	switch next := next.(type) {
	case *appsv1.Deployment:
		old, ok := old.(*appsv1.Deployment)
		if !ok || !ofFunction(old) || !sameIdentity(old, next) {
			return false
		}
		spec := old.Spec
		spec.Replicas = next.Spec.Replicas
		return equality.Semantic.DeepEqual(&spec, &next.Spec)
	case *appsv1.ReplicaSet:
		old, ok := old.(*appsv1.ReplicaSet)
		if !ok || !ofFunction(old) || !sameIdentity(old, next) {
			return false
		}
		spec := old.Spec
		spec.Replicas = next.Spec.Replicas
		return equality.Semantic.DeepEqual(&spec, &next.Spec)
	case *corev1.Pod:
		return isReplica(next) && (old == nil || isReplica(old.(*corev1.Pod)))
	}
	p, ok := old.(*corev1.Pod)
	return ok && isReplica(p)
}

func ofFunction(o api.Object) bool { return o.GetLabels()[api.LabelFunction] != "" }

func isReplica(p *corev1.Pod) bool {
	return ofFunction(p) && metav1.GetControllerOfNoCopy(p) != nil
}

// sameIdentity compares the metadata that says what an object is and whether
// it is to stay.
func sameIdentity(a, b api.Object) bool {
	return maps.Equal(a.GetLabels(), b.GetLabels()) &&
		equality.Semantic.DeepEqual(a.GetOwnerReferences(), b.GetOwnerReferences()) &&
		equality.Semantic.DeepEqual(a.GetFinalizers(), b.GetFinalizers()) &&
		(a.GetDeletionTimestamp() == nil) == (b.GetDeletionTimestamp() == nil)
}

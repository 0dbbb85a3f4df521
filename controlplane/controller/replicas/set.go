package replicas

import (
	"slices"
	"time"

	"github.com/podsnap/podsnap/api"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// ofReplicaSet is a ReplicaSet as a set; false when its selector is none.
func ofReplicaSet(rs *appsv1.ReplicaSet) (set, bool) {
	sel, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil || sel.Empty() {
		return set{}, false
	}
	return set{
		resource: api.ReplicaSets, obj: rs, desired: count(rs.Spec.Replicas),
		minReady: time.Duration(rs.Spec.MinReadySeconds) * time.Second,
		selector: sel, template: &rs.Spec.Template,
		status: status{
			replicas: rs.Status.Replicas, labeled: rs.Status.FullyLabeledReplicas, ready: rs.Status.ReadyReplicas,
			available: rs.Status.AvailableReplicas, observed: rs.Status.ObservedGeneration,
			failure: failureOf(rs.Status.Conditions, func(c appsv1.ReplicaSetCondition) (bool, string) {
				return c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue, c.Message
			}),
		},
	}, true
}

// ofController is a ReplicationController as a set.
func ofController(rc *corev1.ReplicationController) (set, bool) {
	sel := labels.SelectorFromSet(rc.Spec.Selector)
	if sel.Empty() || rc.Spec.Template == nil {
		return set{}, false
	}
	return set{
		resource: api.ReplicationControllers, obj: rc, desired: count(rc.Spec.Replicas),
		minReady: time.Duration(rc.Spec.MinReadySeconds) * time.Second,
		selector: sel, template: rc.Spec.Template,
		status: status{
			replicas: rc.Status.Replicas, labeled: rc.Status.FullyLabeledReplicas, ready: rc.Status.ReadyReplicas,
			available: rc.Status.AvailableReplicas, observed: rc.Status.ObservedGeneration,
			failure: failureOf(rc.Status.Conditions, func(c corev1.ReplicationControllerCondition) (bool, string) {
				return c.Type == corev1.ReplicationControllerReplicaFailure && c.Status == corev1.ConditionTrue, c.Message
			}),
		},
	}, true
}

// withStatus is a copy of the set's object with another status.
func withStatus(s set, st status) api.Object {
	switch o := s.obj.DeepCopyObject().(type) {
	case *appsv1.ReplicaSet:
		o.Status.Replicas, o.Status.FullyLabeledReplicas = st.replicas, st.labeled
		o.Status.ReadyReplicas, o.Status.AvailableReplicas = st.ready, st.available
		o.Status.ObservedGeneration = st.observed
		if st.failure != s.status.failure {
			o.Status.Conditions = slices.DeleteFunc(o.Status.Conditions, func(c appsv1.ReplicaSetCondition) bool {
				return c.Type == appsv1.ReplicaSetReplicaFailure
			})
			if st.failure != "" {
				o.Status.Conditions = append(o.Status.Conditions, appsv1.ReplicaSetCondition{
					Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate",
					Message: st.failure, LastTransitionTime: metav1.Now(),
				})
			}
		}
		return o
	case *corev1.ReplicationController:
		o.Status.Replicas, o.Status.FullyLabeledReplicas = st.replicas, st.labeled
		o.Status.ReadyReplicas, o.Status.AvailableReplicas = st.ready, st.available
		o.Status.ObservedGeneration = st.observed
		if st.failure != s.status.failure {
			o.Status.Conditions = slices.DeleteFunc(o.Status.Conditions, func(c corev1.ReplicationControllerCondition) bool {
				return c.Type == corev1.ReplicationControllerReplicaFailure
			})
			if st.failure != "" {
				o.Status.Conditions = append(o.Status.Conditions, corev1.ReplicationControllerCondition{
					Type: corev1.ReplicationControllerReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate",
					Message: st.failure, LastTransitionTime: metav1.Now(),
				})
			}
		}
		return o
	default:
		return s.obj
	}
}

func failureOf[C any](conditions []C, is func(C) (bool, string)) string {
	for _, c := range conditions {
		if ok, message := is(c); ok {
			return message
		}
	}
	return ""
}

// count is spec.replicas, 1 when it is not set.
func count(n *int32) int {
	if n == nil {
		return 1
	}
	return int(*n)
}

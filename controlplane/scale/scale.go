// Package scale knows where the number of replicas stands in the kinds that have
// one.
package scale

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/podsnap/podsnap/api"
)

// Of finds an object's replicas: where those that are asked for stand, how many
// there are, and which pods they are. The object's kind must have Scale.
func Of(obj api.Object) (spec **int32, status int32, selector string) {
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return &o.Spec.Replicas, o.Status.Replicas, metav1.FormatLabelSelector(o.Spec.Selector)
	case *appsv1.StatefulSet:
		return &o.Spec.Replicas, o.Status.Replicas, metav1.FormatLabelSelector(o.Spec.Selector)
	case *appsv1.ReplicaSet:
		return &o.Spec.Replicas, o.Status.Replicas, metav1.FormatLabelSelector(o.Spec.Selector)
	case *corev1.ReplicationController:
		return &o.Spec.Replicas, o.Status.Replicas, labels.FormatLabels(o.Spec.Selector)
	}
	panic(fmt.Sprintf("scale: %T has no replicas", obj))
}

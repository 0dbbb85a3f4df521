package rules

import (
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
)

// Template is a pod, or what pods are made by: parts of the object, not copies.
type Template struct {
	Meta *metav1.ObjectMeta
	Spec *corev1.PodSpec
	Path string // of Spec, in the object, as errors name it
}

// TemplateOf is what an object's pods are made by, of a pod itself; false when it makes
// none.
func TemplateOf(obj api.Object) (Template, bool) {
	of := func(t *corev1.PodTemplateSpec) (Template, bool) {
		return Template{&t.ObjectMeta, &t.Spec, "spec.template.spec"}, true
	}
	switch o := obj.(type) {
	case *corev1.Pod:
		return Template{&o.ObjectMeta, &o.Spec, "spec"}, true
	case *corev1.ReplicationController:
		if o.Spec.Template == nil {
			return Template{}, false
		}
		return of(o.Spec.Template)
	case *appsv1.ReplicaSet:
		return of(&o.Spec.Template)
	case *appsv1.Deployment:
		return of(&o.Spec.Template)
	case *appsv1.StatefulSet:
		return of(&o.Spec.Template)
	case *appsv1.DaemonSet:
		return of(&o.Spec.Template)
	case *batchv1.Job:
		return of(&o.Spec.Template)
	case *batchv1.CronJob:
		t := &o.Spec.JobTemplate.Spec.Template
		return Template{&t.ObjectMeta, &t.Spec, "spec.jobTemplate.spec.template.spec"}, true
	}
	return Template{}, false
}

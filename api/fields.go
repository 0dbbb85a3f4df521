package api

import (
	"strconv"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// FieldSet lists the fields of obj that a field selector may name.
func FieldSet(obj Object) fields.Set {
	s := fields.Set{"metadata.name": obj.GetName(), "metadata.namespace": obj.GetNamespace()}
	switch o := obj.(type) {
	case *corev1.Pod:
		s["spec.nodeName"] = o.Spec.NodeName
		s["spec.restartPolicy"] = string(o.Spec.RestartPolicy)
		s["spec.schedulerName"] = o.Spec.SchedulerName
		s["spec.serviceAccountName"] = o.Spec.ServiceAccountName
		s["spec.hostNetwork"] = strconv.FormatBool(o.Spec.HostNetwork)
		s["status.phase"] = string(o.Status.Phase)
		s["status.podIP"] = o.Status.PodIP
		s["status.nominatedNodeName"] = o.Status.NominatedNodeName
	case *CustomObject:
		return o.Of.Definition.Fields(o)
	case *corev1.Node:
		s["spec.unschedulable"] = strconv.FormatBool(o.Spec.Unschedulable)
	case *corev1.PersistentVolume:
		s["spec.nodeName"] = NodeOfVolume(o)
	case *corev1.Secret:
		s["type"] = string(o.Type)
	case *certificatesv1.CertificateSigningRequest:
		s["spec.signerName"] = o.Spec.SignerName
	case *corev1.Namespace:
		s["status.phase"] = string(o.Status.Phase)
	case *corev1.Event:
		s["involvedObject.kind"] = o.InvolvedObject.Kind
		s["involvedObject.namespace"] = o.InvolvedObject.Namespace
		s["involvedObject.name"] = o.InvolvedObject.Name
		s["involvedObject.uid"] = string(o.InvolvedObject.UID)
		s["involvedObject.apiVersion"] = o.InvolvedObject.APIVersion
		s["involvedObject.resourceVersion"] = o.InvolvedObject.ResourceVersion
		s["involvedObject.fieldPath"] = o.InvolvedObject.FieldPath
		s["reason"] = o.Reason
		s["reportingComponent"] = o.ReportingController
		s["source"] = o.Source.Component
		s["type"] = o.Type
	}
	return s
}

// Matches reports whether obj is selected.
func (o ListOptions) Matches(obj Object) bool {
	return matches(obj, o.Namespace, o.Labels, o.Fields)
}

// Matches reports whether obj is selected.
func (o WatchOptions) Matches(obj Object) bool {
	return matches(obj, o.Namespace, o.Labels, o.Fields)
}

package api

import networkingv1 "k8s.io/api/networking/v1"

// ServesIngress tells whether the gateways serve an Ingress: one of their own
// class, of another class of theirs, or of none. controllerOf is a class's
// controller, "" of one that is not there.
func ServesIngress(i *networkingv1.Ingress, controllerOf func(class string) string) bool {
	class := i.Annotations[AnnotationIngressClass]
	if i.Spec.IngressClassName != nil {
		class = *i.Spec.IngressClassName
	}
	return class == "" || class == IngressClass || controllerOf(class) == IngressController
}

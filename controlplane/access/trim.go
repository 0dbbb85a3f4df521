package access

import (
	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Trim answers with what a user sees of the objects that it may list or watch; nil
// is all of it. A node that asks for other pods than those that are bound to it
// gets what network policies are about: whose they are, their labels, addresses
// and ports.
func Trim(u User, r Request) func(api.Object) api.Object {
	node := u.Node()
	if node == "" || r.Resource != api.Pods || r.Verb != "list" && r.Verb != "watch" {
		return nil
	}
	if r.Fields != nil {
		if on, ok := r.Fields.RequiresExactMatch("spec.nodeName"); ok && on == node {
			return nil
		}
	}
	return func(o api.Object) api.Object {
		p, ok := o.(*corev1.Pod)
		if !ok {
			return o
		}
		return trimmed(p)
	}
}

func trimmed(p *corev1.Pod) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta: p.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion, Generation: p.Generation,
			CreationTimestamp: p.CreationTimestamp, DeletionTimestamp: p.DeletionTimestamp, Labels: p.Labels,
		},
		Spec: corev1.PodSpec{
			NodeName: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork,
			InitContainers: ports(p.Spec.InitContainers), Containers: ports(p.Spec.Containers),
		},
		Status: corev1.PodStatus{Phase: p.Status.Phase, PodIP: p.Status.PodIP, PodIPs: p.Status.PodIPs},
	}
}

func ports(cs []corev1.Container) []corev1.Container {
	out := make([]corev1.Container, len(cs))
	for i := range cs {
		out[i] = corev1.Container{Name: cs[i].Name, Ports: cs[i].Ports, RestartPolicy: cs[i].RestartPolicy}
	}
	return out
}

package access

import (
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/functions"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Trim answers with what a user sees of the objects that it may read; nil is all
// of it. A node that asks for other pods than those that are bound to it gets what
// network policies are about: whose they are, their labels, addresses and ports. Of
// functions it gets what its gateway has to know: not their environment.
func Trim(u User, r Request) func(api.Object) api.Object {
	node := u.Node()
	if node == "" {
		return nil
	}
	switch r.Resource {
	case api.Functions, api.Deployments:
		return withoutSecrets
	case api.Pods:
	default:
		return nil
	}
	if r.Verb != "list" && r.Verb != "watch" {
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

// withoutSecrets is a function, or a Deployment, without what its replicas are
// given.
func withoutSecrets(o api.Object) api.Object {
	switch o := o.(type) {
	case *api.Function:
		out := *o
		out.Spec.Environment, out.Spec.Secrets, out.Spec.Process = nil, nil, ""
		for _, k := range functions.LimitVariables() {
			if v, ok := o.Spec.Environment[k]; ok {
				if out.Spec.Environment == nil {
					out.Spec.Environment = map[string]string{}
				}
				out.Spec.Environment[k] = v
			}
		}
		return &out
	case *appsv1.Deployment:
		out := *o
		out.Spec.Template = corev1.PodTemplateSpec{ObjectMeta: o.Spec.Template.ObjectMeta}
		return &out
	}
	return o
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

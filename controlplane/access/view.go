package access

import (
	"maps"
	"slices"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/functions"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What nodes see.
var (
	// ofFunctions is what a node's gateway has to know: not their environment.
	ofFunctions = &api.View{Show: withoutSecrets}
	// ofPods is what network policies are about: whose they are, their labels,
	// addresses and ports.
	ofPods = &api.View{Show: func(o api.Object) api.Object {
		if p, ok := o.(*corev1.Pod); ok {
			return trimmed(p)
		}
		return o
	}}
	// ofNodes is where other nodes and their pods are. It is told to thousands, so
	// that it has nothing that changes each minute, nor what changes when nodes are lost.
	ofNodes = &api.View{Show: placeOf, Same: func(old, now api.Object) bool {
		a, isNode := old.(*corev1.Node)
		b, ok := now.(*corev1.Node)
		return ok && isNode && samePlace(a, b)
	}}
)

// View answers with what a user sees of the objects that it may read; nil is all of
// them. A node sees of nodes and pods that are not its own, and of functions, what it
// needs.
func View(u User, r Request) *api.View {
	node := u.Node()
	if node == "" {
		return nil
	}
	switch r.Resource {
	case api.Functions, api.Deployments:
		return ofFunctions
	case api.Pods:
		return ofOthers(ofPods, r, "spec.nodeName", node)
	case api.Nodes:
		if r.Name == node {
			return nil
		}
		return ofOthers(ofNodes, r, "metadata.name", node)
	}
	return nil
}

// ofOthers is a view of what is listed or followed, if a field does not say that it is
// all the node's own.
func ofOthers(v *api.View, r Request, field, node string) *api.View {
	if r.Verb != "list" && r.Verb != "watch" {
		return nil
	}
	if r.Fields != nil {
		if of, ok := r.Fields.RequiresExactMatch(field); ok && of == node {
			return nil
		}
	}
	return v
}

// placeOf is a node as others see it.
func placeOf(o api.Object) api.Object {
	n, ok := o.(*corev1.Node)
	if !ok {
		return o
	}
	out := &corev1.Node{
		TypeMeta: n.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{
			Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion,
			CreationTimestamp: n.CreationTimestamp, DeletionTimestamp: n.DeletionTimestamp, Labels: n.Labels,
		},
		Spec:   corev1.NodeSpec{PodCIDR: n.Spec.PodCIDR, PodCIDRs: n.Spec.PodCIDRs},
		Status: corev1.NodeStatus{Addresses: n.Status.Addresses},
	}
	if ports, ok := n.Annotations[api.AnnotationFunctionPorts]; ok {
		out.Annotations = map[string]string{api.AnnotationFunctionPorts: ports}
	}
	return out
}

// samePlace tells whether placeOf answers with the same for both. It is asked at every
// heartbeat of every node.
func samePlace(a, b *corev1.Node) bool {
	was, had := a.Annotations[api.AnnotationFunctionPorts]
	is, has := b.Annotations[api.AnnotationFunctionPorts]
	return a.Name == b.Name && a.UID == b.UID && a.CreationTimestamp.Equal(&b.CreationTimestamp) && a.DeletionTimestamp.Equal(b.DeletionTimestamp) &&
		maps.Equal(a.Labels, b.Labels) && had == has && was == is &&
		a.Spec.PodCIDR == b.Spec.PodCIDR && slices.Equal(a.Spec.PodCIDRs, b.Spec.PodCIDRs) && slices.Equal(a.Status.Addresses, b.Status.Addresses)
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

// Package quota says what objects use of ResourceQuotas, and whether more may be
// made, in the terms and words of Kubernetes. It is pure; package plugin has what
// there is counted.
package quota

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/component-helpers/resource"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/podstate"
)

const (
	countPrefix   = "count/"
	requests      = "requests."
	limits        = "limits."
	classInfix    = ".storageclass.storage.k8s.io/"
	legacyClassAt = "volume.beta.kubernetes.io/storage-class"
)

// legacy are the kinds that have a name of their own among the resources, from
// before all had one.
func legacy() []*api.Resource {
	return []*api.Resource{api.Pods, api.Services, api.ReplicationControllers, api.ResourceQuotas, api.Secrets, api.ConfigMaps, api.PersistentVolumeClaims}
}

// compute are the resources of containers that a quota may bound by their bare
// names, requests and limits.
func compute(name corev1.ResourceName) bool {
	return name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// Known tells whether a quota may bound a resource of this name.
func Known(name corev1.ResourceName) bool {
	s := string(name)
	if strings.Contains(s, "/") || compute(name) {
		return true
	}
	if of, ok := strings.CutPrefix(s, requests); ok {
		return compute(corev1.ResourceName(of)) || of == string(corev1.ResourceStorage)
	}
	if of, ok := strings.CutPrefix(s, limits); ok {
		return compute(corev1.ResourceName(of))
	}
	return Whole(name)
}

// Whole tells whether a resource is counted in pieces.
func Whole(name corev1.ResourceName) bool {
	s := string(name)
	if strings.HasPrefix(s, countPrefix) || name == corev1.ResourceServicesNodePorts || name == corev1.ResourceServicesLoadBalancers {
		return true
	}
	if _, of, ok := strings.Cut(s, classInfix); ok {
		s = of
	}
	return slices.ContainsFunc(legacy(), func(r *api.Resource) bool { return r.Plural == s })
}

// KindOf is the kind whose objects use a resource; nil where nothing does.
func KindOf(name corev1.ResourceName) *api.Resource {
	s := string(name)
	if of, ok := strings.CutPrefix(s, countPrefix); ok {
		plural, group, _ := strings.Cut(of, ".")
		for _, r := range api.Resources {
			if r.Plural == plural && r.Group == group && r.Namespaced {
				return r
			}
		}
		return nil
	}
	switch {
	case strings.Contains(s, classInfix), name == corev1.ResourceRequestsStorage:
		return api.PersistentVolumeClaims
	case name == corev1.ResourceServicesNodePorts, name == corev1.ResourceServicesLoadBalancers:
		return api.Services
	}
	for _, r := range legacy() {
		if r.Plural == s {
			return r
		}
	}
	return api.Pods
}

// count is the name by which the objects of a kind are counted.
func count(r *api.Resource) corev1.ResourceName {
	return corev1.ResourceName(countPrefix + r.GR().String())
}

// Usage is what an object uses of every resource that a quota may bound.
func Usage(obj api.Object) corev1.ResourceList {
	r := api.ResourceOf(obj)
	one := *apiresource.NewQuantity(1, apiresource.DecimalSI)
	u := corev1.ResourceList{count(r): one}
	switch o := obj.(type) {
	case *corev1.Pod:
		if podstate.Ended(o) {
			return u // it uses nothing but its place in the store
		}
		addPod(u, o)
	case *corev1.Service:
		addService(u, o)
	case *corev1.PersistentVolumeClaim:
		addClaim(u, o)
	}
	if slices.Contains(legacy(), r) {
		u[corev1.ResourceName(r.Plural)] = one
	}
	return u
}

func addPod(u corev1.ResourceList, p *corev1.Pod) {
	addCompute(u, resource.PodRequests(p, resource.PodResourcesOptions{}), resource.PodLimits(p, resource.PodResourcesOptions{}))
}

// addCompute adds requests, by their bare names too, and limits. Of resources
// with a domain only requests count: their limits are the same.
func addCompute(u, asked, most corev1.ResourceList) {
	for name, q := range asked {
		if compute(name) {
			u[name] = q
		}
		u[corev1.ResourceName(requests+string(name))] = q
	}
	for name, q := range most {
		if compute(name) {
			u[corev1.ResourceName(limits+string(name))] = q
		}
	}
}

func addService(u corev1.ResourceList, s *corev1.Service) {
	ports := int64(0)
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		ports = int64(len(s.Spec.Ports))
	case corev1.ServiceTypeLoadBalancer:
		u[corev1.ResourceServicesLoadBalancers] = *apiresource.NewQuantity(1, apiresource.DecimalSI)
		if s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts {
			ports = int64(len(s.Spec.Ports))
		} else {
			for _, p := range s.Spec.Ports {
				if p.NodePort != 0 {
					ports++
				}
			}
		}
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName:
	}
	u[corev1.ResourceServicesNodePorts] = *apiresource.NewQuantity(ports, apiresource.DecimalSI)
}

func addClaim(u corev1.ResourceList, c *corev1.PersistentVolumeClaim) {
	class := c.Annotations[legacyClassAt]
	if class == "" && c.Spec.StorageClassName != nil {
		class = *c.Spec.StorageClassName
	}
	one := *apiresource.NewQuantity(1, apiresource.DecimalSI)
	if class != "" {
		u[corev1.ResourceName(class+classInfix+api.PersistentVolumeClaims.Plural)] = one
	}
	size, ok := c.Spec.Resources.Requests[corev1.ResourceStorage]
	if !ok {
		return
	}
	u[corev1.ResourceRequestsStorage] = size
	if class != "" {
		u[corev1.ResourceName(class+classInfix+string(corev1.ResourceRequestsStorage))] = size
	}
}

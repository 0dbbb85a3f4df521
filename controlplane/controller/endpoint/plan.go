package endpoint

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/podstate"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	perSlice = 100 // endpoints in one slice, as in Kubernetes

	managedBy        = "endpointslice-controller.podsnap.dev"
	managedEndpoints = "endpoints.kubernetes.io/managed-by"
	endpointsManager = "endpoint-controller"
)

// group is the pods of a service for which its ports come to the same numbers:
// a named target port may differ from pod to pod. It is of one address family.
type group struct {
	six   bool
	ports []port
	pods  []*corev1.Pod // by name
}

type port struct {
	name     string
	protocol corev1.Protocol
	number   int32
	app      *string
}

// key tells groups apart.
func (g *group) key() string {
	var b strings.Builder
	if g.six {
		b.WriteString("IPv6;")
	}
	for _, p := range g.ports {
		fmt.Fprintf(&b, "%s/%s/%d;", p.name, p.protocol, p.number)
	}
	return b.String()
}

// families tells for each of a service's address families whether it is IPv6.
func families(svc *corev1.Service) []bool {
	if len(svc.Spec.IPFamilies) == 0 {
		return []bool{false}
	}
	out := make([]bool, len(svc.Spec.IPFamilies))
	for i, f := range svc.Spec.IPFamilies {
		out[i] = f == corev1.IPv6Protocol
	}
	return out
}

// addressOf is a pod's address in a family, "" for none.
func addressOf(p *corev1.Pod, six bool) string {
	for _, a := range append([]corev1.PodIP{{IP: p.Status.PodIP}}, p.Status.PodIPs...) {
		if a.IP != "" && strings.Contains(a.IP, ":") == six {
			return a.IP
		}
	}
	return ""
}

// groups sorts a service's pods, family by family: those that have an address of
// it and have not ended.
func groups(svc *corev1.Service, pods []*corev1.Pod) (out []*group) {
	for _, six := range families(svc) {
		out = append(out, familyGroups(svc, six, pods)...)
	}
	return out
}

func familyGroups(svc *corev1.Service, six bool, pods []*corev1.Pod) []*group {
	by := map[string]*group{}
	for _, p := range pods {
		if addressOf(p, six) == "" || podstate.Ended(p) {
			continue
		}
		g := &group{six: six, ports: portsOf(svc, p)}
		k := g.key()
		if by[k] == nil {
			by[k] = g
		}
		by[k].pods = append(by[k].pods, p)
	}
	out := make([]*group, 0, len(by))
	for _, g := range by {
		slices.SortFunc(g.pods, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b *group) int { return cmp.Compare(a.key(), b.key()) })
	return out
}

// portsOf are the service's ports on one pod; a named one that the pod does not
// have is left out.
func portsOf(svc *corev1.Service, p *corev1.Pod) []port {
	var out []port
	for _, sp := range svc.Spec.Ports {
		protocol := sp.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		if n := target(sp, protocol, p); n > 0 {
			out = append(out, port{name: sp.Name, protocol: protocol, number: n, app: sp.AppProtocol})
		}
	}
	return out
}

func target(sp corev1.ServicePort, protocol corev1.Protocol, p *corev1.Pod) int32 {
	if sp.TargetPort.Type == intstr.Int {
		if sp.TargetPort.IntVal == 0 {
			return sp.Port
		}
		return sp.TargetPort.IntVal
	}
	for i := range p.Spec.Containers {
		for _, cp := range p.Spec.Containers[i].Ports {
			if cp.Name == sp.TargetPort.StrVal && (cp.Protocol == protocol || cp.Protocol == "" && protocol == corev1.ProtocolTCP) {
				return cp.ContainerPort
			}
		}
	}
	return 0
}

// wantSlices are the slices a service should have, given those it has: an
// endpoint stays in its slice as long as it lives, so that a change touches
// one slice. zone is that of a node; "" is none.
func wantSlices(svc *corev1.Service, gs []*group, have []*discoveryv1.EndpointSlice, zone func(node string) string) []*discoveryv1.EndpointSlice {
	for _, six := range families(svc) {
		if !slices.ContainsFunc(gs, func(g *group) bool { return g.six == six }) { // an empty slice says that there are none
			gs = append(slices.Clip(gs), &group{six: six, ports: portsOf(svc, &corev1.Pod{})})
		}
	}
	var out []*discoveryv1.EndpointSlice
	for _, g := range gs {
		base := svc.Name + "-" + suffix(g.key())
		left := map[types.UID]*corev1.Pod{}
		for _, p := range g.pods {
			left[p.UID] = p
		}
		var kept [][]*corev1.Pod
		for _, s := range have {
			i, ok := index(base, s.Name)
			if !ok {
				continue
			}
			for len(kept) <= i {
				kept = append(kept, nil)
			}
			for _, e := range s.Endpoints {
				if e.TargetRef != nil && left[e.TargetRef.UID] != nil {
					kept[i] = append(kept[i], left[e.TargetRef.UID])
					delete(left, e.TargetRef.UID)
				}
			}
		}
		kept = fill(kept, g.pods, left)
		for i, pods := range kept {
			if len(pods) > 0 || i == 0 {
				out = append(out, slice(svc, g, name(base, i), pods, zone))
			}
		}
	}
	return out
}

// fill puts those that have no slice yet where there is room.
func fill(kept [][]*corev1.Pod, pods []*corev1.Pod, left map[types.UID]*corev1.Pod) [][]*corev1.Pod {
	i := 0
	for _, p := range pods {
		if left[p.UID] == nil {
			continue
		}
		for i < len(kept) && len(kept[i]) >= perSlice {
			i++
		}
		if i == len(kept) {
			kept = append(kept, nil)
		}
		kept[i] = append(kept[i], p)
	}
	if len(kept) == 0 {
		kept = append(kept, nil)
	}
	return kept
}

func name(base string, i int) string {
	if i == 0 {
		return base
	}
	return fmt.Sprintf("%s-%d", base, i)
}

// index is the i of a name that name made.
func index(base, s string) (int, bool) {
	rest, ok := strings.CutPrefix(s, base)
	if !ok || rest == "" {
		return 0, ok
	}
	i, err := strconv.Atoi(strings.TrimPrefix(rest, "-"))
	return i, err == nil && i > 0 && i < 10_000
}

func suffix(key string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return fmt.Sprintf("%08x", h.Sum32())[:5]
}

func slice(svc *corev1.Service, g *group, name string, pods []*corev1.Pod, zone func(node string) string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace, Name: name, Labels: labelsOf(svc),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(svc, api.Services.GVK())},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{},
	}
	if g.six {
		s.AddressType = discoveryv1.AddressTypeIPv6
	}
	s.Labels[api.LabelServiceName] = svc.Name
	s.Labels[discoveryv1.LabelManagedBy] = managedBy
	for _, p := range g.ports {
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &p.name, Protocol: &p.protocol, Port: &p.number, AppProtocol: p.app})
	}
	for _, p := range pods {
		s.Endpoints = append(s.Endpoints, endpoint(svc, p, g.six, zone(p.Spec.NodeName)))
	}
	return s
}

func endpoint(svc *corev1.Service, p *corev1.Pod, six bool, zone string) discoveryv1.Endpoint {
	serving, terminating := podstate.Ready(p), p.DeletionTimestamp != nil
	ready := svc.Spec.PublishNotReadyAddresses || serving && !terminating
	e := discoveryv1.Endpoint{
		Addresses:  []string{addressOf(p, six)},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef:  refOf(p),
	}
	if p.Spec.NodeName != "" {
		node := p.Spec.NodeName
		e.NodeName = &node
	}
	if zone != "" {
		e.Zone = &zone
	}
	if ready {
		e.Hints = hints(svc, p.Spec.NodeName, zone)
	}
	if host := hostOf(svc, p); host != "" {
		e.Hostname = &host
	}
	return e
}

// hints say for whom an endpoint is when the service's calls are to stay near their
// caller: for its zone, and for its node before that. The zone's can't be told
// without one, and then a slice with such an endpoint in it has no effect.
func hints(svc *corev1.Service, node, zone string) *discoveryv1.EndpointHints {
	if svc.Spec.TrafficDistribution == nil || node == "" {
		return nil
	}
	h := &discoveryv1.EndpointHints{}
	switch *svc.Spec.TrafficDistribution {
	case corev1.ServiceTrafficDistributionPreferSameNode:
		h.ForNodes = []discoveryv1.ForNode{{Name: node}}
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
	default:
		return nil
	}
	if zone != "" {
		h.ForZones = []discoveryv1.ForZone{{Name: zone}}
	}
	if len(h.ForNodes)+len(h.ForZones) == 0 {
		return nil
	}
	return h
}

// hostOf is the name that a pod has below the service's; "" is none.
func hostOf(svc *corev1.Service, p *corev1.Pod) string {
	if p.Spec.Subdomain != svc.Name {
		return ""
	}
	return p.Spec.Hostname
}

// wantEndpoints is the same as one Endpoints object, for the service's first
// family. Pods that are ending are not in it: it has no way to say so.
func wantEndpoints(svc *corev1.Service, gs []*group) *corev1.Endpoints {
	e := &corev1.Endpoints{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Endpoints"},
		ObjectMeta: metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name, Labels: labelsOf(svc)},
	}
	e.Labels[managedEndpoints] = endpointsManager
	first := families(svc)[0]
	for _, g := range gs {
		if g.six != first {
			continue
		}
		var sub corev1.EndpointSubset
		for _, p := range g.pods {
			if p.DeletionTimestamp != nil {
				continue
			}
			a := corev1.EndpointAddress{IP: addressOf(p, g.six), Hostname: hostOf(svc, p), TargetRef: refOf(p)}
			if p.Spec.NodeName != "" {
				node := p.Spec.NodeName
				a.NodeName = &node
			}
			if svc.Spec.PublishNotReadyAddresses || podstate.Ready(p) {
				sub.Addresses = append(sub.Addresses, a)
			} else {
				sub.NotReadyAddresses = append(sub.NotReadyAddresses, a)
			}
		}
		if len(sub.Addresses)+len(sub.NotReadyAddresses) == 0 {
			continue
		}
		for _, p := range g.ports {
			sub.Ports = append(sub.Ports, corev1.EndpointPort{Name: p.name, Protocol: p.protocol, Port: p.number, AppProtocol: p.app})
		}
		e.Subsets = append(e.Subsets, sub)
	}
	return e
}

func refOf(p *corev1.Pod) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}
}

// labelsOf are the service's labels, and the mark of a headless one.
func labelsOf(svc *corev1.Service) map[string]string {
	out := map[string]string{}
	maps.Copy(out, svc.Labels)
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		out[corev1.IsHeadlessService] = ""
	}
	return out
}

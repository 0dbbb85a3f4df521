package loadbalancer

import (
	"cmp"
	"slices"

	"github.com/podsnap/podsnap/controlplane/schedule"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// AddressOf is the address at which a node takes connections for Services; "" when
// it does not.
func AddressOf(n *corev1.Node) string {
	if _, out := n.Labels[corev1.LabelNodeExcludeBalancers]; out || n.DeletionTimestamp != nil || !schedule.Ready(n) {
		return ""
	}
	external := ""
	for _, a := range n.Status.Addresses {
		switch a.Type {
		case corev1.NodeExternalIP:
			return a.Address
		case corev1.NodeInternalIP:
			external = cmp.Or(external, a.Address)
		case corev1.NodeHostName, corev1.NodeInternalDNS, corev1.NodeExternalDNS:
		}
	}
	return external
}

// reserved tells whether a Service wants a port that the nodes need.
func reserved(s *corev1.Service, ports []int32) (int32, bool) {
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return 0, false
	}
	for _, p := range s.Spec.Ports {
		if p.Protocol == corev1.ProtocolTCP && slices.Contains(ports, p.Port) {
			return p.Port, true
		}
	}
	return 0, false
}

// announce is where a Service is reached: at the nodes that take connections and,
// if it wants to see its clients, have a ready endpoint of it. By node name; nil
// is nowhere.
func announce(s *corev1.Service, nodes []*corev1.Node, endpoints []*discoveryv1.EndpointSlice, ports []int32) []corev1.LoadBalancerIngress {
	if _, taken := reserved(s, ports); taken || s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	local := s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	has := map[string]bool{}
	for _, e := range endpoints {
		for _, ep := range e.Endpoints {
			if ep.NodeName != nil && (ep.Conditions.Ready == nil || *ep.Conditions.Ready) {
				has[*ep.NodeName] = true
			}
		}
	}
	sorted := slices.SortedFunc(slices.Values(nodes), func(a, b *corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	var out []corev1.LoadBalancerIngress
	for _, n := range sorted {
		if a := AddressOf(n); a != "" && (!local || has[n.Name]) {
			out = append(out, corev1.LoadBalancerIngress{IP: a})
		}
	}
	return out
}

package loadbalancer

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func node(name, ip string, ready corev1.ConditionStatus, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: ip}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	for _, f := range change {
		f(n)
	}
	return n
}

func TestAnnounce(t *testing.T) {
	nodes := []*corev1.Node{
		node("c", "192.0.2.3", corev1.ConditionTrue), node("a", "192.0.2.1", corev1.ConditionTrue), node("lost", "192.0.2.9", corev1.ConditionUnknown),
		node("out", "192.0.2.8", corev1.ConditionTrue, func(n *corev1.Node) { n.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""} }),
		node("b", "10.0.0.2", corev1.ConditionTrue, func(n *corev1.Node) {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "198.51.100.2"})
		}),
	}
	on, no := func(n string) *string { return &n }, false
	slices := []*discoveryv1.EndpointSlice{{Endpoints: []discoveryv1.Endpoint{
		{NodeName: on("c")}, {NodeName: on("a"), Conditions: discoveryv1.EndpointConditions{Ready: &no}}, {NodeName: on("lost")}, {},
	}}}
	service := func(change func(*corev1.ServiceSpec)) *corev1.Service {
		s := &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}}}}
		change(&s.Spec)
		return s
	}
	for name, tt := range map[string]struct {
		s    *corev1.Service
		want []string
	}{
		"all that are ready":   {service(func(*corev1.ServiceSpec) {}), []string{"192.0.2.1", "198.51.100.2", "192.0.2.3"}},
		"those with endpoints": {service(func(s *corev1.ServiceSpec) { s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }), []string{"192.0.2.3"}},
		"no load balancer":     {service(func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort }), nil},
		"a port of the nodes":  {service(func(s *corev1.ServiceSpec) { s.Ports[0].Port = 6443 }), nil},
		"the same over UDP":    {service(func(s *corev1.ServiceSpec) { s.Ports[0].Port, s.Ports[0].Protocol = 6443, corev1.ProtocolUDP }), []string{"192.0.2.1", "198.51.100.2", "192.0.2.3"}},
	} {
		var got []string
		for _, i := range announce(tt.s, nodes, slices, []int32{22, 6443}) {
			got = append(got, i.IP)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

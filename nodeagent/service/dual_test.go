package service

import (
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/network"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// both makes a Service with an address of each family.
func (r *rig) both(name string, more func(*corev1.Service)) (four, six netip.AddrPort) {
	r.Helper()
	four = r.service(name, "10.97.0.1", func(s *corev1.Service) {
		s.Spec.ClusterIPs = []string{"10.97.0.1", "fd97::1"}
		if more != nil {
			more(s)
		}
	})
	return four, at("[fd97::1]:80")
}

// endpoints6 has the Service lead to these in IPv6.
func (r *rig) endpoints6(service string, protocol corev1.Protocol, pods ...*pod) {
	r.Helper()
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: ns, Name: service + "-6", Labels: map[string]string{api.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv6,
		Ports:       []discoveryv1.EndpointPort{{Name: new(""), Port: new(int32(8080)), Protocol: &protocol}},
	}
	for _, p := range pods {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{p.ip6.String()}, NodeName: new(nodeName), Conditions: discoveryv1.EndpointConditions{Ready: new(true)}})
	}
	now, err := r.objects.Create(r.Context(), s)
	if err != nil {
		now, err = r.objects.Update(r.Context(), s, api.UpdateOptions{})
	}
	r.must(err)
	svc := types.NamespacedName{Namespace: ns, Name: service}
	r.await(service+"'s endpoints in IPv6", func(l *ledger) bool {
		seen, ok := r.balancer.slices.Get(ns, s.Name)
		return ok && seen.ResourceVersion == now.GetResourceVersion() && len(l.plans[svc].fronts) > 0 && reflect.DeepEqual(l.plans[svc], r.balancer.decide(svc))
	})
}

// A Service of two families is reached in both, each by its own endpoints, from
// wherever connections come.
func TestBothFamilies(t *testing.T) {
	r := newDualRig(t, 4)
	r.start()
	client, pods := r.pods[0], r.pods[1:]
	four, six := r.both("web", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.Ports[0].NodePort = 30080
		s.Spec.ExternalIPs = []string{"203.0.113.5", "2001:db8:5::5"}
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "2001:db8:6::6"}}
	})
	r.endpoints("web", pods[:1]...)
	r.endpoints6("web", corev1.ProtocolTCP, pods[1:]...)
	gateway := r.net.Gateway6().String()
	for _, c := range []struct {
		name   string
		from   *os.File
		to     netip.AddrPort
		pods   []*pod
		client string
	}{
		{"a pod, IPv4", client.ns, four, pods[:1], client.ip.String()},
		{"a pod, IPv6", client.ns, six, pods[1:], client.ip6.String()},
		{"the node", r.host, six, pods[1:], gateway},
		{"outside, the node port", r.outside, at("[" + hostIP6 + "]:30080"), pods[1:], gateway},
		{"outside, the node port in IPv4", r.outside, at(hostIP + ":30080"), pods[:1], r.net.Gateway().String()},
		{"the node, its port", r.host, at("[" + hostIP6 + "]:30080"), pods[1:], gateway},
		{"outside, an external address", r.outside, at("[2001:db8:5::5]:80"), pods[1:], gateway},
		{"outside, the load balancer", r.outside, at("[2001:db8:6::6]:80"), pods[1:], gateway},
		{"a pod, the load balancer", client.ns, at("[2001:db8:6::6]:80"), pods[1:], client.ip6.String()},
	} {
		if got := r.expectTimes(c.from, c.to, 40, c.pods, c.client); len(got) != len(c.pods) {
			t.Errorf("%s: got %v, want all of %d", c.name, got, len(c.pods))
		}
	}
	// A pod that is led to itself is answered.
	r.endpoints6("web", corev1.ProtocolTCP, client)
	r.expect(client.ns, six, r.pods[:1], gateway)
	// What nobody answers is refused at once, in one family and in both.
	r.endpoints6("web", corev1.ProtocolTCP)
	for _, from := range []*os.File{client.ns, r.host} {
		r.refused(from, "[fd97::1]:80")
		r.refused(from, "[fd97::1]:81")
		r.refused(from, "[fd97::99]:80")
		r.refused(from, "["+hostIP6+"]:30080")
	}
	r.refused(r.outside, "["+hostIP6+"]:30080")
	r.expect(client.ns, four, pods[:1], "")
	_, err := r.objects.Delete(t.Context(), api.Services, ns, "web", api.DeleteOptions{})
	r.must(err)
	r.await("a Service less", func(l *ledger) bool { return len(l.fronts) == 0 })
	r.refused(client.ns, "[fd97::1]:80")
	r.refused(client.ns, "10.97.0.1:80")
}

// In IPv6 too a client stays with its endpoint, and is seen as who it is where
// only endpoints of the node count.
func TestAffinityAndLocalInBothFamilies(t *testing.T) {
	r := newDualRig(t, 7)
	r.start()
	client, pods := r.pods[0], r.pods[1:]
	_, six := r.both("web", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[0].NodePort = 30080
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	})
	r.endpoints6("web", corev1.ProtocolTCP, pods...)
	first := r.expectTimes(client.ns, six, 20, pods, "")
	if len(first) != 1 {
		t.Errorf("a client was led to %v", first)
	}
	r.expect(r.outside, at("["+hostIP6+"]:30080"), pods, outsideIP6)
	r.stop()
	r.start()
	if again := r.expectTimes(client.ns, six, 20, pods, ""); !reflect.DeepEqual(first, again) {
		t.Errorf("after a restart a client is led to %v, before to %v", again, first)
	}
}

// A UDP client in IPv6 moves when its endpoint is gone.
func TestUDPClientMovesInIPv6(t *testing.T) {
	r := newDualRig(t, 3)
	r.start()
	_, to := r.both("dns", func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP })
	r.endpoints6("dns", corev1.ProtocolUDP, r.pods[1:]...)
	var conn net.Conn
	r.inside(r.pods[0].ns, func() (err error) {
		conn, err = net.Dial("udp", to.String())
		return err
	})
	defer conn.Close()
	echo := func() string {
		t.Helper()
		buf := make([]byte, 100)
		r.must(conn.SetDeadline(time.Now().Add(3 * time.Second)))
		_, err := conn.Write([]byte("?"))
		r.must(err)
		n, err := conn.Read(buf)
		r.must(err)
		pod, _, _ := strings.Cut(string(buf[:n]), " ")
		return pod
	}
	first := echo()
	left := slices.DeleteFunc(slices.Clone(r.pods[1:]), func(p *pod) bool { return p.ip.String() == first })
	r.endpoints6("dns", corev1.ProtocolUDP, left...)
	if got := echo(); got != left[0].ip.String() {
		t.Errorf("after the end of %s %s answers, want %s", first, got, left[0].ip)
	}
}

// A host port is open in both families.
func TestHostPortInBothFamilies(t *testing.T) {
	r := newDualRig(t, 1)
	r.start()
	o := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}, Spec: corev1.PodSpec{NodeName: nodeName, Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{
		{ContainerPort: 8080, HostPort: 8088}, {ContainerPort: 8080, HostPort: 8089, HostIP: hostIP6},
	}}}}}
	r.create(o)
	o = o.DeepCopy()
	o.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: r.pods[0].ip.String(), PodIPs: []corev1.PodIP{{IP: r.pods[0].ip.String()}, {IP: r.pods[0].ip6.String()}}}
	_, err := r.objects.Update(t.Context(), o, api.UpdateOptions{Subresource: "status"})
	r.must(err)
	r.await("the pod's ports", func(l *ledger) bool { return len(l.fronts) == 3 })
	r.expect(r.outside, at(hostIP+":8088"), r.pods, outsideIP)
	r.expect(r.outside, at("["+hostIP6+"]:8088"), r.pods, outsideIP6)
	r.expect(r.outside, at("["+hostIP6+"]:8089"), r.pods, outsideIP6)
	r.refused(r.outside, hostIP+":8089")
}

// What others do to the table of one family is repaired there; a node of one family
// has no table of the other.
func TestTablesOfBothFamilies(t *testing.T) {
	r := newDualRig(t, 2)
	r.config.Audit = 5 * time.Millisecond
	r.start()
	four, six := r.both("web", nil)
	r.endpoints("web", r.pods[1])
	r.endpoints6("web", corev1.ProtocolTCP, r.pods[1])
	tables := func() (four, six []*nftables.Table) {
		r.inside(r.host, func() error {
			all, err := (&nftables.Conn{}).ListTables()
			for _, t := range all {
				switch {
				case !strings.HasPrefix(t.Name, r.config.Table+"-"):
				case t.Family == nftables.TableFamilyIPv6:
					six = append(six, t)
				default:
					four = append(four, t)
				}
			}
			return err
		})
		return four, six
	}
	_, there := tables()
	r.inside(r.host, func() error {
		c := &nftables.Conn{}
		c.DelTable(there[0])
		return c.Flush()
	})
	eventually(r, "the table of IPv6 again", func() error {
		return network.Inside(r.pods[0].ns, func() error { _, _, err := ask(six); return err })
	})
	r.expect(r.pods[0].ns, four, r.pods[1:], "")
	r.stop()
	both := r.config
	r.config.ServiceCIDR6, r.config.ClusterCIDR6, r.config.Source6, r.config.Anchor = netip.Prefix{}, netip.Prefix{}, netip.Addr{}, ""
	r.start()
	if f, s := tables(); len(f) != 1 || len(s) != 0 {
		t.Errorf("in one family there are the tables %v and %v", f, s)
	}
	r.stop()
	r.config = both
	r.start()
	r.expect(r.pods[0].ns, six, r.pods[1:], "")
	r.stop()
	r.inside(r.host, func() error { return r.balancer.Teardown(t.Context()) })
	if f, s := tables(); len(f)+len(s) != 0 {
		t.Errorf("tables left: %v, %v", f, s)
	}
}

func TestPlanOfBothFamilies(t *testing.T) {
	n := node{name: "here", cidrs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd96::/112")}}
	slice := func(family discoveryv1.AddressType, addresses ...string) *discoveryv1.EndpointSlice {
		s := &discoveryv1.EndpointSlice{AddressType: family, Ports: []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080))}}}
		for _, a := range addresses {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, NodeName: new("here")})
		}
		return s
	}
	all := []*discoveryv1.EndpointSlice{
		slice(discoveryv1.AddressTypeIPv4, "10.62.0.2"), slice(discoveryv1.AddressTypeIPv6, "fd62::2", "10.62.0.9"), slice(discoveryv1.AddressTypeFQDN, "x.example"),
	}
	for _, c := range []struct {
		ips      []string
		nodePort int32
		want     string
	}{
		{[]string{"10.96.0.1"}, 0, "10.96.0.1:80/6 to [10.62.0.2:8080]\nlocal 10.62.0.2\nlocal fd62::2"},
		{[]string{"fd96::1"}, 30080, "fd96::1:80/6 to [fd62::2:8080]\n:::30080/6 to [fd62::2:8080] exposed\nlocal 10.62.0.2\nlocal fd62::2"},
		{[]string{"10.96.0.1", "fd96::1"}, 30080, "10.96.0.1:80/6 to [10.62.0.2:8080]\n0.0.0.0:30080/6 to [10.62.0.2:8080] exposed\nfd96::1:80/6 to [fd62::2:8080]\n:::30080/6 to [fd62::2:8080] exposed\nlocal 10.62.0.2\nlocal fd62::2"},
	} {
		s := &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: c.ips[0], ClusterIPs: c.ips, Ports: []corev1.ServicePort{{Name: "http", Port: 80, NodePort: c.nodePort}}}}
		if got := describe(n.plan(s, all)); sorted(got) != sorted(c.want) {
			t.Errorf("%v:\n got %s\nwant %s", c.ips, got, c.want)
		}
	}
}

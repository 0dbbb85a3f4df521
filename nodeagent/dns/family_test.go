package dns

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// In a cluster of two families names lead to the addresses of both.
func TestNamesOfBothFamilies(t *testing.T) {
	six := func(ns, name string, e ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		s := slice(ns, name, e...)
		s.Name, s.AddressType = name+"-6", discoveryv1.AddressTypeIPv6
		return s
	}
	r := &rig{T: t, objects: memory.New(memory.Config{}), other: newOther(t)}
	for _, o := range []api.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "openfaas-fn"}},
		service("shop", "web", "10.96.0.5", func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.96.0.5", "fd96::5"} }),
		service("shop", "six", "fd96::6", func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"fd96::6"} }),
		service("shop", "db", corev1.ClusterIPNone, nil),
		slice("shop", "db", named(ready("10.62.0.5"), "db-0"), ready("10.62.0.6")),
		six("shop", "db", named(ready("fd62::5"), "db-0"), ready("fd62::6"), waiting("fd62::7")),
		service("openfaas-fn", "resize", "", func(s *corev1.Service) { s.Labels = map[string]string{api.LabelFunction: "resize"} }),
	} {
		r.create(o)
	}
	r.run(Config{
		Objects: r.objects, Servers: []netip.AddrPort{r.other.at}, Gateway6: netip.MustParseAddr("fd62::1"),
		ServiceCIDR6: netip.MustParsePrefix("fd96::/112"), ClusterCIDR6: netip.MustParsePrefix("fd62::/56"),
	})
	for _, s := range []<-chan struct{}{r.server.zone.services.Synced(), r.server.zone.slices.Synced()} {
		<-s
	}
	const (
		shop   = ".shop.svc.cluster.local."
		nobody = "NXDOMAIN (soa)"
		zeros  = "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0."
	)
	for _, c := range []struct {
		name string
		kind uint16
		want string
	}{
		{"web" + shop, dns.TypeA, "NOERROR 10.96.0.5"},
		{"web" + shop, dns.TypeAAAA, "NOERROR fd96::5"},
		{"six" + shop, dns.TypeA, "NOERROR (soa)"},
		{"six" + shop, dns.TypeAAAA, "NOERROR fd96::6"},
		{"db" + shop, dns.TypeA, "NOERROR 10.62.0.5, 10.62.0.6"},
		{"db" + shop, dns.TypeAAAA, "NOERROR fd62::5, fd62::6"},
		{"db-0.db" + shop, dns.TypeAAAA, "NOERROR fd62::5"},
		{"fd62--6.db" + shop, dns.TypeAAAA, "NOERROR fd62::6"},
		{"fd62--6.db" + shop, dns.TypeA, "NOERROR (soa)"},
		{"fd62--7.db" + shop, dns.TypeAAAA, nobody},
		{"_http._tcp.db" + shop, dns.TypeSRV, "NOERROR 0 100 8080 10-62-0-6.db.shop.svc.cluster.local., 0 100 8080 db-0.db.shop.svc.cluster.local., 0 100 8080 fd62--6.db.shop.svc.cluster.local."},
		{"resize.openfaas-fn.svc.cluster.local.", dns.TypeA, "NOERROR 10.62.0.1"},
		{"resize.openfaas-fn.svc.cluster.local.", dns.TypeAAAA, "NOERROR fd62::1"},
		{"fd62--9.shop.pod.cluster.local.", dns.TypeAAAA, "NOERROR fd62::9"},
		{"fd63--9.shop.pod.cluster.local.", dns.TypeAAAA, nobody},
		{"5.0.0.0." + "0." + zeros + "6.9.d.f.ip6.arpa.", dns.TypePTR, "NOERROR web.shop.svc.cluster.local."},
		{"5.0.0.0." + "0." + zeros + "2.6.d.f.ip6.arpa.", dns.TypePTR, "NOERROR db-0.db.shop.svc.cluster.local."},
		{"9.0.0.0." + "0." + zeros + "2.6.d.f.ip6.arpa.", dns.TypePTR, nobody},
	} {
		if got := short(r.ask("udp", c.name, c.kind)); got != c.want {
			t.Errorf("%s %s: got %s, want %s", dns.TypeToString[c.kind], c.name, got, c.want)
		}
	}
	for kind, want := range map[uint16]int{dns.TypeA: 2, dns.TypeAAAA: 2} {
		n := 0
		for _, rr := range r.ask("udp", "_http._tcp.db"+shop, dns.TypeSRV).Extra {
			if rr.Header().Rrtype == kind {
				n++
			}
		}
		if n != want {
			t.Errorf("an SRV answer brings %d %s records, want %d", n, dns.TypeToString[kind], want)
		}
	}
}

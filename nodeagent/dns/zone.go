package dns

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/mirror"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
)

// ttl is how long an answer about the cluster may be kept, in seconds, and that
// there is none as well: endpoints come and go.
const ttl = 5

// zone is the names of the cluster:
//
//	<service>.<namespace>.svc             cluster address, or those of the endpoints
//	_<port>._<protocol>.<service>…        SRV
//	<endpoint>.<service>.<namespace>.svc  endpoint by its host name, or 10-62-0-5
//	10-62-0-5.<namespace>.pod             that address, whether a pod has it or not
//	5.0.62.10.in-addr.arpa                the name of a Service or of an endpoint
//
// An IPv6 address has dashes in the place of its colons, and ip6.arpa.
type zone struct {
	domain   string         // with a dot at the end
	gateways []netip.Addr   // one of each family, where functions' names lead
	networks []netip.Prefix // of Services and of pods
	pods     []netip.Prefix

	services *mirror.Mirror[*corev1.Service]
	slices   *mirror.Mirror[*discoveryv1.EndpointSlice]

	mu         sync.Mutex
	namespaces map[string]int // Services in each
}

const byService, byAddress = "service", "address"

func newZone(c Config) *zone {
	z := &zone{
		domain: dns.CanonicalName(c.Domain), networks: []netip.Prefix{c.ServiceCIDR, c.ClusterCIDR},
		pods: []netip.Prefix{c.ClusterCIDR}, namespaces: map[string]int{},
	}
	if c.ClusterCIDR6.IsValid() {
		z.networks, z.pods = append(z.networks, c.ServiceCIDR6, c.ClusterCIDR6), append(z.pods, c.ClusterCIDR6)
	}
	for _, g := range []netip.Addr{c.Gateway, c.Gateway6} {
		if g.IsValid() {
			z.gateways = append(z.gateways, g)
		}
	}
	z.services = mirror.New[*corev1.Service](c.Objects, api.Services, mirror.Options{Log: c.Log})
	z.services.Index(byAddress, addressesOf)
	z.services.OnChange(func(t api.EventType, old, now *corev1.Service) {
		z.mu.Lock()
		defer z.mu.Unlock()
		switch t {
		case api.Added:
			z.namespaces[now.Namespace]++
		case api.Deleted:
			if z.namespaces[old.Namespace]--; z.namespaces[old.Namespace] == 0 {
				delete(z.namespaces, old.Namespace)
			}
		default:
		}
	})
	// The endpoints of functions are the gateway's affair.
	none, err := labels.NewRequirement(api.LabelFunction, selection.DoesNotExist, nil)
	if err != nil {
		panic(err) // the label's name is ours
	}
	o := mirror.Options{Labels: labels.NewSelector().Add(*none), Log: c.Log}
	z.slices = mirror.New[*discoveryv1.EndpointSlice](c.Objects, api.EndpointSlices, o)
	z.slices.Index(byService, func(s *discoveryv1.EndpointSlice) []string {
		return []string{types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}.String()}
	})
	z.slices.Index(byAddress, func(s *discoveryv1.EndpointSlice) (out []string) {
		for _, e := range s.Endpoints {
			out = append(out, e.Addresses...)
		}
		return out
	})
	return z
}

func (z *zone) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { _ = z.services.Run(ctx) })
	wg.Go(func() { _ = z.slices.Run(ctx) })
	wg.Wait()
}

func (z *zone) synced() bool {
	for _, s := range []<-chan struct{}{z.services.Synced(), z.slices.Synced()} {
		select {
		case <-s:
		default:
			return false
		}
	}
	return true
}

// addressesOf are a Service's cluster addresses.
func addressesOf(s *corev1.Service) (out []string) {
	for _, a := range append([]string{s.Spec.ClusterIP}, s.Spec.ClusterIPs...) {
		if a != "" && a != corev1.ClusterIPNone && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// lookup answers for a name of the cluster; mine is false for any other.
func (z *zone) lookup(name string, kind uint16) (a answer, mine bool) {
	canonical := dns.CanonicalName(name)
	reverse, isReverse := addressOf(canonical)
	isReverse = isReverse && slices.ContainsFunc(z.networks, func(p netip.Prefix) bool { return p.Contains(reverse) })
	if !isReverse && !dns.IsSubDomain(z.domain, canonical) {
		return answer{}, false
	}
	if !z.synced() {
		return answer{rcode: dns.RcodeServerFailure}, true
	}
	f := found{z: z, name: name, kind: kind}
	if isReverse {
		f.reverse(reverse)
	} else {
		f.forward(strings.TrimSuffix(strings.TrimSuffix(canonical, z.domain), "."))
	}
	a = answer{authoritative: true, answer: f.answer, extra: f.extra}
	if !f.exists {
		a.rcode = dns.RcodeNameError
	}
	if len(a.answer) == 0 {
		a.authority = []dns.RR{z.soa()}
	}
	return a, true
}

func (z *zone) soa() dns.RR {
	return &dns.SOA{
		Hdr: header(z.domain, dns.TypeSOA), Ns: "ns.dns." + z.domain, Mbox: "hostmaster." + z.domain,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl,
	}
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

// addressOf is the address that a name of in-addr.arpa or ip6.arpa is about.
func addressOf(name string) (netip.Addr, bool) {
	rest, ok := strings.CutSuffix(name, ".in-addr.arpa.")
	if !ok {
		return addressOf6(name)
	}
	parts := strings.Split(rest, ".")
	slices.Reverse(parts)
	a, err := netip.ParseAddr(strings.Join(parts, "."))
	return a, err == nil && a.Is4()
}

// addressOf6 is the IPv6 address whose digits a name of ip6.arpa has, from the last
// one on.
func addressOf6(name string) (netip.Addr, bool) {
	rest, ok := strings.CutSuffix(name, ".ip6.arpa.")
	digits := strings.Split(rest, ".")
	if !ok || len(digits) != 2*net.IPv6len {
		return netip.Addr{}, false
	}
	slices.Reverse(digits)
	b, err := hex.DecodeString(strings.Join(digits, ""))
	a, ok := netip.AddrFromSlice(b)
	return a, err == nil && ok && a.Is6()
}

// found is an answer that grows. A name that exists may have no record of the
// kind that was asked for.
type found struct {
	z             *zone
	name          string // as it was asked for
	kind          uint16
	exists        bool
	answer, extra []dns.RR
}

// forward looks up what stands before the domain.
func (f *found) forward(rest string) {
	labels := strings.Split(rest, ".")
	slices.Reverse(labels) // svc, namespace, service, …
	switch {
	case rest == "":
		f.exists = true
		if f.kind == dns.TypeSOA {
			f.answer = []dns.RR{f.z.soa()}
		}
		if f.kind == dns.TypeNS {
			f.answer = []dns.RR{&dns.NS{Hdr: header(f.name, dns.TypeNS), Ns: "ns.dns." + f.z.domain}}
		}
	case rest == "dns-version":
		f.exists = true
		if f.kind == dns.TypeTXT {
			f.answer = []dns.RR{&dns.TXT{Hdr: header(f.name, dns.TypeTXT), Txt: []string{"1.1.0"}}}
		}
	case labels[0] == "svc" && len(labels) <= 2, labels[0] == "pod" && len(labels) <= 2:
		f.exists = len(labels) == 1 || f.z.namespace(labels[1])
	case labels[0] == "pod" && len(labels) == 3:
		f.pod(labels[1], labels[2])
	case labels[0] == "svc":
		svc, ok := f.z.services.Get(labels[1], labels[2])
		if ok {
			f.service(svc, labels[3:])
		}
	}
}

func (z *zone) namespace(name string) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.namespaces[name] > 0
}

// pod answers with the address that the name itself says.
func (f *found) pod(namespace, dashed string) {
	a, err := netip.ParseAddr(strings.ReplaceAll(dashed, "-", "."))
	if err != nil {
		a, err = netip.ParseAddr(strings.ReplaceAll(dashed, "-", ":"))
	}
	if err == nil && f.z.namespace(namespace) && slices.ContainsFunc(f.z.pods, func(p netip.Prefix) bool { return p.Contains(a) }) {
		f.exists = true
		f.addresses([]netip.Addr{a})
	}
}

// service looks below a Service's name: rest is the labels before it, the
// nearest first.
func (f *found) service(svc *corev1.Service, rest []string) {
	_, function := svc.Labels[api.LabelFunction]
	function = function || svc.Namespace == api.GatewayNamespace && svc.Name == api.GatewayService
	function = function && len(f.z.gateways) > 0
	headless := svc.Spec.ClusterIP == corev1.ClusterIPNone && !function
	if svc.Spec.Type == corev1.ServiceTypeExternalName && !function {
		if len(rest) == 0 && svc.Spec.ExternalName != "" {
			f.exists = true
			f.answer = []dns.RR{&dns.CNAME{Hdr: header(f.name, dns.TypeCNAME), Target: dns.Fqdn(svc.Spec.ExternalName)}}
		}
		return
	}
	switch {
	case len(rest) == 0 && function:
		f.exists = true
		f.addresses(f.z.gateways)
	case len(rest) == 0 && headless:
		f.exists = true
		var all []netip.Addr
		for _, e := range f.z.endpoints(svc) {
			if !slices.Contains(all, e.address) {
				all = append(all, e.address)
			}
		}
		// A client that takes the first one takes another each time.
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		f.addresses(all)
	case len(rest) == 0:
		f.exists = true
		f.addresses(parseAll(addressesOf(svc)))
	case len(rest) == 1 && !strings.HasPrefix(rest[0], "_"):
		f.endpoint(svc, rest[0])
		return
	}
	switch {
	case len(rest) == 0 && f.kind == dns.TypeSRV:
		f.ports(svc, headless, "", "")
	case len(rest) == 1: // _tcp: there may be something below
		f.exists = slices.ContainsFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool { return rest[0] == "_"+protocolOf(p.Protocol) })
	case len(rest) == 2 && strings.HasPrefix(rest[0], "_") && strings.HasPrefix(rest[1], "_"):
		f.ports(svc, headless, rest[1][1:], rest[0][1:])
	}
}

// addresses adds records, if it is these that are asked for.
func (f *found) addresses(all []netip.Addr) {
	for _, a := range all {
		if f.kind == dns.TypeANY || f.kind == dns.TypeA && a.Is4() || f.kind == dns.TypeAAAA && a.Is6() {
			f.answer = append(f.answer, record(f.name, a))
		}
	}
}

func record(name string, a netip.Addr) dns.RR {
	if a.Is6() {
		return &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: net.IP(a.AsSlice())}
	}
	return &dns.A{Hdr: header(name, dns.TypeA), A: net.IP(a.AsSlice())}
}

func parseAll(in []string) (out []netip.Addr) {
	for _, s := range in {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// endpoint looks one up by its name.
func (f *found) endpoint(svc *corev1.Service, name string) {
	var all []netip.Addr
	for _, e := range f.z.endpoints(svc) {
		if e.name == name && !slices.Contains(all, e.address) {
			all = append(all, e.address)
		}
	}
	if len(all) > 0 {
		f.exists = true
		f.addresses(all)
	}
}

// ports answers with SRV records, of one port or of all for "".
func (f *found) ports(svc *corev1.Service, headless bool, port, protocol string) {
	target := fmt.Sprintf("%s.%s.svc.%s", svc.Name, svc.Namespace, f.z.domain)
	if !headless {
		for _, p := range svc.Spec.Ports {
			if port == "" || p.Name == port && protocolOf(p.Protocol) == protocol {
				f.srv(uint16(p.Port), target)
			}
		}
		if len(f.answer) > 0 && f.kind == dns.TypeSRV {
			to := found{z: f.z, name: target, kind: dns.TypeANY}
			to.service(svc, nil)
			f.extra = append(f.extra, to.answer...)
		}
		return
	}
	told := map[endpoint]bool{} // one with a host name may have an address of each family
	for _, e := range f.z.endpoints(svc) {
		if port == "" || e.port == port && e.protocol == protocol {
			if once := (endpoint{name: e.name, number: e.number}); !told[once] {
				told[once] = true
				f.srv(e.number, e.name+"."+target)
			}
			if f.kind == dns.TypeSRV {
				f.extra = append(f.extra, record(e.name+"."+target, e.address))
			}
		}
	}
}

func (f *found) srv(port uint16, target string) {
	f.exists = true
	if f.kind == dns.TypeSRV || f.kind == dns.TypeANY {
		f.answer = append(f.answer, &dns.SRV{Hdr: header(f.name, dns.TypeSRV), Weight: 100, Port: port, Target: target})
	}
}

func protocolOf(p corev1.Protocol) string {
	if p == "" {
		p = corev1.ProtocolTCP
	}
	return strings.ToLower(string(p))
}

// endpoint is one address and one port of a Service; a Service without ports has
// endpoints with number 0.
type endpoint struct {
	name     string // host name, or the address with dashes
	address  netip.Addr
	port     string
	protocol string
	number   uint16
}

// endpoints are the ready ones, sorted, or all if the Service publishes them all.
func (z *zone) endpoints(svc *corev1.Service) []endpoint {
	var out []endpoint
	for _, s := range z.slices.By(byService, types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}.String()) {
		if s.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		ports := s.Ports
		if len(ports) == 0 {
			ports = []discoveryv1.EndpointPort{{}}
		}
		for _, e := range s.Endpoints {
			if r := e.Conditions.Ready; r != nil && !*r && !svc.Spec.PublishNotReadyAddresses {
				continue
			}
			for _, a := range parseAll(e.Addresses) {
				for _, p := range ports {
					out = append(out, endpointOf(e, a, p))
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b endpoint) int { return a.address.Compare(b.address) })
	return out
}

func endpointOf(e discoveryv1.Endpoint, a netip.Addr, p discoveryv1.EndpointPort) endpoint {
	out := endpoint{name: nameOf(e, a), address: a, protocol: "tcp"}
	if p.Name != nil {
		out.port = *p.Name
	}
	if p.Protocol != nil {
		out.protocol = protocolOf(*p.Protocol)
	}
	if p.Port != nil {
		out.number = uint16(*p.Port)
	}
	return out
}

func nameOf(e discoveryv1.Endpoint, a netip.Addr) string {
	if e.Hostname != nil && *e.Hostname != "" {
		return strings.ToLower(*e.Hostname)
	}
	return strings.NewReplacer(".", "-", ":", "-").Replace(a.String())
}

// reverse finds whose an address is: a Service's, or an endpoint's with a name.
func (f *found) reverse(a netip.Addr) {
	var names []string
	for _, s := range f.z.services.By(byAddress, a.String()) {
		names = append(names, fmt.Sprintf("%s.%s.svc.%s", s.Name, s.Namespace, f.z.domain))
	}
	for _, s := range f.z.slices.By(byAddress, a.String()) {
		for _, e := range s.Endpoints {
			if slices.Contains(e.Addresses, a.String()) {
				names = append(names, fmt.Sprintf("%s.%s.%s.svc.%s", nameOf(e, a), s.Labels[discoveryv1.LabelServiceName], s.Namespace, f.z.domain))
			}
		}
	}
	slices.Sort(names)
	f.exists = len(names) > 0
	if f.kind == dns.TypePTR || f.kind == dns.TypeANY {
		for _, n := range slices.Compact(names) {
			f.answer = append(f.answer, &dns.PTR{Hdr: header(f.name, dns.TypePTR), Ptr: n})
		}
	}
}

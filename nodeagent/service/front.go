package service

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// key is what a connection to a Service is recognised by: its destination. A
// node port has the unspecified address of a family, for it is there on all that
// the node has in it.
type key struct {
	ip       ip
	protocol uint8
	port     uint16
}

// backend is where a connection is led to.
type backend struct {
	ip   ip
	port uint16
}

// front is one way into a Service.
type front struct {
	key    key
	sticky bool // a client stays with its endpoint
	// exposed: reached by an address outside of the Service network, or a node
	// port.
	exposed bool
	// own: a client from outside of the cluster only gets endpoints of this node,
	// and is seen under its own address (externalTrafficPolicy Local).
	own bool
	// ranges are the clients that may come from outside, where not everybody may:
	// networks of the front's family, none in another, sorted.
	guarded bool
	ranges  []netip.Prefix
	slots   []backend // what a number between 0 and their number leads to; none is a refusal
	outer   []backend // instead, for clients from outside, when own is set
}

// plan is all that the kernel has to know of a Service.
type plan struct {
	fronts []front
	local  []ip // of this node's endpoints: they may be led back to themselves
}

// node is what a plan depends on beside the Service.
type node struct {
	name  string
	zone  string
	cidrs []netip.Prefix // of Services, one for each family that the cluster has

	reserved []int32 // TCP ports that are the node's own
}

// plan is a pure function of its arguments. The order of slices and of their
// endpoints does not matter.
func (n node) plan(svc *corev1.Service, eps []*discoveryv1.EndpointSlice) plan {
	var p plan
	if svc == nil || svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return p
	}
	local, seen := map[ip]bool{}, map[key]bool{}
	for _, port := range svc.Spec.Ports {
		protocol, ok := protocolNumber(port.Protocol)
		if !ok {
			continue // SCTP's checksum is not everywhere the kernel's to change
		}
		for _, cidr := range n.cidrs {
			six := cidr.Addr().Is6()
			all := endpointsOf(eps, port, six, n)
			for _, f := range n.port(svc, port, protocol, six, all) {
				if !seen[f.key] {
					p.fronts = append(p.fronts, f)
				}
				seen[f.key] = true
			}
			for _, e := range all {
				if e.local && e.usable() {
					local[e.to.ip] = true
				}
			}
		}
	}
	for a := range local {
		p.local = append(p.local, a)
	}
	slices.SortFunc(p.local, func(a, b ip) int { return slices.Compare(a[:], b[:]) })
	return p
}

func protocolNumber(p corev1.Protocol) (uint8, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return unix.IPPROTO_TCP, true
	case corev1.ProtocolUDP:
		return unix.IPPROTO_UDP, true
	default:
		return 0, false
	}
}

// port makes the fronts of one of the Service's ports, in a family that the Service
// has a cluster address of.
func (n node) port(svc *corev1.Service, port corev1.ServicePort, protocol uint8, six bool, all []endpoint) []front {
	everywhere := choose(all, false)
	here := choose(all, true)
	sticky := svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP
	share := func(to []backend) []backend {
		if sticky {
			return stick(to)
		}
		return spread(to, width(len(everywhere)))
	}
	shared := share(everywhere)
	f := front{key: key{protocol: protocol, port: uint16(port.Port)}, sticky: sticky, slots: shared}
	if p := svc.Spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal {
		f.slots = share(here)
	}
	var out []front
	for _, a := range clusterIPs(svc, six) {
		f.key.ip = ipOf(a)
		f.exposed = !n.isService(a)
		out = append(out, f)
	}
	if len(out) == 0 {
		return nil
	}
	outside := f
	outside.exposed = true
	outside.slots = shared
	if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		outside.own, outside.outer = true, share(here)
	}
	balanced := outside
	balanced.ranges, balanced.guarded = sourceRanges(svc, six)
	for _, a := range balancerIPs(svc, six) {
		balanced.key.ip = ipOf(a)
		out = append(out, balanced)
	}
	for _, a := range addresses(svc.Spec.ExternalIPs, six) {
		outside.key.ip = ipOf(a)
		out = append(out, outside)
	}
	if port.NodePort != 0 {
		outside.key = key{ip: anywhere(six), protocol: protocol, port: uint16(port.NodePort)}
		out = append(out, outside)
	}
	return out
}

// isService says that an address is of a Service network.
func (n node) isService(a netip.Addr) bool {
	return slices.ContainsFunc(n.cidrs, func(p netip.Prefix) bool { return p.Contains(a) })
}

func clusterIPs(svc *corev1.Service, six bool) []netip.Addr {
	return addresses(append([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs...), six)
}

// sourceRanges are the networks of a family that may come by way of the load
// balancer, if that is not open to everybody. A Service that names networks of one
// family alone is closed in the other.
func sourceRanges(svc *corev1.Service, six bool) (out []netip.Prefix, guarded bool) {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer || len(svc.Spec.LoadBalancerSourceRanges) == 0 {
		return nil, false
	}
	for _, s := range svc.Spec.LoadBalancerSourceRanges {
		if p, err := netip.ParsePrefix(strings.TrimSpace(s)); err == nil && p.Addr().Is6() == six {
			out = append(out, p.Masked())
		}
	}
	// Of two that overlap one is part of the other: the kernel wants that one alone.
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
	})
	var apart []netip.Prefix
	for _, p := range out {
		if !slices.ContainsFunc(apart, func(o netip.Prefix) bool { return o.Overlaps(p) }) {
			apart = append(apart, p)
		}
	}
	return apart, true
}

// balancerIPs are what a load balancer is said to have, unless that one ends
// connections itself.
func balancerIPs(svc *corev1.Service, six bool) []netip.Addr {
	var all []string
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
			all = append(all, in.IP)
		}
	}
	return addresses(all, six)
}

// addresses are those of a family, each once.
func addresses(all []string, six bool) []netip.Addr {
	var out []netip.Addr
	for _, s := range all {
		if a, err := netip.ParseAddr(s); err == nil && a.Is6() == six && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// endpoint is one of a port's, with what decides whether it is chosen.
type endpoint struct {
	to                          backend
	local                       bool // on this node
	ready, serving, terminating bool
	hinted, here                bool // it has a hint, and the hint names this node's zone
	forNodes, forThis           bool // the same for nodes
}

// usable: ready, or, if nothing better is there, still serving while it ends.
func (e endpoint) usable() bool { return e.ready || e.serving && e.terminating }

// endpointsOf are a port's endpoints of a family, sorted, each once.
func endpointsOf(all []*discoveryv1.EndpointSlice, port corev1.ServicePort, six bool, n node) []endpoint {
	want, _ := protocolNumber(port.Protocol)
	by := map[backend]endpoint{}
	family := discoveryv1.AddressTypeIPv4
	if six {
		family = discoveryv1.AddressTypeIPv6
	}
	for _, s := range all {
		if s.AddressType != family {
			continue
		}
		for _, p := range s.Ports {
			protocol := corev1.ProtocolTCP
			if p.Protocol != nil {
				protocol = *p.Protocol
			}
			got, ok := protocolNumber(protocol)
			if p.Port == nil || *p.Port == 0 || name(p.Name) != port.Name || !ok || got != want {
				continue
			}
			for _, e := range s.Endpoints {
				if ep, ok := endpointOf(e, uint16(*p.Port), n); ok && ep.to.ip.six() == six {
					// An endpoint that moves between slices is in both for a moment.
					if old, twice := by[ep.to]; !twice || !old.ready {
						by[ep.to] = ep
					}
				}
			}
		}
	}
	out := make([]endpoint, 0, len(by))
	for _, e := range by {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b endpoint) int { return compareBackends(a.to, b.to) })
	return out
}

func endpointOf(e discoveryv1.Endpoint, port uint16, n node) (endpoint, bool) {
	if len(e.Addresses) == 0 {
		return endpoint{}, false
	}
	a, err := netip.ParseAddr(e.Addresses[0]) // the others are of no meaning
	if err != nil {
		return endpoint{}, false
	}
	c := e.Conditions
	out := endpoint{
		to:          backend{ip: ipOf(a), port: port},
		local:       e.NodeName != nil && *e.NodeName == n.name,
		ready:       c.Ready == nil || *c.Ready,
		terminating: c.Terminating != nil && *c.Terminating,
	}
	out.serving = out.ready
	if c.Serving != nil {
		out.serving = *c.Serving
	}
	if e.Hints != nil && len(e.Hints.ForZones) > 0 {
		out.hinted = true
		out.here = slices.ContainsFunc(e.Hints.ForZones, func(z discoveryv1.ForZone) bool { return z.Name == n.zone })
	}
	if e.Hints != nil && len(e.Hints.ForNodes) > 0 {
		out.forNodes = true
		out.forThis = slices.ContainsFunc(e.Hints.ForNodes, func(o discoveryv1.ForNode) bool { return o.Name == n.name })
	}
	return out, true
}

// near are those that hints name for this node, or else for its zone; all of them
// where one has no such hint, or none is for us.
func near(all []endpoint) []endpoint {
	for _, hint := range []struct{ has, fits func(endpoint) bool }{
		{func(e endpoint) bool { return e.forNodes }, func(e endpoint) bool { return e.forThis }},
		{func(e endpoint) bool { return e.hinted }, func(e endpoint) bool { return e.here }},
	} {
		fit := filter(all, hint.fits)
		if len(fit) > 0 && !slices.ContainsFunc(all, func(e endpoint) bool { return !hint.has(e) }) {
			return fit
		}
	}
	return all
}

func name(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}

func compareBackends(a, b backend) int {
	return cmp.Or(slices.Compare(a.ip[:], b.ip[:]), cmp.Compare(a.port, b.port))
}

// choose takes the endpoints that new connections are led to: of this node
// alone if local is set, otherwise those of the node's zone if every endpoint
// has a hint and some are for it. They are the ready ones, or, when there are
// none, those that are ending and serve on: better than a refusal.
func choose(all []endpoint, local bool) []backend {
	in := all
	if local {
		in = filter(in, func(e endpoint) bool { return e.local })
	}
	pick := func(f func(endpoint) bool) []backend {
		some := filter(in, f)
		if !local {
			some = near(some)
		}
		out := make([]backend, len(some))
		for i, e := range some {
			out[i] = e.to
		}
		return out
	}
	if ready := pick(func(e endpoint) bool { return e.ready }); len(ready) > 0 {
		return ready
	}
	return pick(endpoint.usable)
}

func filter(in []endpoint, f func(endpoint) bool) []endpoint {
	var out []endpoint
	for _, e := range in {
		if f(e) {
			out = append(out, e)
		}
	}
	return out
}

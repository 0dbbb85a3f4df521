package admission

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What one EndpointSlice may hold, as in Kubernetes.
const (
	maxEndpoints = 1000
	maxAddresses = 100
	maxPorts     = 20000
)

// maxAffinity is the longest session affinity, in seconds: one day.
const maxAffinity = 86400

func validateService(svc *corev1.Service) field.ErrorList {
	spec := field.NewPath("spec")
	s := &svc.Spec
	errs := oneOf(s.Type, spec.Child("type"), corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName)
	errs = append(errs, oneOf(s.SessionAffinity, spec.Child("sessionAffinity"), corev1.ServiceAffinityNone, corev1.ServiceAffinityClientIP)...)
	errs = append(errs, metavalidation.ValidateLabels(s.Selector, spec.Child("selector"))...)
	if c := s.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		if t := *c.ClientIP.TimeoutSeconds; t <= 0 || t > maxAffinity {
			errs = append(errs, field.Invalid(spec.Child("sessionAffinityConfig", "clientIP", "timeoutSeconds"), t, "must be between 1 and 86400"))
		}
	}
	headless := s.ClusterIP == corev1.ClusterIPNone
	switch {
	case s.Type == corev1.ServiceTypeExternalName:
		if s.ClusterIP != "" {
			errs = append(errs, field.Forbidden(spec.Child("clusterIP"), "may not be set when type is 'ExternalName'"))
		}
		errs = append(errs, required(s.ExternalName, spec.Child("externalName"))...)
		if s.ExternalName != "" {
			errs = append(errs, invalid(spec.Child("externalName"), s.ExternalName, validation.IsDNS1123Subdomain(s.ExternalName))...)
		}
	case headless && s.Type != corev1.ServiceTypeClusterIP:
		errs = append(errs, field.Invalid(spec.Child("clusterIP"), s.ClusterIP, "may not be set to 'None' for a service of type "+string(s.Type)))
	case len(s.Ports) == 0 && !headless:
		errs = append(errs, field.Required(spec.Child("ports"), ""))
	}
	if d := s.TrafficDistribution; d != nil {
		errs = append(errs, oneOf(*d, spec.Child("trafficDistribution"), corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)...)
	}
	if t := s.InternalTrafficPolicy; t != nil {
		errs = append(errs, oneOf(*t, spec.Child("internalTrafficPolicy"), corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	}
	if t := s.ExternalTrafficPolicy; t != "" {
		errs = append(errs, oneOf(t, spec.Child("externalTrafficPolicy"), corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	}
	errs = append(errs, validateFamilies(s, spec)...)
	for i, ip := range s.ExternalIPs {
		errs = append(errs, address(ip, spec.Child("externalIPs").Index(i))...)
	}
	errs = append(errs, validateSourceRanges(s, spec.Child("loadBalancerSourceRanges"))...)
	return append(errs, validateServicePorts(s, spec.Child("ports"))...)
}

func validateSourceRanges(s *corev1.ServiceSpec, p *field.Path) (errs field.ErrorList) {
	if len(s.LoadBalancerSourceRanges) > 0 && s.Type != corev1.ServiceTypeLoadBalancer {
		return field.ErrorList{field.Forbidden(p, "may only be used when `type` is 'LoadBalancer'")}
	}
	for i, r := range s.LoadBalancerSourceRanges {
		if n, err := netip.ParsePrefix(strings.TrimSpace(r)); err != nil || n.Addr().Is4In6() {
			errs = append(errs, field.Invalid(p.Index(i), r, "must be a network in CIDR notation, such as 192.0.2.0/24 or 2001:db8::/32"))
		}
	}
	return errs
}

func validateServicePorts(s *corev1.ServiceSpec, ports *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := map[string]bool{}
	type wire struct {
		protocol corev1.Protocol
		port     int32
	}
	used, nodePorts := map[wire]bool{}, map[wire]bool{}
	for i, sp := range s.Ports {
		p := ports.Index(i)
		switch {
		case sp.Name == "" && len(s.Ports) > 1:
			errs = append(errs, field.Required(p.Child("name"), "must be set when there is more than one port"))
		case sp.Name != "":
			errs = append(errs, invalid(p.Child("name"), sp.Name, validation.IsDNS1123Label(sp.Name))...)
			if names[sp.Name] {
				errs = append(errs, field.Duplicate(p.Child("name"), sp.Name))
			}
			names[sp.Name] = true
		}
		errs = append(errs, port(sp.Port, p.Child("port"))...)
		errs = append(errs, protocol(sp.Protocol, p.Child("protocol"))...)
		errs = append(errs, portOrName(sp.TargetPort, p.Child("targetPort"))...)
		w := wire{sp.Protocol, sp.Port}
		if used[w] {
			errs = append(errs, field.Duplicate(p, sp.Port))
		}
		used[w] = true
		if sp.NodePort == 0 {
			continue
		}
		if s.Type != corev1.ServiceTypeNodePort && s.Type != corev1.ServiceTypeLoadBalancer {
			errs = append(errs, field.Forbidden(p.Child("nodePort"), "may not be used when `type` is '"+string(s.Type)+"'"))
		}
		errs = append(errs, port(sp.NodePort, p.Child("nodePort"))...)
		w.port = sp.NodePort
		if nodePorts[w] {
			errs = append(errs, field.Duplicate(p.Child("nodePort"), sp.NodePort))
		}
		nodePorts[w] = true
	}
	return errs
}

func portOrName(v intstr.IntOrString, p *field.Path) field.ErrorList {
	if v.Type == intstr.Int {
		return port(v.IntVal, p)
	}
	return invalid(p, v.StrVal, validation.IsValidPortName(v.StrVal))
}

// keepService carries over what the platform has assigned, for writers that
// replace a Service without having read it.
//
// What the new type has no use for goes, unless it was not there before: then it
// is somebody's wish, and refused.
func keepService(s, old *corev1.Service) {
	if s.Spec.Type == corev1.ServiceTypeExternalName || old.Spec.Type == corev1.ServiceTypeExternalName {
		if s.Spec.Type == corev1.ServiceTypeExternalName && (s.Spec.ClusterIP == "" || s.Spec.ClusterIP == old.Spec.ClusterIP) {
			s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = "", nil, nil, nil
		}
		return
	}
	if s.Spec.Type == corev1.ServiceTypeClusterIP && old.Spec.Type != s.Spec.Type {
		for i := range s.Spec.Ports {
			p := &s.Spec.Ports[i]
			if slices.ContainsFunc(old.Spec.Ports, func(o corev1.ServicePort) bool { return o.NodePort == p.NodePort && o.Protocol == p.Protocol }) {
				p.NodePort = 0
			}
		}
		s.Spec.ExternalTrafficPolicy, s.Spec.AllocateLoadBalancerNodePorts = "", nil
	}
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && slices.Equal(s.Spec.LoadBalancerSourceRanges, old.Spec.LoadBalancerSourceRanges) {
		s.Spec.LoadBalancerSourceRanges = nil
	}
	if s.Spec.ClusterIP == "" && len(s.Spec.ClusterIPs) == 0 {
		s.Spec.ClusterIP = old.Spec.ClusterIP
	}
	if s.Spec.ClusterIP == old.Spec.ClusterIP && len(s.Spec.ClusterIPs) == 0 {
		s.Spec.ClusterIPs = old.Spec.ClusterIPs
	}
	if s.Spec.IPFamilies == nil {
		s.Spec.IPFamilies = old.Spec.IPFamilies
	}
	if s.Spec.IPFamilyPolicy == nil {
		s.Spec.IPFamilyPolicy = old.Spec.IPFamilyPolicy
	}
	if s.Spec.Type != old.Spec.Type {
		return
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		for _, o := range old.Spec.Ports {
			if p.NodePort == 0 && o.Port == p.Port && o.Protocol == p.Protocol {
				p.NodePort = o.NodePort
			}
		}
	}
}

func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	if old.Spec.ClusterIP == "" || s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	spec := field.NewPath("spec")
	errs := immutable(s.Spec.ClusterIP, old.Spec.ClusterIP, spec.Child("clusterIP"))
	now, was := s.Spec.ClusterIPs, old.Spec.ClusterIPs
	if len(now) > 1 && len(was) > 1 {
		errs = append(errs, immutable(now[1], was[1], spec.Child("clusterIPs").Index(1))...)
	}
	if f, before := s.Spec.IPFamilies, old.Spec.IPFamilies; len(f) > 0 && len(before) > 0 {
		errs = append(errs, immutable(f[0], before[0], spec.Child("ipFamilies").Index(0))...)
	}
	return errs
}

func validateEndpoints(e *corev1.Endpoints) field.ErrorList {
	var errs field.ErrorList
	for i, s := range e.Subsets {
		p := field.NewPath("subsets").Index(i)
		if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(p, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j, a := range s.Addresses {
			errs = append(errs, address(a.IP, p.Child("addresses").Index(j).Child("ip"))...)
		}
		for j, a := range s.NotReadyAddresses {
			errs = append(errs, address(a.IP, p.Child("notReadyAddresses").Index(j).Child("ip"))...)
		}
		for j, ep := range s.Ports {
			at := p.Child("ports").Index(j)
			if ep.Name == "" && len(s.Ports) > 1 {
				errs = append(errs, field.Required(at.Child("name"), "must be set when there is more than one port"))
			}
			errs = append(errs, port(ep.Port, at.Child("port"))...)
			errs = append(errs, protocol(ep.Protocol, at.Child("protocol"))...)
		}
	}
	return errs
}

func validateEndpointSlice(e *discoveryv1.EndpointSlice) field.ErrorList {
	endpoints, ports := field.NewPath("endpoints"), field.NewPath("ports")
	errs := oneOf(e.AddressType, field.NewPath("addressType"), discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN)
	if len(e.Endpoints) > maxEndpoints {
		errs = append(errs, field.TooMany(endpoints, len(e.Endpoints), maxEndpoints))
	}
	if len(e.Ports) > maxPorts {
		errs = append(errs, field.TooMany(ports, len(e.Ports), maxPorts))
	}
	for i, ep := range e.Endpoints {
		p := endpoints.Index(i).Child("addresses")
		if len(ep.Addresses) == 0 {
			errs = append(errs, field.Required(p, "must contain at least 1 address"))
		}
		if len(ep.Addresses) > maxAddresses {
			errs = append(errs, field.TooMany(p, len(ep.Addresses), maxAddresses))
		}
		for j, a := range ep.Addresses {
			if e.AddressType == discoveryv1.AddressTypeFQDN {
				errs = append(errs, invalid(p.Index(j), a, validation.IsDNS1123Subdomain(a))...)
			} else {
				errs = append(errs, address(a, p.Index(j))...)
			}
		}
	}
	names := map[string]bool{}
	for i, sp := range e.Ports {
		p := ports.Index(i)
		if sp.Name != nil {
			if *sp.Name != "" {
				errs = append(errs, invalid(p.Child("name"), *sp.Name, validation.IsDNS1123Label(*sp.Name))...)
			}
			if names[*sp.Name] {
				errs = append(errs, field.Duplicate(p.Child("name"), *sp.Name))
			}
			names[*sp.Name] = true
		}
		if sp.Port != nil {
			errs = append(errs, port(*sp.Port, p.Child("port"))...)
		}
		if sp.Protocol != nil {
			errs = append(errs, protocol(*sp.Protocol, p.Child("protocol"))...)
		}
	}
	return errs
}

func address(v string, p *field.Path) field.ErrorList {
	if a, err := netip.ParseAddr(v); err != nil || a.Zone() != "" {
		return field.ErrorList{field.Invalid(p, v, "must be an IP address, such as 10.62.0.7 or 2001:db8::1")}
	}
	return nil
}

package address

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func familyOf(ip netip.Addr) corev1.IPFamily {
	if ip.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// clusterIPs are a Service's cluster addresses, the first one first. Somebody who
// has heard of one only may have written it.
func clusterIPs(s *corev1.ServiceSpec) []string {
	if len(s.ClusterIPs) == 0 && s.ClusterIP != "" {
		return []string{s.ClusterIP}
	}
	return s.ClusterIPs
}

// dual tells whether the cluster has both families.
func (a *Allocator) dual() bool { return len(a.ips) > 1 }

// sameFamilies tells that two versions of a Service say the same of addresses.
func sameFamilies(s, old *corev1.ServiceSpec) bool {
	return slices.Equal(clusterIPs(s), clusterIPs(old)) && slices.Equal(s.IPFamilies, old.IPFamilies) && policyOf(s) == policyOf(old)
}

func policyOf(s *corev1.ServiceSpec) corev1.IPFamilyPolicy {
	if s.IPFamilyPolicy == nil {
		return ""
	}
	return *s.IPFamilyPolicy
}

// families decides in which families a Service is to have addresses, as Kubernetes
// does: what it says itself, what its addresses are of, IPv4 first, and the other
// one too where its policy wants that and the cluster has it.
func (a *Allocator) families(old, svc *corev1.Service) field.ErrorList {
	s, spec := &svc.Spec, field.NewPath("spec")
	s.ClusterIPs = clusterIPs(s)
	if old != nil {
		if sameFamilies(s, &old.Spec) && s.IPFamilies != nil && s.IPFamilyPolicy != nil {
			return nil // a cluster that has become another changes no Service by itself
		}
		shrink(s, &old.Spec)
	}
	anybody := s.ClusterIP == corev1.ClusterIPNone && len(s.Selector) == 0 // its endpoints are somebody else's affair
	if s.IPFamilyPolicy == nil {
		s.IPFamilyPolicy = new(corev1.IPFamilyPolicySingleStack)
		if anybody && a.dual() && len(s.IPFamilies) != 1 {
			s.IPFamilyPolicy = new(corev1.IPFamilyPolicyRequireDualStack)
		}
	}
	var errs field.ErrorList
	policy := spec.Child("ipFamilyPolicy")
	single := *s.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
	switch {
	case single && len(s.ClusterIPs) > 1:
		errs = append(errs, field.Invalid(policy, *s.IPFamilyPolicy, "must be RequireDualStack or PreferDualStack when multiple cluster IPs are specified"))
	case single && len(s.IPFamilies) > 1:
		errs = append(errs, field.Invalid(policy, *s.IPFamilyPolicy, "must be RequireDualStack or PreferDualStack when multiple IP families are specified"))
	case *s.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack && !a.dual():
		errs = append(errs, field.Invalid(policy, *s.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, f := range s.IPFamilies {
		if a.ips[f] == nil {
			errs = append(errs, field.Invalid(spec.Child("ipFamilies").Index(i), f, "not configured on this cluster"))
		}
	}
	errs = append(errs, a.infer(s, spec)...)
	if len(errs) > 0 {
		return errs
	}
	if len(s.IPFamilies) == 0 {
		s.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	if !single && a.dual() && len(s.IPFamilies) == 1 {
		s.IPFamilies = append(s.IPFamilies, other(s.IPFamilies[0]))
	}
	return nil
}

func other(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// shrink takes the second family of a Service away when its policy has become
// SingleStack and nothing else was changed.
func shrink(s, old *corev1.ServiceSpec) {
	if policyOf(s) != corev1.IPFamilyPolicySingleStack || policyOf(old) == corev1.IPFamilyPolicySingleStack {
		return
	}
	if len(s.ClusterIPs) > 1 && slices.Equal(s.ClusterIPs, old.ClusterIPs) {
		s.ClusterIPs = s.ClusterIPs[:1:1]
	}
	if len(s.IPFamilies) > 1 && slices.Equal(s.IPFamilies, old.IPFamilies) {
		s.IPFamilies = s.IPFamilies[:1:1]
	}
}

// infer has the families say what the addresses are, where they do not say it.
func (a *Allocator) infer(s *corev1.ServiceSpec, spec *field.Path) (errs field.ErrorList) {
	for i, text := range s.ClusterIPs {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			continue // None, or admission's to refuse
		}
		f, path := familyOf(ip), spec.Child("clusterIPs").Index(i)
		switch {
		case i < len(s.IPFamilies) && s.IPFamilies[i] != f:
			errs = append(errs, field.Invalid(path, text, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", s.IPFamilies[i], i)))
		case i < len(s.IPFamilies):
		case a.ips[f] == nil:
			errs = append(errs, field.Invalid(path, text, fmt.Sprintf("%s is not configured on this cluster", f)))
		default:
			s.IPFamilies = append(s.IPFamilies, f)
		}
	}
	return errs
}

// network is the Service network of a family.
func (a *Allocator) network(f corev1.IPFamily) netip.Prefix {
	if f == corev1.IPv6Protocol {
		return a.c.Services6
	}
	return a.c.Services
}

// clusterIPs gives a Service an address of each of its families. Called with a.mu
// held.
func (a *Allocator) clusterIPs(svc *corev1.Service) (errs field.ErrorList) {
	s := &svc.Spec
	owner, now := ownerOf(svc), time.Now()
	for i, f := range s.IPFamilies {
		path := field.NewPath("spec", "clusterIPs").Index(i)
		if i < len(s.ClusterIPs) {
			errs = append(errs, a.askIP(f, s.ClusterIPs[i], owner, now, path)...)
			continue
		}
		ip, ok := a.ips[f].take(owner, now, func(netip.Addr) bool { return true })
		if !ok {
			return append(errs, field.InternalError(path, fmt.Errorf("the Service network %s has no free address: delete Services, or start the servers with a larger --service-cidr", a.network(f))))
		}
		s.ClusterIPs = append(s.ClusterIPs, ip.String())
	}
	s.ClusterIP = s.ClusterIPs[0]
	return errs
}

func (a *Allocator) askIP(f corev1.IPFamily, text, owner string, now time.Time, path *field.Path) field.ErrorList {
	ip, err := netip.ParseAddr(text)
	if network := a.network(f); err != nil || !network.Contains(ip) || ip == network.Masked().Addr() {
		return field.ErrorList{field.Invalid(path, text, "must be an address of the Service network "+network.String())}
	}
	if !a.ips[f].ask(ip, owner, now) {
		return field.ErrorList{field.Invalid(path, text, "provided IP is already allocated")}
	}
	return nil
}

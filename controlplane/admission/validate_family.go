package admission

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxFamilies is how many families there are.
const maxFamilies = 2

// validateFamilies checks what a Service says of its addresses and their families,
// as far as that needs no knowledge of the cluster.
func validateFamilies(s *corev1.ServiceSpec, spec *field.Path) field.ErrorList {
	ips, families := spec.Child("clusterIPs"), spec.Child("ipFamilies")
	var errs field.ErrorList
	if s.IPFamilyPolicy != nil {
		errs = append(errs, oneOf(*s.IPFamilyPolicy, spec.Child("ipFamilyPolicy"),
			corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack)...)
	}
	if len(s.IPFamilies) > maxFamilies {
		errs = append(errs, field.TooMany(families, len(s.IPFamilies), maxFamilies))
	}
	for i, f := range s.IPFamilies {
		errs = append(errs, oneOf(f, families.Index(i), corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if i > 0 && f == s.IPFamilies[0] {
			errs = append(errs, field.Duplicate(families.Index(i), f))
		}
	}
	if s.Type == corev1.ServiceTypeExternalName {
		if len(s.ClusterIPs) > 0 {
			errs = append(errs, field.Forbidden(ips, "may not be set when type is 'ExternalName'"))
		}
		if len(s.IPFamilies) > 0 {
			errs = append(errs, field.Forbidden(families, "may not be set when type is 'ExternalName'"))
		}
		return errs
	}
	headless := s.ClusterIP == corev1.ClusterIPNone
	if s.ClusterIP != "" && !headless {
		errs = append(errs, address(s.ClusterIP, spec.Child("clusterIP"))...)
	}
	switch {
	case len(s.ClusterIPs) == 0:
		return errs
	case s.ClusterIP == "":
		return append(errs, field.Invalid(ips, s.ClusterIPs, "must be empty when `clusterIP` is not specified"))
	case s.ClusterIPs[0] != s.ClusterIP:
		return append(errs, field.Invalid(ips, s.ClusterIPs, "first value must match `clusterIP`"))
	case headless && len(s.ClusterIPs) > 1:
		return append(errs, field.Invalid(ips.Index(1), s.ClusterIPs[1], "may not be set when the first value is 'None'"))
	case len(s.ClusterIPs) > maxFamilies:
		return append(errs, field.TooMany(ips, len(s.ClusterIPs), maxFamilies))
	case len(s.ClusterIPs) == maxFamilies:
		errs = append(errs, address(s.ClusterIPs[1], ips.Index(1))...)
		first, err := netip.ParseAddr(s.ClusterIPs[0])
		second, err2 := netip.ParseAddr(s.ClusterIPs[1])
		if err == nil && err2 == nil && first.Is4() == second.Is4() {
			errs = append(errs, field.Invalid(ips, s.ClusterIPs, "may specify no more than one IP for each IP family"))
		}
	}
	return errs
}

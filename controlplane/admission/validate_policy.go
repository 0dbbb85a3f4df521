package admission

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateNetworkPolicy has Kubernetes' rules and messages.
func validateNetworkPolicy(np *networkingv1.NetworkPolicy) field.ErrorList {
	spec := field.NewPath("spec")
	s := &np.Spec
	errs := labelSelector(&s.PodSelector, spec.Child("podSelector"))
	for i, r := range s.Ingress {
		p := spec.Child("ingress").Index(i)
		errs = append(errs, validatePolicyPorts(r.Ports, p.Child("ports"))...)
		errs = append(errs, validatePolicyPeers(r.From, p.Child("from"))...)
	}
	for i, r := range s.Egress {
		p := spec.Child("egress").Index(i)
		errs = append(errs, validatePolicyPorts(r.Ports, p.Child("ports"))...)
		errs = append(errs, validatePolicyPeers(r.To, p.Child("to"))...)
	}
	types := spec.Child("policyTypes")
	if len(s.PolicyTypes) > 2 {
		return append(errs, field.Invalid(types, s.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range s.PolicyTypes {
		errs = append(errs, oneOf(t, types.Index(i), networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)...)
	}
	return errs
}

func labelSelector(s *metav1.LabelSelector, p *field.Path) field.ErrorList {
	return metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, p)
}

func validatePolicyPorts(ports []networkingv1.NetworkPolicyPort, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, pp := range ports {
		at := p.Index(i)
		if pp.Protocol != nil {
			errs = append(errs, oneOf(*pp.Protocol, at.Child("protocol"), corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
		}
		if pp.Port != nil {
			errs = append(errs, portOrName(*pp.Port, at.Child("port"))...)
		}
		if pp.EndPort == nil {
			continue
		}
		end := at.Child("endPort")
		switch {
		case pp.Port == nil:
			errs = append(errs, field.Invalid(end, *pp.EndPort, "may not be specified when `port` is not specified"))
		case pp.Port.Type == intstr.String:
			errs = append(errs, field.Invalid(end, *pp.EndPort, "may not be specified when `port` is non-numeric"))
		default:
			if *pp.EndPort < pp.Port.IntVal {
				errs = append(errs, field.Invalid(end, pp.Port.IntVal, "must be greater than or equal to `port`"))
			}
			errs = append(errs, port(*pp.EndPort, end)...)
		}
	}
	return errs
}

func validatePolicyPeers(peers []networkingv1.NetworkPolicyPeer, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range peers {
		at, peer := p.Index(i), &peers[i]
		errs = append(errs, labelSelector(peer.PodSelector, at.Child("podSelector"))...)
		errs = append(errs, labelSelector(peer.NamespaceSelector, at.Child("namespaceSelector"))...)
		if peer.IPBlock != nil {
			errs = append(errs, validateIPBlock(peer.IPBlock, at.Child("ipBlock"))...)
		}
		selects := peer.PodSelector != nil || peer.NamespaceSelector != nil
		switch {
		case !selects && peer.IPBlock == nil:
			errs = append(errs, field.Required(at, "must specify a peer"))
		case selects && peer.IPBlock != nil:
			errs = append(errs, field.Forbidden(at, "may not specify both ipBlock and another peer"))
		}
	}
	return errs
}

func validateIPBlock(b *networkingv1.IPBlock, p *field.Path) field.ErrorList {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(p.Child("cidr"), "")}
	}
	whole, errs := network(b.CIDR, p.Child("cidr"))
	if len(errs) > 0 {
		return errs
	}
	for i, e := range b.Except {
		at := p.Child("except").Index(i)
		part, faults := network(e, at)
		errs = append(errs, faults...)
		if len(faults) == 0 && (!whole.Contains(part.Addr()) || part.Bits() <= whole.Bits()) {
			errs = append(errs, field.Invalid(at, e, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}

// network reads a CIDR. As in Kubernetes it may have bits set beyond the prefix;
// what different programs read differently, such as leading zeros, it may not.
func network(v string, p *field.Path) (netip.Prefix, field.ErrorList) {
	if errs := validation.IsValidCIDRForLegacyField(p, v, false, nil); len(errs) > 0 {
		return netip.Prefix{}, errs
	}
	n, err := netip.ParsePrefix(v)
	if err != nil || n.Addr().Is4In6() {
		return n, validation.IsValidCIDRForLegacyField(p, v, true, nil)
	}
	return n.Masked(), nil
}

package admission

import (
	"fmt"
	"net/netip"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/podsnap/podsnap/api"
)

// maxController is the longest name of a controller of a class, in bytes.
const maxController = 250

// defaultIngress gives an Ingress that names no class the one that is there.
func defaultIngress(i *networkingv1.Ingress) {
	if _, ok := i.Annotations[api.AnnotationIngressClass]; !ok {
		orNew(&i.Spec.IngressClassName, api.IngressClass)
	}
}

func validateIngress(i *networkingv1.Ingress) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if class := i.Spec.IngressClassName; class != nil {
		errs = append(errs, invalid(spec.Child("ingressClassName"), *class, validation.IsDNS1123Subdomain(*class))...)
		if a, ok := i.Annotations[api.AnnotationIngressClass]; ok {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "annotations").Key(api.AnnotationIngressClass), a, "can not be set when the class field is also set"))
		}
	}
	if len(i.Spec.Rules) == 0 && i.Spec.DefaultBackend == nil {
		errs = append(errs, field.Invalid(spec, i.Spec.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if b := i.Spec.DefaultBackend; b != nil {
		errs = append(errs, validateBackend(b, spec.Child("defaultBackend"))...)
	}
	for n, t := range i.Spec.TLS {
		p := spec.Child("tls").Index(n)
		for h, host := range t.Hosts {
			errs = append(errs, hostName(host, p.Child("hosts").Index(h))...)
		}
		if t.SecretName != "" {
			errs = append(errs, invalid(p.Child("secretName"), t.SecretName, validation.IsDNS1123Subdomain(t.SecretName))...)
		}
	}
	for n := range i.Spec.Rules {
		errs = append(errs, validateRule(&i.Spec.Rules[n], spec.Child("rules").Index(n))...)
	}
	return errs
}

func validateRule(r *networkingv1.IngressRule, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.Host != "" {
		if _, err := netip.ParseAddr(r.Host); err == nil {
			errs = append(errs, field.Invalid(p.Child("host"), r.Host, "must be a DNS name, not an IP address"))
		}
		errs = append(errs, hostName(r.Host, p.Child("host"))...)
	}
	if r.HTTP == nil {
		return errs
	}
	paths := p.Child("http", "paths")
	if len(r.HTTP.Paths) == 0 {
		errs = append(errs, field.Required(paths, ""))
	}
	for n := range r.HTTP.Paths {
		at := &r.HTTP.Paths[n]
		errs = append(errs, validatePath(at, paths.Index(n))...)
		errs = append(errs, validateBackend(&at.Backend, paths.Index(n).Child("backend"))...)
	}
	return errs
}

// hostName takes names, and those whose first label is a star.
func hostName(host string, p *field.Path) field.ErrorList {
	if strings.Contains(host, "*") {
		return invalid(p, host, validation.IsWildcardDNS1123Subdomain(host))
	}
	return invalid(p, host, validation.IsDNS1123Subdomain(host))
}

func validatePath(h *networkingv1.HTTPIngressPath, p *field.Path) field.ErrorList {
	at := p.Child("path")
	if h.PathType == nil {
		return field.ErrorList{field.Required(p.Child("pathType"), "pathType must be specified")}
	}
	var errs field.ErrorList
	switch *h.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !strings.HasPrefix(h.Path, "/") {
			errs = append(errs, field.Invalid(at, h.Path, "must be an absolute path"))
		}
		for _, s := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(h.Path, s) {
				errs = append(errs, field.Invalid(at, h.Path, fmt.Sprintf("must not contain '%s'", s)))
			}
		}
		for _, s := range []string{"/..", "/."} {
			if strings.HasSuffix(h.Path, s) {
				errs = append(errs, field.Invalid(at, h.Path, fmt.Sprintf("cannot end with '%s'", s)))
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if h.Path != "" && !strings.HasPrefix(h.Path, "/") {
			errs = append(errs, field.Invalid(at, h.Path, "must be an absolute path"))
		}
	default:
		errs = append(errs, field.NotSupported(p.Child("pathType"), *h.PathType,
			[]networkingv1.PathType{networkingv1.PathTypeExact, networkingv1.PathTypePrefix, networkingv1.PathTypeImplementationSpecific}))
	}
	return errs
}

func validateBackend(b *networkingv1.IngressBackend, p *field.Path) field.ErrorList {
	switch {
	case b.Service != nil && b.Resource != nil:
		return field.ErrorList{field.Invalid(p, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return field.ErrorList{field.Forbidden(p.Child("resource"), "only Services are backends here")}
	case b.Service == nil:
		return field.ErrorList{field.Invalid(p, "", "resource or service backend is required")}
	}
	var errs field.ErrorList
	s, at := b.Service, p.Child("service")
	if errs = required(s.Name, at.Child("name")); s.Name != "" {
		errs = invalid(at.Child("name"), s.Name, validation.IsDNS1035Label(s.Name))
	}
	at = at.Child("port")
	switch {
	case s.Port.Name != "" && s.Port.Number != 0:
		errs = append(errs, field.Invalid(at, "", "cannot set both port name & port number"))
	case s.Port.Name != "":
		errs = append(errs, invalid(at.Child("name"), s.Port.Name, validation.IsValidPortName(s.Port.Name))...)
	case s.Port.Number != 0:
		errs = append(errs, port(s.Port.Number, at.Child("number"))...)
	default:
		errs = append(errs, field.Required(at, "port name or number is required"))
	}
	return errs
}

func validateIngressClass(c *networkingv1.IngressClass) field.ErrorList {
	spec := field.NewPath("spec")
	at := spec.Child("controller")
	errs := required(c.Spec.Controller, at)
	if len(c.Spec.Controller) > maxController {
		errs = append(errs, field.TooLong(at, "", maxController))
	}
	if c.Spec.Controller != "" {
		errs = append(errs, validation.IsDomainPrefixedPath(at, c.Spec.Controller)...)
	}
	if r := c.Spec.Parameters; r != nil {
		errs = append(errs, required(r.Kind, spec.Child("parameters", "kind"))...)
		errs = append(errs, required(r.Name, spec.Child("parameters", "name"))...)
	}
	return errs
}

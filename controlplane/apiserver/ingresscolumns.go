package apiserver

import (
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/podsnap/podsnap/api"
)

func ingressColumns(name, since column) []column {
	return []column{
		name,
		col("Class", "string", func(i *networkingv1.Ingress) any {
			if c := i.Spec.IngressClassName; c != nil {
				return *c
			}
			return none(i.Annotations[api.AnnotationIngressClass])
		}),
		col("Hosts", "string", ruleHosts),
		col("Address", "string", func(i *networkingv1.Ingress) any {
			var out []string
			for _, a := range i.Status.LoadBalancer.Ingress {
				out = append(out, a.IP+a.Hostname)
			}
			return strings.Join(out, ",")
		}),
		col("Ports", "string", func(i *networkingv1.Ingress) any {
			if len(i.Spec.TLS) > 0 {
				return "80, 443"
			}
			return "80"
		}),
		since,
	}
}

// ruleHosts are the first three hosts of an Ingress; one of all hosts has "*".
func ruleHosts(i *networkingv1.Ingress) any {
	var out []string
	for _, r := range i.Spec.Rules {
		if r.Host != "" && !slices.Contains(out, r.Host) {
			out = append(out, r.Host)
		}
	}
	if len(out) == 0 {
		return "*"
	}
	return few(out)
}

func parameters(p *networkingv1.IngressClassParametersReference) string {
	if p == nil {
		return "<none>"
	}
	kind := p.Kind
	if p.APIGroup != nil {
		kind += "." + *p.APIGroup
	}
	return kind + "/" + p.Name
}

package ingress

import (
	"fmt"
	"net"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// resolve finds the ready endpoints (host:port) of a Service's port, which is
// named by its number or its name.
func resolve(svc *corev1.Service, port networkingv1.ServiceBackendPort, in []*discoveryv1.EndpointSlice) ([]string, error) {
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil, fmt.Errorf("service %s/%s leads out of the cluster (ExternalName): an Ingress does not", svc.Namespace, svc.Name)
	}
	n := slices.IndexFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool {
		return port.Name == "" && p.Port == port.Number || port.Name != "" && p.Name == port.Name
	})
	switch {
	case n < 0 && port.Name != "":
		return nil, fmt.Errorf("service %s/%s has no port %q", svc.Namespace, svc.Name, port.Name)
	case n < 0:
		return nil, fmt.Errorf("service %s/%s has no port %d", svc.Namespace, svc.Name, port.Number)
	}
	name := svc.Spec.Ports[n].Name
	var out []string
	for _, s := range in {
		for _, p := range s.Ports {
			if p.Port == nil || p.Name != nil && *p.Name != name || p.Name == nil && name != "" {
				continue
			}
			for _, e := range s.Endpoints {
				if e.Conditions.Ready != nil && !*e.Conditions.Ready || len(e.Addresses) == 0 {
					continue
				}
				out = append(out, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port))))
			}
		}
	}
	return out, nil
}

package volume

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
)

// links are the variables that tell of the Services of a pod's namespace, as they are
// when the container starts. They are not read for a pod that does not want them, nor
// for a static one, which waits for nobody.
func (m *Manager) links(ctx context.Context, p *corev1.Pod) ([][2]string, error) {
	want := p.Spec.EnableServiceLinks == nil || *p.Spec.EnableServiceLinks
	if m.c.Services == nil || !want || p.Labels[api.LabelFunction] != "" || rules.IsMirror(p) {
		return nil, nil
	}
	list, err := m.c.Services.List(ctx, api.Services, api.ListOptions{Namespace: p.Namespace})
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil { // a container may start anew during an outage
		if was, ok := m.linked[p.UID]; ok {
			return was, nil
		}
		return nil, fmt.Errorf("services of namespace %s: %w", p.Namespace, err)
	}
	var out [][2]string
	for _, obj := range list.Items {
		if s, ok := obj.(*corev1.Service); ok {
			out = append(out, linksTo(s)...)
		}
	}
	m.linked[p.UID] = out
	return out, nil
}

// linksTo are the variables of one Service; one without an address has none.
func linksTo(s *corev1.Service) [][2]string {
	ip := s.Spec.ClusterIP
	if ip == "" || ip == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 || s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	upper := func(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }
	port := func(p corev1.ServicePort) string { return strconv.Itoa(int(p.Port)) }
	url := func(p corev1.ServicePort) string {
		return strings.ToLower(string(protocolOf(p))) + "://" + net.JoinHostPort(ip, port(p))
	}
	name, first := upper(s.Name), s.Spec.Ports[0]
	out := [][2]string{{name + "_SERVICE_HOST", ip}, {name + "_SERVICE_PORT", port(first)}}
	for _, p := range s.Spec.Ports {
		if p.Name != "" {
			out = append(out, [2]string{name + "_SERVICE_PORT_" + upper(p.Name), port(p)})
		}
	}
	out = append(out, [2]string{name + "_PORT", url(first)})
	for _, p := range s.Spec.Ports {
		prefix := name + "_PORT_" + port(p) + "_" + string(protocolOf(p))
		out = append(out,
			[2]string{prefix, url(p)}, [2]string{prefix + "_PROTO", strings.ToLower(string(protocolOf(p)))},
			[2]string{prefix + "_PORT", port(p)}, [2]string{prefix + "_ADDR", ip})
	}
	return slices.Clip(out)
}

func protocolOf(p corev1.ServicePort) corev1.Protocol {
	if p.Protocol == "" {
		return corev1.ProtocolTCP
	}
	return p.Protocol
}

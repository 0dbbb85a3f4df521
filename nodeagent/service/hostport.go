package service

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A pod's host port is a front like a node port, with one endpoint and for
// clients that are seen under their own address. In the ledger the pod stands
// beside the Services, under a name that none of them can have.
const podPrefix = "pod/"

func podKey(p *corev1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: p.Namespace, Name: podPrefix + p.Name}
}

// hostPorts are the ports of a pod that the node leads to it: those that the
// scheduler has given it room for.
func hostPorts(p *corev1.Pod) []corev1.ContainerPort {
	if p == nil || p.Spec.HostNetwork || len(podIPs(p)) == 0 || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil
	}
	var out []corev1.ContainerPort
	for i := range p.Spec.Containers {
		for _, cp := range p.Spec.Containers[i].Ports {
			if cp.HostPort > 0 {
				out = append(out, cp)
			}
		}
	}
	return out
}

// pod is the plan of a pod's host ports. It is a pure function of its arguments:
// here are the node's own addresses. faults are the ports that it does not get.
func (n node) pod(p *corev1.Pod, here []netip.Addr) (out plan, faults []string) {
	ports := hostPorts(p)
	if len(ports) == 0 {
		return out, nil
	}
	for _, cp := range ports {
		protocol, ok := protocolNumber(cp.Protocol)
		if !ok {
			faults = append(faults, fmt.Sprintf("%d/%s: only TCP and UDP are led to pods", cp.HostPort, cp.Protocol))
			continue
		}
		at, err := netip.ParseAddr(cp.HostIP)
		if err == nil && !at.IsUnspecified() && (at.IsLoopback() || !slices.Contains(here, at)) {
			faults = append(faults, fmt.Sprintf("%s:%d: that is no address of this node's links", at, cp.HostPort))
			continue
		}
		if cp.Protocol != corev1.ProtocolUDP && slices.Contains(n.reserved, cp.HostPort) {
			faults = append(faults, fmt.Sprintf("%d/TCP: that port is the node's own", cp.HostPort))
			continue
		}
		for _, to := range podIPs(p) {
			f := front{exposed: true, own: true, key: key{anywhere(to.Is6()), protocol, uint16(cp.HostPort)}}
			switch {
			case !at.IsValid() || at == netip.IPv4Unspecified(): // Kubernetes' default, for all addresses
			case at.Is6() != to.Is6():
				continue
			case !at.IsUnspecified():
				f.key.ip = ipOf(at)
			}
			f.slots = spread([]backend{{ip: ipOf(to), port: uint16(cp.ContainerPort)}}, narrow)
			f.outer = f.slots
			out.fronts = append(out.fronts, f)
			if !slices.Contains(out.local, ipOf(to)) {
				out.local = append(out.local, ipOf(to))
			}
		}
	}
	return out, faults
}

// podIPs are a pod's addresses.
func podIPs(p *corev1.Pod) (out []netip.Addr) {
	for _, a := range append([]corev1.PodIP{{IP: p.Status.PodIP}}, p.Status.PodIPs...) {
		if ip, err := netip.ParseAddr(a.IP); err == nil && !slices.Contains(out, ip) {
			out = append(out, ip)
		}
	}
	return out
}

// OnRefused has f called with a pod that does not get host ports that it wants,
// and why. To be called before Run.
func (b *Balancer) OnRefused(f func(p *corev1.Pod, reasons []string)) { b.refused = f }

// podChanged has a pod looked at when what its host ports depend on is another.
func (b *Balancer) podChanged(t api.EventType, old, now *corev1.Pod) {
	was, is := hostPorts(old), hostPorts(now)
	if len(was) == 0 && len(is) == 0 {
		return
	}
	if t == api.Deleted {
		now = old
	} else if t == api.Modified && len(was) == len(is) && slices.Equal(podIPs(old), podIPs(now)) {
		return // the ports themselves can't change
	}
	b.touch(podKey(now))
}

// decidePod is a pod's plan as things are now.
func (b *Balancer) decidePod(key types.NamespacedName, n node) plan {
	p, ok := b.pods.Get(key.Namespace, strings.TrimPrefix(key.Name, podPrefix))
	if !ok {
		return plan{}
	}
	here, err := b.host.addresses()
	if err != nil {
		b.log.Warn("the node's own addresses", slog.Any("error", err))
	}
	out, faults := n.pod(p, here)
	if len(faults) > 0 {
		b.log.Warn("a pod does not get a host port that it wants", slog.String("pod", p.Namespace+"/"+p.Name), slog.Any("reasons", faults))
		b.refused(p, faults)
	}
	return out
}

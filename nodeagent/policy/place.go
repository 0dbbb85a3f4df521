package policy

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// The sets and maps that are there under every program.
const (
	ingressMap  = "ingress"  // a pod's address to its chain
	egressMap   = "egress"   // the same
	selvesSet   = "selves"   // a selected pod's address, twice
	nodesSet    = "nodes"    // addresses that nodes send from
	tenantMap   = "tenant"   // address of a function's pod to its tenant's number
	membersSet  = "members"  // the same as a set, to ask for both at once
	ordinarySet = "ordinary" // addresses of pods that are no function's
	openSet     = "open"     // addresses that functions of any tenant reach
)

func ownMap(d direction) string { return [...]string{ingressMap, egressMap}[d] }

// element is one of a set or map. The key is as the kernel has it: each part
// begins at a multiple of four bytes, in a set of addresses it is one.
type element struct {
	set    string
	key    string
	chain  string // value of the maps to chains
	tenant uint32 // value of the map to tenants
}

// six tells the family of an element, which follows from the length of its key: an
// IPv4 address with a protocol and a port has less than an IPv6 one.
func (e element) six() bool { return len(e.key) >= net.IPv6len }

// subject is a pod as policies see it.
type subject struct {
	ip        netip.Addr
	namespace string
	labels    labels.Set
	ports     map[portName][]uint16
	local     bool // of this node
	function  bool
}

// subjectOf reads a pod that has an address.
func subjectOf(p *corev1.Pod, ip netip.Addr, node string) *subject {
	s := &subject{
		ip: ip, namespace: p.Namespace, labels: p.Labels, local: p.Spec.NodeName == node,
		function: isFunction(p), ports: map[portName][]uint16{},
	}
	add := func(c *corev1.Container) {
		for _, cp := range c.Ports {
			if cp.Name != "" {
				n := portName{protocolOf(cp.Protocol), cp.Name}
				s.ports[n] = append(s.ports[n], uint16(cp.ContainerPort))
			}
		}
	}
	for i := range p.Spec.Containers {
		add(&p.Spec.Containers[i])
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c) // a sidecar
		}
	}
	return s
}

func isFunction(p *corev1.Pod) bool { return p.Labels[api.LabelFunction] != "" }

// placement is what a pod stands for in the kernel. All keys begin with its
// address.
type placement struct {
	elements []element
	groups   []chain // that its maps lead to
}

// numbers gives each tenant one, from 1 on, for as long as it lives.
type numbers map[string]uint32

func (n numbers) of(namespace string) uint32 {
	if n[namespace] == 0 {
		n[namespace] = uint32(len(n) + 1)
	}
	return n[namespace]
}

// place finds out where a pod belongs.
func (p *program) place(s *subject, n numbers) placement {
	var out placement
	ip := string(s.ip.AsSlice())
	add := func(set, key string) { out.elements = append(out.elements, element{set: set, key: key}) }
	for _, sets := range [][]string{p.near[s.namespace], p.far} {
		for _, set := range sets {
			if p.peers[set].selects(p, s) {
				add(set, ip)
			}
		}
	}
	for set, name := range p.ports {
		for _, port := range s.ports[name] {
			add(set, ip+protocolKey(name.protocol)+portKey(port))
		}
	}
	if s.local {
		p.isolate(s, &out)
	}
	if !p.tenants {
		return out
	}
	if s.function {
		t := n.of(s.namespace)
		out.elements = append(out.elements, element{set: tenantMap, key: ip, tenant: t})
		add(membersSet, ip+markKey(t))
	} else {
		add(ordinarySet, ip)
	}
	if !s.function || p.namespaces[s.namespace][api.LabelIsolated] == "false" {
		add(openSet, ip)
	}
	return out
}

// isolate leads a pod that policies select to their chains.
func (p *program) isolate(s *subject, out *placement) {
	ip := string(s.ip.AsSlice())
	for d := range directions {
		jumps := p.selected(s, d)
		if len(jumps) == 0 {
			continue
		}
		g := group(d, jumps)
		out.groups = append(out.groups, g)
		out.elements = append(out.elements, element{set: ownMap(d), key: ip, chain: g.name})
	}
	if len(out.groups) > 0 {
		out.elements = append(out.elements, element{set: selvesSet, key: ip + ip})
	}
}

// selected are the chains of the policies of a direction that select a pod.
func (p *program) selected(s *subject, d direction) (chains []string) {
	for _, r := range p.rules[s.namespace] {
		if r.chains[d] != "" && r.pods.Matches(s.labels) {
			chains = append(chains, r.chains[d])
		}
	}
	return chains
}

// selects tells whether any policy does.
func (p *program) selects(s *subject) bool {
	return len(p.selected(s, ingress))+len(p.selected(s, egress)) > 0
}

func protocolKey(p byte) string { return string([]byte{p, 0, 0, 0}) }

func portKey(p uint16) string { return string(append(binary.BigEndian.AppendUint16(nil, p), 0, 0)) }

func markKey(m uint32) string { return string(binary.NativeEndian.AppendUint32(nil, m)) }

package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podsnap/podsnap/api"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// direction is that of a connection, as the pod that a policy selects sees it.
type direction int

const (
	ingress direction = iota
	egress
	directions
)

func (d direction) String() string { return [...]string{"ingress", "egress"}[d] }

// match is one thing that a policy lets through. Its zero value is everything.
type match struct {
	peers    string         // set of the other side's addresses; "" is any
	block    netip.Prefix   // the other side's network; zero is any
	except   []netip.Prefix // of it
	protocol byte           // 0 is any
	first    uint16         // port; 0 is any
	last     uint16
	named    string // set of address, protocol and port, in the place of the port
}

// chain lets matches through, and what the chains it jumps to let through.
type chain struct {
	name    string
	dir     direction
	matches []match
	jumps   []string // not nil: it is the chain of some pods, which refuses the rest
}

// rule is a policy: whom it selects, and its chains by direction. "" is a
// direction that it says nothing about.
type rule struct {
	pods   labels.Selector
	chains [directions]string
}

// peer selects the pods of a set. Namespaces are selected by name or by labels.
type peer struct {
	namespace  string
	namespaces labels.Selector // nil: by name
	pods       labels.Selector
}

// program is what policies, namespaces and nodes come to. It is immutable.
type program struct {
	rules      map[string][]rule // by namespace
	chains     map[string]chain
	peers      map[string]peer     // by their set
	near       map[string][]string // sets whose peers are of one namespace, by that
	far        []string            // sets whose peers are of many
	ports      map[string]portName // by their set
	namespaces map[string]labels.Set
	nodes      []netip.Addr
	tenants    bool
}

// portName is a name that pods give to ports.
type portName struct {
	protocol byte
	name     string
}

// compile makes a program. Which of a pod's properties count is in place.
func compile(policies []*networkingv1.NetworkPolicy, namespaces []*corev1.Namespace, nodes []*corev1.Node) *program {
	p := &program{rules: map[string][]rule{}, near: map[string][]string{}, chains: map[string]chain{}, peers: map[string]peer{}, ports: map[string]portName{}, namespaces: map[string]labels.Set{}}
	tenants := 0
	for _, n := range namespaces {
		p.namespaces[n.Name] = n.Labels
		if forFunctions(n) {
			tenants++
		}
	}
	p.tenants = tenants > 1
	for _, n := range nodes {
		p.nodes = append(p.nodes, nodeAddresses(n)...)
	}
	slices.SortFunc(p.nodes, netip.Addr.Compare)
	p.nodes = slices.Compact(p.nodes)
	for _, np := range policies {
		r := rule{pods: selector(&np.Spec.PodSelector)}
		for _, t := range np.Spec.PolicyTypes {
			switch t {
			case networkingv1.PolicyTypeIngress:
				r.chains[ingress] = p.chain(ingress, p.ingress(np))
			case networkingv1.PolicyTypeEgress:
				r.chains[egress] = p.chain(egress, p.egress(np))
			}
		}
		p.rules[np.Namespace] = append(p.rules[np.Namespace], r)
	}
	return p
}

// forFunctions tells whether a namespace is one of functions: a tenant.
func forFunctions(n *corev1.Namespace) bool {
	return n.Name == api.FunctionNamespace || n.Labels[api.LabelFunctionNamespace] == "1"
}

// nodeAddresses are the addresses that a node sends from: its own, and those of
// its part of the pod network.
func nodeAddresses(n *corev1.Node) []netip.Addr {
	var out []netip.Addr
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil {
			out = append(out, ip)
		}
	}
	for _, cidr := range append([]string{n.Spec.PodCIDR}, n.Spec.PodCIDRs...) {
		if pods, err := netip.ParsePrefix(cidr); err == nil {
			out = append(out, pods.Masked().Addr().Next())
		}
	}
	return out
}

func (p *program) ingress(np *networkingv1.NetworkPolicy) (out []match) {
	for _, r := range np.Spec.Ingress {
		out = append(out, p.matches(np.Namespace, r.From, r.Ports)...)
	}
	return out
}

func (p *program) egress(np *networkingv1.NetworkPolicy) (out []match) {
	for _, r := range np.Spec.Egress {
		out = append(out, p.matches(np.Namespace, r.To, r.Ports)...)
	}
	return out
}

// matches are a rule's: each peer with each port. No peers are all, and so are no
// ports.
func (p *program) matches(namespace string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) []match {
	sides := []match{{}}
	if len(peers) > 0 {
		sides = nil
		for i := range peers {
			if m, ok := p.side(namespace, &peers[i]); ok {
				sides = append(sides, m)
			}
		}
	}
	if len(ports) == 0 {
		return sides
	}
	var out []match
	for _, m := range sides {
		for i := range ports {
			if with, ok := p.port(m, &ports[i]); ok {
				out = append(out, with)
			}
		}
	}
	return out
}

// side is who the other side may be; false is nobody that there is here.
func (p *program) side(namespace string, n *networkingv1.NetworkPolicyPeer) (match, bool) {
	if b := n.IPBlock; b != nil {
		whole, err := netip.ParsePrefix(b.CIDR)
		if err != nil {
			return match{}, false
		}
		m := match{block: whole.Masked()}
		for _, e := range b.Except {
			part, err := netip.ParsePrefix(e)
			if err != nil {
				return match{}, false // rather too little than too much
			}
			m.except = append(m.except, part.Masked())
		}
		return m, true
	}
	who := peer{namespace: namespace, pods: labels.Everything()}
	if n.PodSelector != nil {
		who.pods = selector(n.PodSelector)
	}
	if n.NamespaceSelector != nil {
		who.namespace, who.namespaces = "", selector(n.NamespaceSelector)
	}
	id := who.namespace + "\n"
	if who.namespaces != nil {
		id += who.namespaces.String()
	}
	set := "peers-" + digest(id+"\n"+who.pods.String())
	if _, ok := p.peers[set]; !ok {
		p.peers[set] = who
		if who.namespaces == nil {
			p.near[namespace] = append(p.near[namespace], set)
		} else {
			p.far = append(p.far, set)
		}
	}
	return match{peers: set}, true
}

// port narrows a match to a port.
func (p *program) port(m match, n *networkingv1.NetworkPolicyPort) (match, bool) {
	m.protocol = unix.IPPROTO_TCP
	if n.Protocol != nil {
		m.protocol = protocolOf(*n.Protocol)
	}
	switch {
	case m.protocol == 0:
		return m, false
	case n.Port == nil:
		return m, true
	case n.Port.Type == intstr.String:
		name := portName{m.protocol, n.Port.StrVal}
		m.named = fmt.Sprintf("port-%s", digest(fmt.Sprintf("%d %s", name.protocol, name.name)))
		p.ports[m.named] = name
		return m, true
	}
	m.first, m.last = uint16(n.Port.IntVal), uint16(n.Port.IntVal)
	if n.EndPort != nil {
		m.last = uint16(*n.EndPort)
	}
	return m, true
}

// protocolOf is 0 for one that policies do not know.
func protocolOf(p corev1.Protocol) byte {
	switch p {
	case corev1.ProtocolTCP, "":
		return unix.IPPROTO_TCP
	case corev1.ProtocolUDP:
		return unix.IPPROTO_UDP
	case corev1.ProtocolSCTP:
		return unix.IPPROTO_SCTP
	}
	return 0
}

// chain keeps one of these matches, under a name that follows from them.
func (p *program) chain(d direction, m []match) string {
	name := "allow-" + digest(fmt.Sprintf("%s %v", d, m))
	p.chains[name] = chain{name: name, dir: d, matches: m}
	return name
}

// group is the chain of the pods that have these policies' chains.
func group(d direction, jumps []string) chain {
	slices.Sort(jumps)
	jumps = slices.Compact(jumps)
	return chain{name: "pods-" + digest(d.String()+" "+strings.Join(jumps, " ")), dir: d, jumps: jumps}
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// selector reads one; what cannot be read selects nothing.
func selector(s *metav1.LabelSelector) labels.Selector {
	out, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return out
}

func (n peer) selects(p *program, s *subject) bool {
	if n.namespaces == nil {
		return n.namespace == s.namespace && n.pods.Matches(s.labels)
	}
	of, known := p.namespaces[s.namespace]
	return known && n.namespaces.Matches(of) && n.pods.Matches(s.labels)
}

package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/api"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// table answers as the kernel's would: an interpreter of what a ledger has.
type table struct {
	*ledger
	has map[element]bool
}

func tableOf(l *ledger) *table {
	return &table{&ledger{program: l.program, groups: maps.Clone(l.groups)}, l.elements()}
}

// packet begins a connection.
type packet struct {
	from, to netip.Addr
	protocol byte
	port     uint16
}

func key(parts ...any) string {
	out := ""
	for _, p := range parts {
		switch p := p.(type) {
		case netip.Addr:
			out += string(p.AsSlice())
		case byte:
			out += protocolKey(p)
		case uint16:
			out += portKey(p)
		}
	}
	return out
}

// passes tells whether a packet that is forwarded does.
func (t *table) passes(p packet) bool {
	in := func(set, key string) bool { return t.has[element{set: set, key: key}] }
	pod := func(a netip.Addr) bool { // in all of the tests
		return netip.MustParsePrefix("10.0.0.0/8").Contains(a) || netip.MustParsePrefix("fd00::/8").Contains(a)
	}
	if t.program.tenants && pod(p.from) && pod(p.to) && !in(ordinarySet, key(p.from)) && !t.oneTenant(p) && !in(openSet, key(p.to)) {
		return false
	}
	if in(selvesSet, key(p.from, p.to)) {
		return true
	}
	return t.led(egress, p.from, p) && (in(nodesSet, key(p.from)) || t.led(ingress, p.to, p))
}

func (t *table) oneTenant(p packet) bool {
	for e := range t.has {
		if e.set == tenantMap && e.key == key(p.from) {
			return t.has[element{set: membersSet, key: key(p.to) + markKey(e.tenant)}]
		}
	}
	return false
}

func (t *table) led(d direction, who netip.Addr, p packet) bool {
	for e := range t.has {
		if e.set != ownMap(d) || e.key != key(who) {
			continue
		}
		for _, j := range t.groups[e.chain].jumps {
			if slices.ContainsFunc(t.program.chains[j].matches, func(m match) bool { return t.fits(d, m, p) }) {
				return true
			}
		}
		return false
	}
	return true
}

func (t *table) fits(d direction, m match, p packet) bool {
	other := p.from
	if d == egress {
		other = p.to
	}
	switch {
	case m.peers != "" && !t.has[element{set: m.peers, key: key(other)}],
		m.block.IsValid() && !m.block.Contains(other),
		slices.ContainsFunc(m.except, func(e netip.Prefix) bool { return e.Contains(other) }),
		m.protocol != 0 && m.protocol != p.protocol,
		m.first != 0 && (p.port < m.first || p.port > m.last),
		m.named != "" && !t.has[element{set: m.named, key: key(p.to, p.protocol, p.port)}]:
		return false
	}
	return true
}

// town is who there is in the tests: three namespaces.
func town() (pods []*corev1.Pod, namespaces []*corev1.Namespace) {
	ns := func(name string, l map[string]string) {
		namespaces = append(namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: l}})
	}
	ns("shop", map[string]string{"team": "shop", corev1.LabelMetadataName: "shop"})
	ns("ops", map[string]string{"team": "ops", corev1.LabelMetadataName: "ops"})
	ns("empty", nil)
	pod := func(name, namespace, ip string, l map[string]string, ports ...corev1.ContainerPort) {
		pods = append(pods, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: l},
			Spec:       corev1.PodSpec{NodeName: "here", Containers: []corev1.Container{{Ports: ports}}},
			Status:     corev1.PodStatus{PodIP: ip},
		})
	}
	http := func(port int32) corev1.ContainerPort {
		return corev1.ContainerPort{Name: "http", ContainerPort: port, Protocol: corev1.ProtocolTCP}
	}
	pod("web", "shop", "10.62.0.2", map[string]string{"app": "web", "tier": "front"}, http(8080))
	pod("db", "shop", "10.62.0.3", map[string]string{"app": "db"}, http(9090))
	pod("client", "shop", "10.62.1.4", map[string]string{"app": "client"})
	pod("mon", "ops", "10.62.1.5", map[string]string{"app": "mon"}, http(7070))
	pod("tool", "ops", "10.62.0.6", map[string]string{"app": "tool"})
	return pods, namespaces
}

// read is a policy in the namespace shop, with what the API defaults.
func read(t *testing.T, spec string) *networkingv1.NetworkPolicy {
	t.Helper()
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}}
	if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
		t.Fatalf("%v in %s", err, spec)
	}
	if len(p.Spec.PolicyTypes) == 0 {
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 {
			p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	return p
}

// ledgerOf places pods, all of this node.
func ledgerOf(p *program, pods []*corev1.Pod, n numbers) *ledger {
	l := newLedger(p)
	var c changes
	for _, pod := range pods {
		ip := netip.MustParseAddr(pod.Status.PodIP)
		l.set(ip, p.place(subjectOf(pod, ip, "here"), n), &c)
	}
	l.settle(&c)
	return l
}

// Every recipe of Kubernetes' documentation, and the corners of the semantics. A
// connection is from>to, with :port/protocol when it is not TCP port 8080; those
// that are listed are refused, all others between these six pass.
func TestSemantics(t *testing.T) {
	all := []string{"web", "db", "client", "mon", "tool", "world"}
	for _, tt := range []struct {
		name     string
		policies []string
		refused  string
		also     string // that pass, beside those of TCP 8080
		not      string // that do not
	}{
		{name: "no policy"},
		{name: "deny all ingress", policies: []string{`podSelector: {}`}, refused: "*>web *>db *>client"},
		{name: "allow all ingress", policies: []string{`{podSelector: {}, ingress: [{}]}`}},
		{name: "deny all egress", policies: []string{`{podSelector: {}, policyTypes: [Egress]}`}, refused: "web>* db>* client>*"},
		{name: "allow all egress", policies: []string{`{podSelector: {}, policyTypes: [Egress], egress: [{}]}`}},
		{name: "deny everything", policies: []string{`{podSelector: {}, policyTypes: [Ingress, Egress]}`}, refused: "*>web *>db *>client web>* db>* client>*"},
		{name: "one pod is isolated", policies: []string{`podSelector: {matchLabels: {app: db}}`}, refused: "*>db"},
		{name: "selector without matches", policies: []string{`podSelector: {matchLabels: {app: nothing}}`}},
		{name: "of what has no labels like that", policies: []string{`podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}, {key: app, operator: NotIn, values: [client]}]}`}, refused: "*>db"},
		{name: "from pods of the namespace", policies: []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`}, refused: "client>db mon>db tool>db world>db"},
		{name: "from all pods of the namespace", policies: []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {}}]}]}`}, refused: "mon>db tool>db world>db"},
		{name: "from a namespace", policies: []string{`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}}]}]}`}, refused: "web>db web>client db>web db>client client>web client>db world>web world>db world>client"},
		{name: "from all namespaces, not from the world", policies: []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {}}]}]}`}, refused: "world>db"},
		{name: "by the namespace's name", policies: []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [ops, empty]}]}}]}]}`}, refused: "web>db client>db world>db"},
		{name: "from pods of a namespace", policies: []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}, podSelector: {matchLabels: {app: mon}}}]}]}`}, refused: "web>db client>db tool>db world>db"},
		{name: "from pods or a namespace", policies: []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}}, {podSelector: {matchLabels: {app: web}}}]}]}`}, refused: "client>db world>db"},
		{name: "a block", policies: []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 10.62.1.0/24}}]}]}`}, refused: "web>db tool>db world>db"},
		{name: "a block except a part", policies: []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.62.1.0/24, 192.0.2.0/24]}}]}]}`}, refused: "client>db mon>db world>db"},
		{name: "the world alone", policies: []string{`{podSelector: {matchLabels: {app: db}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]}]}`}, refused: "db>web db>client db>mon db>tool"},
		{name: "a block with bits beyond its prefix", policies: []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 10.62.1.77/24}}]}]}`}, refused: "web>db tool>db world>db"},
		{name: "a block of IPv6 is nobody here", policies: []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: "2001:db8::/32"}}]}]}`}, refused: "*>db"},
		{name: "no peers left is not all", policies: []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: "::/0"}}], ports: [{port: 8080}]}]}`}, refused: "*>db"},
		{name: "a port", policies: []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 8080}]}]}`}, also: "web>db:8080/tcp", not: "web>db:8081/tcp web>db:8080/udp mon>db:443/tcp web>db:0/icmp"},
		{name: "a protocol", policies: []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{protocol: UDP}]}]}`}, refused: "*>db", also: "web>db:1/udp web>db:65535/udp", not: "web>db:1/sctp"},
		{name: "SCTP", policies: []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{protocol: SCTP, port: 7}]}]}`}, refused: "*>db", also: "web>db:7/sctp", not: "web>db:7/tcp web>db:7/udp web>db:8/sctp"},
		{name: "a range", policies: []string{`{podSelector: {matchLabels: {app: db}}, policyTypes: [Egress], egress: [{ports: [{port: 32000, endPort: 32768}]}]}`}, refused: "db>web db>client db>mon db>tool db>world", also: "db>web:32000/tcp db>world:32768/tcp db>mon:32123/tcp", not: "db>web:31999/tcp db>web:32769/tcp db>web:32000/udp"},
		{name: "all ports are all protocols", policies: []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {}}]}]}`}, refused: "mon>db tool>db world>db", also: "web>db:1/udp web>db:0/icmp", not: "mon>db:0/icmp"},
		{name: "a name of the receiver's port", policies: []string{`{podSelector: {}, ingress: [{ports: [{port: http}]}]}`}, refused: "*>db *>client", also: "mon>db:9090/tcp mon>web:8080/tcp", not: "mon>web:9090/tcp mon>db:9090/udp"},
		{name: "a name of other pods' ports", policies: []string{`{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}], ports: [{port: http}]}]}`}, refused: "client>db client>mon client>tool client>world", also: "client>web:8080/tcp client>db:9090/tcp client>mon:7070/tcp", not: "client>mon:8080/tcp client>world:7070/tcp"},
		{name: "a name that nobody has", policies: []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: admin}]}]}`}, refused: "*>db"},
		{name: "names alone", policies: []string{`{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]}]}`}, refused: "web>* db>* client>*", also: "web>world:53/udp web>mon:53/tcp", not: "web>world:54/udp"},
		{name: "peers and ports are both", policies: []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 8080}, {port: 9}]}]}`}, refused: "client>db mon>db tool>db world>db", also: "web>db:9/tcp", not: "web>db:10/tcp client>db:9/tcp"},
		{name: "two rules are either", policies: []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}, {ports: [{port: 9}]}]}`}, refused: "client>db mon>db tool>db world>db", also: "client>db:9/tcp world>db:9/tcp web>db:10/tcp"},
		{name: "two policies add up", policies: []string{
			`{podSelector: {}}`,
			`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`,
			`{podSelector: {matchExpressions: [{key: app, operator: In, values: [db, web]}]}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}}]}]}`,
		}, refused: "*>client db>web client>web world>web client>db world>db"},
		{name: "both sides have to agree", policies: []string{
			`{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: client}}}]}]}`,
			`{podSelector: {matchLabels: {app: client}}, ingress: [{from: [{podSelector: {matchLabels: {app: db}}}]}]}`,
		}, refused: "web>db web>mon web>tool web>world web>client mon>client tool>client world>client"},
		{name: "egress says nothing about ingress", policies: []string{`{podSelector: {matchLabels: {app: db}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]}`}, refused: "db>client db>mon db>tool db>world"},
		{name: "a policy of egress that does not say so is one of ingress too", policies: []string{`{podSelector: {matchLabels: {app: db}}, egress: [{}]}`}, refused: "*>db"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pods, namespaces := town()
			var policies []*networkingv1.NetworkPolicy
			for _, p := range tt.policies {
				policies = append(policies, read(t, p))
			}
			prog := compile(policies, namespaces, nil)
			tbl := tableOf(ledgerOf(prog, pods, numbers{}))
			refused := map[string]bool{}
			for c := range strings.FieldsSeq(tt.refused) {
				from, to, _ := strings.Cut(c, ">")
				for _, f := range all {
					for _, to2 := range all {
						if (from == "*" || from == f) && (to == "*" || to == to2) && f != to2 {
							refused[f+">"+to2] = true
						}
					}
				}
			}
			for _, from := range all {
				for _, to := range all {
					c := from + ">" + to
					if got := tbl.passes(connection(t, pods, c)); got == refused[c] {
						t.Errorf("%s: passes %v", c, got)
					}
				}
			}
			for list, want := range map[string]bool{tt.also: true, tt.not: false} {
				for c := range strings.FieldsSeq(list) {
					if got := tbl.passes(connection(t, pods, c)); got != want {
						t.Errorf("%s: passes %v", c, got)
					}
				}
			}
		})
	}
}

// connection reads from>to:port/protocol.
func connection(t *testing.T, pods []*corev1.Pod, s string) packet {
	t.Helper()
	at := func(name string) netip.Addr {
		for _, p := range pods {
			if p.Name == name {
				return netip.MustParseAddr(p.Status.PodIP)
			}
		}
		if name == "world" {
			return netip.MustParseAddr("192.0.2.7")
		}
		t.Fatalf("nobody is called %q", name)
		return netip.Addr{}
	}
	from, rest, _ := strings.Cut(s, ">")
	to, how, ok := strings.Cut(rest, ":")
	p := packet{from: at(from), to: at(to), protocol: unix.IPPROTO_TCP, port: 8080}
	if !ok {
		return p
	}
	port, protocol, _ := strings.Cut(how, "/")
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	p.port = uint16(n)
	p.protocol = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP, "icmp": unix.IPPROTO_ICMP}[protocol]
	return p
}

// A pod of another node is a peer, and what its policies say is that node's affair.
func TestPodsOfOtherNodes(t *testing.T) {
	pods, namespaces := town()
	for _, p := range pods {
		if p.Name != "db" {
			p.Spec.NodeName = "elsewhere"
		}
	}
	tbl := tableOf(ledgerOf(compile([]*networkingv1.NetworkPolicy{
		read(t, `{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}], egress: [{}]}`),
	}, namespaces, nil), pods, numbers{}))
	for c, want := range map[string]bool{"web>db": true, "client>db": false, "mon>db": false, "db>web": true, "mon>web": true} {
		if got := tbl.passes(connection(t, pods, c)); got != want {
			t.Errorf("%s: passes %v", c, got)
		}
	}
	if len(tbl.groups) != 2 { // db's, one a direction
		t.Errorf("the chains of pods are %v", tbl.groups)
	}
}

// A node is let in whatever a policy says, under each address that it sends from.
func TestNodesAreLetIn(t *testing.T) {
	pods, namespaces := town()
	node := &corev1.Node{Spec: corev1.NodeSpec{PodCIDR: "10.62.7.0/24"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "h2"}, {Type: corev1.NodeInternalIP, Address: "198.51.100.2"},
	}}}
	tbl := tableOf(ledgerOf(compile([]*networkingv1.NetworkPolicy{read(t, `podSelector: {}`)}, namespaces, []*corev1.Node{node}), pods, numbers{}))
	db := netip.MustParseAddr("10.62.0.3")
	for from, want := range map[string]bool{"198.51.100.2": true, "10.62.7.1": true, "10.62.7.2": false, "198.51.100.3": false} {
		if got := tbl.passes(packet{netip.MustParseAddr(from), db, unix.IPPROTO_TCP, 80}); got != want {
			t.Errorf("from %s: passes %v", from, got)
		}
	}
}

// Functions of different namespaces do not reach one another; other pods reach
// everybody and are reached.
func TestTenants(t *testing.T) {
	var namespaces []*corev1.Namespace
	var pods []*corev1.Pod
	for i, n := range []struct {
		name   string
		labels map[string]string
	}{
		{api.FunctionNamespace, nil},
		{"red", map[string]string{api.LabelFunctionNamespace: "1"}},
		{"blue", map[string]string{api.LabelFunctionNamespace: "1", api.LabelIsolated: "true"}},
		{"open", map[string]string{api.LabelFunctionNamespace: "1", api.LabelIsolated: "false"}},
		{"plain", nil},
	} {
		namespaces = append(namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n.name, Labels: n.labels}})
		for j := range 2 {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: n.name, Name: fmt.Sprintf("%s%d", n.name, j)}, Status: corev1.PodStatus{PodIP: fmt.Sprintf("10.62.0.%d", 2+2*i+j)}}
			if n.name != "plain" {
				p.Labels = map[string]string{api.LabelFunction: p.Name}
			}
			pods = append(pods, p)
		}
	}
	tbl := tableOf(ledgerOf(compile(nil, namespaces, nil), pods, numbers{}))
	for _, from := range pods {
		for _, to := range pods {
			want := from.Namespace == to.Namespace || from.Namespace == "plain" || to.Namespace == "plain" || to.Namespace == "open"
			if got := tbl.passes(connection(t, pods, from.Name+">"+to.Name)); got != want {
				t.Errorf("%s to %s: passes %v", from.Name, to.Name, got)
			}
		}
	}
	// Who is not known reaches no function, and no function reaches it.
	stranger := netip.MustParseAddr("10.62.0.99")
	for _, p := range pods[:6] {
		ip := netip.MustParseAddr(p.Status.PodIP)
		if tbl.passes(packet{stranger, ip, unix.IPPROTO_TCP, 80}) || tbl.passes(packet{ip, stranger, unix.IPPROTO_TCP, 80}) {
			t.Errorf("%s and an address that nobody is known to have reach one another", p.Name)
		}
	}
	// One namespace is no tenants.
	if p := compile(nil, []*corev1.Namespace{namespaces[0], namespaces[4]}, nil); p.tenants {
		t.Error("one namespace of functions has tenants")
	}
}

// Whatever changes, what the changes lead to is what would have been made anew.
func TestChanges(t *testing.T) {
	pods, namespaces := town()
	n := numbers{}
	progs := []*program{
		compile(nil, namespaces, nil),
		compile([]*networkingv1.NetworkPolicy{read(t, `podSelector: {}`)}, namespaces, nil),
		compile([]*networkingv1.NetworkPolicy{read(t, `{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {}}], ports: [{port: http}]}]}`)}, namespaces, nil),
		compile([]*networkingv1.NetworkPolicy{read(t, `podSelector: {}`), read(t, `{podSelector: {matchLabels: {app: web}}, egress: [{}]}`)}, namespaces, nil),
	}
	for i, p := range progs {
		for j, q := range progs {
			k := newFake(ledgerOf(p, pods, n))
			next := ledgerOf(q, pods[1:], n)
			k.apply(t, ledgerOf(p, pods, n).to(next))
			k.is(t, fmt.Sprintf("program %d to %d", i, j), next)
		}
		// Pod by pod, all at once, and back.
		l := ledgerOf(p, nil, n)
		k := newFake(l)
		step := func(what string, which []*corev1.Pod, there bool) {
			var c changes
			for _, pod := range which {
				ip := netip.MustParseAddr(pod.Status.PodIP)
				next := placement{}
				if there {
					next = p.place(subjectOf(pod, ip, "here"), n)
				}
				l.set(ip, next, &c)
			}
			l.settle(&c)
			k.apply(t, &c)
			k.is(t, fmt.Sprintf("program %d, %s", i, what), l)
		}
		step("the first", pods[:1], true)
		step("all", pods, true)
		step("without some", pods[:2], false)
		step("none", pods, false)
		if len(l.groups)+len(l.placed) > 0 {
			t.Errorf("program %d: %v and %v are left", i, l.groups, l.placed)
		}
	}
}

// fake is a table that minds what is there and what is led to.
type fake struct {
	sets     map[string]bool
	chains   map[string]chain
	elements map[element]bool
}

func newFake(l *ledger) *fake { return &fake{l.sets(), l.chains(), l.elements()} }

func (f *fake) apply(t *testing.T, c *changes) {
	t.Helper()
	for _, s := range c.sets {
		if f.sets[s] {
			t.Errorf("set %s is added twice", s)
		}
		f.sets[s] = true
	}
	for _, s := range c.noSets {
		if !f.sets[s] {
			t.Errorf("set %s is removed and not there", s)
		}
		delete(f.sets, s)
	}
	for _, ch := range c.chains {
		if _, ok := f.chains[ch.name]; ok {
			t.Errorf("chain %s is added twice", ch.name)
		}
		f.chains[ch.name] = ch
	}
	for _, ch := range c.noChains {
		if _, ok := f.chains[ch.name]; !ok {
			t.Errorf("chain %s is removed and not there", ch.name)
		}
		delete(f.chains, ch.name)
	}
	for _, e := range c.removed {
		if !f.elements[e] {
			t.Errorf("element %v is removed and not there", e)
		}
		delete(f.elements, e)
	}
	for _, e := range c.added {
		if f.elements[e] {
			t.Errorf("element %v is added twice", e)
		}
		f.elements[e] = true
	}
}

func (f *fake) is(t *testing.T, what string, l *ledger) {
	t.Helper()
	for e := range f.elements {
		_, own := f.sets[e.set]
		if !own && !slices.Contains(ownSets(), e.set) {
			t.Errorf("%s: an element of %s, which is not there", what, e.set)
		}
		if _, ok := f.chains[e.chain]; e.chain != "" && !ok {
			t.Errorf("%s: %v leads to a chain that is not there", what, e)
		}
	}
	want := newFake(l)
	if fmt.Sprint(want.sets) != fmt.Sprint(f.sets) || fmt.Sprint(want.chains) != fmt.Sprint(f.chains) || len(want.elements) != len(f.elements) {
		t.Errorf("%s: got %v, want %v", what, f, want)
	}
	for e := range want.elements {
		if !f.elements[e] {
			t.Errorf("%s: %v is missing", what, e)
		}
	}
}

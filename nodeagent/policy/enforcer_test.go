package policy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/network"
	"github.com/podsnap/podsnap/nodeagent/service"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func refused(err error) bool {
	// Which of them it is depends on the family, and on how it was asked.
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES)
}

// town builds the town of the tables as sandboxes.
func (r *rig) town() {
	r.Helper()
	pods, namespaces := town()
	for _, n := range namespaces {
		r.namespace(n.Name, n.Labels)
	}
	for _, p := range pods {
		r.pod(p.Namespace, p.Name, p.Labels, p.Spec.Containers[0].Ports...)
	}
}

// matrix sends from everybody to everybody and compares with what the tables'
// interpreter says, which TestSemantics holds to the semantics.
func (r *rig) matrix(what string) (pass, refuse int) {
	r.Helper()
	r.forget()
	var tbl *table
	r.e.mu.Lock()
	if r.e.ledger != nil {
		tbl = tableOf(r.e.ledger)
	}
	r.e.mu.Unlock()
	for from, f := range r.who {
		for to, t := range r.who {
			if from == to {
				continue
			}
			packets := map[string]packet{
				"tcp4:8080": {f.ip, t.ip, unix.IPPROTO_TCP, 8080}, "tcp4:9090": {f.ip, t.ip, unix.IPPROTO_TCP, 9090}, "udp4:8080": {f.ip, t.ip, unix.IPPROTO_UDP, 8080},
			}
			if f.ip6.IsValid() && t.ip6.IsValid() {
				packets["tcp6:8080"], packets["udp6:8080"] = packet{f.ip6, t.ip6, unix.IPPROTO_TCP, 8080}, packet{f.ip6, t.ip6, unix.IPPROTO_UDP, 8080}
			}
			for how, p := range packets {
				want := tbl == nil || tbl.passes(p)
				got, err := r.reaches(from, to, how)
				if got != want || err != nil {
					r.Errorf("%s: %s to %s, %s: reached %v, want %v (%v)", what, from, to, how, got, want, err)
				}
				if got {
					pass++
				} else {
					refuse++
				}
			}
		}
	}
	return pass, refuse
}

// forget ends all connections: what exists when a policy comes goes on, and a
// client's port may come back.
func (r *rig) forget() {
	r.Helper()
	r.inside(r.host, func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }) // of both families
}

// What the tables say is what packets meet: for policies one after the other,
// with pods that come, change and go, over restarts and after damage.
func TestPackets(t *testing.T) {
	r := newDualRig(t)
	r.town()
	r.start()
	if !r.e.idle.Load() || r.tables() != 0 {
		t.Errorf("without policies it is idle %v and has %d tables", r.e.idle.Load(), r.tables())
	}
	r.matrix("no policy")
	for _, tt := range []struct {
		name  string
		specs []string
	}{
		{"deny all ingress", []string{`podSelector: {}`}},
		{"deny all egress", []string{`{podSelector: {}, policyTypes: [Egress]}`}},
		{"deny one everything", []string{`{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress, Egress]}`}},
		{"from pods", []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`}},
		{"from a namespace", []string{`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}}]}]}`}},
		{"from pods of a namespace", []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}, podSelector: {matchLabels: {app: mon}}}]}]}`}},
		{"blocks", []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.222.0.0/16]}}]}]}`}},
		{"blocks of both families", []string{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 10.222.0.0/29}}, {ipBlock: {cidr: "::/0", except: ["fd22::/64"]}}]}]}`}},
		{"the world alone", []string{`{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: 9090}]}]}`}},
		{"a port, a range and a protocol", []string{
			`{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 9000, endPort: 9100}]}]}`,
			`{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{protocol: UDP}]}]}`,
		}},
		{"names of ports", []string{
			`{podSelector: {}, ingress: [{ports: [{port: http}]}]}`,
			`{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}], ports: [{port: http}]}]}`,
		}},
		{"both sides", []string{
			`{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: client}}}]}]}`,
			`{podSelector: {matchLabels: {app: client}}, ingress: [{from: [{podSelector: {matchLabels: {app: db}}}]}]}`,
		}},
	} {
		var ps []*networkingv1.NetworkPolicy
		for _, s := range tt.specs {
			ps = append(ps, read(t, s))
		}
		r.policies(ps...)
		pass, refuse := r.matrix(tt.name)
		t.Logf("%s: %d connections passed, %d were refused", tt.name, pass, refuse)
		if pass == 0 || refuse == 0 {
			t.Errorf("%s: nothing passed, or nothing was refused", tt.name)
		}
	}
	r.policies(read(t, `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`))
	r.node("the node itself")
	// A pod is another one's peer from now on, and then not any more.
	tool := r.find("client")
	tool.Labels = map[string]string{"app": "web"}
	_, err := r.objects.Update(t.Context(), tool, api.UpdateOptions{})
	r.must(err)
	r.settle()
	r.matrix("with another peer")
	_, err = r.objects.Delete(t.Context(), api.Pods, "shop", "db", api.DeleteOptions{GracePeriodSeconds: new(int64(0))})
	r.must(err)
	r.settle()
	r.matrix("without one of them")
	// A new agent, which finds everything.
	r.stop()
	if yes, err := r.reaches("tool", "web", "tcp4:8080"); yes || err != nil {
		t.Errorf("without an agent what was refused: %v, %v", yes, err)
	}
	r.start()
	r.matrix("with a new agent")
	if n := r.tables(); n != 2 {
		t.Errorf("%d tables, want one of each family", n)
	}
	// Somebody takes out a chain, and an element.
	four, six := span{cluster: r.config.ClusterCIDR}, span{cluster: r.config.ClusterCIDR6}
	for what, damage := range map[string]func(*nftables.Conn, *nftables.Table){
		"an element": func(c *nftables.Conn, t *nftables.Table) {
			of, ip := four, r.who["web"].ip
			if t.Family == six.family() {
				of, ip = six, r.who["web"].ip6
			}
			_ = c.SetDeleteElements(of.setOf(t, ingressMap), []nftables.SetElement{encode(element{set: ingressMap, key: key(ip), chain: "x"})})
		},
		"rules":   func(c *nftables.Conn, t *nftables.Table) { c.FlushChain(&nftables.Chain{Name: toChain, Table: t}) },
		"a table": func(c *nftables.Conn, t *nftables.Table) { c.DelTable(t) },
	} {
		for how, of := range map[string]span{"tcp4:8080": four, "tcp6:8080": six} {
			r.inside(r.host, func() error {
				c, err := nftables.New()
				if err != nil {
					return err
				}
				all, err := r.ours(c)
				if err != nil || len(all) != 2 {
					return fmt.Errorf("there are %d tables, want two: %w", len(all), err)
				}
				damage(c, all[slices.IndexFunc(all, func(t *nftables.Table) bool { return t.Family == of.family() })])
				return c.Flush()
			})
			r.eventually("repair of "+what, func() bool { yes, err := r.reaches("tool", "web", how); return !yes && err == nil })
			r.settle()
			r.matrix("after the repair of " + what)
		}
	}
	r.policies()
	if !r.e.idle.Load() || r.tables() != 0 {
		t.Errorf("without policies again it is idle %v and has %d tables", r.e.idle.Load(), r.tables())
	}
	r.matrix("without policies again")
	r.policies(read(t, `podSelector: {}`))
	r.stop()
	r.inside(r.host, func() error { return Remove(r.config.Table) })
	if n := r.tables(); n != 0 {
		t.Errorf("%d tables are left", n)
	}
}

// node has the node itself reach all of its pods, and a pod of it the node.
func (r *rig) node(what string) {
	r.Helper()
	r.who["node"] = &box{ns: r.host, ip: r.net.Gateway(), ip6: r.net.Gateway6()}
	defer delete(r.who, "node")
	for name := range r.who {
		if yes, err := r.reaches("node", name, "tcp4:8080"); name != "node" && (!yes || err != nil) {
			r.Errorf("%s does not reach %s: %v", what, name, err)
		}
	}
}

func (r *rig) find(name string) *corev1.Pod {
	r.Helper()
	o, err := api.Get[*corev1.Pod](r.Context(), r.objects, api.Pods, "shop", name)
	r.must(err)
	return o.DeepCopy()
}

// tables counts the enforcer's.
func (r *rig) tables() (n int) {
	r.Helper()
	r.inside(r.host, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		all, err := r.ours(c)
		n = len(all)
		return err
	})
	return n
}

// ours are the enforcer's tables. They are asked of the kernel: what the enforcer
// knows is its goroutine's.
func (r *rig) ours(c *nftables.Conn) ([]*nftables.Table, error) {
	all, err := c.ListTables()
	return slices.DeleteFunc(all, func(t *nftables.Table) bool { return t.Name != r.config.Table+"-0" && t.Name != r.config.Table+"-1" }), err
}

func (r *rig) eventually(what string, cond func() bool) {
	r.Helper()
	late := time.Now().Add(10 * time.Second)
	for !cond() {
		if time.Now().After(late) {
			r.Fatalf("not after 10 s: %s", what)
		}
	}
}

// A pod that a policy selects is closed when Guard returns, whatever the API knows
// of it; and what Guard said gives way to what the API says.
func TestGuard(t *testing.T) {
	r := newRig(t)
	r.town()
	r.start()
	early := r.unknown("shop", "early", map[string]string{"app": "early"})
	r.must(r.e.Guard(t.Context(), early, r.who["early"].addresses()))
	if len(r.e.early) != 0 {
		t.Errorf("without policies it keeps %v", r.e.early)
	}
	r.policies(read(t, `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`))
	for i := range 20 {
		name := fmt.Sprintf("new%d", i)
		p := r.unknown("shop", name, map[string]string{"app": "new"})
		if yes, err := r.reaches("tool", name, "tcp4:8080"); !yes || err != nil {
			t.Fatalf("a sandbox without a pod is reached: %v, %v", yes, err)
		}
		begun := time.Now()
		r.must(r.e.Guard(t.Context(), p, r.who[name].addresses()))
		took := time.Since(begun)
		for from, want := range map[string]bool{"tool": false, "web": true} {
			if yes, err := r.reaches(from, name, "tcp4:8080"); yes != want || err != nil {
				t.Errorf("%s from %s: %v, %v", name, from, yes, err)
			}
		}
		if i%5 == 0 {
			t.Logf("guarded in %s", took)
		}
		switch i % 3 {
		case 0:
			r.publish(p)
			r.settle()
			r.must(r.e.Guard(t.Context(), p, r.who[name].addresses())) // another container of it
		case 1: // it ends before anybody hears where it was
			_, err := r.objects.Delete(t.Context(), api.Pods, "shop", name, api.DeleteOptions{GracePeriodSeconds: new(int64(0))})
			r.must(err)
		}
		r.settle()
	}
	r.e.mu.Lock()
	if n := len(r.e.early); n != 6 { // those of which nobody has heard anything
		t.Errorf("it remembers %d pods beside those that the API knows, want 6", n)
	}
	r.e.mu.Unlock()
	// An address that comes back with a pod that is not selected is open.
	free := r.unknown("ops", "again", nil)
	r.who["again"] = r.who["new2"]
	r.must(r.e.Guard(t.Context(), free, r.who["again"].addresses()))
	if yes, err := r.reaches("tool", "again", "tcp4:8080"); !yes || err != nil {
		t.Errorf("a pod that no policy selects, with an address that one selected: %v, %v", yes, err)
	}
	// In the host's network, and with an address that is none.
	host := early.DeepCopy()
	host.Spec.HostNetwork = true
	r.must(r.e.Guard(t.Context(), host, nil))
	if err := r.e.Guard(t.Context(), early, nil); err == nil {
		t.Error("a pod without an address is guarded")
	}
}

// Functions of another namespace are not reached, from the first packet on.
func TestTenantsPackets(t *testing.T) {
	r := newDualRig(t)
	fn := func(name string) map[string]string { return map[string]string{api.LabelFunction: name} }
	r.namespace(api.FunctionNamespace, nil)
	r.namespace("shop", nil)
	r.pod(api.FunctionNamespace, "a1", fn("a1"))
	r.pod(api.FunctionNamespace, "a2", fn("a2"))
	r.pod("shop", "plain", nil)
	r.start()
	if !r.e.idle.Load() {
		t.Error("with one namespace of functions there is something to do")
	}
	r.namespace("red", map[string]string{api.LabelFunctionNamespace: "1"})
	r.pod("red", "r1", fn("r1"))
	r.settle()
	if r.e.idle.Load() {
		t.Fatal("with two namespaces of functions there is nothing to do")
	}
	pass, refuse := r.matrix("two tenants")
	if refuse != 2*2*5 { // a1 and a2 with r1, both ways
		t.Errorf("%d passed and %d were refused", pass, refuse)
	}
	// Who starts is closed before anybody knows it, and needs no wait.
	p := r.unknown("red", "r2", fn("r2"))
	for _, to := range []string{"a1", "r1"} {
		for _, c := range [][2]string{{"r2", to}, {to, "r2"}} {
			if yes, err := r.reaches(c[0], c[1], "tcp4:8080"); yes || err != nil {
				t.Errorf("before it is known %s reaches %s: %v, %v", c[0], c[1], yes, err)
			}
		}
	}
	r.must(r.e.Guard(t.Context(), p, r.who["r2"].addresses()))
	r.settle()
	if yes, err := r.reaches("r2", "r1", "tcp4:8080"); !yes || err != nil {
		t.Errorf("one of a tenant does not reach another one: %v, %v", yes, err)
	}
	r.publish(p)
	r.settle()
	r.matrix("when it is known")
	r.namespace("red", map[string]string{api.LabelFunctionNamespace: "1", api.LabelIsolated: "false"})
	r.settle()
	if yes, err := r.reaches("a1", "r1", "tcp4:8080"); !yes || err != nil {
		t.Errorf("a namespace that lets others in: %v, %v", yes, err)
	}
	r.matrix("one lets others in")
	// A policy for tenants is one beside.
	np := read(t, `podSelector: {}`)
	np.Namespace = "red"
	r.policies(np)
	r.matrix("tenants and a policy")
}

// A function of a namespace that has not been heard of waits for it.
func TestGuardWaitsForTheNamespace(t *testing.T) {
	r := newRig(t)
	r.namespace(api.FunctionNamespace, nil)
	r.start()
	p := r.unknown("new", "first", map[string]string{api.LabelFunction: "first"})
	end := make(chan error, 1)
	ip := r.who["first"].addresses()
	go func() { end <- r.e.Guard(t.Context(), p, ip) }()
	select {
	case err := <-end:
		t.Errorf("it did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	r.namespace("new", map[string]string{api.LabelFunctionNamespace: "1"})
	r.must(<-end)
	if r.e.idle.Load() {
		t.Error("there are two tenants, and nothing to do")
	}
}

// Policies that come and go, some faster than they are enforced, leave what the
// last word says.
func TestComesAndGoes(t *testing.T) {
	r := newRig(t)
	r.town()
	r.start()
	for i := range 60 {
		np := read(t, `podSelector: {}`)
		np.Name = "brief"
		_, err := r.objects.Create(t.Context(), np)
		r.must(err)
		if i%3 == 0 {
			r.settle()
			if yes, err := r.reaches("tool", "web", "tcp4:8080"); r.e.idle.Load() || yes || err != nil {
				t.Errorf("round %d: idle %v, reached %v, %v", i, r.e.idle.Load(), yes, err)
			}
		}
		_, err = r.objects.Delete(t.Context(), api.NetworkPolicies, "shop", "brief", api.DeleteOptions{})
		r.must(err)
		if i%2 == 0 {
			r.settle()
			r.await("that there is nothing to enforce", func() bool { return r.e.idle.Load() })
			if n := r.tables(); n != 0 {
				t.Errorf("round %d: %d tables", i, n)
			}
		}
	}
	r.policies(read(t, `podSelector: {}`))
	if yes, err := r.reaches("tool", "web", "tcp4:8080"); r.e.idle.Load() || yes || err != nil {
		t.Errorf("at last: idle %v, reached %v, %v", r.e.idle.Load(), yes, err)
	}
}

// What counts is where a Service leads, not its address; and a pod that a Service
// leads back to itself is let in.
func TestBehindAService(t *testing.T) {
	r := newRig(t)
	r.town()
	services := netip.MustParsePrefix("10.97.0.0/16")
	for name, to := range map[string]string{"db": "10.97.0.2", "web": "10.97.0.3"} {
		_, err := r.objects.Create(t.Context(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
			Spec:       corev1.ServiceSpec{ClusterIP: to, ClusterIPs: []string{to}, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}},
		})
		r.must(err)
		_, err = r.objects.Create(t.Context(), &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{api.LabelServiceName: name}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: new(""), Port: new(int32(8080)), Protocol: new(corev1.ProtocolTCP)}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{r.who[name].ip.String()}, NodeName: new("here"), Conditions: discoveryv1.EndpointConditions{Ready: new(true)}}},
		})
		r.must(err)
		r.who["service-"+name] = &box{ip: netip.MustParseAddr(to)}
	}
	var b *service.Balancer
	r.inside(r.host, func() (err error) {
		b, err = service.New(service.Config{Objects: r.objects, NodeName: "here", Source: r.net.Gateway(), ServiceCIDR: services, ClusterCIDR: r.config.ClusterCIDR, Table: "polsvctest"})
		return err
	})
	ctx, cancel := context.WithCancel(t.Context())
	end := make(chan error, 1)
	go func() { end <- b.Run(ctx) }()
	t.Cleanup(func() { cancel(); r.must(<-end) })
	<-b.Ready()
	r.start()
	for _, tt := range []struct {
		policy string
		want   map[string]bool
	}{
		{`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 8080}]}]}`, map[string]bool{"web>db": true, "client>db": false, "mon>db": false, "db>db": true, "client>web": true}},
		{`{podSelector: {}, policyTypes: [Ingress, Egress]}`, map[string]bool{"web>db": false, "db>db": true, "web>web": true, "mon>web": false}},
		{`{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]}`, map[string]bool{"client>db": true, "client>web": false}},
		{`{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.97.0.0/16}}]}]}`, map[string]bool{"client>db": false, "client>web": false}},
	} {
		r.policies(read(t, tt.policy))
		for c, want := range tt.want {
			from, to, _ := strings.Cut(c, ">")
			if got, err := r.reaches(from, "service-"+to, "tcp4:80"); got != want || err != nil {
				t.Errorf("%s: %s by the Service: reached %v, want %v (%v)", tt.policy, c, got, want, err)
			}
		}
	}
	r.inside(r.host, func() error { return r.e.Teardown(t.Context()) })
	r.policies()
	r.policies(read(t, `{podSelector: {}}`))
	if n := r.tables(); n != 0 {
		t.Errorf("%d tables after the end", n)
	}
}

// One pod's change is cheap with many policies and pods.
func BenchmarkChange(b *testing.B) {
	_, namespaces := town()
	var policies []*networkingv1.NetworkPolicy
	for i := range 100 {
		p := &networkingv1.NetworkPolicy{}
		p.Namespace = "shop"
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		p.Spec.PodSelector.MatchLabels = map[string]string{"app": fmt.Sprint(i)}
		p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &p.Spec.PodSelector}}}}
		policies = append(policies, p)
	}
	prog := compile(policies, namespaces, nil)
	var pods []*corev1.Pod
	ip := netip.MustParseAddr("10.222.0.1")
	for i := range 5000 {
		ip = ip.Next()
		p := &corev1.Pod{}
		p.Namespace, p.Name, p.Labels = "shop", fmt.Sprint(i), map[string]string{"app": fmt.Sprint(i % 100)}
		p.Spec.NodeName, p.Status.PodIP = "elsewhere", ip.String()
		if i%50 == 0 { // of app 0 and 50
			p.Spec.NodeName = "here"
		}
		pods = append(pods, p)
	}
	n := numbers{}
	l := ledgerOf(prog, pods, n)
	host, err := network.NewNamespace()
	if err != nil {
		b.Skip(err)
	}
	defer host.Close()
	var k *kernel
	if err := network.Inside(host, func() (err error) {
		k, err = openKernel("polbench", span{cluster: netip.MustParsePrefix("10.222.0.0/16"), own: netip.MustParsePrefix("10.222.0.0/24")})
		return err
	}); err != nil {
		b.Fatal(err)
	}
	defer k.close()
	b.Run("build", func(b *testing.B) {
		for b.Loop() {
			if err := k.build(b.Context(), l); err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, app := range map[string]string{"selected-like-others": "50", "selected-alone": "7", "peer": "here-not"} {
		b.Run(name, func(b *testing.B) {
			p := &corev1.Pod{}
			p.Namespace, p.Labels, p.Spec.NodeName = "shop", map[string]string{"app": app}, "here"
			if app == "here-not" {
				p.Labels["app"], p.Spec.NodeName = "9", "elsewhere"
			}
			at := netip.MustParseAddr("10.222.200.1")
			for i := 0; b.Loop(); i++ {
				var c changes
				next := placement{}
				if i%2 == 0 {
					next = prog.place(subjectOf(p, at, "here"), n)
				}
				l.set(at, next, &c)
				l.settle(&c)
				if err := k.apply(&c); err != nil {
					b.Fatal(err)
				}
			}
			var c changes
			l.set(at, placement{}, &c)
			l.settle(&c)
			if err := k.apply(&c); err != nil {
				b.Fatal(err)
			}
		})
	}
}

package service

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

func four(a, b, c, d byte) ip { return ipOf(netip.AddrFrom4([4]byte{a, b, c, d})) }

func backends(n int) []backend {
	var out []backend
	for i := range n {
		out = append(out, backend{ip: four(10, 62, byte(i/250), byte(2+i%250)), port: 8080})
	}
	return out
}

func shares(in []backend) map[backend]int {
	out := map[backend]int{}
	for _, b := range in {
		out[b]++
	}
	return out
}

// Everybody has the same share, to one slot.
func TestSpreadIsEven(t *testing.T) {
	for n := 1; n <= 900; n += 1 + n/20 {
		w := width(n)
		got := shares(spread(backends(n), w))
		low, high := w, 0
		for _, k := range got {
			low, high = min(low, k), max(high, k)
		}
		if n <= w && len(got) != n || high-low > 1 {
			t.Errorf("%d endpoints: %d have a share, from %d to %d slots", n, len(got), low, high)
		}
	}
	if spread(nil, narrow) != nil {
		t.Error("slots without an endpoint")
	}
}

// When an endpoint goes, only its own clients move, and nobody has a share that
// is far from the others'.
func TestStickMovesLittle(t *testing.T) {
	for n := 2; n <= 40; n++ {
		all := backends(n)
		before := stick(all)
		for b, k := range shares(before) {
			if fair := wide / n; n <= 15 && (k < fair/2 || k > 2*fair) {
				t.Errorf("%d endpoints: %v has %d slots of %d", n, b, k, wide)
			}
		}
		for i := range all {
			after := stick(slices.Delete(slices.Clone(all), i, i+1))
			for j := range before {
				if before[j] != all[i] && before[j] != after[j] {
					t.Fatalf("%d endpoints: slot %d moves when another's endpoint goes", n, j)
				}
			}
		}
	}
}

func describe(p plan) string {
	var out []string
	some := func(in []backend) string {
		var names []string
		for b := range shares(in) {
			names = append(names, fmt.Sprintf("%s:%d", b.ip.addr(), b.port))
		}
		slices.Sort(names)
		return strings.Join(names, " ")
	}
	for _, f := range p.fronts {
		s := fmt.Sprintf("%s:%d/%d to [%s]", f.key.ip.addr(), f.key.port, f.key.protocol, some(f.slots))
		for flag, on := range map[string]bool{" sticky": f.sticky, " exposed": f.exposed, fmt.Sprintf(" outside [%s]", some(f.outer)): f.own} {
			if on {
				s += flag
			}
		}
		out = append(out, s)
	}
	for _, a := range p.local {
		out = append(out, "local "+a.addr().String())
	}
	return strings.Join(out, "\n")
}

func TestPlan(t *testing.T) {
	n := node{name: "here", zone: "west", cidrs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}}
	yes, no := true, false
	endpoint := func(a, node string) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{Addresses: []string{a}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &yes}}
	}
	slice := func(port string, number int32, e ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &port, Port: &number}}, Endpoints: e}
	}
	web := func(more func(*corev1.ServiceSpec)) *corev1.Service {
		s := &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
		if more != nil {
			more(&s.Spec)
		}
		return s
	}
	two := slice("http", 8080, endpoint("10.62.0.2", "here"), endpoint("10.62.1.2", "there"))
	for name, c := range map[string]struct {
		svc  *corev1.Service
		in   []*discoveryv1.EndpointSlice
		want string
	}{
		"gone":              {nil, []*discoveryv1.EndpointSlice{two}, ""},
		"headless":          {web(func(s *corev1.ServiceSpec) { s.ClusterIP = corev1.ClusterIPNone }), []*discoveryv1.EndpointSlice{two}, ""},
		"a name":            {web(func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeExternalName }), nil, ""},
		"no address as yet": {web(func(s *corev1.ServiceSpec) { s.ClusterIP = "" }), []*discoveryv1.EndpointSlice{two}, "local 10.62.0.2"},
		"no endpoints":      {web(nil), nil, "10.96.0.1:80/6 to []"},
		"two":               {web(nil), []*discoveryv1.EndpointSlice{two}, "10.96.0.1:80/6 to [10.62.0.2:8080 10.62.1.2:8080]\nlocal 10.62.0.2"},
		"two slices with a number each": {
			web(nil),
			[]*discoveryv1.EndpointSlice{slice("http", 8080, endpoint("10.62.1.2", "there")), slice("http", 9090, endpoint("10.62.1.3", "there"))},
			"10.96.0.1:80/6 to [10.62.1.2:8080 10.62.1.3:9090]",
		},
		"another port's":     {web(nil), []*discoveryv1.EndpointSlice{slice("metrics", 8080, endpoint("10.62.1.2", "there"))}, "10.96.0.1:80/6 to []"},
		"another protocol's": {web(func(s *corev1.ServiceSpec) { s.Ports[0].Protocol = corev1.ProtocolUDP }), []*discoveryv1.EndpointSlice{two}, "10.96.0.1:80/17 to []"},
		"SCTP":               {web(func(s *corev1.ServiceSpec) { s.Ports[0].Protocol = corev1.ProtocolSCTP }), nil, ""},
		"sticky, node port, local": {
			web(func(s *corev1.ServiceSpec) {
				s.SessionAffinity = corev1.ServiceAffinityClientIP
				s.Ports[0].NodePort = 30080
				s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			}),
			[]*discoveryv1.EndpointSlice{two},
			"10.96.0.1:80/6 to [10.62.0.2:8080 10.62.1.2:8080] sticky\n0.0.0.0:30080/6 to [10.62.0.2:8080 10.62.1.2:8080] exposed outside [10.62.0.2:8080] sticky\nlocal 10.62.0.2",
		},
		"an address that is none of ours": {web(func(s *corev1.ServiceSpec) { s.ClusterIP = "192.0.2.1" }), nil, "192.0.2.1:80/6 to [] exposed"},
		"the same address twice": {web(func(s *corev1.ServiceSpec) {
			s.ClusterIPs = []string{"10.96.0.1", "fd00::1"}
			s.ExternalIPs = []string{"10.96.0.1"}
		}), nil, "10.96.0.1:80/6 to []"},
		"in two slices, in one of them ready": {web(nil), []*discoveryv1.EndpointSlice{
			slice("http", 8080, discoveryv1.Endpoint{Addresses: []string{"10.62.1.2"}, Conditions: discoveryv1.EndpointConditions{Ready: &no}}), slice("http", 8080, endpoint("10.62.1.2", "there")),
		}, "10.96.0.1:80/6 to [10.62.1.2:8080]"},
		"IPv6": {web(nil), []*discoveryv1.EndpointSlice{{AddressType: discoveryv1.AddressTypeIPv6, Ports: two.Ports, Endpoints: []discoveryv1.Endpoint{endpoint("fd00::2", "here")}}}, "10.96.0.1:80/6 to []"},
	} {
		got := describe(n.plan(c.svc, c.in))
		// The order of flags is open.
		if sorted(got) != sorted(c.want) {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
	}
}

func sorted(s string) string {
	words := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\n' })
	slices.Sort(words)
	return strings.Join(words, " ")
}

// kernelModel is what the kernel does with elements: to add one that is there
// with another value is a fault, and so is to remove one that is not.
type kernelModel [sets]map[elementKey]backend

func (m *kernelModel) apply(t *rapid.T, c *changes) {
	for p := range phases {
		for s := range sets {
			for _, e := range c.removed[p][s] {
				if _, ok := m[s][e.key]; !ok {
					t.Fatalf("an element of %s is removed that is not there", s)
				}
				delete(m[s], e.key)
			}
			for _, e := range c.added[p][s] {
				if _, ok := m[s][e.key]; ok {
					t.Fatalf("an element of %s is added that is there", s)
				}
				m[s][e.key] = e.value
			}
		}
	}
}

// Whatever plans come and go: the elements that were added and removed lead to
// what the ledger says, which is what it would be if it were made anew.
func TestLedger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m kernelModel
		for s := range m {
			m[s] = map[elementKey]backend{}
		}
		l := newLedger()
		genFront := rapid.Custom(func(t *rapid.T) front {
			f := front{key: key{ip: four(10, 96, 0, rapid.Byte().Draw(t, "ip")%3), protocol: 6 + 11*(rapid.Byte().Draw(t, "protocol")%2), port: 80}}
			n := rapid.IntRange(0, 15).Draw(t, "endpoints")
			f.slots = spread(backends(16)[16-n:], width(n))
			f.sticky, f.exposed, f.own = rapid.Bool().Draw(t, "sticky"), rapid.Bool().Draw(t, "exposed"), rapid.Bool().Draw(t, "own")
			if f.guarded = rapid.Bool().Draw(t, "guarded"); f.guarded {
				for _, p := range []string{"10.0.0.0/8", "192.0.2.0/24", "198.51.100.0/25"} {
					if rapid.Bool().Draw(t, "range") {
						f.ranges = append(f.ranges, netip.MustParsePrefix(p))
					}
				}
			}
			if f.own {
				f.outer = spread(backends(n/2), width(n))
			}
			return f
		})
		genPlan := rapid.Custom(func(t *rapid.T) plan {
			return plan{
				fronts: rapid.SliceOfNDistinct(genFront, 0, 4, func(f front) key { return f.key }).Draw(t, "fronts"),
				local:  rapid.SliceOfDistinct(rapid.Map(rapid.IntRange(1, 4), func(i int) ip { return four(10, 62, 0, byte(i)) }), func(a ip) ip { return a }).Draw(t, "local"),
			}
		})
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			var c changes
			svc := types.NamespacedName{Name: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "service")}
			p := plan{}
			if rapid.IntRange(0, 3).Draw(t, "there") > 0 {
				p = genPlan.Draw(t, "plan")
			}
			l.set(svc, p, &c)
			m.apply(t, &c)
			n := 0
			l.all(func(s set, e element) {
				n++
				if got, ok := m[s][e.key]; !ok || got != e.value {
					t.Fatalf("the kernel has %v (%v) in %s where the ledger has %v", got, ok, s, e.value)
				}
				if !l.has(s, e) {
					t.Fatalf("the ledger does not know its own element of %s", s)
				}
			})
			for s := range m {
				n -= len(m[s])
				for k, v := range m[s] {
					if !l.has(set(s), element{key: k, value: v}) {
						t.Fatalf("the kernel has an element of %s that the ledger does not know", set(s))
					}
				}
			}
			if n != 0 {
				t.Fatalf("the kernel and the ledger differ by %d elements", n)
			}
			for svc, p := range l.plans {
				for _, f := range p.fronts {
					if h, ok := l.fronts[f.key]; !ok {
						t.Fatalf("%s wants a front that nobody has", svc)
					} else if h.by != svc && !slices.Contains(l.behind[f.key], svc) {
						t.Fatalf("%s does not wait for the front that %s has", svc, h.by)
					}
				}
			}
		}
	})
}

// A front that becomes wide has its new slots before anybody is led to them, and
// loses them after.
func TestPhases(t *testing.T) {
	k := key{ip: four(10, 96, 0, 1), protocol: 6, port: 80}
	small, large := front{key: k, slots: spread(backends(12), narrow)}, front{key: k, slots: spread(backends(13), wide)}
	var grow, shrink changes
	grow.front(small, large)
	shrink.front(large, small)
	if n := len(grow.added[phaseTurn][many]); n != 1 {
		t.Errorf("to grow turns %d times", n)
	}
	if n := len(grow.added[phaseAdd][slots]); n < wide-narrow {
		t.Errorf("to grow adds %d slots ahead", n)
	}
	if a, d := len(shrink.removed[phaseTurn][many]), len(shrink.removed[phaseDrop][slots]); a != 1 || d != wide-narrow {
		t.Errorf("to shrink turns %d times and drops %d slots at the end", a, d)
	}
	var one changes
	one.front(small, front{key: k, slots: spread(backends(11), narrow)})
	for _, p := range []phase{phaseTurn, phaseDrop} {
		for s := range sets {
			if len(one.added[p][s])+len(one.removed[p][s]) > 0 {
				t.Error("an endpoint less is not one transaction")
			}
		}
	}
}

// A pod gets the host ports that the node can lead to it, and is told of others.
func TestHostPortPlan(t *testing.T) {
	n := node{name: "here", reserved: []int32{22}}
	here := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("127.0.0.1")}
	for _, k := range []struct {
		name   string
		port   corev1.ContainerPort
		change func(*corev1.Pod)
		want   key // zero: none
		says   string
	}{
		{"all addresses", corev1.ContainerPort{HostPort: 80, HostIP: "0.0.0.0"}, nil, key{anywhere(false), 6, 80}, ""},
		{"one of them", corev1.ContainerPort{HostPort: 80, HostIP: "192.0.2.1"}, nil, key{ip: four(192, 0, 2, 1), protocol: 6, port: 80}, ""},
		{"UDP at a port of the node's", corev1.ContainerPort{HostPort: 22, Protocol: corev1.ProtocolUDP}, nil, key{anywhere(false), 17, 22}, ""},
		{"a port of the node's", corev1.ContainerPort{HostPort: 22}, nil, key{}, "the node's own"},
		{"another machine's address", corev1.ContainerPort{HostPort: 80, HostIP: "192.0.2.2"}, nil, key{}, "192.0.2.2:80"},
		{"loopback", corev1.ContainerPort{HostPort: 80, HostIP: "127.0.0.1"}, nil, key{}, "127.0.0.1:80"},
		{"IPv6", corev1.ContainerPort{HostPort: 80, HostIP: "2001:db8::1"}, nil, key{}, "2001:db8::1:80"},
		{"SCTP", corev1.ContainerPort{HostPort: 80, Protocol: corev1.ProtocolSCTP}, nil, key{}, "80/SCTP"},
		{"none", corev1.ContainerPort{}, nil, key{}, ""},
		{"in the node's network", corev1.ContainerPort{HostPort: 80}, func(p *corev1.Pod) { p.Spec.HostNetwork = true }, key{}, ""},
		{"without an address yet", corev1.ContainerPort{HostPort: 80}, func(p *corev1.Pod) { p.Status.PodIP = "" }, key{}, ""},
		{"ended", corev1.ContainerPort{HostPort: 80}, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, key{}, ""},
	} {
		k.port.ContainerPort = 8080
		p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{k.port}}}}}
		p.Status.PodIP = "10.62.0.7"
		if k.change != nil {
			k.change(p)
		}
		got, faults := n.pod(p, here)
		if says := strings.Join(faults, " "); says != k.says && (k.says == "" || !strings.Contains(says, k.says)) {
			t.Errorf("%s: it says %q, want %q", k.name, says, k.says)
		}
		if (k.want == key{}) {
			if len(got.fronts)+len(got.local) > 0 {
				t.Errorf("%s: %+v", k.name, got)
			}
			continue
		}
		to := backend{ip: four(10, 62, 0, 7), port: 8080}
		if len(got.fronts) != 1 || got.fronts[0].key != k.want || shares(got.fronts[0].outer)[to] != narrow || !slices.Equal(got.local, []ip{to.ip}) {
			t.Errorf("%s: %+v", k.name, got)
		}
	}
}

func TestNear(t *testing.T) {
	at := func(last byte, on, zone string) endpoint {
		out, ok := endpointOf(discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.62.0.%d", last)}, Hints: func() *discoveryv1.EndpointHints {
			h := &discoveryv1.EndpointHints{}
			if on != "" {
				h.ForNodes = []discoveryv1.ForNode{{Name: on}}
			}
			if zone != "" {
				h.ForZones = []discoveryv1.ForZone{{Name: zone}}
			}
			return h
		}()}, 80, node{name: "here", zone: "west"})
		if !ok {
			t.Fatal("no endpoint")
		}
		return out
	}
	for _, tt := range []struct {
		name string
		in   []endpoint
		want string
	}{
		{"this node's first", []endpoint{at(1, "here", "west"), at(2, "there", "west"), at(3, "far", "east")}, "[1]"},
		{"then the zone's", []endpoint{at(1, "other", "west"), at(2, "there", "west"), at(3, "far", "east")}, "[1 2]"},
		{"none is near", []endpoint{at(2, "there", "east"), at(3, "far", "east")}, "[2 3]"},
		{"one has no hint for nodes", []endpoint{at(1, "here", "west"), at(2, "", "west"), at(3, "far", "east")}, "[1 2]"},
		{"one has no hint", []endpoint{at(1, "here", "west"), at(2, "", "")}, "[1 2]"},
	} {
		var got []int
		for _, e := range near(tt.in) {
			got = append(got, int(e.to.ip.addr().As4()[3]))
		}
		if s := fmt.Sprint(got); s != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, s, tt.want)
		}
	}
}

package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/network"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// Connections are spread over the endpoints, from wherever they come.
func TestSpread(t *testing.T) {
	r := newRig(t, 7)
	r.start()
	client, pods := r.pods[0], r.pods[1:]
	to := r.service("web", "10.97.0.1", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[0].NodePort = 30080
	})
	r.endpoints("web", pods...)
	for _, c := range []struct {
		name   string
		from   *os.File
		to     netip.AddrPort
		client string
	}{
		{"a pod, its cluster address", client.ns, to, client.ip.String()},
		{"the node, its cluster address", r.host, to, r.net.Gateway().String()},
		{"outside, the node port", r.outside, at(hostIP + ":30080"), r.net.Gateway().String()},
	} {
		got := r.expectTimes(c.from, c.to, 600, pods, c.client)
		for _, p := range pods { // a share is 100, and 5 standard deviations are 46
			if n := got[p.ip.String()]; n < 54 || n > 146 {
				t.Errorf("%s: %s was asked %d times of 600, which is not a sixth", c.name, p.ip, n)
			}
		}
	}
	r.expect(client.ns, at(hostIP+":30080"), pods, client.ip.String())
	r.expect(r.host, at(hostIP+":30080"), pods, r.net.Gateway().String())
}

func TestClientStaysWithItsEndpoint(t *testing.T) {
	r := newRig(t, 8)
	r.start()
	clients, pods := r.pods[:3], r.pods[3:]
	to := r.service("web", "10.97.0.1", func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP })
	r.endpoints("web", pods...)
	before := map[*pod]string{}
	for _, c := range clients {
		got := r.expectTimes(c.ns, to, 30, pods, "")
		if len(got) != 1 {
			t.Errorf("client %s was led to %v", c.ip, got)
		}
		for p := range got {
			before[c] = p
		}
	}
	r.stop() // another agent leads a client to the same endpoint
	r.start()
	for _, c := range clients {
		if got := r.expectTimes(c.ns, to, 5, pods, ""); got[before[c]] != 5 {
			t.Errorf("after a restart client %s is led to %v, before to %s", c.ip, got, before[c])
		}
	}
}

func TestPodReachesItself(t *testing.T) {
	r := newRig(t, 1)
	r.start()
	to := r.service("web", "10.97.0.1", nil)
	r.endpoints("web", r.pods...)
	r.expect(r.pods[0].ns, to, r.pods, r.net.Gateway().String())
}

// What nobody answers is refused at once.
func TestRefused(t *testing.T) {
	r := newRig(t, 2)
	r.start()
	r.service("web", "10.97.0.1", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[0].NodePort = 30080
		s.Spec.ExternalIPs = []string{"203.0.113.5"}
	})
	r.endpoints("web")
	for _, from := range []*os.File{r.pods[0].ns, r.host} {
		r.refused(from, "10.97.0.1:80")
		r.refused(from, "10.97.0.1:81")
		r.refused(from, "10.97.9.9:80")
		r.refused(from, hostIP+":30080")
	}
	r.refused(r.outside, hostIP+":30080")
	r.refused(r.outside, "203.0.113.5:80")
	r.refused(r.host, "127.0.0.1:30080")
	// It comes and goes with its endpoints.
	r.endpoints("web", r.pods[1])
	r.expect(r.pods[0].ns, at("10.97.0.1:80"), r.pods[1:], "")
	r.expect(r.outside, at(hostIP+":30080"), r.pods[1:], "")
	r.endpoints("web")
	r.refused(r.pods[0].ns, "10.97.0.1:80")
	r.refused(r.outside, hostIP+":30080")
	_, err := r.objects.Delete(t.Context(), api.Services, ns, "web", api.DeleteOptions{})
	r.must(err)
	r.await("a Service less", func(l *ledger) bool { return len(l.fronts) == 0 })
	r.refused(r.pods[0].ns, "10.97.0.1:80")
}

func TestExternalAddresses(t *testing.T) {
	r := newRig(t, 2)
	r.start()
	r.service("web", "10.97.0.1", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.ExternalIPs = []string{"203.0.113.5"}
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.6"}, {IP: "203.0.113.7", IPMode: new(corev1.LoadBalancerIPModeProxy)}}
	})
	r.endpoints("web", r.pods[1])
	for _, to := range []string{"203.0.113.5:80", "203.0.113.6:80"} {
		r.expect(r.outside, at(to), r.pods[1:], r.net.Gateway().String())
		r.expect(r.pods[0].ns, at(to), r.pods[1:], r.pods[0].ip.String())
		r.expect(r.pods[1].ns, at(to), r.pods[1:], r.net.Gateway().String())
	}
}

// Host ports lead to their pod, which sees who asks, for as long as it lives.
func TestHostPort(t *testing.T) {
	r := newRig(t, 3)
	r.config.Reserved = []int32{22}
	refused := make(chan []string, 10)
	r.onRefused = func(_ *corev1.Pod, reasons []string) {
		select {
		case refused <- reasons:
		default:
		}
	}
	r.start()
	server, other, client := r.pods[0], r.pods[1], r.pods[2]
	create := func(name string, p *pod, ports ...corev1.ContainerPort) {
		t.Helper()
		o := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.PodSpec{NodeName: nodeName, Containers: []corev1.Container{{Name: "c", Image: "i", Ports: ports}}}}
		r.create(o)
		o = o.DeepCopy()
		o.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: p.ip.String()}
		_, err := r.objects.Update(t.Context(), o, api.UpdateOptions{Subresource: "status"})
		r.must(err)
	}
	create("web", server,
		corev1.ContainerPort{ContainerPort: 8080, HostPort: 8088}, corev1.ContainerPort{ContainerPort: 8080, HostPort: 8089, HostIP: hostIP},
		corev1.ContainerPort{ContainerPort: 8080, HostPort: 8090, HostIP: "203.0.113.9"}, corev1.ContainerPort{ContainerPort: 8080, HostPort: 22},
		corev1.ContainerPort{ContainerPort: 8080, HostPort: 8053, Protocol: corev1.ProtocolUDP}, corev1.ContainerPort{ContainerPort: 8080})
	r.await("the pod's ports", func(l *ledger) bool { return len(l.fronts) == 3 })
	if got := <-refused; len(got) != 2 || !strings.HasPrefix(got[0], "203.0.113.9:8090") || !strings.HasPrefix(got[1], "22/TCP") {
		t.Errorf("refused were %q", got)
	}
	works := func() {
		t.Helper()
		for _, port := range []string{":8088", ":8089"} {
			r.expect(r.outside, at(hostIP+port), r.pods[:1], outsideIP)
			r.expect(client.ns, at(hostIP+port), r.pods[:1], client.ip.String())
			r.expect(r.host, at(hostIP+port), r.pods[:1], r.net.Gateway().String())
			r.expect(server.ns, at(hostIP+port), r.pods[:1], r.net.Gateway().String())
		}
		r.expect(client.ns, at(r.net.Gateway().String()+":8088"), r.pods[:1], client.ip.String()) // any of its addresses
		r.inside(r.outside, func() error {
			conn, err := net.Dial("udp4", hostIP+":8053")
			if err != nil {
				return err
			}
			defer conn.Close()
			buf := make([]byte, 100)
			deadline := conn.SetDeadline(time.Now().Add(3 * time.Second))
			_, writeErr := conn.Write([]byte("?"))
			n, err := conn.Read(buf)
			if got, want := string(buf[:n]), server.ip.String()+" "+outsideIP; got != want {
				t.Errorf("over UDP: %q, want %q", got, want)
			}
			return errors.Join(deadline, writeErr, err)
		})
	}
	works()
	for _, to := range []string{hostIP + ":22", r.net.Gateway().String() + ":8089", hostIP + ":8080"} {
		r.refused(client.ns, to)
	}
	r.stop() // an agent's restart is nothing to its pods
	r.expect(r.outside, at(hostIP+":8088"), r.pods[:1], outsideIP)
	r.start()
	works()
	_, err := r.objects.Delete(t.Context(), api.Pods, ns, "web", api.DeleteOptions{GracePeriodSeconds: new(int64)})
	r.must(err)
	r.await("no port", func(l *ledger) bool { return len(l.fronts) == 0 && len(l.local) == 0 })
	r.refused(r.outside, hostIP+":8088")
	create("next", other, corev1.ContainerPort{ContainerPort: 8080, HostPort: 8088})
	r.await("the next pod's port", func(l *ledger) bool { return len(l.fronts) == 1 })
	r.expect(r.outside, at(hostIP+":8088"), r.pods[1:2], outsideIP)
	_, err = api.Mutate(t.Context(), r.objects, api.Pods, ns, "next", api.UpdateOptions{Subresource: "status"}, func(p *corev1.Pod) (bool, error) {
		p.Status.Phase = corev1.PodSucceeded
		return true, nil
	})
	r.must(err)
	r.await("no port of a pod that has ended", func(l *ledger) bool { return len(l.fronts) == 0 })
	r.refused(r.outside, hostIP+":8088")
}

// A UDP client that goes on sending moves when its endpoint is gone.
func TestUDPClientMoves(t *testing.T) {
	r := newRig(t, 3)
	r.start()
	to := r.service("dns", "10.97.0.1", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[0].Protocol = corev1.ProtocolUDP
		s.Spec.Ports[0].NodePort = 30053
	})
	still := func(int, *discoveryv1.Endpoint) {}
	r.slice("dns", corev1.ProtocolUDP, still, r.pods[1:]...)
	for _, c := range []struct {
		from *os.File
		to   netip.AddrPort
	}{{r.pods[0].ns, to}, {r.host, to}, {r.outside, at(hostIP + ":30053")}} {
		var conn net.Conn
		r.inside(c.from, func() (err error) {
			conn, err = net.Dial("udp4", c.to.String())
			return err
		})
		defer conn.Close()
		echo := func() string {
			t.Helper()
			buf := make([]byte, 100)
			r.must(conn.SetDeadline(time.Now().Add(3 * time.Second)))
			_, err := conn.Write([]byte("?"))
			r.must(err)
			n, err := conn.Read(buf)
			r.must(err)
			pod, _, _ := strings.Cut(string(buf[:n]), " ")
			return pod
		}
		first := echo()
		for range 5 {
			if again := echo(); again != first {
				t.Fatalf("the answer came from %s, before from %s", again, first)
			}
		}
		left := slices.DeleteFunc(slices.Clone(r.pods[1:]), func(p *pod) bool { return p.ip.String() == first })
		r.slice("dns", corev1.ProtocolUDP, still, left...)
		if got := echo(); got != left[0].ip.String() {
			t.Errorf("to %s: after its end %s answers, want %s", c.to, got, left[0].ip)
		}
		r.slice("dns", corev1.ProtocolUDP, still, r.pods[1:]...)
	}
}

// An endpoint that ends is not led to while another is ready; it is the better
// choice when none is.
func TestEndingEndpoints(t *testing.T) {
	r := newRig(t, 4)
	r.start()
	to := r.service("web", "10.97.0.1", nil)
	client := r.pods[0]
	state := func(ready, serving, terminating bool) discoveryv1.EndpointConditions {
		return discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}
	}
	states := []discoveryv1.EndpointConditions{state(true, true, false), state(false, true, true), state(false, false, true)}
	r.slice("web", corev1.ProtocolTCP, func(i int, e *discoveryv1.Endpoint) { e.Conditions = states[i] }, r.pods[1:]...)
	r.expect(client.ns, to, r.pods[1:2], "")
	states[0] = state(false, false, false)
	r.slice("web", corev1.ProtocolTCP, func(i int, e *discoveryv1.Endpoint) { e.Conditions = states[i] }, r.pods[1:]...)
	r.expect(client.ns, to, r.pods[2:3], "")
	states[1] = state(false, false, true)
	r.slice("web", corev1.ProtocolTCP, func(i int, e *discoveryv1.Endpoint) { e.Conditions = states[i] }, r.pods[1:]...)
	r.refused(client.ns, to.String())
}

func TestLocalPolicies(t *testing.T) {
	r := newRig(t, 3)
	r.start()
	client, here, elsewhere := r.pods[0], r.pods[1], r.pods[2]
	away := func(i int, e *discoveryv1.Endpoint) {
		if i == 1 {
			e.NodeName = new("elsewhere")
		}
	}
	internal := r.service("internal", "10.97.0.1", func(s *corev1.Service) {
		s.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal)
		s.Spec.ExternalIPs = []string{"203.0.113.5"}
	})
	r.slice("internal", corev1.ProtocolTCP, away, here, elsewhere)
	r.expect(client.ns, internal, r.pods[1:2], "")
	if got := r.expectTimes(r.outside, at("203.0.113.5:80"), 40, r.pods[1:], ""); len(got) != 2 {
		t.Errorf("the internal policy counts for clients from outside: %v", got)
	}
	external := r.service("external", "10.97.0.2", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.Ports[0].NodePort = 30080
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.6"}}
	})
	r.slice("external", corev1.ProtocolTCP, away, here, elsewhere)
	for _, to := range []string{hostIP + ":30080", "203.0.113.6:80"} {
		r.expectTimes(r.outside, at(to), 40, r.pods[1:2], outsideIP) // seen as who it is
		for _, from := range []*os.File{client.ns, r.host} {
			if got := r.expectTimes(from, at(to), 40, r.pods[1:], ""); len(got) != 2 {
				t.Errorf("to %s from inside: the external policy counts: %v", to, got)
			}
		}
	}
	if got := r.expectTimes(client.ns, external, 40, r.pods[1:], ""); len(got) != 2 {
		t.Errorf("the external policy counts at the cluster address: %v", got)
	}
	r.slice("external", corev1.ProtocolTCP, func(_ int, e *discoveryv1.Endpoint) { away(1, e) }, elsewhere)
	r.refused(r.outside, hostIP+":30080")
	r.expect(client.ns, at(hostIP+":30080"), r.pods[2:], "")
}

// Traffic that is not for a Service is not touched.
func TestOthersAreLeftAlone(t *testing.T) {
	r := newRig(t, 2)
	r.start()
	r.service("web", "10.97.0.1", nil)
	r.endpoints("web", r.pods[1])
	r.expect(r.pods[0].ns, netip.AddrPortFrom(r.pods[1].ip, 8080), r.pods[1:], r.pods[0].ip.String())
	r.expect(r.outside, netip.AddrPortFrom(r.pods[1].ip, 8080), r.pods[1:], outsideIP)
	r.expect(r.host, netip.AddrPortFrom(r.pods[1].ip, 8080), r.pods[1:], r.net.Gateway().String())
}

// Somebody removes an element, changes one, adds one, deletes the table.
func TestAuditRepairs(t *testing.T) {
	r := newRig(t, 3)
	r.config.Audit = 5 * time.Millisecond
	r.start()
	to := r.service("web", "10.97.0.1", nil)
	r.endpoints("web", r.pods[1])
	repaired := func(what string, harm func(k *kernel) error) {
		t.Helper()
		before, after := make(chan struct{}), make(chan struct{})
		r.harm(harm)
		close(before)
		go func() {
			defer close(after)
			<-before
			eventually(r, what, func() error {
				return network.Inside(r.pods[0].ns, func() error {
					for range 60 {
						if got, _, err := ask(to); err != nil || got != r.pods[1].ip.String() {
							return errors.Join(err, errors.New("led to "+got))
						}
					}
					_, _, err := ask(at("10.97.0.2:80"))
					if err == nil {
						return errors.New("an element too much is there")
					}
					return nil
				})
			})
		}()
		<-after
	}
	web := key{ip: four(10, 97, 0, 1), protocol: unix.IPPROTO_TCP, port: 80}
	right := backend{ip: ipOf(r.pods[1].ip), port: 8080}
	repaired("elements that were removed", func(k *kernel) error {
		var c changes
		for i := range narrow {
			c.remove(phaseAdd, slots, element{key: slotKey(web, i), value: right})
		}
		return k.apply(&c)
	})
	repaired("elements that were changed and added", func(k *kernel) error {
		var c changes
		for i := range narrow {
			wrong := element{key: slotKey(web, i), value: backend{ip: ipOf(r.pods[2].ip), port: 8080}}
			c.remove(phaseAdd, slots, element{key: slotKey(web, i), value: right})
			c.add(phaseAdd, slots, wrong)
			wrong.key = slotKey(key{ip: four(10, 97, 0, 2), protocol: unix.IPPROTO_TCP, port: 80}, i)
			c.add(phaseAdd, slots, wrong)
		}
		return k.apply(&c)
	})
	repaired("rules that were removed", func(k *kernel) error {
		k.conn.FlushChain(&nftables.Chain{Table: k.live[0], Name: "cluster"})
		return k.conn.Commit()
	})
	repaired("a table that was removed", func(k *kernel) error {
		k.conn.DelTable(k.live[0])
		return k.conn.Commit()
	})
}

// harm changes the tables as somebody else would.
func (r *rig) harm(do func(k *kernel) error) {
	r.Helper()
	r.inside(r.host, func() error {
		k, err := openKernel(r.config.Table, r.balancer.kernel.rules...)
		if err != nil {
			return err
		}
		defer k.close()
		for i, rules := range k.rules {
			_, k.live[i], err = k.generations(rules.family())
			if err != nil || k.live[i] == nil {
				return errors.Join(err, errors.New("there is no table"))
			}
		}
		return do(k)
	})
}

// eventually tries again until there is no error.
func eventually(t *rig, what string, try func() error) {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-limit:
			t.Errorf("%s: %v", what, err)
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// storm is connections that are made one after the other, from some pods at once.
type storm struct {
	made atomic.Int64
	stop atomic.Bool
	wg   sync.WaitGroup

	mu     sync.Mutex
	faults map[string]int
}

func (r *rig) storm(to netip.AddrPort, from ...*pod) *storm {
	s := &storm{faults: map[string]int{}}
	for _, p := range from {
		s.wg.Go(func() {
			if err := network.Inside(p.ns, func() error { s.blow(to); return nil }); err != nil {
				r.Error(err)
			}
		})
	}
	r.Cleanup(s.end)
	return s
}

func (s *storm) blow(to netip.AddrPort) {
	for !s.stop.Load() {
		if _, _, err := ask(to); err != nil {
			s.mu.Lock()
			s.faults[err.Error()]++
			s.mu.Unlock()
		}
		s.made.Add(1)
	}
}

// more waits until so many more connections were made.
func (s *storm) more(n int64) {
	for until := s.made.Load() + n; s.made.Load() < until; {
		<-time.After(100 * time.Microsecond)
	}
}

func (s *storm) end() {
	s.stop.Store(true)
	s.wg.Wait()
}

// An agent that ends and another that begins cut nobody off.
func TestRestartUnderLoad(t *testing.T) {
	r := newRig(t, 4)
	r.start()
	to := r.service("web", "10.97.0.1", nil)
	r.endpoints("web", r.pods[2:]...)
	s := r.storm(to, r.pods[:2]...)
	for range 20 {
		r.stop()
		s.more(5)
		r.start()
		s.more(5)
	}
	s.end()
	if len(s.faults) > 0 {
		t.Errorf("of %d connections some failed: %v", s.made.Load(), s.faults)
	}
	r.inside(r.host, func() error {
		tables, err := (&nftables.Conn{}).ListTables()
		n := 0
		for _, t := range tables {
			if strings.HasPrefix(t.Name, r.config.Table) {
				n++
			}
		}
		if n != 1 {
			err = errors.Join(err, fmt.Errorf("there are %d tables of ours", n))
		}
		return err
	})
}

// Endpoints come and go, few and many, and no connection notices.
func TestChangesUnderLoad(t *testing.T) {
	const changes, each = 500, 4
	r := newRig(t, 16)
	r.start()
	to := r.service("web", "10.97.0.1", nil)
	all := r.pods[2:]
	r.endpoints("web", all...)
	s := r.storm(to, r.pods[:2]...)
	for i := range changes {
		n := 1 + i*5%len(all) // 1 to 14: narrow and wide
		some := slices.Concat(all[i%len(all):], all[:i%len(all)])
		r.endpoints("web", some[:n]...)
		s.more(each)
	}
	s.end()
	if len(s.faults) > 0 {
		t.Errorf("of %d connections under %d changes some failed: %v", s.made.Load(), changes, s.faults)
	}
}

func TestTeardownLeavesNothing(t *testing.T) {
	r := newRig(t, 1)
	r.start()
	r.service("web", "10.97.0.1", nil)
	r.endpoints("web", r.pods...)
	r.stop()
	r.expect(r.pods[0].ns, at("10.97.0.1:80"), r.pods, "") // Services go on without an agent
	r.inside(r.host, func() error {
		if err := r.balancer.Teardown(context.Background()); err != nil {
			return err
		}
		tables, err := (&nftables.Conn{}).ListTables()
		for _, t := range tables {
			if strings.HasPrefix(t.Name, r.config.Table) {
				err = errors.Join(err, fmt.Errorf("table %s is left", t.Name))
			}
		}
		routes, e := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
		if len(routes) > 0 {
			e = errors.Join(e, fmt.Errorf("routes are left: %v", routes))
		}
		return errors.Join(err, e, r.balancer.Teardown(context.Background()))
	})
}

// Two Services want one node port: the first one has it, and the other when it
// is free.
func TestConflictingPorts(t *testing.T) {
	r := newRig(t, 2)
	r.start()
	want := func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[0].NodePort = 30080
	}
	r.service("one", "10.97.0.1", want)
	r.endpoints("one", r.pods[0])
	r.service("two", "10.97.0.2", want)
	r.endpoints("two", r.pods[1])
	r.expect(r.outside, at(hostIP+":30080"), r.pods[:1], "")
	_, err := r.objects.Delete(t.Context(), api.Services, ns, "one", api.DeleteOptions{})
	r.must(err)
	r.await("one Service", func(l *ledger) bool { return len(l.plans) == 1 })
	r.expect(r.outside, at(hostIP+":30080"), r.pods[1:], "")
}

// The zone of the node decides where all endpoints have a hint.
func TestHints(t *testing.T) {
	r := newRig(t, 3)
	r.start()
	to := r.service("web", "10.97.0.1", nil)
	zones := []string{"west", "east"}
	r.slice("web", corev1.ProtocolTCP, func(i int, e *discoveryv1.Endpoint) {
		e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: zones[i]}}}
	}, r.pods[1:]...)
	r.expect(r.pods[0].ns, to, r.pods[1:2], "")
	n, err := r.objects.Get(t.Context(), api.Nodes, "", nodeName)
	r.must(err)
	moved := n.DeepCopyObject().(*corev1.Node)
	moved.Labels = maps.Clone(moved.Labels)
	moved.Labels[corev1.LabelTopologyZone] = "east"
	_, err = r.objects.Update(t.Context(), moved, api.UpdateOptions{})
	r.must(err)
	east := backend{ip: ipOf(r.pods[2].ip), port: 8080}
	r.await("the other zone", func(l *ledger) bool {
		s := l.fronts[key{ip: four(10, 97, 0, 1), protocol: unix.IPPROTO_TCP, port: 80}].slots
		return len(s) > 0 && s[0] == east
	})
	r.expect(r.pods[0].ns, to, r.pods[2:], "")
}

// The time that one question to the kernel may take is not what a later one meets.
func TestKernelIsAskedAgainMuchLater(t *testing.T) {
	r := newRig(t, 0)
	r.inside(r.host, func() error {
		k, err := openKernel("svctest", rules{services: r.config.ServiceCIDR, pods: r.config.ClusterCIDR, source: r.config.Source})
		if err != nil {
			return err
		}
		defer k.close()
		for range 2 {
			k.conn.Answer = time.Minute // a machine may be slow
			if err := k.build(t.Context(), newLedger()); err != nil {
				return err
			}
			k.conn.Answer = 20 * time.Millisecond
			if err := k.conn.Commit(); err != nil {
				return err
			}
			<-time.After(2 * k.conn.Answer)
			if err := k.checkChains(k.rules[0], k.live[0]); err != nil {
				return err
			}
		}
		return k.remove()
	})
}

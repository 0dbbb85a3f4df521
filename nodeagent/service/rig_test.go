package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/nodeagent/network"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a node with pods and a machine beside it that is not part of the
// cluster, each a network namespace.
type rig struct {
	*testing.T
	objects   *memory.Objects
	host      *os.File
	net       *network.Network
	outside   *os.File
	pods      []*pod
	sliced    map[string]bool
	config    Config
	balancer  *Balancer
	onRefused func(*corev1.Pod, []string) // nil: nobody is told
	stop      func()

	mu   sync.Mutex
	cond func(*ledger) bool
	done chan struct{}
}

const (
	hostIP, outsideIP = "198.51.100.1", "198.51.100.2"
	hostIP6           = "2001:db8::1"
	outsideIP6        = "2001:db8::2"
	ns, nodeName      = "shop", "here"
)

func newRig(t *testing.T, pods int) *rig {
	t.Helper()
	return newRigWith(t, pods, network.Config{})
}

// newDualRig makes one with both families.
func newDualRig(t *testing.T, pods int) *rig {
	t.Helper()
	all := netip.MustParsePrefix("fd21::/64")
	r := newRigWith(t, pods, network.Config{PodCIDR6: all, ClusterCIDR6: all})
	r.config.ServiceCIDR6, r.config.ClusterCIDR6 = netip.MustParsePrefix("fd97::/112"), all
	r.config.Source6, r.config.Anchor = r.net.Gateway6(), r.net.Anchor()
	return r
}

func newRigWith(t *testing.T, pods int, settings network.Config) *rig {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes namespaces")
	}
	r := &rig{T: t, objects: memory.New(memory.Config{}), sliced: map[string]bool{}}
	for _, f := range []**os.File{&r.host, &r.outside} {
		var err error
		*f, err = network.NewNamespace()
		r.must(err)
		t.Cleanup(func() { (*f).Close() })
	}
	r.inside(r.host, func() error {
		l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "ext0", Flags: net.FlagUp, TxQLen: -1}, PeerName: "ext0", PeerNamespace: netlink.NsFd(int(r.outside.Fd()))}
		if err := errors.Join(up("lo"), netlink.LinkAdd(l), address(l, hostIP+"/24"), address(l, hostIP6+"/64")); err != nil {
			return err
		}
		err := errors.Join(netlink.RouteAdd(&netlink.Route{LinkIndex: l.Index, Gw: net.ParseIP(outsideIP)}), netlink.RouteAdd(&netlink.Route{LinkIndex: l.Index, Gw: net.ParseIP(outsideIP6)}))
		if err != nil {
			return err
		}
		c := settings
		c.PodCIDR, c.ClusterCIDR, c.Table, c.VethPrefix = netip.MustParsePrefix("10.221.0.0/24"), netip.MustParsePrefix("10.221.0.0/16"), "podsnap-svctest", "pst"
		r.net, err = network.New(c)
		return err
	})
	r.inside(r.outside, func() error {
		l, err := netlink.LinkByName("ext0")
		if err != nil {
			return err
		}
		return errors.Join(up("lo"), up("ext0"), address(l, outsideIP+"/24"), address(l, outsideIP6+"/64"), netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(hostIP6)}), netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(hostIP)}))
	})
	for i := range pods {
		r.pods = append(r.pods, r.newPod(i))
	}
	r.create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{corev1.LabelTopologyZone: "west"}}})
	r.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
	r.config = Config{
		Objects: r.objects, NodeName: nodeName, Source: r.net.Gateway(),
		ServiceCIDR: netip.MustParsePrefix("10.97.0.0/16"), ClusterCIDR: netip.MustParsePrefix("10.221.0.0/16"), Table: "svctest",
	}
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) inside(ns *os.File, f func() error) {
	r.Helper()
	r.must(network.Inside(ns, f))
}

func up(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

func address(l netlink.Link, cidr string) error {
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	a.Flags = unix.IFA_F_NODAD
	return netlink.AddrAdd(l, a)
}

// start runs a balancer, and again after stop.
func (r *rig) start() {
	r.Helper()
	r.inside(r.host, func() (err error) { r.balancer, err = New(r.config); return err })
	if r.onRefused != nil {
		r.balancer.OnRefused(r.onRefused)
	}
	r.balancer.written = func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.cond != nil && r.cond(r.balancer.ledger) {
			r.cond = nil
			close(r.done)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan error, 1)
	go func() { end <- r.balancer.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-end; err != nil {
			r.Error(err)
		}
	})
	r.Cleanup(r.stop)
	select {
	case <-r.balancer.Ready():
	case <-time.After(time.Minute):
		r.Fatal("the balancer does not get ready")
	}
}

// await waits until the kernel has what the condition says.
func (r *rig) await(what string, cond func(*ledger) bool) {
	r.Helper()
	r.mu.Lock()
	r.cond, r.done = cond, make(chan struct{})
	r.mu.Unlock()
	r.balancer.touch(types.NamespacedName{}) // has it looked at
	select {
	case <-r.done:
	case <-time.After(time.Minute):
		r.Fatalf("not in the kernel: %s", what)
	}
}

func (r *rig) create(o api.Object) {
	r.Helper()
	_, err := r.objects.Create(r.Context(), o)
	r.must(err)
}

// service makes one with a cluster address, and a port 80 unless it has others.
func (r *rig) service(name, clusterIP string, more func(*corev1.Service)) netip.AddrPort {
	r.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: clusterIP, ClusterIPs: []string{clusterIP}, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}}}
	if more != nil {
		more(s)
	}
	status := s.Status
	r.create(s)
	if len(status.LoadBalancer.Ingress) > 0 {
		s = s.DeepCopy()
		s.Status = status
		_, err := r.objects.Update(r.Context(), s, api.UpdateOptions{Subresource: "status"})
		r.must(err)
	}
	return netip.AddrPortFrom(netip.MustParseAddr(clusterIP), uint16(s.Spec.Ports[0].Port))
}

// endpoints has the Service lead to these, as ready ones of this node, and waits
// until the kernel does so.
func (r *rig) endpoints(service string, pods ...*pod) {
	r.Helper()
	r.slice(service, corev1.ProtocolTCP, func(int, *discoveryv1.Endpoint) {}, pods...)
}

func (r *rig) slice(service string, protocol corev1.Protocol, more func(int, *discoveryv1.Endpoint), pods ...*pod) {
	r.Helper()
	s := endpointSlice(service, protocol, more, pods...)
	var now api.Object
	var err error
	if r.sliced[service] {
		now, err = r.objects.Update(r.Context(), s, api.UpdateOptions{})
	} else {
		now, err = r.objects.Create(r.Context(), s)
	}
	r.must(err)
	r.sliced[service] = true
	svc := types.NamespacedName{Namespace: ns, Name: service}
	r.await(service+"'s endpoints", func(l *ledger) bool {
		seen, ok := r.balancer.slices.Get(ns, s.Name)
		return ok && seen.ResourceVersion == now.GetResourceVersion() && len(l.plans[svc].fronts) > 0 && reflect.DeepEqual(l.plans[svc], r.balancer.decide(svc))
	})
}

func endpointSlice(service string, protocol corev1.Protocol, more func(int, *discoveryv1.Endpoint), pods ...*pod) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: ns, Name: service + "-1", Labels: map[string]string{api.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new(""), Port: new(int32(8080)), Protocol: &protocol}},
	}
	for i, p := range pods {
		e := discoveryv1.Endpoint{Addresses: []string{p.ip.String()}, NodeName: new(nodeName), Conditions: discoveryv1.EndpointConditions{Ready: new(true)}}
		more(i, &e)
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// pod answers each connection, and each datagram, on port 8080 with its own
// address and the client's.
type pod struct {
	ns  *os.File
	ip  netip.Addr // the first one, also where it answers at the other
	ip6 netip.Addr // invalid in a cluster of IPv4 alone
}

// newPod makes one that answers. Every other one shares a segment, which is to make
// no difference to Services.
func (r *rig) newPod(i int) *pod {
	r.Helper()
	p := &pod{}
	var err error
	p.ns, err = network.NewNamespace()
	r.must(err)
	r.Cleanup(func() { p.ns.Close() })
	r.inside(r.host, func() (err error) {
		id := fmt.Sprintf("%010d", i)
		p.ip, err = r.net.Attach(r.Context(), id, fmt.Sprintf("/proc/self/fd/%d", p.ns.Fd()))
		p.ip6 = r.net.Second(p.ip)
		if err == nil && i%2 == 0 {
			err = r.net.Share(id, ns)
		}
		return err
	})
	var tcp net.Listener
	var udp net.PacketConn
	r.inside(p.ns, func() (err error) {
		if tcp, err = (&net.ListenConfig{}).Listen(r.Context(), "tcp", ":8080"); err != nil {
			return err
		}
		udp, err = (&net.ListenConfig{}).ListenPacket(r.Context(), "udp", ":8080")
		return err
	})
	answer := func(client net.Addr) string {
		a := netip.MustParseAddrPort(client.String())
		return p.ip.String() + " " + a.Addr().Unmap().String()
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, answer(c.RemoteAddr()))
			c.Close()
		}
	})
	wg.Go(func() {
		buf := make([]byte, 100)
		for {
			_, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo([]byte(answer(from)), from)
		}
	})
	r.Cleanup(func() { tcp.Close(); udp.Close(); wg.Wait() })
	return p
}

// ask makes one connection and answers with the pod that took it and by whom it
// was seen to be made.
func ask(to netip.AddrPort) (pod, client string, err error) { return askFor(to, 3*time.Second) }

// shortly is how long is waited for an answer that is not to come.
const shortly = 300 * time.Millisecond

func askFor(to netip.AddrPort, patience time.Duration) (pod, client string, err error) {
	c, err := net.DialTimeout("tcp", to.String(), patience)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return "", "", err
	}
	b, err := io.ReadAll(c)
	pod, client, _ = strings.Cut(string(b), " ")
	return pod, client, err
}

// expect asks from a namespace, some times, and compares who answered and who
// was seen; "" is anybody.
func (r *rig) expect(from *os.File, to netip.AddrPort, pods []*pod, client string) map[string]int {
	r.Helper()
	return r.expectTimes(from, to, 12, pods, client)
}

func (r *rig) expectTimes(from *os.File, to netip.AddrPort, times int, pods []*pod, client string) map[string]int {
	r.Helper()
	count := map[string]int{}
	err := network.Inside(from, func() error {
		for range times {
			by, seen, err := ask(to)
			if err != nil {
				return err
			}
			if client != "" && seen != client {
				return fmt.Errorf("%s was asked by %s, want %s", by, seen, client)
			}
			count[by]++
		}
		return nil
	})
	if err != nil {
		r.Errorf("to %s: %v", to, err)
	}
	for by := range count {
		if !slices.ContainsFunc(pods, func(p *pod) bool { return p.ip.String() == by }) {
			r.Errorf("to %s: %s answered, which is none of the endpoints", to, by)
		}
	}
	return count
}

// refused asks and wants to hear at once that nobody is there.
func (r *rig) refused(from *os.File, to string) {
	r.Helper()
	start := time.Now()
	err := network.Inside(from, func() error {
		_, _, err := ask(netip.MustParseAddrPort(to))
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "refused") {
		r.Errorf("to %s: got %v, want a refusal", to, err)
	}
	if took := time.Since(start); took > time.Second {
		r.Errorf("to %s: it took %s to be refused", to, took)
	}
}

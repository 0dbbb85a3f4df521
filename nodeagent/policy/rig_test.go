package policy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
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
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a node with pods and a machine beside it, each a network namespace.
type rig struct {
	*testing.T
	objects *memory.Objects
	host    *os.File
	net     *network.Network
	who     map[string]*box // by name; the machine beside is "world"
	pods    []*corev1.Pod
	config  Config
	e       *Enforcer
	stop    func()
}

// box answers every connection and datagram on the ports 8080 and 9090.
type box struct {
	ns      *os.File
	ip, ip6 netip.Addr // the latter is invalid in a cluster of IPv4 alone
}

// at is the box's address in a family, "6" or any other.
func (b *box) at(family string) netip.Addr {
	if family == "6" {
		return b.ip6
	}
	return b.ip
}

func (b *box) addresses() []string {
	if b.ip6.IsValid() {
		return []string{b.ip.String(), b.ip6.String()}
	}
	return []string{b.ip.String()}
}

const (
	hostIP, worldIP   = "192.0.2.1", "192.0.2.7"
	hostIP6, worldIP6 = "2001:db8::1", "2001:db8::7"
)

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigWith(t, network.Config{})
}

// newDualRig makes one with both families.
func newDualRig(t *testing.T) *rig {
	t.Helper()
	all := netip.MustParsePrefix("fd22::/64")
	r := newRigWith(t, network.Config{PodCIDR6: all, ClusterCIDR6: all})
	r.config.PodCIDR6, r.config.ClusterCIDR6 = all, all
	r.who["world"].ip6 = netip.MustParseAddr(worldIP6)
	return r
}

func newRigWith(t *testing.T, settings network.Config) *rig {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes namespaces")
	}
	r := &rig{T: t, objects: memory.New(memory.Config{}), who: map[string]*box{}}
	world := &box{ip: netip.MustParseAddr(worldIP)}
	for _, f := range []**os.File{&r.host, &world.ns} {
		var err error
		*f, err = network.NewNamespace()
		r.must(err)
		t.Cleanup(func() { (*f).Close() })
	}
	r.must(network.Sysctl(r.host, "net/ipv6/icmp/ratelimit", "0"))
	r.must(network.Sysctl(r.host, "net/ipv4/icmp_ratelimit", "0")) // each refusal of a datagram is to be told
	cluster := netip.MustParsePrefix("10.222.0.0/16")
	r.inside(r.host, func() error {
		l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "ext0", Flags: net.FlagUp, TxQLen: -1}, PeerName: "ext0", PeerNamespace: netlink.NsFd(int(world.ns.Fd()))}
		if err := errors.Join(up("lo"), netlink.LinkAdd(l), address(l, hostIP+"/24"), address(l, hostIP6+"/64"), netlink.RouteAdd(&netlink.Route{LinkIndex: l.Index, Gw: net.ParseIP(worldIP)})); err != nil {
			return err
		}
		var err error
		c := settings
		c.PodCIDR, c.ClusterCIDR, c.Overlay, c.Table, c.VethPrefix = netip.MustParsePrefix("10.222.0.0/24"), cluster, network.OverlayNone, "podsnap-poltest", "pnp"
		r.net, err = network.New(c)
		return err
	})
	r.inside(world.ns, func() error {
		l, err := netlink.LinkByName("ext0")
		if err != nil {
			return err
		}
		return errors.Join(up("lo"), up("ext0"), address(l, worldIP+"/24"), address(l, worldIP6+"/64"), netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(hostIP6)}), netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(hostIP)}))
	})
	r.serve(world)
	r.who["world"] = world
	r.config = Config{Objects: r.objects, NodeName: "here", ClusterCIDR: cluster, PodCIDR: netip.MustParsePrefix("10.222.0.0/24"), Table: "poltest", Audit: 20 * time.Millisecond}
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

// box makes a sandbox. Every other one shares its namespace's segment, which is to
// make no difference to what policies say.
func (r *rig) box(namespace, name string) *box {
	r.Helper()
	b := &box{}
	var err error
	b.ns, err = network.NewNamespace()
	r.must(err)
	r.Cleanup(func() { b.ns.Close() })
	r.inside(r.host, func() (err error) {
		id := fmt.Sprintf("%010d", len(r.who))
		b.ip, err = r.net.Attach(r.Context(), id, fmt.Sprintf("/proc/self/fd/%d", b.ns.Fd()))
		b.ip6 = r.net.Second(b.ip)
		if err == nil && len(r.who)%2 == 0 {
			err = r.net.Share(id, namespace)
		}
		return err
	})
	r.serve(b)
	r.who[name] = b
	return b
}

func (r *rig) serve(b *box) {
	r.Helper()
	var wg sync.WaitGroup
	r.Cleanup(wg.Wait)
	for _, at := range []string{":8080", ":9090"} {
		var tcp net.Listener
		var udp net.PacketConn
		r.inside(b.ns, func() (err error) {
			if tcp, err = (&net.ListenConfig{}).Listen(r.Context(), "tcp", at); err != nil {
				return err
			}
			udp, err = (&net.ListenConfig{}).ListenPacket(r.Context(), "udp", at)
			return err
		})
		r.Cleanup(func() { tcp.Close(); udp.Close() })
		wg.Go(func() {
			for {
				c, err := tcp.Accept()
				if err != nil {
					return
				}
				wg.Go(func() { _, _ = io.Copy(c, c); c.Close() })
			}
		})
		wg.Go(func() {
			buf := make([]byte, 100)
			for {
				n, from, err := udp.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = udp.WriteTo(buf[:n], from)
			}
		})
	}
}

// namespace creates or changes one.
func (r *rig) namespace(name string, labels map[string]string) {
	r.Helper()
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	_, err := r.objects.Create(r.Context(), n)
	if err != nil {
		_, err = r.objects.Update(r.Context(), n, api.UpdateOptions{})
	}
	r.must(err)
}

// pod makes one with a sandbox, as the API knows it.
func (r *rig) pod(namespace, name string, labels map[string]string, ports ...corev1.ContainerPort) *corev1.Pod {
	r.Helper()
	p := r.unknown(namespace, name, labels, ports...)
	r.publish(p)
	return p
}

// unknown makes one of which the API knows no address.
func (r *rig) unknown(namespace, name string, labels map[string]string, ports ...corev1.ContainerPort) *corev1.Pod {
	r.Helper()
	b := r.box(namespace, name)
	made, err := api.Create(r.Context(), r.objects, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec:       corev1.PodSpec{NodeName: "here", Containers: []corev1.Container{{Name: "c", Image: "i", Ports: ports}}},
	})
	r.must(err)
	p := made.DeepCopy()
	b.tell(&p.Status)
	r.pods = append(r.pods, p)
	return made
}

// tell puts the box's addresses into a pod's status.
func (b *box) tell(s *corev1.PodStatus) {
	s.PodIP, s.PodIPs = b.ip.String(), nil
	for _, ip := range b.addresses() {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
	}
}

func (r *rig) publish(p *corev1.Pod) {
	r.Helper()
	p = p.DeepCopy()
	r.who[p.Name].tell(&p.Status)
	_, err := r.objects.Update(r.Context(), p, api.UpdateOptions{Subresource: "status"})
	r.must(err)
}

// policies has these in the namespace shop and no others.
func (r *rig) policies(specs ...*networkingv1.NetworkPolicy) {
	r.Helper()
	old, err := api.Items[*networkingv1.NetworkPolicy](r.Context(), r.objects, api.NetworkPolicies, api.ListOptions{})
	r.must(err)
	for _, o := range old {
		_, err := r.objects.Delete(r.Context(), api.NetworkPolicies, o.Namespace, o.Name, api.DeleteOptions{})
		r.must(err)
	}
	for i, p := range specs {
		p.Name = fmt.Sprintf("p%d", i)
		_, err := r.objects.Create(r.Context(), p)
		r.must(err)
	}
	r.settle()
}

// start runs an enforcer, and again after stop.
func (r *rig) start() {
	r.Helper()
	r.inside(r.host, func() (err error) { r.e, err = New(r.config); return err })
	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan error, 1)
	e := r.e
	go func() { end <- e.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-end; err != nil {
			r.Error(err)
		}
	})
	r.Cleanup(r.stop)
	r.settle()
}

// mark changes objects in a way that nothing follows from. Who has seen that has
// handled all that was before.
func (r *rig) mark() {
	r.Helper()
	marks := []api.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "mark"}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "mark", Name: "mark"}},
	}
	policies, err := api.Items[*networkingv1.NetworkPolicy](r.Context(), r.objects, api.NetworkPolicies, api.ListOptions{})
	r.must(err)
	if len(policies) > 0 {
		marks = append(marks, policies[0])
	}
	for _, m := range marks {
		now, err := r.objects.Get(r.Context(), api.ResourceOf(m), m.GetNamespace(), m.GetName())
		if err != nil {
			_, err = r.objects.Create(r.Context(), m)
			r.must(err)
			continue
		}
		next := now.DeepCopyObject().(api.Object)
		next.SetAnnotations(map[string]string{"mark": next.GetResourceVersion()})
		_, err = r.objects.Update(r.Context(), next, api.UpdateOptions{})
		r.must(err)
	}
}

// settle waits until everything that the objects say now is in the kernel.
func (r *rig) settle() {
	r.Helper()
	r.mark()
	r.await("all that the objects say", func() bool {
		e := r.e
		if e.done != e.asked || e.stale {
			return false
		}
		return r.same(api.NetworkPolicies, func(ns, name string) (api.Object, bool) { o, ok := e.policies.Get(ns, name); return o, ok }, e.policies.Len()) &&
			r.same(api.Namespaces, func(ns, name string) (api.Object, bool) { o, ok := e.namespaces.Get(ns, name); return o, ok }, e.namespaces.Len()) &&
			(e.cluster == nil && !e.needed() || e.cluster != nil && r.same(api.Pods, func(ns, name string) (api.Object, bool) { o, ok := e.cluster.pods.Get(ns, name); return o, ok }, e.cluster.pods.Len()))
	})
}

// same compares a mirror with the objects.
func (r *rig) same(res *api.Resource, get func(ns, name string) (api.Object, bool), n int) bool {
	l, err := r.objects.List(context.Background(), res, api.ListOptions{})
	if err != nil || len(l.Items) != n {
		return false
	}
	for _, o := range l.Items {
		if seen, ok := get(o.GetNamespace(), o.GetName()); !ok || seen.GetResourceVersion() != o.GetResourceVersion() {
			return false
		}
	}
	return true
}

// await waits for a condition that is looked at under the enforcer's lock.
func (r *rig) await(what string, cond func() bool) {
	r.Helper()
	late := time.After(time.Minute)
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for {
		r.e.mu.Lock()
		ok := cond()
		r.e.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-look.C:
		case <-late:
			r.Fatalf("not in the kernel: %s", what)
		}
	}
}

// reaches sends something and tells whether it came back; an error is neither
// that nor a refusal.
func (r *rig) reaches(from, to, network8080 string) (bool, error) {
	kind, port, _ := net.SplitHostPort(network8080)
	var yes bool
	err := network.Inside(r.who[from].ns, func() error {
		yes = false
		c, err := net.DialTimeout(kind, net.JoinHostPort(r.who[to].at(kind[3:]).String(), port), 2*time.Second)
		if refused(err) {
			return nil
		}
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return err
		}
		if _, err := c.Write([]byte("x")); err != nil && !refused(err) {
			return err
		}
		_, err = io.ReadFull(c, make([]byte, 1))
		if refused(err) {
			return nil
		}
		yes = err == nil
		return err
	})
	return yes, err
}

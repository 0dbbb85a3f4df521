package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	mdlayher "github.com/mdlayher/netlink"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/nodeagent/network"
	"github.com/podsnap/podsnap/nodeagent/service"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	nameServiceChange = "services, one endpoint change among 5k ÷ goal"
	nameServiceFailed = "services, failed connections of 40k under 10k endpoint changes"
	nameServiceDial   = "services, new connection by cluster address ÷ by pod address"
)

const (
	manyServices     = 5000
	eachEndpoints    = 10
	serviceChanges   = 10_000
	perChange        = 4 // connections
	serviceClients   = 4
	serviceDials     = 1000 // in a round
	changesInRound   = 300
	changeGoal       = 1.0 // ms
	serviceNamespace = "bench"
)

// service is a node's Services, in namespaces of this process: a node with pods,
// of which some are clients and the others the endpoints of one Service among
// thousands.
func (b *bench) service() []row {
	if os.Getuid() != 0 {
		b.Skip("needs root")
	}
	defer b.scope()()
	n := b.newServiceNode()
	var change, goal []float64
	turn := 0
	b.each(func() {
		var took []float64
		for range changesInRound {
			turn++
			took = append(took, ms(n.change(turn)))
		}
		change, goal = append(change, median(took)), append(goal, changeGoal)
		b.note("services: a change takes %.0f µs, 99 %% of them at most %.0f µs", 1000*median(took), 1000*quantile(took, 0.99))
	})
	var through, straight []float64
	b.each(func() {
		var t, s []float64
		b.must(network.Inside(n.clients[0].ns, func() error {
			for i := range serviceDials {
				start := time.Now()
				if err := greet(n.address); err != nil {
					return err
				}
				middle := time.Now()
				if err := greet(n.servers[i%len(n.servers)].at); err != nil {
					return err
				}
				t, s = append(t, us(middle.Sub(start))), append(s, us(time.Since(middle)))
			}
			return nil
		}))
		through, straight = append(through, median(t)), append(straight, median(s))
	})
	failed, made := n.underChanges(&turn)
	return []row{
		atMost(nameServiceChange, "ms", 1, change, goal),
		atMost(nameServiceDial, "µs", 1.1, through, straight),
		none(nameServiceFailed, "of them", failed, made),
	}
}

type serviceNode struct {
	b       *bench
	objects *memory.Objects
	events  *mdlayher.Conn // of the kernel's rule set
	clients []servicePod
	servers []servicePod
	address netip.AddrPort
}

type servicePod struct {
	ns *os.File
	at netip.AddrPort
}

func (b *bench) newServiceNode() *serviceNode {
	n := &serviceNode{b: b, objects: memory.New(memory.Config{}), address: netip.MustParseAddrPort("10.97.255.1:80")}
	host := n.namespace()
	var pods *network.Network
	var err error
	cidr := netip.MustParsePrefix("10.221.0.0/16")
	b.must(network.Inside(host, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		pods, err = network.New(network.Config{PodCIDR: cidr})
		return err
	}))
	for i := range serviceClients + eachEndpoints {
		p := n.pod(host, pods, i)
		if i < serviceClients {
			n.clients = append(n.clients, p)
		} else {
			n.servers = append(n.servers, p)
		}
	}
	n.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: serviceNamespace}})
	for i := range manyServices {
		name := fmt.Sprintf("s%05d", i)
		var to []netip.Addr
		for j := range eachEndpoints {
			to = append(to, netip.AddrFrom4([4]byte{10, 221, byte(1 + i%200), byte(2 + j)}))
		}
		n.create(serviceOf(name, netip.AddrFrom4([4]byte{10, 97, byte(i / 250), byte(1 + i%250)})))
		n.create(sliceOf(name, to))
	}
	n.create(serviceOf("real", n.address.Addr()))
	n.create(sliceOf("real", n.some(0, eachEndpoints)))
	var balancer *service.Balancer
	b.must(network.Inside(host, func() error {
		balancer, err = service.New(service.Config{
			Objects: n.objects, NodeName: "bench", Source: pods.Gateway(), ClusterCIDR: cidr, ServiceCIDR: netip.MustParsePrefix("10.97.0.0/16"),
		})
		return err
	}))
	ctx, cancel := context.WithCancel(b.ctx)
	end := make(chan error, 1)
	start := time.Now()
	go func() { end <- balancer.Run(ctx) }()
	b.Cleanup(func() { cancel(); b.must(<-end) })
	select {
	case <-balancer.Ready():
	case <-time.After(time.Minute):
		b.Fatal("the services are not in the kernel after a minute")
	}
	b.note("services: %d with %d endpoints each were in the kernel after %.2f s", manyServices, eachEndpoints, time.Since(start).Seconds())
	b.must(network.Inside(host, func() error {
		if n.events, err = mdlayher.Dial(unix.NETLINK_NETFILTER, nil); err != nil {
			return err
		}
		return errors.Join(n.events.SetReadBuffer(8<<20), n.events.JoinGroup(unix.NFNLGRP_NFTABLES))
	}))
	b.Cleanup(func() { n.events.Close() })
	return n
}

func (n *serviceNode) namespace() *os.File {
	f, err := network.NewNamespace()
	n.b.must(err)
	n.b.Cleanup(func() { f.Close() })
	return f
}

func (n *serviceNode) create(o api.Object) {
	_, err := n.objects.Create(n.b.ctx, o)
	n.b.must(err)
}

// pod is one that greets whoever connects.
func (n *serviceNode) pod(host *os.File, pods *network.Network, i int) servicePod {
	p := servicePod{ns: n.namespace()}
	n.b.must(network.Inside(host, func() error {
		a, err := pods.Attach(n.b.ctx, fmt.Sprintf("%010d", i), fmt.Sprintf("/proc/self/fd/%d", p.ns.Fd()))
		p.at = netip.AddrPortFrom(a, 8080)
		return err
	}))
	var l net.Listener
	n.b.must(network.Inside(p.ns, func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(n.b.ctx, "tcp4", p.at.String())
		return err
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello")
			c.Close()
		}
	}()
	n.b.Cleanup(func() { l.Close(); <-done })
	return p
}

func serviceOf(name string, at netip.Addr) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: serviceNamespace, Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: at.String(), ClusterIPs: []string{at.String()}, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}},
	}
}

func sliceOf(name string, to []netip.Addr) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: serviceNamespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: new(""), Port: new(int32(8080))}},
	}
	for _, a := range to {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a.String()}})
	}
	return s
}

// some are addresses of the servers, from one on.
func (n *serviceNode) some(from, count int) []netip.Addr {
	var out []netip.Addr
	for i := range count {
		out = append(out, n.servers[(from+i)%len(n.servers)].at.Addr())
	}
	return out
}

// change has the Service lose or get an endpoint and answers with the time from
// the write of the object until the kernel has taken it.
func (n *serviceNode) change(turn int) time.Duration {
	next := sliceOf("real", n.some(turn/2, eachEndpoints-turn%2))
	start := time.Now()
	_, err := n.objects.Update(n.b.ctx, next, api.UpdateOptions{})
	n.b.must(err)
	n.b.must(n.events.SetReadDeadline(start.Add(10 * time.Second)))
	for {
		events, err := n.events.Receive()
		n.b.must(err)
		if slices.ContainsFunc(events, func(m mdlayher.Message) bool {
			return m.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN
		}) {
			return time.Since(start)
		}
	}
}

// underChanges makes connections while endpoints come and go.
func (n *serviceNode) underChanges(turn *int) (failed, made int) {
	const all = serviceChanges * perChange
	var next, faults atomic.Int64
	var first sync.Once
	var clients sync.WaitGroup
	for _, c := range n.clients {
		clients.Go(func() {
			err := network.Inside(c.ns, func() error {
				for next.Add(1) <= all {
					if err := greet(n.address); err != nil {
						faults.Add(1)
						first.Do(func() { n.b.Logf("services: the first connection that failed: %v", err) })
					}
				}
				return nil
			})
			if err != nil {
				n.b.Errorf("services: %v", err)
			}
		})
	}
	for i := range serviceChanges {
		for next.Load() < int64(i)*perChange {
			n.b.pause(50 * time.Microsecond)
		}
		*turn++
		n.change(*turn)
	}
	clients.Wait()
	return int(faults.Load()), all
}

// greet makes a connection and hears the other side.
func greet(to netip.AddrPort) error {
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.Background(), "tcp4", to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if hello, err := io.ReadAll(c); err != nil || string(hello) != "hello" {
		return fmt.Errorf("heard %q: %w", hello, errors.Join(err, io.ErrUnexpectedEOF))
	}
	return nil
}

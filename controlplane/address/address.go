// Package address hands out the cluster's addresses: one of the Service network
// to each Service that has one, ports of all nodes to those that are reached from
// outside, and a block of the pod network to each node. It does so at the write
// that asks for one, so that an object that can be seen has its address.
//
// Only one process writes at a time, so the sets are in memory: filled from the
// store at the start, and kept by a watch.
package address

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/internal/mirror"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Config says what there is to hand out.
type Config struct {
	Pods     netip.Prefix // of the cluster; zero is 10.62.0.0/16
	NodeBits int          // length of a node's block of it; 0 is 22, but no more than Pods allows
	Services netip.Prefix // zero is 10.96.0.0/16
	// NodePorts are the first and the last port that nodes open for Services;
	// zero is 30000 to 32767.
	NodePorts [2]int32
	Log       *slog.Logger // nil discards
}

func (c *Config) fill() error {
	if !c.Pods.IsValid() {
		c.Pods = netip.MustParsePrefix("10.62.0.0/16")
	}
	if c.NodeBits == 0 {
		c.NodeBits = max(22, c.Pods.Bits())
	}
	if !c.Services.IsValid() {
		c.Services = netip.MustParsePrefix("10.96.0.0/16")
	}
	if c.NodePorts == [2]int32{} {
		c.NodePorts = [2]int32{30000, 32767}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case !c.Pods.Addr().Is4() || !c.Services.Addr().Is4():
		return errors.New("addresses: the pod network and the Service network must be IPv4")
	case c.Services.Bits() < 8 || c.Services.Bits() > 28:
		return fmt.Errorf("addresses: Service network %s: its length must be between 8 and 28", c.Services)
	case c.Pods.Overlaps(c.Services):
		return fmt.Errorf("addresses: the pod network %s and the Service network %s overlap", c.Pods, c.Services)
	}
	return nil
}

type nodePort struct {
	protocol corev1.Protocol
	port     int32
}

// block is a node's, of whatever length, and perhaps not of the pod network.
type block struct {
	prefix netip.Prefix
	claim
}

// Allocator has the sets. Run keeps them; Admit hands out.
type Allocator struct {
	c Config

	mu    sync.Mutex
	ips   *set[netip.Addr]
	ports map[corev1.Protocol]*set[int32]
	pods  *set[netip.Prefix]
	nodes map[string]block // by name
	ready chan struct{}    // closed when the sets are filled
}

// New makes an allocator.
func New(c Config) (*Allocator, error) {
	if err := c.fill(); err != nil {
		return nil, err
	}
	pods, err := blocks(c.Pods, c.NodeBits)
	if err != nil {
		return nil, err
	}
	a := &Allocator{
		c: c, ready: make(chan struct{}),
		ips: addresses(c.Services), pods: pods, ports: map[corev1.Protocol]*set[int32]{}, nodes: map[string]block{},
	}
	first, last := c.NodePorts[0], c.NodePorts[1]
	for _, p := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP} {
		a.ports[p] = newSet(first, int(last-first)+1, func(n int32) int32 {
			if n == last {
				return first
			}
			return n + 1
		})
	}
	return a, nil
}

// Run follows what is stored, until ctx is done; nil then. What asks for an
// address waits until it has seen everything.
func (a *Allocator) Run(ctx context.Context, o api.Objects) error {
	// What leads to functions has no address of its own, and there is much of it.
	not, err := labels.NewRequirement(api.LabelFunction, selection.DoesNotExist, nil)
	if err != nil {
		return err
	}
	services := mirror.New[*corev1.Service](o, api.Services, mirror.Options{Labels: labels.NewSelector().Add(*not), Log: a.c.Log})
	services.OnChange(a.serviceChanged)
	nodes := mirror.New[*corev1.Node](o, api.Nodes, mirror.Options{Log: a.c.Log})
	nodes.OnChange(a.nodeChanged)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return services.Run(ctx) })
	g.Go(func() error { return nodes.Run(ctx) })
	g.Go(func() error {
		for _, synced := range []<-chan struct{}{services.Synced(), nodes.Synced()} {
			select {
			case <-synced:
			case <-ctx.Done():
				return nil
			}
		}
		close(a.ready)
		return nil
	})
	return g.Wait()
}

func ownerOf(o api.Object) string { return o.GetNamespace() + "/" + o.GetName() }

func (a *Allocator) serviceChanged(t api.EventType, old, now *corev1.Service) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t == api.Deleted {
		owner := ownerOf(old)
		a.ips.free(owner)
		for _, s := range a.ports {
			s.free(owner)
		}
		return
	}
	owner := ownerOf(now)
	var ips []netip.Addr
	if ip, err := netip.ParseAddr(now.Spec.ClusterIP); err == nil {
		ips = append(ips, ip)
	}
	a.ips.store(owner, ips)
	for protocol, s := range a.ports {
		s.store(owner, portsOf(now, protocol))
	}
}

func portsOf(s *corev1.Service, protocol corev1.Protocol) []int32 {
	var out []int32
	for _, p := range s.Spec.Ports {
		if p.Protocol == protocol && p.NodePort != 0 {
			out = append(out, p.NodePort)
		}
	}
	if n := s.Spec.HealthCheckNodePort; n != 0 && protocol == corev1.ProtocolTCP {
		out = append(out, n)
	}
	return out
}

func (a *Allocator) nodeChanged(t api.EventType, old, now *corev1.Node) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t == api.Deleted {
		a.pods.free(old.Name)
		delete(a.nodes, old.Name)
		return
	}
	p, err := netip.ParsePrefix(now.Spec.PodCIDR)
	if had := a.nodes[now.Name]; err != nil || had.stored && had.prefix == p {
		return
	}
	a.nodes[now.Name] = block{p, claim{owner: now.Name, stored: true}}
	a.pods.store(now.Name, a.covered(p))
}

// covered are the blocks of the pod network that have something in common with
// p. Called with a.mu held, or at the start.
func (a *Allocator) covered(p netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	b := a.pods.start
	for range a.pods.size {
		if b.Overlaps(p) {
			out = append(out, b)
		}
		b = a.pods.after(b)
	}
	return out
}

// Admit wraps what judges objects: what next lets through gets its addresses.
func (a *Allocator) Admit(next rules.Admit) rules.Admit {
	return func(ctx context.Context, op rules.Op, r *api.Resource, old, obj api.Object, subresource string) error {
		if err := next(ctx, op, r, old, obj, subresource); err != nil || subresource != "" {
			return err
		}
		switch o := obj.(type) {
		case *corev1.Service:
			var was *corev1.Service
			if old != nil {
				was = old.(*corev1.Service)
			}
			return a.service(ctx, was, o)
		case *corev1.Node:
			return a.node(ctx, o)
		}
		return nil
	}
}

// wait returns when everything that is stored is known.
func (a *Allocator) wait(ctx context.Context) error {
	select {
	case <-a.ready:
		return nil
	case <-ctx.Done():
		return apierrors.NewServiceUnavailable("the addresses that are in use are not known yet, please try again")
	}
}

// service fills the addresses of a Service that is to be stored.
func (a *Allocator) service(ctx context.Context, old, s *corev1.Service) error {
	if s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.ClusterIP == corev1.ClusterIPNone {
		s.Spec.HealthCheckNodePort = 0
		if s.Spec.ClusterIP != "" {
			family(&s.Spec)
		}
		return nil
	}
	if old != nil && settled(old, s) {
		return nil
	}
	if err := a.wait(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	errs := a.clusterIP(s)
	errs = append(errs, a.nodePorts(s)...)
	if len(errs) > 0 {
		return apierrors.NewInvalid(api.Services.GVK().GroupKind(), s.Name, errs)
	}
	return nil
}

// settled tells that s has all that it needs from old.
func settled(old, s *corev1.Service) bool {
	if s.Spec.ClusterIP == "" || s.Spec.ClusterIP != old.Spec.ClusterIP || s.Spec.IPFamilies == nil ||
		s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort || (s.Spec.HealthCheckNodePort != 0) != checked(s) {
		return false
	}
	for _, p := range s.Spec.Ports {
		if p.NodePort == 0 && opens(s) || p.NodePort != 0 && !slices.Contains(portsOf(old, p.Protocol), p.NodePort) {
			return false
		}
	}
	return true
}

// opens tells whether the nodes open ports for a Service.
func opens(s *corev1.Service) bool {
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeLoadBalancer:
		return s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName:
	}
	return false
}

// checked tells whether nodes answer a load balancer whether they have pods.
func checked(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func (a *Allocator) clusterIP(s *corev1.Service) field.ErrorList {
	path := field.NewPath("spec", "clusterIPs").Index(0)
	owner, now := ownerOf(s), time.Now()
	if s.Spec.ClusterIP == "" {
		ip, ok := a.ips.take(owner, now, func(netip.Addr) bool { return true })
		if !ok {
			return field.ErrorList{field.InternalError(path, fmt.Errorf("the Service network %s has no free address: delete Services, or start the servers with a larger --service-cidr", a.c.Services))}
		}
		s.Spec.ClusterIP = ip.String()
		family(&s.Spec)
		return nil
	}
	ip, err := netip.ParseAddr(s.Spec.ClusterIP)
	if err != nil || !a.c.Services.Contains(ip) || ip == a.c.Services.Masked().Addr() {
		return field.ErrorList{field.Invalid(path, s.Spec.ClusterIP, "must be an address of the Service network "+a.c.Services.String())}
	}
	if !a.ips.ask(ip, owner, now) {
		return field.ErrorList{field.Invalid(path, s.Spec.ClusterIP, "provided IP is already allocated")}
	}
	family(&s.Spec)
	return nil
}

// family says in which families the address is: IPv4, which alone there is.
func family(s *corev1.ServiceSpec) {
	s.ClusterIPs = []string{s.ClusterIP}
	if s.IPFamilies == nil {
		single := corev1.IPFamilyPolicySingleStack
		s.IPFamilies, s.IPFamilyPolicy = []corev1.IPFamily{corev1.IPv4Protocol}, &single
	}
}

func (a *Allocator) nodePorts(s *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	ports, mine := field.NewPath("spec", "ports"), map[nodePort]bool{}
	for i := range s.Spec.Ports {
		if p := &s.Spec.Ports[i]; p.NodePort != 0 {
			errs = append(errs, a.askPort(s, p.Protocol, p.NodePort, ports.Index(i).Child("nodePort"))...)
			mine[nodePort{p.Protocol, p.NodePort}] = true
		}
	}
	for i := range s.Spec.Ports {
		if p := &s.Spec.Ports[i]; p.NodePort == 0 && opens(s) {
			errs = append(errs, a.takePort(s, p.Protocol, mine, &p.NodePort, ports.Index(i).Child("nodePort"))...)
		}
	}
	path := field.NewPath("spec", "healthCheckNodePort")
	switch {
	case !checked(s):
		s.Spec.HealthCheckNodePort = 0
	case s.Spec.HealthCheckNodePort != 0:
		errs = append(errs, a.askPort(s, corev1.ProtocolTCP, s.Spec.HealthCheckNodePort, path)...)
	default:
		errs = append(errs, a.takePort(s, corev1.ProtocolTCP, mine, &s.Spec.HealthCheckNodePort, path)...)
	}
	return errs
}

func (a *Allocator) askPort(s *corev1.Service, protocol corev1.Protocol, port int32, path *field.Path) field.ErrorList {
	if port < a.c.NodePorts[0] || port > a.c.NodePorts[1] {
		return field.ErrorList{field.Invalid(path, port, fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", a.c.NodePorts[0], a.c.NodePorts[1]))}
	}
	if !a.ports[protocol].ask(port, ownerOf(s), time.Now()) {
		return field.ErrorList{field.Invalid(path, port, "provided port is already allocated")}
	}
	return nil
}

func (a *Allocator) takePort(s *corev1.Service, protocol corev1.Protocol, mine map[nodePort]bool, into *int32, path *field.Path) field.ErrorList {
	port, ok := a.ports[protocol].take(ownerOf(s), time.Now(), func(n int32) bool { return !mine[nodePort{protocol, n}] })
	if !ok {
		return field.ErrorList{field.InternalError(path, errors.New("the nodes have no free port for Services: delete some that are of the type NodePort or LoadBalancer"))}
	}
	*into = port
	mine[nodePort{protocol, port}] = true
	return nil
}

// node fills a Node's block of the pod network, or sees that the one it asks for
// is free.
func (a *Allocator) node(ctx context.Context, n *corev1.Node) error {
	if err := a.wait(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now, known := time.Now(), a.nodes[n.Name]
	if n.Spec.PodCIDR == "" {
		b, ok := a.pods.take(n.Name, now, func(netip.Prefix) bool { return true })
		if !ok {
			return apierrors.NewForbidden(api.Nodes.GR(), n.Name, fmt.Errorf("the pod network %s has no free block of /%d: remove nodes, or start the servers with a larger --cluster-cidr", a.c.Pods, a.c.NodeBits))
		}
		n.Spec.PodCIDR, n.Spec.PodCIDRs = b.String(), []string{b.String()}
		a.nodes[n.Name] = block{b, claim{owner: n.Name, since: now}}
		return nil
	}
	p, err := netip.ParsePrefix(n.Spec.PodCIDR)
	if err != nil {
		return nil
	}
	n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
	if known.prefix == p && known.stored {
		return nil
	}
	for other, has := range a.nodes {
		if other != n.Name && has.prefix.Overlaps(p) && (has.stored || now.Sub(has.since) < patience) {
			return apierrors.NewInvalid(api.Nodes.GVK().GroupKind(), n.Name, field.ErrorList{field.Invalid(
				field.NewPath("spec", "podCIDR"), n.Spec.PodCIDR, fmt.Sprintf("overlaps with %s of node %s", has.prefix, other))})
		}
	}
	for _, b := range a.covered(p) {
		a.pods.ask(b, n.Name, now)
	}
	a.nodes[n.Name] = block{p, claim{owner: n.Name, since: now}}
	return nil
}

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
	// Pods6 and Services6 are the same in IPv6; zero is a cluster of IPv4 alone.
	Pods6, Services6 netip.Prefix
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
	return c.check6()
}

// check6 checks the networks of IPv6, if there are any.
func (c *Config) check6() error {
	switch {
	case !c.Pods6.IsValid() && !c.Services6.IsValid():
		return nil
	case !c.Pods6.IsValid() || !c.Services6.IsValid():
		return errors.New("addresses: a cluster of two families has a pod network and a Service network of each")
	case !c.Pods6.Addr().Is6() || !c.Services6.Addr().Is6():
		return errors.New("addresses: the second pod network and the second Service network must be IPv6")
	case c.Services6.Bits() < 108 || c.Services6.Bits() > 124:
		return fmt.Errorf("addresses: Service network %s: its length must be between 108 and 124", c.Services6)
	case c.Pods6.Bits() < 40 || c.Pods6.Bits() > 96+c.NodeBits:
		return fmt.Errorf("addresses: pod network %s: its length must be between 40 and %d", c.Pods6, 96+c.NodeBits)
	case c.Pods6.Overlaps(c.Services6):
		return fmt.Errorf("addresses: the pod network %s and the Service network %s overlap", c.Pods6, c.Services6)
	}
	return nil
}

// nodeBits6 is the length of a node's block of IPv6: /64 as in Kubernetes where the
// pod network has room for 256 of them, else what makes 65,536 blocks, or what has
// as many addresses as the node's block of IPv4.
func (c *Config) nodeBits6() int {
	if c.Pods6.Bits() <= 56 {
		return 64
	}
	return min(c.Pods6.Bits()+16, 96+c.NodeBits)
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
	ips   map[corev1.IPFamily]*set[netip.Addr]
	ports map[corev1.Protocol]*set[int32]
	pods  []*podNetwork // IPv4, then IPv6 if there is that
	ready chan struct{} // closed when the sets are filled
}

// podNetwork is that of one family.
type podNetwork struct {
	whole  netip.Prefix
	bits   int // length of a node's block
	blocks *set[netip.Prefix]
	nodes  map[string]block // by name
}

func newPodNetwork(p netip.Prefix, bits int) (*podNetwork, error) {
	all, err := blocks(p, bits)
	return &podNetwork{whole: p.Masked(), bits: bits, blocks: all, nodes: map[string]block{}}, err
}

// New makes an allocator.
func New(c Config) (*Allocator, error) {
	if err := c.fill(); err != nil {
		return nil, err
	}
	pods, err := newPodNetwork(c.Pods, c.NodeBits)
	if err != nil {
		return nil, err
	}
	a := &Allocator{
		c: c, ready: make(chan struct{}), pods: []*podNetwork{pods}, ports: map[corev1.Protocol]*set[int32]{},
		ips: map[corev1.IPFamily]*set[netip.Addr]{corev1.IPv4Protocol: addresses(c.Services)},
	}
	if c.Pods6.IsValid() {
		if pods, err = newPodNetwork(c.Pods6, c.nodeBits6()); err != nil {
			return nil, err
		}
		a.pods, a.ips[corev1.IPv6Protocol] = append(a.pods, pods), addresses(c.Services6)
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
		for _, s := range a.ips {
			s.free(owner)
		}
		for _, s := range a.ports {
			s.free(owner)
		}
		return
	}
	owner := ownerOf(now)
	has := map[corev1.IPFamily][]netip.Addr{}
	for _, s := range clusterIPs(&now.Spec) {
		if ip, err := netip.ParseAddr(s); err == nil {
			has[familyOf(ip)] = append(has[familyOf(ip)], ip)
		}
	}
	for f, s := range a.ips {
		s.store(owner, has[f])
	}
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
	for i, n := range a.pods {
		if t == api.Deleted {
			n.blocks.free(old.Name)
			delete(n.nodes, old.Name)
			continue
		}
		p, err := netip.ParsePrefix(podCIDR(now, i))
		if had := n.nodes[now.Name]; err != nil || had.stored && had.prefix == p {
			continue
		}
		n.nodes[now.Name] = block{p, claim{owner: now.Name, stored: true}}
		n.blocks.store(now.Name, n.covered(p))
	}
}

// podCIDR is a node's block of the pod network of one family, "" if it has none.
func podCIDR(n *corev1.Node, family int) string {
	switch {
	case family == 0:
		return n.Spec.PodCIDR
	case family < len(n.Spec.PodCIDRs):
		return n.Spec.PodCIDRs[family]
	}
	return ""
}

// covered are the blocks that have something in common with p.
func (n *podNetwork) covered(p netip.Prefix) []netip.Prefix {
	switch p = p.Masked(); {
	case !p.Overlaps(n.whole):
		return nil
	case p.Bits() >= n.bits:
		return []netip.Prefix{netip.PrefixFrom(p.Addr(), n.bits).Masked()}
	case p.Bits() < n.whole.Bits():
		p = n.whole
	}
	var out []netip.Prefix
	b := netip.PrefixFrom(p.Addr(), n.bits)
	for range 1 << (n.bits - p.Bits()) {
		out = append(out, b)
		b = n.blocks.after(b)
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
		if s.Spec.ClusterIP == "" {
			return nil
		}
		return invalid(s, a.families(old, s))
	}
	if old != nil && settled(old, s) {
		return nil
	}
	if err := a.wait(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if errs := a.families(old, s); len(errs) > 0 {
		return invalid(s, errs)
	}
	return invalid(s, append(a.clusterIPs(s), a.nodePorts(s)...))
}

func invalid(s *corev1.Service, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(api.Services.GVK().GroupKind(), s.Name, errs)
}

// settled tells that s has all that it needs from old.
func settled(old, s *corev1.Service) bool {
	if s.Spec.ClusterIP == "" || s.Spec.IPFamilies == nil || !sameFamilies(&s.Spec, &old.Spec) ||
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
	var all []string
	for i, p := range a.pods {
		cidr, err := p.block(n, podCIDR(n, i), i)
		if err != nil {
			return err
		}
		all = append(all, cidr)
	}
	n.Spec.PodCIDR, n.Spec.PodCIDRs = all[0], all
	return nil
}

// block finds a free block for a node, or sees that the one it asks for is.
func (n *podNetwork) block(node *corev1.Node, asks string, family int) (string, error) {
	now, known := time.Now(), n.nodes[node.Name]
	if asks == "" {
		b, ok := n.blocks.take(node.Name, now, func(netip.Prefix) bool { return true })
		if !ok {
			return "", apierrors.NewForbidden(api.Nodes.GR(), node.Name, fmt.Errorf("the pod network %s has no free block of /%d: remove nodes, or start the servers with a larger --cluster-cidr", n.whole, n.bits))
		}
		n.nodes[node.Name] = block{b, claim{owner: node.Name, since: now}}
		return b.String(), nil
	}
	own, err := netip.ParsePrefix(asks)
	if err != nil || known.prefix == own && known.stored {
		return asks, nil // the former is admission's to refuse
	}
	if own.Addr().Is6() != n.whole.Addr().Is6() {
		return "", apierrors.NewInvalid(api.Nodes.GVK().GroupKind(), node.Name, field.ErrorList{field.Invalid(
			field.NewPath("spec", "podCIDRs").Index(family), asks, fmt.Sprintf("must be of the family of the cluster's %s", n.whole))})
	}
	for other, has := range n.nodes {
		if other != node.Name && has.prefix.Overlaps(own) && (has.stored || now.Sub(has.since) < patience) {
			return "", apierrors.NewInvalid(api.Nodes.GVK().GroupKind(), node.Name, field.ErrorList{field.Invalid(
				field.NewPath("spec", "podCIDR"), asks, fmt.Sprintf("overlaps with %s of node %s", has.prefix, other))})
		}
	}
	for _, b := range n.covered(own) {
		n.blocks.ask(b, node.Name, now)
	}
	n.nodes[node.Name] = block{own, claim{owner: node.Name, since: now}}
	return asks, nil
}

// Package service leads connections to Services to their endpoints, in the
// kernel of one node: cluster addresses, node ports, external addresses and
// those of load balancers; and those to the host ports of its pods to them.
//
// It has a table of constant nftables rules over a few maps (rules.go), of which
// elements alone change: that takes microseconds, whatever the number of
// Services, and no connection ever finds the rules half written. What the maps
// contain is decided by a pure function of a Service and its EndpointSlices
// (front.go); a ledger turns plans into the elements to add and to remove; one
// goroutine writes them.
//
// A Service without endpoints refuses at once (TCP reset, ICMP port
// unreachable), and so does a port that a Service does not have. A client that
// stays with its endpoint (sessionAffinity ClientIP) does so by a hash of its
// address, so that nothing has to be remembered: it keeps its endpoint for as
// long as that one lives, and not just for timeoutSeconds, over restarts of the
// agent too; of endpoints that come, each takes its share of clients.
//
// A function's Service is not among them: it has no address, and its name leads
// to the gateway.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/mirror"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
)

// Config says what to balance. Objects, NodeName and Source are needed.
type Config struct {
	Objects     api.Objects
	NodeName    string
	Source      netip.Addr   // the node's own address in the pod network: network.Gateway
	ServiceCIDR netip.Prefix // of cluster addresses; zero is 10.96.0.0/16
	ClusterCIDR netip.Prefix // of the pods of all nodes; zero is 10.62.0.0/16
	// ServiceCIDR6, ClusterCIDR6 and Source6 are the same in IPv6, and Anchor is the
	// link that network.Anchor names; zero is IPv4 alone.
	ServiceCIDR6, ClusterCIDR6 netip.Prefix
	Source6                    netip.Addr
	Anchor                     string
	MTU                        int     // of pods: what the node itself may send them; 0 is 1450
	Reserved                   []int32 // TCP ports that are the node's own: no pod gets them as host ports
	Table                      string  // of nftables, one a platform, with -0 or -1 behind; "" is podsnap-services

	// Audit is how often the kernel's table is compared with what it should be;
	// 0 is a minute. As long as nobody else has changed any table, the comparison
	// is one question to the kernel.
	Audit   time.Duration
	Log     *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Balancer does it.
type Balancer struct {
	c       Config
	log     *slog.Logger
	m       *metrics
	host    *host
	kernel  *kernel
	ledger  *ledger
	written func() // for tests: after what was known has been written
	refused func(*corev1.Pod, []string)

	services *mirror.Mirror[*corev1.Service]
	slices   *mirror.Mirror[*discoveryv1.EndpointSlice]
	nodes    *mirror.Mirror[*corev1.Node]
	pods     *mirror.Mirror[*corev1.Pod] // of this node, but for functions'
	ready    chan struct{}

	mu    sync.Mutex
	dirty map[types.NamespacedName]time.Time // when it was first heard
	wake  chan struct{}
}

const (
	byService = "service"

	againFirst, againLast = time.Second, time.Minute
)

// New opens the kernel's doors, in the network namespace of the calling thread,
// and changes nothing. It needs root.
func New(c Config) (*Balancer, error) {
	if !c.ServiceCIDR.IsValid() {
		c.ServiceCIDR = netip.MustParsePrefix("10.96.0.0/16")
	}
	if !c.ClusterCIDR.IsValid() {
		c.ClusterCIDR = netip.MustParsePrefix("10.62.0.0/16")
	}
	if c.MTU == 0 {
		c.MTU = 1450
	}
	if c.Table == "" {
		c.Table = "podsnap-services"
	}
	if c.Audit == 0 {
		c.Audit = time.Minute
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	b := &Balancer{
		c: c, log: c.Log, m: newMetrics(c.Metrics), ledger: newLedger(), ready: make(chan struct{}),
		dirty: map[types.NamespacedName]time.Time{}, wake: make(chan struct{}, 1), written: func() {},
		refused: func(*corev1.Pod, []string) {},
	}
	var err error
	if b.host, err = openHost(c); err != nil {
		return nil, err
	}
	b.kernel, err = openKernel(c.Table, c.rules()...)
	if err != nil {
		b.host.close()
		return nil, err
	}
	b.follow()
	return b, nil
}

func (c Config) validate() error {
	var errs []error
	if c.Objects == nil || c.NodeName == "" {
		errs = append(errs, errors.New("services: Objects and NodeName are needed"))
	}
	for what, p := range map[string]netip.Prefix{"service CIDR": c.ServiceCIDR, "cluster CIDR": c.ClusterCIDR} {
		if !p.Addr().Is4() {
			errs = append(errs, fmt.Errorf("%s %s: want an IPv4 prefix", what, p))
		}
	}
	if c.ServiceCIDR.Overlaps(c.ClusterCIDR) {
		errs = append(errs, fmt.Errorf("service CIDR %s overlaps with the pods' %s", c.ServiceCIDR, c.ClusterCIDR))
	}
	if !c.Source.Is4() || !c.ClusterCIDR.Contains(c.Source) {
		errs = append(errs, fmt.Errorf("source %s is not an address of the pod network %s", c.Source, c.ClusterCIDR))
	}
	if c.ServiceCIDR6.IsValid() {
		errs = append(errs, c.validate6())
	}
	return errors.Join(errs...)
}

func (c Config) validate6() error {
	switch {
	case !c.ServiceCIDR6.Addr().Is6() || !c.ClusterCIDR6.Addr().Is6():
		return fmt.Errorf("IPv6 service CIDR %s and cluster CIDR %s: want IPv6 prefixes", c.ServiceCIDR6, c.ClusterCIDR6)
	case c.ServiceCIDR6.Overlaps(c.ClusterCIDR6):
		return fmt.Errorf("service CIDR %s overlaps with the pods' %s", c.ServiceCIDR6, c.ClusterCIDR6)
	case !c.ClusterCIDR6.Contains(c.Source6):
		return fmt.Errorf("source %s is not an address of the pod network %s", c.Source6, c.ClusterCIDR6)
	case c.Anchor == "":
		return errors.New("the anchor is missing: a link, which Services of IPv6 need")
	}
	return nil
}

// rules are those of each family that there is.
func (c Config) rules() []rules {
	out := []rules{{services: c.ServiceCIDR.Masked(), pods: c.ClusterCIDR.Masked(), source: c.Source}}
	if c.ServiceCIDR6.IsValid() {
		out = append(out, rules{services: c.ServiceCIDR6.Masked(), pods: c.ClusterCIDR6.Masked(), source: c.Source6})
	}
	return out
}

// follow makes the mirrors. Functions' Services, which may be many, are left
// out: they have no address. Neither have functions' pods host ports.
func (b *Balancer) follow() {
	none, err := labels.NewRequirement(api.LabelFunction, selection.DoesNotExist, nil)
	if err != nil {
		panic(err) // the label's name is ours
	}
	o := mirror.Options{Labels: labels.NewSelector().Add(*none), Log: b.log}
	b.services = mirror.New[*corev1.Service](b.c.Objects, api.Services, o)
	b.services.OnChange(func(t api.EventType, old, now *corev1.Service) {
		if t == api.Deleted {
			now = old
		}
		b.touch(types.NamespacedName{Namespace: now.Namespace, Name: now.Name})
	})
	b.slices = mirror.New[*discoveryv1.EndpointSlice](b.c.Objects, api.EndpointSlices, o)
	b.slices.Index(byService, func(s *discoveryv1.EndpointSlice) []string { return []string{serviceOf(s).String()} })
	b.slices.OnChange(func(t api.EventType, old, now *discoveryv1.EndpointSlice) {
		if t != api.Deleted {
			b.touch(serviceOf(now))
		}
		if t != api.Added && (now == nil || serviceOf(old) != serviceOf(now)) {
			b.touch(serviceOf(old))
		}
	})
	b.nodes = mirror.New[*corev1.Node](b.c.Objects, api.Nodes, mirror.Options{
		Fields: fields.OneTermEqualSelector("metadata.name", b.c.NodeName), Log: b.log,
	})
	o.Fields = fields.OneTermEqualSelector("spec.nodeName", b.c.NodeName)
	b.pods = mirror.New[*corev1.Pod](b.c.Objects, api.Pods, o)
	b.pods.OnChange(b.podChanged)
	b.nodes.OnChange(func(_ api.EventType, old, now *corev1.Node) {
		if zone(old) == zone(now) {
			return
		}
		for _, s := range b.services.List() {
			b.touch(types.NamespacedName{Namespace: s.Namespace, Name: s.Name})
		}
	})
}

func serviceOf(s *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
}

func zone(n *corev1.Node) string {
	if n == nil {
		return ""
	}
	return n.Labels[corev1.LabelTopologyZone]
}

// touch has a Service looked at.
func (b *Balancer) touch(svc types.NamespacedName) {
	b.mu.Lock()
	if _, ok := b.dirty[svc]; !ok {
		b.dirty[svc] = time.Now()
	}
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Ready is closed when all Services are in the kernel for the first time.
func (b *Balancer) Ready() <-chan struct{} { return b.ready }

// Run keeps the kernel's table up to date until ctx is done, and returns nil
// then. The table stays, and so do connections and Services, until Teardown. It
// can be called once.
func (b *Balancer) Run(ctx context.Context) error {
	defer b.close()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, run := range []func(context.Context) error{b.services.Run, b.slices.Run, b.nodes.Run, b.pods.Run} {
		wg.Go(func() { _ = run(ctx) })
	}
	// Nothing is written before all is known: the table of the agent before this
	// one works meanwhile.
	for _, synced := range []<-chan struct{}{b.services.Synced(), b.slices.Synced(), b.nodes.Synced(), b.pods.Synced()} {
		select {
		case <-ctx.Done():
			return nil
		case <-synced:
		}
	}
	audit := time.NewTicker(b.c.Audit)
	defer audit.Stop()
	wait := againFirst
	built := false
	for ctx.Err() == nil {
		var err error
		if !built {
			err = b.build(ctx)
			built = err == nil
		}
		for built && err == nil && ctx.Err() == nil {
			wait = againFirst
			select {
			case <-ctx.Done():
			case <-b.wake:
				err = b.write()
			case <-audit.C:
				err = b.audit()
			}
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		// Whatever it is that the kernel did not take, it gets a table made anew.
		b.log.Warn("the kernel's table of services is made anew", slog.Any("reason", err))
		if built {
			built = false
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, againLast)
	}
	return nil
}

func (b *Balancer) close() {
	b.kernel.close()
	b.host.close()
}

// build makes the table anew, with all that is known.
func (b *Balancer) build(ctx context.Context) error {
	start := time.Now()
	b.mu.Lock()
	clear(b.dirty)
	b.mu.Unlock()
	b.ledger = newLedger()
	for _, s := range b.services.List() {
		b.plan(types.NamespacedName{Namespace: s.Namespace, Name: s.Name})
	}
	for _, p := range b.pods.List() {
		b.plan(podKey(p))
	}
	if err := errors.Join(b.host.addRoute(), b.kernel.build(ctx, b.ledger)); err != nil {
		return err
	}
	b.log.Info("services are in the kernel", slog.Int("services", len(b.ledger.plans)), slog.Duration("took", time.Since(start)))
	select {
	case <-b.ready:
	default:
		close(b.ready)
	}
	b.written()
	return nil
}

// write brings what has changed into the kernel, one Service at a time.
func (b *Balancer) write() error {
	for {
		svc, heard, ok := b.next()
		if !ok {
			b.written()
			return nil
		}
		c := b.plan(svc)
		if err := b.kernel.apply(c); err != nil {
			return err
		}
		if err := b.host.forget(c.gone); err != nil {
			b.log.Warn("UDP clients stay with endpoints that are gone", slog.Any("error", err))
		}
		b.m.sync.Observe(time.Since(heard).Seconds())
	}
}

// next takes one of the Services to be looked at, and when that was first heard.
func (b *Balancer) next() (svc types.NamespacedName, heard time.Time, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for svc, heard := range b.dirty {
		delete(b.dirty, svc)
		return svc, heard, true
	}
	return svc, heard, false
}

// decide is a Service's plan as things are now, or that of a pod.
func (b *Balancer) decide(svc types.NamespacedName) plan {
	n := node{name: b.c.NodeName, reserved: b.c.Reserved}
	for _, r := range b.c.rules() {
		n.cidrs = append(n.cidrs, r.services)
	}
	if strings.HasPrefix(svc.Name, podPrefix) {
		return b.decidePod(svc, n)
	}
	if self, ok := b.nodes.Get("", b.c.NodeName); ok {
		n.zone = zone(self)
	}
	s, _ := b.services.Get(svc.Namespace, svc.Name)
	return n.plan(s, b.slices.By(byService, svc.String()))
}

// plan brings a Service into the ledger as it is now.
func (b *Balancer) plan(svc types.NamespacedName) *changes {
	var c changes
	b.ledger.set(svc, b.decide(svc), &c)
	for _, f := range c.conflicts {
		b.log.Warn("two services, or pods with host ports, want the same address and port; the first one has it",
			slog.String("address", netip.AddrPortFrom(f.key.ip.addr(), f.key.port).String()),
			slog.String("has", f.has.String()), slog.String("wants", f.wants.String()))
	}
	return &c
}

// audit repairs what others have changed.
func (b *Balancer) audit() error {
	c, err := b.kernel.audit(b.ledger)
	if err != nil {
		return err
	}
	if c == nil {
		return b.host.addRoute()
	}
	b.m.repairs.Inc()
	b.log.Warn("somebody has changed the kernel's table of services: repaired", slog.Any("sets", c.touched()))
	return errors.Join(b.kernel.apply(c), b.host.addRoute())
}

// touched names the sets that change.
func (c *changes) touched() []string {
	out := map[string]bool{}
	for p := range phases {
		for s := range sets {
			if len(c.added[p][s])+len(c.removed[p][s]) > 0 {
				out[s.String()] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(out))
}

// Teardown removes what is in the kernel. To be called when Run has ended.
func (b *Balancer) Teardown(context.Context) error {
	return Remove(b.c.Table, b.c.ServiceCIDR, b.c.ServiceCIDR6)
}

// Remove is Teardown of a balancer that is not there any more, in the network
// namespace of the calling thread.
func Remove(table string, services ...netip.Prefix) error {
	k, err := openKernel(table)
	if err != nil {
		return err
	}
	defer k.close()
	err = k.remove()
	for _, s := range services {
		if s.IsValid() {
			err = errors.Join(err, removeRoute(s))
		}
	}
	return err
}

// Package policy decides in the kernel of one node who reaches whom: what
// NetworkPolicies say, as Kubernetes does, and that the functions of different
// namespaces are different tenants.
//
// Policies, namespaces and nodes are compiled into a program (program.go); the
// program says which elements of the kernel's sets and maps a pod stands for
// (place.go). Both are pure. A ledger turns them into what to add and to remove,
// and one goroutine writes that, each time in one transaction (kernel.go). The
// chains and sets are those of docs/design/010-network-policy.md.
//
// As long as there are no policies and not several namespaces for functions, there
// is no table, and pods are not followed.
package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/mirror"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// Config says what to enforce. Objects and NodeName are needed.
type Config struct {
	Objects     api.Objects
	NodeName    string
	ClusterCIDR netip.Prefix // of the pods of all nodes; zero is 10.62.0.0/16
	PodCIDR     netip.Prefix // of this node's pods, part of it; zero is ClusterCIDR
	Table       string       // of nftables, one a platform, with -0 or -1 behind; "" is podsnap-policy

	// ClusterCIDR6 and PodCIDR6 are the same in IPv6; zero is IPv4 alone.
	ClusterCIDR6, PodCIDR6 netip.Prefix

	// Audit is how often the kernel's table is compared with what it should be;
	// 0 is ten seconds: who flushes the machine's rules opens what policies close.
	// As long as nobody else has changed any table, the comparison is one question
	// to the kernel.
	Audit   time.Duration
	Log     *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Enforcer does it. Guard is safe for concurrent use.
type Enforcer struct {
	c       Config
	log     *slog.Logger
	m       *metrics
	kernel  *kernel
	numbers numbers

	policies   *mirror.Mirror[*networkingv1.NetworkPolicy]
	namespaces *mirror.Mirror[*corev1.Namespace]

	writing sync.Mutex // held while the kernel's table changes
	over    bool       // torn down

	// idle: there is nothing to enforce, for all that is known.
	idle atomic.Bool

	mu       sync.Mutex
	cluster  *cluster // nil while there is nothing to enforce
	ledger   *ledger  // what the kernel has; nil: no table
	early    map[netip.Addr]*corev1.Pod
	dirty    map[netip.Addr]bool
	stale    bool      // the program is not that of what is known
	heard    time.Time // since when something waits to be written
	asked    uint64    // grows by each thing that is to be written
	done     uint64    // asked, as of what has been written
	progress chan struct{}
	wake     chan struct{}
}

const (
	againFirst, againLast = 100 * time.Millisecond, 30 * time.Second

	// patience is how long a start waits. It is told then, and tried again.
	patience = 5 * time.Second
)

// New opens the kernel's door, in the network namespace of the calling thread,
// and changes nothing. It needs root.
func New(c Config) (*Enforcer, error) {
	if !c.ClusterCIDR.IsValid() {
		c.ClusterCIDR = netip.MustParsePrefix("10.62.0.0/16")
	}
	if c.Table == "" {
		c.Table = "podsnap-policy"
	}
	if c.Audit == 0 {
		c.Audit = 10 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Objects == nil || c.NodeName == "" {
		return nil, errors.New("network policies: Objects and NodeName are needed")
	}
	if !c.PodCIDR.IsValid() {
		c.PodCIDR = c.ClusterCIDR
	}
	if !c.ClusterCIDR.Addr().Is4() || !c.ClusterCIDR.Contains(c.PodCIDR.Addr()) {
		return nil, fmt.Errorf("cluster CIDR %s: want an IPv4 prefix with this node's %s", c.ClusterCIDR, c.PodCIDR)
	}
	spans := []span{{cluster: c.ClusterCIDR.Masked(), own: c.PodCIDR.Masked()}}
	if c.PodCIDR6.IsValid() {
		if !c.ClusterCIDR6.Addr().Is6() || !c.ClusterCIDR6.Contains(c.PodCIDR6.Addr()) {
			return nil, fmt.Errorf("IPv6 cluster CIDR %s: want an IPv6 prefix with this node's %s", c.ClusterCIDR6, c.PodCIDR6)
		}
		spans = append(spans, span{cluster: c.ClusterCIDR6.Masked(), own: c.PodCIDR6.Masked()})
	}
	k, err := openKernel(c.Table, spans...)
	if err != nil {
		return nil, err
	}
	e := &Enforcer{
		c: c, log: c.Log, m: newMetrics(c.Metrics), kernel: k, numbers: numbers{},
		early: map[netip.Addr]*corev1.Pod{}, dirty: map[netip.Addr]bool{}, stale: true, asked: 1, heard: time.Now(),
		progress: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	o := mirror.Options{Log: c.Log}
	e.policies = mirror.New[*networkingv1.NetworkPolicy](c.Objects, api.NetworkPolicies, o)
	e.policies.OnChange(func(t api.EventType, old, now *networkingv1.NetworkPolicy) {
		if t != api.Modified || old.Generation != now.Generation || old.Generation == 0 {
			e.outdate()
		}
	})
	e.namespaces = mirror.New[*corev1.Namespace](c.Objects, api.Namespaces, o)
	e.namespaces.OnChange(func(t api.EventType, old, now *corev1.Namespace) {
		if t != api.Modified || !sameLabels(old.Labels, now.Labels) {
			e.outdate()
		}
	})
	return e, nil
}

// outdate has the program made anew.
func (e *Enforcer) outdate() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.idle.Store(false)
	e.stale = true
	e.ask()
}

// touch has an address looked at.
func (e *Enforcer) touch(ip netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dirty[ip] = true
	e.ask()
}

// ask notes that there is something to write. The caller holds the lock.
func (e *Enforcer) ask() {
	if e.asked == e.done {
		e.heard = time.Now()
	}
	e.asked++
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// needed tells whether there is anything to enforce.
func (e *Enforcer) needed() bool {
	if e.policies.Len() > 0 {
		return true
	}
	tenants := 0
	for _, n := range e.namespaces.List() {
		if forFunctions(n) {
			tenants++
		}
	}
	return tenants > 1
}

// Run keeps the kernel's table up to date until ctx is done, and returns nil
// then. The table stays, until Remove. It can be called once.
func (e *Enforcer) Run(ctx context.Context) error {
	defer e.kernel.close()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer e.leave()
	defer cancel()
	wg.Go(func() { _ = e.policies.Run(ctx) })
	wg.Go(func() { _ = e.namespaces.Run(ctx) })
	// Nothing is written before all is known: the table of the agent before this
	// one works meanwhile.
	for _, synced := range []<-chan struct{}{e.policies.Synced(), e.namespaces.Synced()} {
		select {
		case <-ctx.Done():
			return nil
		case <-synced:
		}
	}
	audit := time.NewTicker(e.c.Audit)
	defer audit.Stop()
	wait := againFirst
	for ctx.Err() == nil {
		err := e.pass(ctx)
		for err == nil && ctx.Err() == nil {
			wait = againFirst
			select {
			case <-ctx.Done():
			case <-e.wake:
				err = e.pass(ctx)
			case <-audit.C:
				err = e.audit()
			}
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		e.log.Warn("the kernel's table of network policies is made anew", slog.Any("reason", err))
		e.mu.Lock()
		e.ledger, e.stale = nil, true
		e.ask()
		e.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, againLast)
	}
	return nil
}

// leave forgets the pods.
func (e *Enforcer) leave() {
	if e.cluster != nil {
		e.cluster.stop()
	}
}

// pass writes all that has changed.
func (e *Enforcer) pass(ctx context.Context) error {
	e.mu.Lock()
	asked, heard := e.asked, e.heard
	stale, dirty := e.stale, e.dirty
	e.stale, e.dirty = false, map[netip.Addr]bool{}
	e.mu.Unlock()
	// Not before that: what comes after this look makes it stale again.
	need := e.needed()
	if need {
		e.idle.Store(false)
	}
	if need && e.cluster == nil {
		c := e.follow(ctx)
		if !c.wait(ctx) {
			c.stop()
			return nil
		}
		e.mu.Lock()
		e.cluster = c
		e.mu.Unlock()
		stale = true
	}
	e.writing.Lock()
	defer e.writing.Unlock()
	var err error
	switch {
	case e.over:
	case !need && (stale || e.ledger != nil): // the mirror may have lost the last policy, and not said so yet
		err = e.rest()
	case !need:
	case stale:
		err = e.renew(ctx)
	default:
		err = e.write(dirty)
	}
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.done = asked
	if !need && !e.stale && !e.over {
		e.idle.Store(true)
	}
	if need {
		e.m.sync.Observe(time.Since(heard).Seconds())
	}
	if e.asked != asked {
		e.heard = time.Now()
	}
	close(e.progress)
	e.progress = make(chan struct{})
	return nil
}

// rest ends enforcement: there is nothing to enforce.
func (e *Enforcer) rest() error {
	if e.cluster != nil {
		e.cluster.stop()
	}
	e.mu.Lock()
	e.cluster, e.ledger = nil, nil
	clear(e.early)
	e.mu.Unlock()
	return e.kernel.remove()
}

// renew has a new program in the kernel.
func (e *Enforcer) renew(ctx context.Context) error {
	p := compile(e.policies.List(), e.namespaces.List(), e.cluster.nodes.List())
	next := newLedger(p)
	var all changes // of which only the ledger counts
	for _, ip := range e.addresses() {
		next.set(ip, e.decide(p, ip), &all)
	}
	next.settle(&all)
	e.mu.Lock()
	last := e.ledger
	e.ledger = next
	e.mu.Unlock()
	if last == nil || last.program.tenants != p.tenants {
		begin := time.Now()
		if err := e.kernel.build(ctx, next); err != nil {
			return err
		}
		e.log.Info("network policies are in the kernel", slog.Int("policies", e.policies.Len()), slog.Int("pods", len(next.placed)), slog.Bool("tenants", p.tenants), slog.Duration("took", time.Since(begin)))
		return nil
	}
	return e.kernel.apply(last.to(next))
}

// addresses are those of all pods that are known.
func (e *Enforcer) addresses() (out []netip.Addr) {
	seen := map[netip.Addr]bool{}
	add := func(ip netip.Addr) {
		if !seen[ip] {
			seen[ip] = true
			out = append(out, ip)
		}
	}
	for _, p := range e.cluster.pods.List() {
		for _, ip := range addressesOf(p) {
			add(ip)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for ip := range e.early {
		add(ip)
	}
	return out
}

// write brings pods' addresses into the kernel as they are now.
func (e *Enforcer) write(dirty map[netip.Addr]bool) error {
	var c changes
	for ip := range dirty {
		next := e.decide(e.ledger.program, ip)
		e.mu.Lock()
		e.ledger.set(ip, next, &c)
		e.mu.Unlock()
	}
	e.ledger.settle(&c)
	if c.none() {
		return nil
	}
	return e.kernel.apply(&c)
}

// decide places whoever has an address.
func (e *Enforcer) decide(p *program, ip netip.Addr) placement {
	e.mu.Lock()
	pod := e.early[ip]
	e.mu.Unlock()
	if pod == nil {
		pod = e.cluster.at(ip)
	}
	if pod == nil {
		return placement{}
	}
	return p.place(subjectOf(pod, ip, e.c.NodeName), e.numbers)
}

func (e *Enforcer) audit() error {
	e.writing.Lock()
	defer e.writing.Unlock()
	if e.ledger == nil || e.over {
		return nil
	}
	err := e.kernel.audit(e.ledger)
	if errors.Is(err, errBroken) {
		e.m.repairs.Inc()
	}
	return err
}

// Teardown removes what is in the kernel, also while Run runs, which writes nothing
// any more then. It is to be called in the network namespace that New was.
func (e *Enforcer) Teardown(context.Context) error {
	e.writing.Lock()
	defer e.writing.Unlock()
	e.over = true
	return Remove(e.c.Table)
}

// Remove deletes what an enforcer that does not run any more has left in the
// kernel, in the network namespace of the calling thread.
func Remove(table string) error {
	k, err := openKernel(table)
	if err != nil {
		return err
	}
	defer k.close()
	return k.remove()
}

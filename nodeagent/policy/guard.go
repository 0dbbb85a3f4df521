package policy

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Guard returns when what is to be enforced on a pod of this node is in the
// kernel. It is to be called with the pod's addresses before a process of the
// pod runs; they may be known to nobody else yet. With nothing to enforce it
// costs next to nothing, and a pod that no policy selects waits for nothing. After
// some seconds without success it is an error, which is worth a retry.
func (e *Enforcer) Guard(ctx context.Context, p *corev1.Pod, addresses []string) error {
	if p.Spec.HostNetwork || e.idle.Load() && e.known(p) {
		return nil
	}
	ips := make([]netip.Addr, len(addresses))
	for i, a := range addresses {
		var err error
		if ips[i], err = netip.ParseAddr(a); err != nil {
			return fmt.Errorf("network policies of pod %s/%s: its address: %w", p.Namespace, p.Name, err)
		}
	}
	if len(ips) == 0 {
		return fmt.Errorf("network policies of pod %s/%s: it has no address", p.Namespace, p.Name)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("they are not in the kernel after %s", patience))
	defer cancel()
	begin := time.Now()
	var ticket uint64
	for {
		e.mu.Lock()
		over, again := e.guarded(p, ips, &ticket), e.progress
		e.mu.Unlock()
		if over {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("network policies of pod %s/%s: %w", p.Namespace, p.Name, context.Cause(ctx))
		case <-again:
		}
	}
	e.m.guard.Observe(time.Since(begin).Seconds())
	return nil
}

// known says that the namespace of a function's pod has been heard of, and with
// it how many tenants there are.
func (e *Enforcer) known(p *corev1.Pod) bool {
	if !isFunction(p) {
		return true
	}
	_, ok := e.namespaces.Get("", p.Namespace)
	return ok
}

// guarded takes one step: it notes the pod once, under a ticket, and tells whether
// there is nothing more to wait for. The caller holds the lock.
func (e *Enforcer) guarded(p *corev1.Pod, ips []netip.Addr, ticket *uint64) bool {
	switch {
	case !e.known(p):
		return false
	case e.idle.Load():
		return true
	case *ticket == 0:
		for _, ip := range ips {
			if e.cluster == nil || !e.cluster.knows(p, ip) {
				e.early[ip] = p
			}
			e.dirty[ip] = true
		}
		e.ask()
		*ticket = e.asked
		if e.ledger == nil || e.stale {
			return false
		}
		// Nothing is in the kernel for these addresses, and nothing has to be before
		// the pod runs: that it is a tenant's, or a peer, opens and does not close.
		held := slices.ContainsFunc(ips, func(ip netip.Addr) bool { _, held := e.ledger.placed[ip]; return held })
		return !held && !e.ledger.program.selects(subjectOf(p, ips[0], e.c.NodeName))
	}
	return e.done >= *ticket
}

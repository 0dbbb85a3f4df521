package policy

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/mirror"
	corev1 "k8s.io/api/core/v1"
)

// cluster is who there is, followed while that is needed.
type cluster struct {
	pods  *mirror.Mirror[*corev1.Pod]
	nodes *mirror.Mirror[*corev1.Node]
	end   context.CancelFunc
	wg    sync.WaitGroup
}

const byAddress = "address"

// follow begins. The pods of other nodes have only what counts here, if this is
// not the server itself: see access.View.
func (e *Enforcer) follow(ctx context.Context) *cluster {
	ctx, end := context.WithCancel(ctx)
	o := mirror.Options{Log: e.log}
	c := &cluster{end: end}
	c.pods = mirror.New[*corev1.Pod](e.c.Objects, api.Pods, o)
	c.pods.Index(byAddress, func(p *corev1.Pod) (out []string) {
		for _, ip := range addressesOf(p) {
			out = append(out, ip.String())
		}
		return out
	})
	c.pods.OnChange(e.podChanged)
	c.nodes = mirror.New[*corev1.Node](e.c.Objects, api.Nodes, o)
	c.nodes.OnChange(func(t api.EventType, old, now *corev1.Node) {
		if t != api.Modified || !slices.Equal(nodeAddresses(old), nodeAddresses(now)) {
			e.outdate()
		}
	})
	c.wg.Go(func() { _ = c.pods.Run(ctx) })
	c.wg.Go(func() { _ = c.nodes.Run(ctx) })
	return c
}

// wait returns when all is known; false when ctx is done before.
func (c *cluster) wait(ctx context.Context) bool {
	for _, synced := range []<-chan struct{}{c.pods.Synced(), c.nodes.Synced()} {
		select {
		case <-ctx.Done():
			return false
		case <-synced:
		}
	}
	return true
}

func (c *cluster) stop() {
	c.end()
	c.wg.Wait()
}

// at is the pod that has an address; nil is none. Of two, of which one has to be
// gone without that being known yet, it is the newer one.
func (c *cluster) at(ip netip.Addr) *corev1.Pod {
	var out *corev1.Pod
	for _, p := range c.pods.By(byAddress, ip.String()) {
		if out == nil || out.CreationTimestamp.Before(&p.CreationTimestamp) ||
			out.CreationTimestamp.Equal(&p.CreationTimestamp) && out.UID < p.UID {
			out = p
		}
	}
	return out
}

// addressesOf are the addresses that a pod has for itself alone, as long as it
// lives.
func addressesOf(p *corev1.Pod) (out []netip.Addr) {
	if p == nil || p.Spec.HostNetwork || ended(p) {
		return nil
	}
	all := append([]corev1.PodIP{{IP: p.Status.PodIP}}, p.Status.PodIPs...)
	for _, a := range all {
		if ip, err := netip.ParseAddr(a.IP); err == nil && !slices.Contains(out, ip) {
			out = append(out, ip)
		}
	}
	return out
}

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// podChanged has the addresses of a pod looked at. What the API knows of a pod
// takes the place of what Guard was told.
func (e *Enforcer) podChanged(t api.EventType, old, now *corev1.Pod) {
	was, is := addressesOf(old), addressesOf(now)
	if t == api.Modified && slices.Equal(was, is) && sameLabels(old.Labels, now.Labels) && old.UID == now.UID {
		return
	}
	of, over := now, now != nil && ended(now)
	if t == api.Deleted {
		of, over, is = old, true, nil
	}
	e.mu.Lock()
	for ip, p := range e.early {
		if p.UID == of.UID && (slices.Contains(is, ip) || over) {
			delete(e.early, ip)
			e.dirty[ip] = true
			e.ask()
		}
	}
	e.mu.Unlock()
	for _, ip := range slices.Concat(was, is) {
		e.touch(ip)
	}
}

func sameLabels(a, b map[string]string) bool { return maps.Equal(a, b) }

// knows tells whether the API says of a pod that it has an address.
func (c *cluster) knows(p *corev1.Pod, ip netip.Addr) bool {
	at := c.at(ip)
	return at != nil && at.UID == p.UID
}

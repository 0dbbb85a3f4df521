package daemon

import (
	"context"
	"log/slog"
	"net/netip"
	"reflect"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/mirror"
	"github.com/podsnap/podsnap/nodeagent/network"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// meet keeps the ways to the other nodes' pods, and the ports of machines that
// functions reach, as the list of nodes says, until ctx is done; nil then.
func meet(ctx context.Context, objects api.Objects, self string, n *network.Network, log *slog.Logger) error {
	changed := make(chan struct{}, 1)
	nodes := mirror.New[*corev1.Node](objects, api.Nodes, mirror.Options{Log: log})
	nodes.OnChange(func(t api.EventType, old, now *corev1.Node) {
		if t == api.Modified && reflect.DeepEqual(peerOf(old), peerOf(now)) {
			return
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return nodes.Run(ctx) })
	g.Go(func() error {
		select {
		case <-nodes.Synced(): // what a former process has made stays until then
		case <-ctx.Done():
			return nil
		}
		var again <-chan time.Time
		for {
			var peers []network.Peer
			var open []network.Port
			for _, o := range nodes.List() {
				p := peerOf(o)
				switch {
				case o.Name == self:
					open = p.Open
				case p.Address.IsValid() && p.PodCIDR.IsValid():
					peers = append(peers, p)
				}
			}
			again = nil
			if err := n.SetPeers(ctx, peers); err != nil {
				log.Warn("ways to the pods of other nodes", slog.Any("error", err))
				again = time.After(5 * time.Second)
			}
			if err := n.Open(open); err != nil {
				log.Warn("ports of this machine for functions", slog.Any("error", err))
				again = time.After(5 * time.Second)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			case <-again:
			}
		}
	})
	return g.Wait()
}

// peerOf is what other nodes need to know of a node; incomplete as long as it
// has not said all.
func peerOf(n *corev1.Node) network.Peer {
	p := network.Peer{Name: n.Name}
	p.PodCIDR, _ = netip.ParsePrefix(n.Spec.PodCIDR)
	if len(n.Spec.PodCIDRs) > 1 {
		p.PodCIDR6, _ = netip.ParsePrefix(n.Spec.PodCIDRs[1])
	}
	for _, a := range n.Status.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		switch {
		case err != nil || a.Type != corev1.NodeInternalIP:
		case ip.Is4() && !p.Address.IsValid():
			p.Address = ip
		case ip.Is6() && !p.Address6.IsValid():
			p.Address6 = ip
		}
	}
	open, _ := api.FunctionPorts(n) // what admission refuses opens nothing
	for _, o := range open {
		p.Open = append(p.Open, network.Port{Protocol: protocols[o.Protocol], Number: o.Port})
	}
	return p
}

// protocols are the numbers of those that have ports.
var protocols = map[corev1.Protocol]uint8{
	corev1.ProtocolTCP: unix.IPPROTO_TCP, corev1.ProtocolUDP: unix.IPPROTO_UDP, corev1.ProtocolSCTP: unix.IPPROTO_SCTP,
}

package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/dns"
	"github.com/podsnap/podsnap/nodeagent/service"
)

// names is the server with the cluster's names, on the node's address in the pod
// network; nil when something else on this machine has its port, and then pods
// have the machine's servers alone.
func (p *platform) names(ctx context.Context, cidr netip.Prefix) *dns.Server {
	at := netip.AddrPortFrom(p.node.network.Gateway(), 53)
	s, err := dns.New(ctx, dns.Config{
		Objects: p.objects, Listen: at, Gateway: p.inside(), ServiceCIDR: p.c.services(), ClusterCIDR: cidr, Log: p.log, Metrics: p.metrics,
	})
	if err != nil {
		p.log.Warn("pods cannot resolve the names of services", slog.Any("error", err))
		return nil
	}
	return s
}

// inside is where pods reach the gateway, at the port that functions' Services
// have; zero when they do not.
func (p *platform) inside() netip.Addr {
	host, port, err := net.SplitHostPort(p.c.Listen)
	if err != nil || port != strconv.Itoa(api.FunctionPort) {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(host)
	switch {
	case host == "" || err == nil && a.IsUnspecified():
		return p.node.network.Gateway()
	case err == nil && a.Is4() && !a.IsLoopback():
		return a
	}
	return netip.Addr{}
}

// startServices leads connections to Services, beside the node.
func (p *platform) startServices(ctx context.Context, cidr netip.Prefix, names *dns.Server) error {
	b, err := service.New(service.Config{
		Objects: p.objects, NodeName: p.c.NodeName, Source: p.node.network.Gateway(), ServiceCIDR: p.c.services(), ClusterCIDR: cidr,
		MTU: p.node.network.MTU(), Table: p.c.serviceTable(), Log: p.log, Metrics: p.metrics,
	})
	if err != nil {
		return fmt.Errorf("services: %w", err)
	}
	p.stack.start(ctx, "services", b.Run)
	if names != nil {
		p.stack.start(ctx, "names", names.Run)
	}
	return nil
}

// services is the network of cluster addresses.
func (*Config) services() netip.Prefix { return netip.MustParsePrefix("10.96.0.0/16") }

// serviceTable is the name of nftables' table of Services, one a platform.
func (c *Config) serviceTable() string { return c.name() + "-services" }

package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// networks are what a setting such as --cluster-cidr names: a network of IPv4 and,
// behind a comma, one of IPv6, which is zero in a cluster of IPv4 alone.
type networks struct{ four, six netip.Prefix }

var errNetworks = errors.New("it must be an IPv4 network such as 10.62.0.0/16, and may name one of IPv6 behind it: 10.62.0.0/16,fd62::/56")

// parseNetworks reads a setting; "" is none.
func parseNetworks(s string) (n networks, err error) {
	if s == "" {
		return n, nil
	}
	first, second, dual := strings.Cut(s, ",")
	if n.four, err = netip.ParsePrefix(first); err != nil || !n.four.Addr().Is4() {
		return n, errNetworks
	}
	if !dual {
		return n, nil
	}
	if n.six, err = netip.ParsePrefix(second); err != nil || !n.six.Addr().Is6() || n.six.Addr().Is4In6() {
		return n, errNetworks
	}
	return n, nil
}

// text is a network as settings have it: "" for none.
func text(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

// list are the networks as a Node has them.
func (n networks) list() (out []string) {
	for _, p := range []netip.Prefix{n.four, n.six} {
		if p.IsValid() {
			out = append(out, p.String())
		}
	}
	return out
}

func (n networks) overlaps(o networks) bool { return n.four.Overlaps(o.four) || n.six.Overlaps(o.six) }

// contains says that all of o is part of n.
func (n networks) contains(o networks) bool {
	part := func(o, n netip.Prefix) bool { return !o.IsValid() || n.Bits() <= o.Bits() && n.Contains(o.Addr()) }
	return part(o.four, n.four) && part(o.six, n.six)
}

// validateNetworks finds what is wrong with the networks of pods and Services.
func (c *Config) validateNetworks() (faults []error) {
	fault := func(format string, a ...any) { faults = append(faults, fmt.Errorf(format, a...)) }
	read := func(flag, s string, shortest, longest int) networks {
		n, err := parseNetworks(s)
		switch {
		case err != nil:
			fault("--%s %q: %w", flag, s, err)
			return networks{}
		case s != "" && (n.four.Bits() > 28 || n.four.Bits() < 8):
			fault("--%s %q: its length must be between 8 and 28", flag, s)
		case n.six.IsValid() && (n.six.Bits() < shortest || n.six.Bits() > longest):
			fault("--%s %q: the length of the IPv6 network must be between %d and %d", flag, s, shortest, longest)
		}
		return n
	}
	const leastHosts = 118 // 1,024 addresses, as a node's usual block of IPv4 has
	own, pods := read("pod-cidr", c.PodCIDR, 40, leastHosts), read("cluster-cidr", c.ClusterCIDR, 40, leastHosts)
	services := read("service-cidr", c.ServiceCIDR, 108, 124)
	if len(faults) > 0 {
		return faults
	}
	if pods.six.IsValid() != services.six.IsValid() {
		fault("--cluster-cidr %q and --service-cidr %q: in a cluster of two families both name a network of each", c.ClusterCIDR, c.ServiceCIDR)
	}
	if pods.overlaps(services) {
		fault("--service-cidr %q: it overlaps with the pods' %s", c.ServiceCIDR, c.ClusterCIDR)
	}
	if !pods.contains(own) {
		fault("--pod-cidr %q: it must be a part of --cluster-cidr %s", c.PodCIDR, c.ClusterCIDR)
	}
	return faults
}

// otherAddress is the machine's first address of IPv6 that others can reach, beside
// those of pods; "" is none.
func otherAddress(pods netip.Prefix) string {
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok || n.IP.To4() != nil || !n.IP.IsGlobalUnicast() {
			continue
		}
		if ip, ok := netip.AddrFromSlice(n.IP); ok && !pods.Contains(ip) {
			return ip.String()
		}
	}
	return ""
}

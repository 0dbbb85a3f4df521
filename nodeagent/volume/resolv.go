package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// resolv is a resolv.conf.
type resolv struct{ servers, search, options []string }

// resolvConf is what the pod's dnsPolicy says, with its dnsConfig on top: the
// cluster's server where there is one, the machine's otherwise and for a pod in
// the machine's network, or the dnsConfig alone.
func (m *Manager) resolvConf(p *corev1.Pod) (string, error) {
	var r resolv
	if p.Spec.DNSPolicy != corev1.DNSNone {
		var err error
		if r, err = parseResolv(m.resolvPath()); err != nil {
			return "", err
		}
	}
	if m.c.ClusterDNS.IsValid() && clusterFirst(p) {
		r = m.ofCluster(p.Namespace, r)
	}
	if d := p.Spec.DNSConfig; d != nil {
		r.servers = append(r.servers, d.Nameservers...)
		r.search = append(r.search, d.Searches...)
		for _, o := range d.Options {
			r.set(o)
		}
	}
	return r.String(), nil
}

// clusterFirst: names of the cluster are the pod's first choice.
func clusterFirst(p *corev1.Pod) bool {
	switch p.Spec.DNSPolicy {
	case corev1.DNSClusterFirstWithHostNet:
		return true
	case corev1.DNSClusterFirst, "":
		return !p.Spec.HostNetwork
	default:
		return false
	}
}

// ofCluster has names of the namespace found by their first part, as in
// Kubernetes, dots and all: a name with fewer than five is tried in the cluster
// first. These questions do not leave the node.
func (m *Manager) ofCluster(namespace string, machine resolv) resolv {
	d := m.c.ClusterDomain
	return resolv{
		servers: []string{m.c.ClusterDNS.String()},
		search:  append([]string{namespace + ".svc." + d, "svc." + d, d}, machine.search...),
		options: []string{"ndots:5"},
	}
}

// set takes an option, in the place of one of its name: of two, some programs
// read the first one and others the last.
func (r *resolv) set(o corev1.PodDNSConfigOption) {
	word := o.Name
	if o.Value != nil {
		word += ":" + *o.Value
	}
	r.options = slices.DeleteFunc(r.options, func(have string) bool {
		name, _, _ := strings.Cut(have, ":")
		return name == o.Name
	})
	r.options = append(r.options, word)
}

func (r resolv) String() string {
	var b strings.Builder
	for _, s := range once(r.servers) {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(r.search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(once(r.search), " "))
	}
	if len(r.options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(r.options, " "))
	}
	return b.String()
}

func once(in []string) (out []string) {
	for _, s := range in {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// resolvPath avoids the stub of systemd-resolved, which pods can't reach.
func (m *Manager) resolvPath() string {
	if m.c.ResolvConf != "" {
		return m.c.ResolvConf
	}
	const upstream = "/run/systemd/resolve/resolv.conf"
	if r, err := parseResolv("/etc/resolv.conf"); err == nil && slices.Contains(r.servers, "127.0.0.53") {
		if _, err := os.Stat(upstream); err == nil {
			return upstream
		}
	}
	return "/etc/resolv.conf"
}

func parseResolv(path string) (r resolv, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			r.servers = append(r.servers, words[1])
		case "search", "domain":
			r.search = words[1:]
		case "options":
			r.options = words[1:]
		}
	}
	return r, nil
}

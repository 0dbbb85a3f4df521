package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Hostname is the name that a pod's processes see: at most 63 bytes.
func Hostname(p *corev1.Pod) string {
	name := p.Spec.Hostname
	if name == "" {
		name = p.Name
	}
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}
	return name
}

// Files writes the pod's /etc/hosts, /etc/hostname and /etc/resolv.conf. To be
// called when its address is known. They are in the folder etc, which is the
// sandbox's, or in the pod's own for "".
func (m *Manager) Files(p *corev1.Pod, ip, etc string) error {
	etc, err := m.etc(p.UID, etc)
	if err != nil {
		return err
	}
	resolv, err := m.resolvConf(p)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(etc, 0o711); err != nil {
		return err
	}
	for name, data := range map[string]string{
		"hosts": hosts(p, ip), "hostname": Hostname(p) + "\n", "resolv.conf": resolv,
	} {
		path := filepath.Join(etc, name)
		if old, err := os.ReadFile(path); err == nil && string(old) == data {
			continue
		}
		// In place: a container may have the file itself mounted.
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) etc(uid types.UID, sandbox string) (string, error) {
	if sandbox != "" {
		return sandbox, nil
	}
	dir, err := m.dir(uid)
	return filepath.Join(dir, "etc"), err
}

func hosts(p *corev1.Pod, ip string) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	if ip != "" {
		name := Hostname(p)
		if p.Spec.Subdomain != "" {
			name = fmt.Sprintf("%s.%s.%s.svc.cluster.local\t%s", name, p.Spec.Subdomain, p.Namespace, name)
		}
		fmt.Fprintf(&b, "%s\t%s\n", ip, name)
	}
	for _, a := range p.Spec.HostAliases {
		fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
	}
	return b.String()
}

// resolvConf is the machine's with the pod's dnsConfig on top; with dnsPolicy
// None it is the dnsConfig alone.
func (m *Manager) resolvConf(p *corev1.Pod) (string, error) {
	var servers, search, options []string
	if p.Spec.DNSPolicy != corev1.DNSNone {
		var err error
		if servers, search, options, err = parseResolv(m.resolvPath()); err != nil {
			return "", err
		}
	}
	if d := p.Spec.DNSConfig; d != nil {
		servers = append(servers, d.Nameservers...)
		search = append(search, d.Searches...)
		for _, o := range d.Options {
			word := o.Name
			if o.Value != nil {
				word += ":" + *o.Value
			}
			options = append(options, word)
		}
	}
	var b strings.Builder
	seen := map[string]bool{}
	for _, s := range servers {
		if !seen[s] {
			fmt.Fprintf(&b, "nameserver %s\n", s)
		}
		seen[s] = true
	}
	if len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	if len(options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(options, " "))
	}
	return b.String(), nil
}

// resolvPath avoids the stub of systemd-resolved, which pods can't reach.
func (m *Manager) resolvPath() string {
	if m.c.ResolvConf != "" {
		return m.c.ResolvConf
	}
	const upstream = "/run/systemd/resolve/resolv.conf"
	if servers, _, _, err := parseResolv("/etc/resolv.conf"); err == nil && slices.Contains(servers, "127.0.0.53") {
		if _, err := os.Stat(upstream); err == nil {
			return upstream
		}
	}
	return "/etc/resolv.conf"
}

func parseResolv(path string) (servers, search, options []string, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil, nil
	}
	if err != nil {
		return nil, nil, nil, err
	}
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			servers = append(servers, words[1])
		case "search", "domain":
			search = words[1:]
		case "options":
			options = words[1:]
		}
	}
	return servers, search, options, nil
}

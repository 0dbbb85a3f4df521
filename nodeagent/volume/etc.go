package volume

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Hostname is the name that a pod's processes see: with setHostnameAsFQDN and a
// subdomain the whole one, which the kernel may find too long.
func (m *Manager) Hostname(p *corev1.Pod) (string, error) {
	if p.Spec.SetHostnameAsFQDN == nil || !*p.Spec.SetHostnameAsFQDN || p.Spec.Subdomain == "" {
		return short(p), nil
	}
	name := m.fqdn(p)
	const most = 64 // of Linux
	if len(name) > most {
		return "", fmt.Errorf("setHostnameAsFQDN: %q has %d characters, the kernel takes %d", name, len(name), most)
	}
	return name, nil
}

// short is a pod's hostname: at most 63 bytes.
func short(p *corev1.Pod) string {
	name := p.Spec.Hostname
	if name == "" {
		name = p.Name
	}
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}
	return name
}

// fqdn is the name by which a pod with a subdomain is found in the cluster.
func (m *Manager) fqdn(p *corev1.Pod) string {
	return fmt.Sprintf("%s.%s.%s.svc.%s", short(p), p.Spec.Subdomain, p.Namespace, m.c.ClusterDomain)
}

// Files writes the pod's /etc/hosts, /etc/hostname and /etc/resolv.conf. To be
// called when its addresses are known. They are in the folder etc, which is the
// sandbox's, or in the pod's own for "".
func (m *Manager) Files(p *corev1.Pod, ips []string, etc string) error {
	etc, err := m.etc(p.UID, etc)
	if err != nil {
		return err
	}
	resolv, err := m.resolvConf(p)
	if err != nil {
		return err
	}
	hostname, err := m.Hostname(p)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(etc, 0o711); err != nil {
		return err
	}
	for name, data := range map[string]string{
		"hosts": m.hosts(p, ips), "hostname": hostname + "\n", "resolv.conf": resolv,
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

func (m *Manager) hosts(p *corev1.Pod, ips []string) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, ip := range ips {
		name := short(p)
		if p.Spec.Subdomain != "" {
			name = m.fqdn(p) + "\t" + name
		}
		fmt.Fprintf(&b, "%s\t%s\n", ip, name)
	}
	for _, a := range p.Spec.HostAliases {
		fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
	}
	return b.String()
}

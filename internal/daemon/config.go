// Package daemon is the platform as a process: it knows every role, starts
// them in the order of their dependencies and stops them in the reverse one.
package daemon

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/podsnap/podsnap/internal/daemon/embedded"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Config says how the platform runs. The zero value of a field is its default.
type Config struct {
	StateDir string // what must last; "" is /var/lib/podsnap
	RunDir   string // sockets and the pid; "" is below /run, named after StateDir

	Listen        string // gateway
	TLSListen     string // the same over TLS, with the certificates of Ingresses; "" is nowhere
	MetricsListen string
	APIListen     string // Kubernetes API

	Etcd       []string // endpoints of an external etcd; empty: embedded
	EtcdPrefix string   // "" is /registry
	NATS       string   // URL of an external NATS; "": embedded
	Containerd string   // socket of an existing containerd; "": one of our own

	// Cluster makes the embedded stores members of those of several servers, of
	// which three keep each asynchronous call; nil: alone.
	Cluster *embedded.Cluster

	NodeName    string // "" is the host's
	NodeIP      string // at which other machines reach this one; "" is its first address
	PodCIDR     string // of this node; "" is a free block of ClusterCIDR
	ClusterCIDR string // of all nodes; "" is PodCIDR, or 10.62.0.0/16
	ServiceCIDR string // "" is 10.96.0.0/16

	Join        string // URL of a server whose cluster this machine is a node of; "": this is a server
	Token       string // to join with
	AgentListen string // of a node: where the server asks it; "" is 0.0.0.0:10250

	NoAuth       bool
	Timeout      time.Duration // of an invocation; 0 is one minute
	MaxBody      int64         // bytes; 0 is 256 MiB
	MaxAsyncBody int64         // bytes; 0 is 1 MiB
	Parked       int           // sandboxes kept ready at least; 0 is 32, negative is none

	MaxConns        int // of clients to the gateway; 0 is 16,384
	MaxConnsAddress int // of them from one address; 0 is 8,192

	// TearDown says at the end whether the containers end too; nil is never.
	TearDown func() bool

	Version, Revision string
	Log               *slog.Logger
}

func (c *Config) fill() error {
	set := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	set(&c.StateDir, "/var/lib/podsnap")
	dir, err := filepath.Abs(c.StateDir)
	if err != nil {
		return err
	}
	c.StateDir = dir
	if c.RunDir == "" {
		c.RunDir = "/run/podsnap"
		if c.StateDir != "/var/lib/podsnap" {
			c.RunDir += "-" + c.id()
		}
	}
	set(&c.Listen, "127.0.0.1:8080")
	set(&c.MetricsListen, "127.0.0.1:8082")
	set(&c.APIListen, "127.0.0.1:6443")
	set(&c.EtcdPrefix, "/registry")
	if c.ClusterCIDR == "" {
		c.ClusterCIDR = cmp.Or(c.PodCIDR, "10.62.0.0/16")
	}
	set(&c.ServiceCIDR, "10.96.0.0/16")
	set(&c.AgentListen, "0.0.0.0:10250")
	if c.NodeName == "" {
		h, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find the host's name (or set the node's): %w", err)
		}
		file, _ := os.ReadFile("/etc/hostname")
		c.NodeName = nodeName(h, string(file))
	}
	if c.Timeout == 0 {
		c.Timeout = time.Minute
	}
	if c.MaxBody == 0 {
		c.MaxBody = 256 << 20
	}
	if c.MaxAsyncBody == 0 {
		c.MaxAsyncBody = 1 << 20
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c.validate()
}

// nodeName is the first of the host's names that can be a node's; a container or
// a rescue system may have one that cannot, and runs a platform nevertheless.
func nodeName(names ...string) string {
	for _, n := range names {
		n = strings.ToLower(strings.TrimSpace(n))
		if len(validation.IsDNS1123Subdomain(n)) == 0 {
			return n
		}
	}
	return "localhost"
}

func (c *Config) validate() error {
	var faults []error
	fault := func(format string, a ...any) { faults = append(faults, fmt.Errorf(format, a...)) }
	for flag, addr := range map[string]string{"listen": c.Listen, "metrics-listen": c.MetricsListen, "api-listen": c.APIListen, "agent-listen": c.AgentListen} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			fault("--%s %q: it must be host:port", flag, addr)
		}
	}
	if c.TLSListen != "" {
		if _, _, err := net.SplitHostPort(c.TLSListen); err != nil {
			fault("--tls-listen %q: it must be host:port", c.TLSListen)
		}
		if c.Join != "" {
			fault("--tls-listen: a node that has joined a server may not read certificates' keys; servers do that")
		}
	}
	for flag, cidr := range map[string]string{"pod-cidr": c.PodCIDR, "cluster-cidr": c.ClusterCIDR, "service-cidr": c.ServiceCIDR} {
		p, err := netip.ParsePrefix(cidr)
		switch {
		case cidr == "":
		case err != nil || !p.Addr().Is4():
			fault("--%s %q: it must be an IPv4 network such as 10.62.0.0/16", flag, cidr)
		case p.Bits() > 28 || p.Bits() < 8:
			fault("--%s %q: its length must be between 8 and 28", flag, cidr)
		}
	}
	if pods, err := netip.ParsePrefix(c.ClusterCIDR); err == nil {
		if services, err := netip.ParsePrefix(c.ServiceCIDR); err == nil && pods.Overlaps(services) {
			fault("--service-cidr %q: it overlaps with the pods' %s", c.ServiceCIDR, c.ClusterCIDR)
		}
		if own, err := netip.ParsePrefix(c.PodCIDR); err == nil && (own.Bits() < pods.Bits() || !pods.Contains(own.Addr())) {
			fault("--pod-cidr %q: it must be a part of --cluster-cidr %s", c.PodCIDR, c.ClusterCIDR)
		}
	}
	if c.NodeIP != "" {
		if a, err := netip.ParseAddr(c.NodeIP); err != nil || !a.Is4() || a.IsUnspecified() {
			fault("--node-ip %q: it must be an IPv4 address of this machine", c.NodeIP)
		}
	}
	if len(c.run("etcd.sock.peer")) > 100 {
		fault("--run-dir %q: it is too long for a socket's path; choose a short one", c.RunDir)
	}
	if c.Cluster != nil {
		faults = append(faults, c.Cluster.Validate()) // nil is none
	}
	if c.MaxConns < 0 || c.MaxConnsAddress < 0 {
		fault("--max-connections and --max-connections-per-address must not be negative")
	}
	if c.MaxBody < 0 || c.MaxAsyncBody < 0 || c.Timeout < 0 {
		fault("--max-body, --max-async-body and --timeout must not be negative")
	}
	if c.MaxAsyncBody > 7<<20 {
		fault("--max-async-body %d: at most 7 MiB can be stored as one message", c.MaxAsyncBody)
	}
	return errors.Join(faults...)
}

// ports are those of every machine that no Service may take: the platform's own,
// and the one by which people reach machines.
func (c *Config) ports() []int32 {
	out := []int32{22}
	for _, addr := range []string{c.Listen, c.TLSListen, c.MetricsListen, c.APIListen, c.AgentListen} {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(port, 10, 32); err == nil {
			out = append(out, int32(n))
		}
	}
	if c.Cluster != nil {
		for _, n := range c.Cluster.Ports() {
			out = append(out, int32(n))
		}
	}
	return out
}

// id tells this platform from others on the same machine: it is part of the
// names of what they share (nft table, veths, cgroups).
func (c *Config) id() string {
	h := sha256.Sum256([]byte(c.StateDir))
	return hex.EncodeToString(h[:3])
}

func (c *Config) path(elem ...string) string {
	return filepath.Join(append([]string{c.StateDir}, elem...)...)
}

func (c *Config) run(elem ...string) string {
	return filepath.Join(append([]string{c.RunDir}, elem...)...)
}

// dirs makes the folders; they hold secrets, so nobody else may look inside.
func (c *Config) dirs() error {
	for _, d := range []string{c.StateDir, c.path("auth"), c.path("log"), c.path("store"), c.path("registry"), c.path("node"), c.path("engine"), c.path("images"), c.RunDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// secret reads a secret of the state directory, making it at the first start.
func (c *Config) secret(name string) (string, error) {
	path := c.path("auth", name)
	b, err := os.ReadFile(path)
	if err == nil && len(strings.TrimSpace(string(b))) > 0 {
		return strings.TrimSpace(string(b)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	s := base64.RawURLEncoding.EncodeToString(raw)
	return s, writeFile(path, s+"\n")
}

// writeFile writes a small file whole or not at all.
func writeFile(path, content string) error {
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

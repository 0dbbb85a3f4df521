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
	"slices"
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
	EtcdCA     string   // PEM file of the authority of an external etcd; "": those that the machine trusts
	EtcdCert   string   // PEM file of a certificate that it wants to see; "": none
	EtcdKey    string   // and of its key
	NATS       string   // URL of an external NATS; "": embedded
	NATSCA     string   // PEM file of its authority; "": those that the machine trusts, for tls:// URLs
	NATSCreds  string   // file of credentials (JWT and seed); "": what the URL says
	Containerd string   // socket of an existing containerd; "": one of our own

	PodManifestPath string // directory of this machine's static pods; "": manifests in StateDir, if it is there

	// Servers are the addresses of all servers, the same list on each, whose
	// embedded stores are one cluster; empty: those of this machine alone.
	Servers []string
	// Beside is the URL of a server whose cluster, of embedded stores, this one is a
	// server of as well; "": it has begun alone, or with Servers.
	Beside      string
	ServerToken string // what the servers of a cluster share, see ServerToken; "": what the state directory has, or a new one
	NATSCopies  int    // how many servers of an external NATS cluster keep each asynchronous call; 0 is 1

	NodeName string // "" is the host's
	NodeIP   string // at which other machines reach this one; "" is its first address
	// Each names a network of IPv4, and may name one of IPv6 behind a comma.
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

	NoAwake bool // let processors halt between calls, however densely these come: see package awake

	// TearDown says at the end whether the containers end too; nil is never.
	TearDown func() bool

	Version, Revision string
	Log               *slog.Logger

	root     *root  // of ServerToken; nil: nothing is shared
	natsName string // what NATS is called here, of a server that has come later
}

// shared tells whether other servers may work on the same stores.
func (c *Config) shared() bool {
	return len(c.Servers) > 0 || c.Beside != "" || len(c.Etcd) > 0 && c.NATS != ""
}

// member is what the embedded stores are with those of other servers; nil: alone.
func (c *Config) member() *embedded.Cluster {
	if len(c.Servers) == 0 {
		return nil
	}
	m := &embedded.Cluster{
		Self: c.NodeIP, Members: c.Servers, Joining: c.Beside != "", NATSName: c.natsName,
		Cert: c.path("auth", "store.crt"), Key: c.path("auth", "store.key"), CA: c.path("auth", "store-ca.crt"),
	}
	if c.root != nil {
		m.Secret = hex.EncodeToString(c.root.secretOf("stores"))
	}
	return m
}

// natsCopies is how many NATS servers keep each asynchronous call.
func (c *Config) natsCopies() int {
	if len(c.Servers) > 0 {
		return 3 // two that acknowledge are most of them, however many servers there are
	}
	return c.NATSCopies
}

// serverDoors are where a server listens, by flag.
func (c *Config) serverDoors() map[string]string {
	doors := map[string]string{"listen": c.Listen, "metrics-listen": c.MetricsListen, "api-listen": c.APIListen}
	if c.TLSListen != "" {
		doors["tls-listen"] = c.TLSListen
	}
	return doors
}

// reachable tells whether other machines may reach this server's API.
func (c *Config) reachable() bool {
	host, _, err := net.SplitHostPort(c.APIListen)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host != "localhost" && (err != nil || !ip.IsLoopback())
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
	if len(c.Servers) > 0 && c.NodeIP == "" {
		c.NodeIP = ownOf(c.Servers)
	}
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
	faults = append(faults, c.validateNetworks()...)
	faults = append(faults, c.validateServers()...)
	if err := c.validateManifests(); err != nil {
		faults = append(faults, err)
	}
	if _, err := c.etcdTLS(); err != nil {
		faults = append(faults, err)
	}
	for flag, file := range map[string]string{"nats-ca": c.NATSCA, "nats-creds": c.NATSCreds} {
		if file == "" {
			continue
		}
		if _, err := os.Stat(file); err != nil {
			fault("--%s: %w", flag, err)
		}
		if c.NATS == "" {
			fault("--%s: it is for an external NATS: name that with --nats", flag)
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

// validateServers is about several servers.
func (c *Config) validateServers() (faults []error) {
	fault := func(format string, a ...any) { faults = append(faults, fmt.Errorf(format, a...)) }
	if c.ServerToken != "" {
		if _, err := parseServerToken(c.ServerToken); err != nil {
			fault("--server-token: %w", err)
		}
		if !c.shared() {
			fault("--server-token: it is for several servers: name them with --servers, or the stores that they share with --etcd and --nats, or the cluster with --join")
		}
	}
	if c.NATSCopies < 0 || c.NATSCopies > 5 {
		fault("--nats-copies %d: it must be between 1 and 5", c.NATSCopies)
	}
	if c.Beside != "" {
		return append(faults, c.validateBeside()...)
	}
	if len(c.Servers) == 0 {
		return faults
	}
	if len(c.Etcd) > 0 || c.NATS != "" {
		fault("--servers: with --etcd or --nats the stores are somebody else's, and servers find each other there: leave one of them out")
	}
	if n := len(c.Servers); n != 3 && n != 5 {
		fault("--servers: there must be 3 or 5, so that more than half are left when one is lost; there are %d", n)
	}
	if c.ServerToken == "" {
		fault("--servers: all of them need the same --server-token; make one with `faas server token`")
	}
	if !c.reachable() {
		fault("--api-listen %s: the other servers do not reach that; give 0.0.0.0:6443", c.APIListen)
	}
	if !slices.Contains(c.Servers, c.NodeIP) {
		fault("--servers: this machine's address is not among them; --node-ip says which it is, if it is not one of its devices'")
	}
	seen := map[netip.Addr]bool{}
	for _, s := range c.Servers {
		a, err := netip.ParseAddr(s)
		switch {
		case err != nil || a.IsUnspecified():
			fault("--servers: %q is no address of a machine", s)
		case seen[a]:
			fault("--servers: %s is there twice", s)
		}
		seen[a] = true
	}
	return faults
}

// validateBeside is about a server that comes to others.
func (c *Config) validateBeside() (faults []error) {
	fault := func(format string, a ...any) { faults = append(faults, fmt.Errorf(format, a...)) }
	if _, err := serverURL(c.Beside); err != nil {
		fault("--join: %w", err)
	}
	if len(c.Servers) > 0 || len(c.Etcd) > 0 || c.NATS != "" {
		fault("--join: the others say where the stores are: leave --servers, --etcd and --nats out")
	}
	if c.ServerToken == "" {
		fault("--join: a server needs the --server-token of the cluster (auth/server-token in the others' state directories); for a machine that only runs pods there is `faas agent join`")
	}
	if !c.reachable() {
		fault("--api-listen %s: the other servers do not reach that; give 0.0.0.0:6443", c.APIListen)
	}
	return faults
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
	if m := c.member(); m != nil {
		for _, n := range m.Ports() {
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

// secret reads a secret of the state directory, making it at the first start: out
// of what servers share, if they do.
func (c *Config) secret(name string) (string, error) {
	return c.kept(name, func(raw []byte) {
		if c.root != nil {
			copy(raw, c.root.secretOf(name))
		} else {
			_, _ = rand.Read(raw) // never fails
		}
	})
}

// serverID tells this state directory from all others.
func (c *Config) serverID() (string, error) {
	return c.kept("server-id", func(raw []byte) { _, _ = rand.Read(raw) }) // never fails
}

// kept reads 32 bytes of the state directory, as text, or makes them.
func (c *Config) kept(name string, fill func(raw []byte)) (string, error) {
	path := c.path("auth", name)
	b, err := os.ReadFile(path)
	if err == nil && len(strings.TrimSpace(string(b))) > 0 {
		return strings.TrimSpace(string(b)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	raw := make([]byte, 32)
	fill(raw)
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

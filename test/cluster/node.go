package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/remote"
	"github.com/podsnap/podsnap/internal/daemon"
	"github.com/podsnap/podsnap/internal/join"
	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/cluster/host"
	"github.com/podsnap/podsnap/test/platform"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// Node is the platform on a host: a server, or a node that has joined one.
type Node struct {
	Host    *host.Host
	URL     string           // of its gateway
	API     string           // of the server's Kubernetes API
	Metrics string           // of a server's metrics
	Client  *openfaas.Client // calls from the host itself

	c      *Cluster
	server *Node // that it has joined; nil: it is one
	args   []string
	proc   *host.Process
	api    api.Objects // when Objects was called
}

// Server starts a platform on a host and waits until it answers. Flags are added
// to those of `faas server`.
func (c *Cluster) Server(h *host.Host, flags ...string) *Node {
	c.t.Helper()
	return c.Servers([]*host.Host{h}, flags...)[0]
}

// Servers starts a platform on each of some hosts, all at the same time. They do
// not know each other.
func (c *Cluster) Servers(hosts []*host.Host, flags ...string) []*Node {
	c.t.Helper()
	var out []*Node
	for _, h := range hosts {
		n := c.node(h)
		n.API, n.Metrics = "https://"+h.IP()+":6443", "http://"+h.IP()+":8082"
		n.args = append([]string{
			"faas", "server", "--node-name", h.Name, "--node-ip", h.IP(),
			"--listen", h.IP() + ":8080", "--api-listen", h.IP() + ":6443", "--metrics-listen", h.IP() + ":8082",
		}, flags...)
		n.Launch()
		out = append(out, n)
	}
	for _, n := range out {
		n.Await()
	}
	return out
}

// Together starts servers on three hosts, of which one leads, and waits until they
// answer and their nodes are ready.
func (c *Cluster) Together(hosts []*host.Host, flags ...string) []*Node {
	c.t.Helper()
	ips := make([]string, len(hosts))
	for i, h := range hosts {
		ips[i] = h.IP()
	}
	nodes := c.Servers(hosts, append([]string{"--servers", strings.Join(ips, ","), "--server-token", daemon.ServerToken()}, flags...)...)
	platform.Eventually(c.t, patience, func() error { return nodes[0].allReady(c.t.Context(), len(nodes)) })
	return nodes
}

// Leader is the one of several servers that leads.
func (c *Cluster) Leader(nodes []*Node) *Node {
	c.t.Helper()
	var leader *Node
	platform.Eventually(c.t, patience, func() error {
		var errs []error
		for _, n := range nodes {
			name, err := n.leader(c.t.Context())
			if i := slices.IndexFunc(nodes, func(n *Node) bool { return n.Host.Name == name }); err == nil && i >= 0 {
				leader = nodes[i]
				return nil
			}
			errs = append(errs, err, fmt.Errorf("%s says that %q leads", n.Host.Name, name))
		}
		return errors.Join(errs...)
	})
	return leader
}

// leader is the name of the server that leads, asked of n's API.
func (n *Node) leader(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s, err := join.AskServers(ctx, n.admin(), n.API)
	return s.Leader, err
}

// Join starts a node on a host that joins a server, and waits until its gateway
// answers.
func (c *Cluster) Join(h *host.Host, server *Node, flags ...string) *Node {
	c.t.Helper()
	n := c.join(h, server, flags...)
	n.Await()
	return n
}

// join is Join without waiting.
func (c *Cluster) join(h *host.Host, server *Node, flags ...string) *Node {
	c.t.Helper()
	token, err := server.Host.Run(c.t.Context(), "faas", "token", "create")
	if err != nil {
		c.t.Fatal(err)
	}
	n := c.node(h)
	n.API, n.server = server.API, server
	n.args = append([]string{
		"faas", "agent", "join", server.API, "--token", strings.TrimSpace(token), "--node-name", h.Name, "--node-ip", h.IP(),
		"--listen", h.IP() + ":8080", "--metrics-listen", h.IP() + ":8082",
	}, flags...)
	n.Launch()
	return n
}

// One has all hosts be one cluster, h0 its server, and waits until all nodes are
// ready. The image archives are there at each of them.
func (c *Cluster) One(images ...string) []*Node {
	c.t.Helper()
	for _, h := range c.Hosts {
		c.Images(h, images...)
	}
	nodes := c.Servers(c.Hosts[:1])
	for _, h := range c.Hosts[1:] {
		nodes = append(nodes, c.join(h, nodes[0]))
	}
	for _, n := range nodes[1:] {
		n.Await()
	}
	platform.Eventually(c.t, patience, func() error { return nodes[0].allReady(c.t.Context(), len(nodes)) })
	return nodes
}

// allReady tells what is wrong with the nodes of a server, of which there are to
// be so many.
func (n *Node) allReady(ctx context.Context, want int) error {
	all, err := api.Items[*corev1.Node](ctx, n.Objects(), api.Nodes, api.ListOptions{})
	if err != nil {
		return err
	}
	ready := 0
	for _, one := range all {
		if slices.ContainsFunc(one.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}) {
			ready++
		}
	}
	if ready != want {
		return fmt.Errorf("%d nodes are ready, want %d", ready, want)
	}
	return nil
}

func (c *Cluster) node(h *host.Host) *Node {
	n := &Node{Host: h, URL: "http://" + h.IP() + ":8080", c: c}
	n.Client = &openfaas.Client{URL: n.URL, HTTP: h.HTTPClient()}
	c.nodes = append(c.nodes, n)
	return n
}

// Start starts the node's process and waits until its gateway answers: after
// Boot, Kill or Terminate.
func (n *Node) Start() {
	n.c.t.Helper()
	n.Launch()
	n.Await()
}

// Launch is Start without waiting.
func (n *Node) Launch() {
	n.c.t.Helper()
	out, err := os.OpenFile(n.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		n.c.t.Fatal(err)
	}
	defer out.Close()
	n.proc, err = n.Host.Start(host.Command{Args: n.args, Out: out})
	if err != nil {
		n.c.t.Fatal(err)
	}
}

// Await waits until the gateway of a node that was launched answers.
func (n *Node) Await() {
	n.c.t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ctx, cancel := context.WithTimeout(n.c.t.Context(), time.Second)
		err := n.Client.Healthz(ctx)
		cancel()
		if err == nil {
			break
		}
		select {
		case <-n.proc.Done():
			n.c.t.Fatalf("the platform on %s ended at once\n%s", n.Host.Name, n.Log(40))
		case <-limit.C:
			n.c.t.Fatalf("the platform on %s does not answer: %v\n%s", n.Host.Name, err, n.Log(40))
		case <-tick.C:
		}
	}
	server := n
	if n.server != nil {
		server = n.server
	}
	if b, err := os.ReadFile(server.Host.Disk("podsnap", "auth", "basic-auth-password")); err == nil {
		n.Client.User, n.Client.Password = "admin", strings.TrimSpace(string(b))
	}
}

// Become has the node be started as another program from now on: another build of
// the faas command.
func (n *Node) Become(program string) { n.args[0] = program }

// Refuses starts the node's process, which is to end at once, and answers with the
// end of what it has written.
func (n *Node) Refuses() string {
	n.c.t.Helper()
	n.Launch()
	n.wait()
	return n.Log(3)
}

// Signal sends a signal to the node's process.
func (n *Node) Signal(s unix.Signal) {
	n.c.t.Helper()
	if err := n.proc.Kill(s); err != nil {
		n.c.t.Fatal(err)
	}
}

// Kill ends the node's process with SIGKILL and waits for its end. Its
// containers go on.
func (n *Node) Kill() {
	n.c.t.Helper()
	n.Signal(unix.SIGKILL)
	n.wait()
}

// Terminate ends the node's process with SIGTERM and waits for its end. Its
// containers go on.
func (n *Node) Terminate() {
	n.c.t.Helper()
	n.Signal(unix.SIGTERM)
	n.wait()
}

func (n *Node) wait() {
	n.c.t.Helper()
	ctx, cancel := context.WithTimeout(n.c.t.Context(), patience)
	defer cancel()
	_ = n.proc.Wait(ctx) // how it ended is not the question
	if ctx.Err() != nil {
		n.c.t.Fatalf("the platform on %s does not end\n%s", n.Host.Name, n.Log(40))
	}
}

// Process finds one of the node's processes.
func (n *Node) Process(part Part) host.Running {
	n.c.t.Helper()
	var r host.Running
	platform.Eventually(n.c.t, patience, func() (err error) {
		r, err = n.Host.Find(string(part), part.is)
		return err
	})
	return r
}

// Part is one of the processes that a platform consists of.
type Part string

// The parts of a platform.
const (
	Store      Part = "store"
	Containerd Part = "containerd"
	Launcher   Part = "launcher"
)

func (p Part) is(r host.Running) bool {
	switch p {
	case Store:
		return slices.Contains(r.Args, "store-child")
	case Containerd:
		return r.Program == "containerd"
	case Launcher:
		return r.Args[0] == "podsnap-launcher"
	}
	return false
}

func (n *Node) logFile() string { return filepath.Join(n.c.dir, n.Host.Name+".log") }

// Log is the end of what the node's process has written, in all its lives.
func (n *Node) Log(lines int) string { return logTail(n.logFile(), lines) }

// Env has the faas command on the node's host know its gateway and who has
// logged in to it there.
func (n *Node) Env() []string {
	return []string{"OPENFAAS_URL=" + n.URL, "OPENFAAS_CONFIG=/var/lib/login"}
}

// Faas runs the faas command on the node's host, against its gateway.
func (n *Node) Faas(ctx context.Context, stdin string, args ...string) (string, error) {
	return n.Host.RunWith(ctx, host.Command{Args: append([]string{"faas"}, args...), Env: n.Env()}, stdin)
}

// Objects is a client of a server's Kubernetes API, with all rights, from the
// host itself. It must not be called by several at once for the first time.
func (n *Node) Objects() api.Objects {
	n.c.t.Helper()
	if n.api == nil {
		n.api = remote.NewObjects(remote.Config{URL: n.API, Client: n.admin()})
	}
	return n.api
}

// admin is a client of a server's API, with all rights, from the host itself.
func (n *Node) admin() *http.Client {
	n.c.t.Helper()
	token, err := os.ReadFile(n.Host.Disk("podsnap", "auth", "api-token"))
	if err != nil {
		n.c.t.Fatal(err)
	}
	ca, err := os.ReadFile(n.Host.Disk("podsnap", "auth", "ca.crt"))
	if err != nil {
		n.c.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	c := n.Host.HTTPClient()
	if t, ok := c.Transport.(*http.Transport); ok {
		t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	c.Transport = bearer{c.Transport, strings.TrimSpace(string(token))}
	return c
}

// bearer sends a token with each request.
type bearer struct {
	http.RoundTripper
	token string
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.RoundTripper.RoundTrip(r)
}

// Images puts image archives where a server takes them from when it starts.
func (c *Cluster) Images(h *host.Host, archives ...string) {
	c.t.Helper()
	dir := h.Disk("podsnap", "images")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		c.t.Fatal(err)
	}
	for _, a := range archives {
		if err := copyFile(filepath.Join(dir, filepath.Base(a)), a); err != nil {
			c.t.Fatal(err)
		}
	}
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// Build makes the images of the stack.yaml in a folder and answers with their
// archives.
func Build(t platform.T, dir string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), platform.Binary(t), "build", "-f", "stack.yaml")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("faas build: %v\n%s", err, out)
	}
	all, err := filepath.Glob(filepath.Join(dir, "build", "*.tar"))
	if err != nil || len(all) == 0 {
		t.Fatalf("faas build made no archives: %v", err)
	}
	return all
}

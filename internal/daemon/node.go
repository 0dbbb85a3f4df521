package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/internal/assets"
	"github.com/podsnap/podsnap/nodeagent/engine"
	"github.com/podsnap/podsnap/nodeagent/fast"
	"github.com/podsnap/podsnap/nodeagent/network"
	netpolicy "github.com/podsnap/podsnap/nodeagent/policy"
	"github.com/podsnap/podsnap/nodeagent/runtime"
	"github.com/podsnap/podsnap/nodeagent/runtime/class"
	"github.com/podsnap/podsnap/nodeagent/service"
	"github.com/prometheus/client_golang/prometheus"
)

// newContainerdChild prepares the platform's own containerd.
func newContainerdChild(c *Config) (*child, string, error) {
	cd := engine.Containerd{Dir: c.path("containerd")}
	if err := cd.WriteConfig(); err != nil {
		return nil, "", err
	}
	if _, err := exec.LookPath("containerd"); err != nil {
		return nil, "", fmt.Errorf("containerd is not installed: `apt-get install containerd runc`, or name a running one with --containerd: %w", err)
	}
	command := func() (*exec.Cmd, func(), error) {
		out, err := outputTo(c.path("log", "containerd.log"))
		if err != nil {
			return nil, nil, err
		}
		cmd := cd.Command(context.Background()) //nolint:forbidigo // its end is the supervisor's affair
		cmd.Stdout, cmd.Stderr = out, out
		return cmd, func() { out.Close() }, nil
	}
	ready := func(ctx context.Context) error { return answers(ctx, cd.Socket()) }
	return newChild("containerd", c.Log, command, ready), cd.Socket(), nil
}

// answers waits until something listens on a socket.
func answers(ctx context.Context, socket string) error {
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// node is what runs pods on this machine: the engine, the fast runtime beside it
// unless the machine cannot have one, and the network that both use.
type node struct {
	network  *network.Network
	services *service.Balancer
	policies *netpolicy.Enforcer
	engine   *engine.Engine
	fast     *fast.Runtime // nil: all pods are the engine's
	span     span
}

// span is the networks of the cluster, own being this node's part of pods, and
// nftables' table of Services.
type span struct {
	own, pods, services networks
	table               string
}

// runtime is both as one.
func (n *node) runtime() class.Runtime {
	if n.fast == nil {
		return n.engine
	}
	return class.New(n.fast, n.engine)
}

// start has both work.
func (n *node) start(ctx context.Context, s *stack) {
	s.start(ctx, "services", n.services.Run)
	s.start(ctx, "network policies", n.policies.Run)
	s.start(ctx, "engine", n.engine.Run)
	if n.fast != nil {
		s.start(ctx, "fast runtime", n.fast.Run)
	}
}

// tearDown removes what they have made in the kernel, while they run.
func (n *node) tearDown(ctx context.Context) error {
	var err error
	if n.fast != nil {
		err = n.fast.Teardown(ctx)
	}
	return errors.Join(err, n.engine.Teardown(ctx), service.Remove(n.span.table, n.span.services.four, n.span.services.six), n.policies.Teardown(ctx), n.network.Teardown(ctx))
}

// shared leaves the network to the node: it is not the engine's alone.
type shared struct{ *network.Network }

func (shared) Sweep(context.Context) error    { return nil }
func (shared) Teardown(context.Context) error { return nil }

// stores are the machines of external stores, as far as they are named by their
// addresses.
func (c *Config) stores() []netip.Addr {
	var out []netip.Addr
	for _, s := range append(slices.Clone(c.Etcd), c.NATS) {
		u, err := url.Parse(s)
		if err != nil {
			continue
		}
		if a, err := netip.ParseAddr(u.Hostname()); err == nil && !a.IsLoopback() {
			out = append(out, a)
		}
	}
	return out
}

// span reads the networks. A node that has a part of one family has that alone.
func (c *Config) span(table string) (s span, err error) {
	s.table = table
	for _, n := range []struct {
		into *networks
		from string
	}{{&s.own, c.PodCIDR}, {&s.pods, c.ClusterCIDR}, {&s.services, c.ServiceCIDR}} {
		if *n.into, err = parseNetworks(n.from); err != nil {
			return s, fmt.Errorf("network %q: %w", n.from, err)
		}
	}
	if !s.pods.four.Contains(s.own.four.Addr()) {
		s.pods.four = s.own.four // of a time before there was a cluster
	}
	if !s.own.six.IsValid() || !s.pods.six.IsValid() {
		s.own.six, s.pods.six, s.services.six = netip.Prefix{}, netip.Prefix{}, netip.Prefix{}
	}
	return s, nil
}

// newNode connects to containerd and takes over what runs there, and what the
// fast runtime has.
func newNode(ctx context.Context, c *Config, objects api.Objects, log *slog.Logger, metrics prometheus.Registerer, r engine.Registries) (*node, error) {
	pause, err := assets.Pause()
	if err != nil {
		return nil, err
	}
	if c.PodCIDR == "" { // nothing was ever started; or by a version that had one default
		c.PodCIDR = "10.62.0.0/20"
	}
	name, veth := "podsnap", "ps"
	if c.StateDir != "/var/lib/podsnap" { // another platform beside the usual one
		name, veth = "podsnap-"+c.id(), "p"+c.id()[:4]
	}
	n := &node{}
	if n.span, err = c.span(name + "-services"); err != nil {
		return nil, err
	}
	own, all, services := n.span.own, n.span.pods, n.span.services
	nc := network.Config{
		PodCIDR: own.four, ClusterCIDR: all.four, PodCIDR6: own.six, ClusterCIDR6: all.six,
		Forbidden: c.stores(), Table: name, VethPrefix: veth, Log: log,
	}
	if c.NodeIP != "" {
		if nc.NodeIP, err = netip.ParseAddr(c.NodeIP); err != nil {
			return nil, err
		}
	}
	n.network, err = network.New(nc)
	if err != nil {
		return nil, fmt.Errorf("pod network: %w", err)
	}
	n.services, err = service.New(service.Config{
		Objects: objects, NodeName: c.NodeName, Source: n.network.Gateway(), ServiceCIDR: services.four, ClusterCIDR: all.four,
		Source6: n.network.Gateway6(), ServiceCIDR6: services.six, ClusterCIDR6: all.six, Anchor: n.network.Anchor(),
		MTU: n.network.MTU(), Reserved: c.ports(), Table: n.span.table, Log: log, Metrics: metrics,
	})
	if err != nil {
		return nil, fmt.Errorf("services: %w", err)
	}
	n.policies, err = netpolicy.New(netpolicy.Config{
		Objects: objects, NodeName: c.NodeName, ClusterCIDR: all.four, PodCIDR: own.four, ClusterCIDR6: all.six, PodCIDR6: own.six, Table: name + "-policy", Log: log, Metrics: metrics,
	})
	if err != nil {
		return nil, fmt.Errorf("network policies: %w", err)
	}
	n.fast, err = fast.New(fast.Config{
		StateDir: c.path("fast"), CgroupParent: "/" + name, Network: n.network, Launcher: assets.Launcher,
		Privilege: engine.OwnPrivilege(), Parked: c.Parked, Log: log, Metrics: metrics,
	})
	if errors.Is(err, fast.ErrUnsupported) {
		log.Warn("all pods run with runc, replicas start slowly", slog.Any("reason", err))
		n.fast, err = nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("fast runtime: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("containerd does not answer"))
	defer cancel()
	n.engine, err = engine.New(ctx, engine.Config{
		Socket: c.Containerd, Namespace: name, StateDir: c.path("engine"), CgroupParent: "/" + name,
		Network: shared{n.network}, PauseProgram: pause, Registries: r, Log: log, Metrics: metrics,
	})
	if err != nil {
		return nil, fmt.Errorf("container engine: %w", err)
	}
	if n.fast != nil {
		n.fast.Use(n.engine)
	}
	// Both have said whose the links are.
	return n, n.network.Sweep(ctx)
}

// importArchives loads the image archives that somebody has put into the state
// directory's images folder: the way onto a machine that reaches no registry.
func importArchives(ctx context.Context, images runtime.Images, dir string, log *slog.Logger) {
	files, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil {
		log.Warn("image archives", slog.Any("error", err))
	}
	for _, file := range files {
		names, err := importArchive(ctx, images, file)
		if err != nil {
			log.Warn("image archive not imported", slog.String("file", file), slog.Any("error", err))
			continue
		}
		log.Info("imported images", slog.String("file", file), slog.Any("images", names))
	}
}

func importArchive(ctx context.Context, images runtime.Images, file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return images.Import(ctx, f)
}

func registries(c *Config, s secrets) engine.Registries {
	return engine.Registries{Embedded: &engine.Registry{
		Host: reach(c.Listen), Insecure: true,
		Credentials: func() (string, string) { return s.user, s.password },
	}}
}

// cleanUp removes what a platform that does not run any more has left on the
// node. It needs containerd for that, and starts it if it is our own.
func cleanUp(ctx context.Context, c Config) (err error) {
	s := newStack(c.Log)
	defer s.stop()
	if c.Containerd == "" {
		kid, socket, err := newContainerdChild(&c) //nolint:contextcheck // the process ends by its supervisor
		if err != nil {
			return err
		}
		c.Containerd = socket
		s.start(ctx, kid.name, kid.run)
		if err := kid.wait(ctx); err != nil {
			return err
		}
	}
	if b, readErr := os.ReadFile(c.path("node", "pod-cidr")); readErr == nil {
		c.PodCIDR = strings.TrimSpace(string(b))
	}
	// What there is of IPv6 is to be removed, whatever the cluster was like.
	if own, err := parseNetworks(c.PodCIDR); err == nil && own.six.IsValid() && !strings.Contains(c.ClusterCIDR, ",") {
		c.ClusterCIDR += "," + own.six.String()
	}
	n, err := newNode(ctx, &c, memory.New(), c.Log, nil, engine.Registries{}) // there is nothing that it would have to know
	if err != nil {
		return err
	}
	n.start(ctx, s)
	return n.tearDown(ctx)
}

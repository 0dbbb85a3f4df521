package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/podsnap/podsnap/internal/assets"
	"github.com/podsnap/podsnap/nodeagent/engine"
	"github.com/podsnap/podsnap/nodeagent/network"
	"github.com/podsnap/podsnap/nodeagent/runtime"
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

// newEngine connects to containerd and takes over what runs there.
func newEngine(ctx context.Context, c *Config, log *slog.Logger, metrics prometheus.Registerer, r engine.Registries) (*engine.Engine, error) {
	pause, err := assets.Pause()
	if err != nil {
		return nil, err
	}
	cidr, err := netip.ParsePrefix(c.PodCIDR)
	if err != nil {
		return nil, err
	}
	name, veth := "podsnap", "ps"
	if c.StateDir != "/var/lib/podsnap" { // another platform beside the usual one
		name, veth = "podsnap-"+c.id(), "p"+c.id()[:4]
	}
	net, err := network.New(network.Config{PodCIDR: cidr, Table: name, VethPrefix: veth, Log: log})
	if err != nil {
		return nil, fmt.Errorf("pod network: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("containerd does not answer"))
	defer cancel()
	e, err := engine.New(ctx, engine.Config{
		Socket: c.Containerd, Namespace: name, StateDir: c.path("engine"), CgroupParent: "/" + name,
		Network: net, PauseProgram: pause, Registries: r, Log: log, Metrics: metrics,
	})
	if err != nil {
		return nil, fmt.Errorf("container engine: %w", err)
	}
	return e, nil
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
	e, err := newEngine(ctx, &c, c.Log, nil, engine.Registries{})
	if err != nil {
		return err
	}
	s.start(ctx, "engine", e.Run)
	return e.Teardown(ctx)
}

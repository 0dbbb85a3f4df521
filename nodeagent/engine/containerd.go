package engine

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// maxSocketPath is the longest path a unix socket can have, its end included.
const maxSocketPath = 108

// Containerd says where the platform's own containerd lives.
type Containerd struct {
	Dir    string // root, state, socket and configuration lie below it; absolute
	Binary string // "" is containerd in PATH
}

// Socket is where it listens.
func (c Containerd) Socket() string { return filepath.Join(c.Dir, "c.sock") }

func (c Containerd) configPath() string { return filepath.Join(c.Dir, "config.toml") }

// WriteConfig writes its configuration: nothing but what the engine uses, no
// TCP, no Kubernetes plugin. (containerd 1.6 needs its old runtime.v1 plugin to
// serve tasks at all.) Version 2 of the format is read by containerd 1.6
// and by every later one.
func (c Containerd) WriteConfig() error {
	if !filepath.IsAbs(c.Dir) {
		return fmt.Errorf("containerd directory %q: want an absolute path", c.Dir)
	}
	if l := len(c.Socket() + ".ttrpc"); l >= maxSocketPath {
		return fmt.Errorf("containerd directory %s: its socket's path would have %d bytes and the system allows %d; choose a shorter state directory", c.Dir, l, maxSocketPath-1)
	}
	if err := os.MkdirAll(c.Dir, 0o711); err != nil {
		return fmt.Errorf("make containerd directory: %w", err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "version = 2\nroot = %q\nstate = %q\noom_score = -999\n", filepath.Join(c.Dir, "root"), filepath.Join(c.Dir, "state"))
	b.WriteString("disabled_plugins = [\n")
	for _, p := range []string{
		"io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
		"io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
		"io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.native", "io.containerd.snapshotter.v1.blockfile",
		"io.containerd.snapshotter.v1.erofs", "io.containerd.differ.v1.erofs",
		"io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart",
		"io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp", "io.containerd.nri.v1.nri",
		"io.containerd.image-verifier.v1.bindir",
	} {
		fmt.Fprintf(&b, "  %q,\n", p)
	}
	// Without this its collector looks every 75 ms whether there is something to
	// collect; so once a second.
	b.WriteString("]\n\n[plugins.\"io.containerd.gc.v1.scheduler\"]\n  pause_threshold = 0.0\n")
	fmt.Fprintf(&b, "\n[grpc]\n  address = %q\n  tcp_address = \"\"\n\n[debug]\n  address = \"\"\n  level = \"error\"\n", c.Socket())
	if err := os.WriteFile(c.configPath(), []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("write containerd configuration: %w", err)
	}
	return nil
}

// Command is the command line that runs it; WriteConfig comes first. The
// caller starts and supervises it. Containers outlive it.
func (c Containerd) Command(ctx context.Context) *exec.Cmd {
	bin := c.Binary
	if bin == "" {
		bin = "containerd"
	}
	cmd := exec.CommandContext(ctx, bin, "--config", c.configPath())
	// It and its shims rest most of the time: they keep less for the next burst.
	cmd.Env = append(os.Environ(), "GOGC=50")
	return cmd
}

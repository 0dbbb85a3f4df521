// Package engine runs sandboxes and containers with containerd and runc. It
// is the only home of the containerd client.
//
// containerd keeps the truth: each container carries a record of what it is
// (see record.go), so that a restarted agent finds everything again. The
// engine mirrors it in memory and hears of exits on containerd's event stream;
// after every gap in the stream it compares its memory with the list of
// tasks. Containers run under containerd's shims and outlive both the agent
// and containerd.
package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/podsnap/podsnap/nodeagent/cgroup"
	"github.com/podsnap/podsnap/nodeagent/exits"
	"github.com/podsnap/podsnap/nodeagent/network"
	"github.com/podsnap/podsnap/nodeagent/output"
	"github.com/podsnap/podsnap/nodeagent/runtime"
	"github.com/podsnap/podsnap/nodeagent/spec"
)

// The engine is what the pod life cycle asks for.
var (
	_ runtime.Runtime = (*Engine)(nil)
	_ runtime.Images  = images{}
	_ runtime.Stats   = (*Engine)(nil)
	_ Network         = (*network.Network)(nil)
)

const (
	snapshotter = "overlayfs"
	runcRuntime = "io.containerd.runc.v2"
)

// Network is what the engine needs of the pod network.
type Network interface {
	Attach(ctx context.Context, id, netns string) (netip.Addr, error)
	Adopt(id string, ip netip.Addr) error
	// Second is the pod's other address, in IPv6; invalid where there is none.
	Second(ip netip.Addr) netip.Addr
	Detach(ctx context.Context, id string) error
	// Confine keeps a sandbox away from the machines until it is detached.
	Confine(id string) error
	// Share has it hear the broadcast and multicast of a segment, likewise.
	Share(id, segment string) error
	Sweep(ctx context.Context) error
	Teardown(ctx context.Context) error
}

// Config says how an engine works. Socket, StateDir, Network and PauseProgram
// are required.
type Config struct {
	Socket       string // of containerd
	Namespace    string // in containerd; "" is podsnap
	StateDir     string // the engine's own files; absolute, not too long
	CgroupParent string // of all pods; "" is /podsnap
	Network      Network
	PauseProgram []byte // static binary, see nodeagent/pause
	Registries   Registries
	LogMaxSize   int64  // bytes of a log file before it is rotated; 0 is 10 MiB
	LogFiles     int    // kept of a log; 0 is 3
	Runc         string // binary of the OCI runtime; "" is runc in containerd's PATH
	Log          *slog.Logger
	Metrics      prometheus.Registerer
}

// Engine implements runtime.Runtime and runtime.Stats, and by Images,
// runtime.Images.
type Engine struct {
	c         Config
	client    *containerd.Client
	conn      *grpc.ClientConn
	version   string // of containerd, when this engine began
	snapshots snapshots.Snapshotter
	cgroups   cgroup.Tree
	privilege spec.Privilege
	pauseRoot string
	pulls     singleflight.Group
	metrics   metrics

	exits exits.Feed
	work  sync.WaitGroup // exits being finished, logs being copied

	mu         sync.Mutex
	sandboxes  map[string]*sandbox
	containers map[string]*container
	images     map[string]*image // by full name
	profiles   spec.Profiles
	closed     bool
}

// New connects to containerd, which must be running, takes over the
// containers that a former engine left there and removes what is left of dead
// ones. ctx bounds that. Run must be called next.
func New(ctx context.Context, c Config) (*Engine, error) {
	c = c.withDefaults()
	if c.Network == nil || len(c.PauseProgram) == 0 || !filepath.IsAbs(c.StateDir) {
		return nil, errors.New("engine configuration: Network, PauseProgram and an absolute StateDir are required")
	}
	cg, err := cgroup.Open("/sys/fs/cgroup", c.CgroupParent)
	if err != nil {
		return nil, err
	}
	e := &Engine{
		c: c, cgroups: cg, privilege: OwnPrivilege(),
		sandboxes: map[string]*sandbox{}, containers: map[string]*container{},
		images: map[string]*image{},
	}
	e.metrics = newMetrics(c.Metrics)
	for _, d := range []string{e.sandboxDir(""), e.fifoDir("")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make state directory: %w", err)
		}
	}
	if e.pauseRoot, err = preparePause(c.StateDir, c.PauseProgram); err != nil {
		return nil, err
	}
	e.c.PauseProgram = nil // it is on the disk now
	if err := e.connect(ctx); err != nil {
		return nil, err
	}
	e.warnOldRunc(ctx)
	if err := e.adopt(e.ns(ctx)); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (c Config) withDefaults() Config {
	if c.Namespace == "" {
		c.Namespace = "podsnap"
	}
	if c.CgroupParent == "" {
		c.CgroupParent = "/podsnap"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func (e *Engine) connect(ctx context.Context) error {
	conn, err := grpc.NewClient("unix://"+e.c.Socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// Calls wait for a containerd that restarts, and find it soon.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(64<<20), grpc.MaxCallSendMsgSize(64<<20)),
		grpc.WithUnaryInterceptor(bounded),
	)
	if err != nil {
		return fmt.Errorf("connect to containerd at %s: %w", e.c.Socket, err)
	}
	client, err := containerd.NewWithConn(conn, containerd.WithDefaultRuntime(runcRuntime))
	if err != nil {
		conn.Close()
		return fmt.Errorf("connect to containerd at %s: %w", e.c.Socket, err)
	}
	v, err := client.Version(e.ns(ctx))
	if err != nil {
		conn.Close()
		return fmt.Errorf("containerd does not answer at %s: %w", e.c.Socket, err)
	}
	e.conn, e.client, e.snapshots = conn, client, client.SnapshotService(snapshotter)
	e.version = strings.TrimPrefix(v.Version, "v")
	return nil
}

// Version is containerd's, as a node's status shows it: containerd://2.1.4.
func (e *Engine) Version() string { return "containerd://" + e.version }

// bounded gives calls without a deadline one, so that a hung containerd holds
// nobody for ever. Unpacking a large layer is the longest call.
func bounded(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if _, ok := ctx.Deadline(); !ok {
		limit := 2 * time.Minute
		if method == "/containerd.services.diff.v1.Diff/Apply" {
			limit = 15 * time.Minute
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	return invoke(ctx, method, req, reply, cc, opts...)
}

// ns puts containerd's namespace into ctx.
func (e *Engine) ns(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, e.c.Namespace)
}

// close ends everything the engine runs and waits for it. Containers go on.
func (e *Engine) close() {
	e.mu.Lock()
	e.closed = true
	for _, c := range e.containers {
		c.logs.Stop()
	}
	e.mu.Unlock()
	e.work.Wait()
	e.exits.Close()
	e.conn.Close()
}

// cleanup is a context for undoing: it outlives ctx, for 30 s.
func (e *Engine) cleanup(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(e.ns(context.WithoutCancel(ctx)), 30*time.Second)
}

func (e *Engine) sandboxDir(id string) string { return filepath.Join(e.c.StateDir, "sandboxes", id) }
func (e *Engine) fifoDir(id string) string    { return filepath.Join(e.c.StateDir, "fifo", id) }

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// startLogs begins to copy a container's output; see package output.
func (e *Engine) startLogs(c *runtime.Container, adopted bool) (*output.Output, error) {
	return output.Start(output.Config{
		Dir: e.fifoDir(c.ID), Log: c.LogPath, Stdin: c.Stdin, MaxSize: e.c.LogMaxSize, Files: e.c.LogFiles, Adopted: adopted, Logger: e.c.Log,
	}, &e.work)
}

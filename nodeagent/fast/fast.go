// Package fast is the runtime of function replicas: a container starts in a few
// milliseconds, confined exactly as runc would confine it.
//
// What takes long is done ahead: a pool keeps sandboxes parked, each a network
// namespace with an address and control groups. A start compiles the
// container's specification into a program of system calls (package confine),
// which a launcher runs in a new process (package launch). The launcher is the
// containers' parent and outlives the agent. There is no pause process: the
// container's own namespaces are the pod's, so that a pod has one container
// here.
//
// What is known of sandboxes and containers is in files on a tmpfs of the
// runtime's own: they outlive everything but the machine, as the containers do.
package fast

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
	goruntime "runtime"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/nodeagent/cgroup"
	"github.com/podsnap/podsnap/nodeagent/exits"
	"github.com/podsnap/podsnap/nodeagent/launch"
	"github.com/podsnap/podsnap/nodeagent/network"
	"github.com/podsnap/podsnap/nodeagent/park"
	"github.com/podsnap/podsnap/nodeagent/runtime"
	"github.com/podsnap/podsnap/nodeagent/spec"
)

var (
	_ runtime.Runtime = (*Runtime)(nil)
	_ runtime.Stats   = (*Runtime)(nil)
	_ Network         = (*network.Network)(nil)
)

// Network is what the runtime needs of the pod network.
type Network interface {
	Attach(ctx context.Context, id, netns string) (netip.Addr, error)
	Recycle(ctx context.Context, id, netns string) (netip.Addr, error)
	Adopt(id string, ip netip.Addr) error
	// Second is the pod's other address, in IPv6; invalid where there is none.
	Second(ip netip.Addr) netip.Addr
	Detach(ctx context.Context, id string) error
	// Confine keeps a sandbox away from the machines until it is detached.
	Confine(id string) error
}

// Images is what it needs of the container engine: the layers of an image. An
// error that is a runtime.StartError says itself what kind of fault it is.
type Images interface {
	Rootfs(ctx context.Context, ref string) (spec.Rootfs, error)
	SweepViews(ctx context.Context, used map[string]bool) error
}

// Config says how the runtime works. StateDir, Network and Launcher are
// required.
type Config struct {
	StateDir     string // the runtime's own files; absolute, not too long
	CgroupParent string // of all pods; "" is /podsnap
	Network      Network
	Launcher     func() ([]byte, error) // reads the static binary of nodeagent/launcher
	Privilege    spec.Privilege
	Parked       int   // sandboxes kept ready at least; 0 is 32, negative is none
	MostParked   int   // and at most; 0 is 256
	LogMaxSize   int64 // bytes of a log file before it is rotated; 0 is 10 MiB
	LogFiles     int   // kept of a log; 0 is 3
	Log          *slog.Logger
	Metrics      prometheus.Registerer

	groups func(parent string) (cgroup.Tree, error) // nil is the machine's; for tests
}

// Runtime implements runtime.Runtime and runtime.Stats for pods of one container.
type Runtime struct {
	c       Config
	cgroups cgroup.Tree
	keeper  *launch.Keeper
	pool    *park.Pool[*slot]
	roots   rootfsPools
	exits   exits.Feed
	metrics metrics
	work    sync.WaitGroup // exits being finished, logs being copied
	adopted chan struct{}  // closed when it is known what the launcher has
	trash   chan struct{}
	fill    context.Context    //nolint:containedctx // the pool's filling, which a teardown ends
	drain   context.CancelFunc // ends it
	filled  sync.WaitGroup
	watcher *watcher
	gate    gate

	profiles spec.Profiles

	mu         sync.Mutex
	images     Images
	sandboxes  map[string]*sandbox
	containers map[string]*container
	execs      map[string]*running
	filters    map[*specs.LinuxSeccomp][]byte
	launcher   int // its process
	closed     bool
}

// New makes the runtime and reads what a former one has left on the node: the
// addresses of its sandboxes are taken at once, everything else waits for Run,
// which must be called next, and before that Use.
func New(c Config) (*Runtime, error) {
	if c.CgroupParent == "" {
		c.CgroupParent = "/podsnap"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Network == nil || c.Launcher == nil || !filepath.IsAbs(c.StateDir) {
		return nil, errors.New("fast runtime configuration: Network, Launcher and an absolute StateDir are required")
	}
	if c.groups == nil {
		c.groups = func(parent string) (cgroup.Tree, error) { return cgroup.Open("/sys/fs/cgroup", parent) }
	}
	tree, err := c.groups(c.CgroupParent)
	if err != nil {
		return nil, err
	}
	if err := tree.Equip(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	r := &Runtime{
		c: c, cgroups: tree, adopted: make(chan struct{}), trash: make(chan struct{}, 1), watcher: newWatcher(), gate: newGate(),
		sandboxes: map[string]*sandbox{}, containers: map[string]*container{}, execs: map[string]*running{},
		filters: map[*specs.LinuxSeccomp][]byte{}, roots: rootfsPools{byKey: map[string]*rootfsPool{}},
	}
	r.fill, r.drain = context.WithCancel(context.Background()) //nolint:forbidigo // ended by Run or Teardown
	if l := len(launch.Socket(r.runDir())); l >= maxSocketPath {
		return nil, fmt.Errorf("fast runtime's directory %s: its socket's path would have %d bytes and the system allows %d; choose a shorter state directory", c.StateDir, l, maxSocketPath-1)
	}
	if err := r.makeDirs(); err != nil {
		return nil, err
	}
	if err := tree.PrepareSlots(); err != nil {
		return nil, err
	}
	r.keeper = launch.NewKeeper(launch.Config{
		Dir: r.runDir(), Program: c.Launcher, Connected: r.connected, Exited: r.exited, Log: c.Log,
	})
	r.pool = park.New(park.Config[*slot]{
		Make: r.makeSlot, Recycle: r.recycleSlot, Destroy: r.destroySlot, Least: c.Parked, Most: c.MostParked,
		AtOnce: 4 * goruntime.NumCPU(),
		Failed: func(what string, err error) {
			r.c.Log.Warn("parked sandbox", slog.String("what", what), slog.Any("error", err))
		},
		Made: func(d time.Duration) { r.metrics.refill.Observe(d.Seconds()) },
	})
	r.metrics = newMetrics(c.Metrics, r.pool.Size, r.roots.size)
	return r, r.readRecords()
}

// ErrUnsupported is a machine on which the runtime cannot confine as it has to:
// one with version 2 control groups that lack something. The engine runs
// everything there.
var ErrUnsupported = errors.New("the fast runtime cannot confine on this machine")

// maxSocketPath is the longest path a unix socket can have, its end included.
const maxSocketPath = 108

// Use says where images come from. To be called once, before Run.
func (r *Runtime) Use(i Images) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images = i
}

// Run works until ctx is done, or until Teardown; containers go on.
func (r *Runtime) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, r.drain)
	defer stop()
	var wg sync.WaitGroup
	r.filled.Go(func() {
		select {
		case <-r.adopted:
			_ = r.pool.Run(r.fill) // nil, always
		case <-r.fill.Done():
		}
	})
	wg.Go(func() { r.sweepTrash(ctx) })
	wg.Go(func() { r.sweepViews(ctx) })
	wg.Go(func() { r.watcher.run(ctx) })
	err := r.keeper.Run(ctx)
	cancel()
	r.mu.Lock()
	r.closed = true
	for _, c := range r.containers {
		c.out.Stop()
	}
	r.mu.Unlock()
	wg.Wait()
	r.roots.close()
	r.filled.Wait()
	r.pool.Wait()
	r.roots.wait()
	r.pool.Each(func(s *slot) { s.ns.Close() })
	r.work.Wait()
	r.cgroups.Close()
	r.exits.Close()
	return err
}

// ready waits until it is known what runs.
func (r *Runtime) ready(ctx context.Context) error {
	select {
	case <-r.adopted:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *Runtime) runDir() string              { return filepath.Join(r.c.StateDir, "run") }
func (r *Runtime) sandboxDir(id string) string { return filepath.Join(r.runDir(), "sandboxes", id) }
func (r *Runtime) upperDir(id string) string   { return filepath.Join(r.c.StateDir, "upper", id) }
func (r *Runtime) trashDir(id string) string   { return filepath.Join(r.c.StateDir, "trash", id) }

// makeDirs makes the directories, and mounts the tmpfs if it is not there.
func (r *Runtime) makeDirs() error {
	for _, d := range []string{r.runDir(), r.upperDir(""), r.trashDir("")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("make state directory: %w", err)
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(r.runDir(), &fs); err != nil {
		return fmt.Errorf("look at %s: %w", r.runDir(), err)
	}
	var here, above unix.Stat_t
	if err := errors.Join(unix.Stat(r.runDir(), &here), unix.Stat(r.c.StateDir, &above)); err != nil {
		return fmt.Errorf("look at %s: %w", r.runDir(), err)
	}
	if fs.Type != unix.TMPFS_MAGIC || here.Dev == above.Dev {
		if err := unix.Mount("podsnap", r.runDir(), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700,size=256m"); err != nil {
			return fmt.Errorf("mount %s: %w", r.runDir(), err)
		}
	}
	for _, d := range []string{r.sandboxDir(""), filepath.Join(r.runDir(), "root")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("make state directory: %w", err)
		}
	}
	return nil
}

// cleanup is a context for undoing: it outlives ctx, for 30 s.
func cleanup(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
}

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

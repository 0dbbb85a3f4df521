// Package nodeagent is one node: it registers the machine, runs the pods that
// are bound to it and tells how they fare. It implements api.Agent.
package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/podsnap/podsnap/internal/mirror"
	"github.com/podsnap/podsnap/internal/pause"
	"github.com/podsnap/podsnap/nodeagent/disk"
	"github.com/podsnap/podsnap/nodeagent/live"
	"github.com/podsnap/podsnap/nodeagent/pod"
	"github.com/podsnap/podsnap/nodeagent/pressure"
	"github.com/podsnap/podsnap/nodeagent/probe"
	"github.com/podsnap/podsnap/nodeagent/runtime"
	"github.com/podsnap/podsnap/nodeagent/volume"
)

// Config says what node this is. NodeName, Objects, Runtime, Images and
// StateDir have to be set.
type Config struct {
	NodeName string
	Objects  api.Objects
	Runtime  runtime.Runtime
	Images   runtime.Images
	Stats    runtime.Stats // nil: no use of resources is known
	StateDir string        // pods and logs lie below it

	PodCIDR  string // of the node's pods, shown in the Node
	PodCIDR6 string // the same in IPv6; "" is none
	NodeIP   string // "" is the machine's first address
	NodeIP6  string // the machine's other address; "" is none
	Port     int32  // where the agent answers at NodeIP, shown in the Node; 0 is nowhere
	Labels   map[string]string
	Taints   []corev1.Taint      // at the first registration
	Capacity corev1.ResourceList // overrides what the machine has, by name
	Reserved corev1.ResourceList // not for pods; nil is 100m of CPU and 256Mi
	MaxPods  int64               // 0 is 250
	Pids     int64               // most processes of a container; 0 is 1024
	Version  string              // of the agent, shown in the Node
	// RuntimeVersion is that of the container engine, as Engine.Version has it.
	RuntimeVersion string

	HeartbeatEvery time.Duration // 0 is 1 s
	// Memory is the machine's, nil: as the kernel says. Stalls calls told each
	// time that tasks had to wait for memory, until ctx is done: see
	// pressure.Stalls; nil: that is not known.
	Memory func() pressure.Memory
	Stalls func(ctx context.Context, told func()) error

	// Static calls set with the pods that the node has from files of its own, as
	// manifest.Directory makes them, at its start and when that changes, until ctx is
	// done; nil: there are none.
	Static func(ctx context.Context, set func([]*corev1.Pod)) error

	Recorder pod.Recorder // nil is none
	// Guard has what is enforced on a pod's addresses in the kernel before a process
	// of the pod runs; nil is nothing.
	Guard      func(ctx context.Context, p *corev1.Pod, addresses []string) error
	Dial       func(ctx context.Context, network, address string) (net.Conn, error)
	ResolvConf string // "" is the machine's
	// ClusterDNS is the server with the cluster's names that pods are told of;
	// zero is none.
	ClusterDNS    netip.Addr
	ClusterDomain string // "" is cluster.local
	// Tokens hands out tokens of service accounts; nil: pods get none.
	Tokens api.Tokens
	// APIServer is where pods that are no functions' reach the API; zero is nowhere.
	APIServer netip.AddrPort
	OnDisk    bool // secrets and memory volumes on disk, for a process that may not mount
	Log       *slog.Logger
	Metrics   prometheus.Registerer
}

// Agent is the node. Run does its work; the methods of api.Agent may be called
// once Run has been.
type Agent struct {
	c       Config
	log     *slog.Logger
	pods    *mirror.Mirror[*corev1.Pod]
	volumes *volume.Manager
	disks   *disk.Keeper
	m       *metrics
	hub     hub
	mounted *live.Follower // what pods have mounted
	logs    string

	beat  time.Duration         // see statusEvery
	lease *coordinationv1.Lease // as register wrote it last; nil: not known. It alone uses it

	launch  chan *pod.Worker
	adopted chan struct{} // closed when what the engine runs is known
	over    chan struct{} // closed when Run ends
	stalls  chan struct{} // of one place: tasks had to wait for memory

	mu       sync.Mutex
	workers  map[types.UID]*pod.Worker
	boxes    map[string]*pod.Worker // by sandbox id
	orphans  map[types.UID]runtime.Sandbox
	ended    map[types.UID]bool // done with, though the object is still there
	static   statics
	stopping bool
	live     int           // workers that run
	idle     chan struct{} // closed when live is 0 and stopping is set
}

var _ api.Agent = (*Agent)(nil)

// New makes an agent and its folders. It does nothing before Run.
func New(c Config) (*Agent, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	c.defaults()
	a := &Agent{c: c}
	volumes, err := volume.New(volume.Config{
		Services: c.Objects, Allocatable: a.allocatable,
		Root: filepath.Join(c.StateDir, "pods"), Disks: filepath.Join(c.StateDir, "disks"), Node: c.NodeName, Objects: c.Objects, ResolvConf: c.ResolvConf, OnDisk: c.OnDisk,
		ClusterDNS: c.ClusterDNS, ClusterDomain: c.ClusterDomain, Tokens: c.Tokens, APIServer: c.APIServer, Log: c.Log,
	})
	if err != nil {
		return nil, err
	}
	*a = Agent{
		c: c, log: c.Log, volumes: volumes, logs: filepath.Join(c.StateDir, "logs"),
		launch: make(chan *pod.Worker), adopted: make(chan struct{}), over: make(chan struct{}), idle: make(chan struct{}),
		beat:    heartbeatsOf - rand.N(heartbeatsOf/4),
		stalls:  make(chan struct{}, 1),
		workers: map[types.UID]*pod.Worker{}, boxes: map[string]*pod.Worker{},
		orphans: map[types.UID]runtime.Sandbox{}, ended: map[types.UID]bool{}, static: newStatics(),
	}
	if err := os.MkdirAll(a.logs, 0o750); err != nil {
		return nil, fmt.Errorf("folder of the logs: %w", err)
	}
	a.mounted = live.New(c.Objects, a.refresh, c.Log)
	a.m = newMetrics(c.Metrics, a)
	a.pods = mirror.New[*corev1.Pod](c.Objects, api.Pods, mirror.Options{
		Fields: fields.OneTermEqualSelector("spec.nodeName", c.NodeName), Log: c.Log,
	})
	a.pods.OnChange(a.changed)
	a.disks = disk.New(disk.Config{
		Root: filepath.Join(c.StateDir, "disks"), Node: c.NodeName, Objects: c.Objects, Used: volumes.Uses, Log: c.Log, Metrics: c.Metrics,
	})
	return a, nil
}

func (c *Config) validate() error {
	var errs []error
	for name, missing := range map[string]bool{
		"NodeName": c.NodeName == "", "Objects": c.Objects == nil, "Runtime": c.Runtime == nil,
		"Images": c.Images == nil, "StateDir": c.StateDir == "",
	} {
		if missing {
			errs = append(errs, fmt.Errorf("node agent: %s is not set", name))
		}
	}
	return errors.Join(errs...)
}

func (c *Config) defaults() {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.HeartbeatEvery == 0 {
		c.HeartbeatEvery = time.Second
	}
	if c.Memory == nil {
		c.Memory = func() (m pressure.Memory) {
			m.Total, m.Available = meminfo()
			return m
		}
	}
	if c.MaxPods == 0 {
		c.MaxPods = 250
	}
	if c.NodeIP == "" {
		c.NodeIP = firstAddress()
	}
	if c.Reserved == nil {
		c.Reserved = corev1.ResourceList{corev1.ResourceCPU: quantity("100m"), corev1.ResourceMemory: quantity("256Mi")}
	}
}

// Run works until ctx is done. Then the pods go on without the agent: the next
// one adopts them.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg, workers sync.WaitGroup
	defer func() {
		cancel()
		close(a.over)
		workers.Wait()
		a.mounted.Wait()
		wg.Wait()
		a.hub.close()
	}()
	a.static.mirrors = loop.New(loop.Config{Name: "mirror-pods", BackoffMin: mirrorSettle, Log: a.log, Metrics: a.c.Metrics}, a.reconcileMirror)
	wg.Go(func() { _ = a.static.mirrors.Run(ctx, a.pods.Synced(), a.static.told) }) // nil, always
	exits := a.c.Runtime.Events(ctx)                                                // before the list, so that none is missed
	wg.Go(func() {
		a.register(ctx)
		a.depart(ctx)
	})
	if a.c.Stalls != nil {
		wg.Go(func() { a.watchStalls(ctx) })
	}
	if !a.adopt(ctx) {
		return nil
	}
	wg.Go(func() { a.dispatch(exits) }) //nolint:contextcheck // an end of a log that is there is read without one
	wg.Go(func() { a.runStatics(ctx) })
	wg.Go(func() { _ = a.pods.Run(ctx) }) // nil, always
	wg.Go(func() { a.sweep(ctx) })
	wg.Go(func() { _ = a.disks.Run(ctx) })   // nil, always
	wg.Go(func() { _ = a.volumes.Run(ctx) }) // nil, always
	close(a.adopted)
	for {
		select {
		case <-ctx.Done():
			return nil
		case w := <-a.launch:
			a.mounted.Hold(ctx, w.Pod())
			workers.Go(func() {
				_ = w.Run(ctx) // nil, always
				a.mounted.Drop(w.Pod().UID)
				a.leave(ctx, w)
			})
		}
	}
}

// Adopted is closed when Run has learned what runs on the node.
func (a *Agent) Adopted() <-chan struct{} { return a.adopted }

// adopt learns what the engine has; false when ctx is done before.
func (a *Agent) adopt(ctx context.Context) bool {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		boxes, err := a.c.Runtime.List(ctx)
		if err == nil {
			a.findFrozen(ctx, boxes)
			a.mu.Lock()
			defer a.mu.Unlock()
			for _, b := range boxes {
				a.orphan(b)
			}
			return true
		}
		if ctx.Err() == nil {
			a.log.WarnContext(ctx, "list sandboxes", slog.Any("error", err))
		}
		if !pause.For(ctx, wait) {
			return false
		}
	}
}

// findFrozen notes which containers were left frozen. One of which it cannot be
// told counts as frozen: to thaw what runs does no harm.
func (a *Agent) findFrozen(ctx context.Context, boxes []runtime.Sandbox) {
	f, ok := a.c.Runtime.(runtime.Freezer)
	if !ok {
		return
	}
	for _, b := range boxes {
		for i := range b.Containers {
			if c := &b.Containers[i]; c.State == runtime.Running {
				frozen, err := f.Frozen(ctx, c.ID)
				c.Frozen = frozen || err != nil && !apierrors.IsNotFound(err)
			}
		}
	}
}

// orphan keeps a sandbox for the pod that will come for it. Of two of one pod
// the living and newer one is kept; the other one is swept under its own id.
func (a *Agent) orphan(b runtime.Sandbox) {
	other, ok := a.orphans[b.UID]
	if !ok {
		a.orphans[b.UID] = b
		return
	}
	better := b.Pid != 0 && other.Pid == 0 || (b.Pid != 0) == (other.Pid != 0) && b.CreatedAt.After(other.CreatedAt)
	if better {
		b, other = other, b
	}
	a.orphans[b.UID], a.orphans[types.UID("sandbox "+b.ID)] = other, b
}

// sweep removes what belongs to no pod, once it is known which pods there are.
func (a *Agent) sweep(ctx context.Context) {
	for _, known := range []<-chan struct{}{a.pods.Synced(), a.static.told} {
		select {
		case <-ctx.Done():
			return
		case <-known:
		}
	}
	a.mu.Lock()
	left := a.orphans
	a.orphans = map[types.UID]runtime.Sandbox{}
	a.mu.Unlock()
	var wg sync.WaitGroup
	for _, b := range left {
		wg.Go(func() {
			a.log.InfoContext(ctx, "remove sandbox without a pod", slog.String("sandbox", b.ID), slog.String("pod", b.Namespace+"/"+b.Name))
			for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
				err := a.c.Runtime.RemoveSandbox(ctx, b.ID)
				if err == nil {
					return
				}
				a.log.WarnContext(ctx, "remove sandbox without a pod", slog.String("sandbox", b.ID), slog.Any("error", err))
				if !pause.For(ctx, wait) {
					return
				}
			}
		})
	}
	wg.Wait()
	a.sweepFolders()
}

func (a *Agent) sweepFolders() {
	uids, err := a.volumes.List()
	for _, uid := range uids {
		if a.worker(uid) == nil {
			err = errors.Join(err, a.volumes.Remove(uid))
		}
	}
	entries, readErr := os.ReadDir(a.logs)
	err = errors.Join(err, readErr)
	for _, e := range entries {
		if a.worker(pod.LogOwner(e.Name())) == nil {
			err = errors.Join(err, os.RemoveAll(filepath.Join(a.logs, e.Name())))
		}
	}
	if err != nil {
		a.log.Warn("remove folders without a pod", slog.Any("error", err))
	}
}

// dispatch tells the workers of exits. One for a sandbox that nobody has (yet)
// is told to all: its start may still be under way.
func (a *Agent) dispatch(exits <-chan runtime.Exit) {
	for e := range exits {
		a.mu.Lock()
		to := []*pod.Worker{a.boxes[e.Sandbox]}
		if to[0] == nil {
			to = to[:0]
			for _, w := range a.workers {
				to = append(to, w)
			}
		}
		a.mu.Unlock()
		for _, w := range to {
			w.Exited(e)
		}
	}
}

// changed follows the objects.
func (a *Agent) changed(t api.EventType, old, now *corev1.Pod) {
	if a.mirrored(old, now) {
		return
	}
	if old != nil && (t == api.Deleted || old.UID != now.UID) {
		a.mu.Lock()
		w := a.workers[old.UID]
		delete(a.ended, old.UID)
		a.mu.Unlock()
		if w != nil {
			w.Stop(pod.Gone, goneGrace(old))
		}
	}
	if t != api.Deleted {
		a.accept(now)
	}
}

// goneGrace is what a pod gets whose object is not there any more.
func goneGrace(p *corev1.Pod) time.Duration {
	if s := p.DeletionGracePeriodSeconds; s != nil && *s == 0 {
		return 0
	}
	return 2 * time.Second
}

// accept has a worker take the pod on, or tells it of the newer version.
func (a *Agent) accept(p *corev1.Pod) {
	a.mu.Lock()
	w := a.workers[p.UID]
	if w != nil || a.stopping || a.ended[p.UID] {
		a.mu.Unlock()
		if w != nil {
			w.Update(p)
		}
		return
	}
	var sandbox *runtime.Sandbox
	if b, ok := a.orphans[p.UID]; ok {
		sandbox = &b
		delete(a.orphans, p.UID)
	}
	c := a.workerConfig()
	_, static := a.static.named[p.UID]
	if static {
		c = a.staticConfig()
	}
	w = pod.NewWorker(c, p, sandbox)
	a.workers[p.UID] = w
	a.live++
	if sandbox != nil {
		a.boxes[sandbox.ID] = w
		a.volumes.Adopt(p)
	}
	a.mu.Unlock()
	if !static {
		a.hub.publish(stateOf(w.Pod(), false))
	}
	select {
	case a.launch <- w:
	case <-a.over:
	}
}

func (a *Agent) workerConfig() pod.Config {
	return pod.Config{
		Objects: a.c.Objects, Runtime: a.c.Runtime, Images: a.c.Images, Volumes: a.volumes,
		Prober: &probe.Prober{Dial: a.c.Dial}, HostIP: a.c.NodeIP, HostIP6: a.c.NodeIP6, LogDir: a.logs, Pids: a.c.Pids, Log: a.log,
		Recorder: a.c.Recorder, Guard: a.c.Guard, Stage: a.m.stage, Started: a.m.started, Thawed: a.m.thawed,
		Publish: func(p *corev1.Pod) { a.hub.publish(stateOf(p, false)) },
		Sandbox: func(w *pod.Worker, id string, has bool) {
			a.mu.Lock()
			defer a.mu.Unlock()
			if has {
				a.boxes[id] = w
			} else {
				delete(a.boxes, id)
			}
		},
	}
}

// refresh has a pod's volumes brought up to date.
func (a *Agent) refresh(uid types.UID) {
	if w := a.worker(uid); w != nil {
		w.Refresh()
	}
}

// leave forgets a worker whose pod is done with.
func (a *Agent) leave(ctx context.Context, w *pod.Worker) {
	if ctx.Err() != nil {
		return
	}
	p := w.Pod()
	a.mu.Lock()
	delete(a.workers, p.UID)
	if name, static := a.static.named[p.UID]; static {
		next := a.staticLeft(p)
		a.live--
		a.quiet()
		a.mu.Unlock()
		if next != nil {
			a.accept(next) //nolint:contextcheck // as in Run
		}
		a.static.mirrors.Add(name)
		return
	}
	defer a.mu.Unlock()
	if o, ok := a.pods.Get(p.Namespace, p.Name); ok && o.UID == p.UID {
		a.ended[p.UID] = true // until the object goes
	}
	a.hub.publish(stateOf(p, true))
	a.live--
	a.quiet()
}

// quiet tells StopAll that nothing runs any more. The caller holds the lock.
func (a *Agent) quiet() {
	if a.stopping && a.live == 0 {
		select {
		case <-a.idle:
		default:
			close(a.idle)
		}
	}
}

// StopAll ends all pods, each with its own grace period but within limit, takes
// on no others and removes every sandbox that is left in the engine. The objects
// stay: the pods come back with the next agent. It returns when nothing is left,
// or when ctx is done.
func (a *Agent) StopAll(ctx context.Context, limit time.Duration) error {
	a.mu.Lock()
	a.stopping = true
	a.quiet()
	var all []*pod.Worker
	for _, w := range a.workers {
		all = append(all, w)
	}
	a.mu.Unlock()
	for _, w := range all {
		w.Stop(pod.Keep, min(limit, pod.Grace(w.Pod())))
	}
	select {
	case <-a.idle:
		return a.clear(ctx)
	case <-a.over:
		return errors.New("node agent: it ended before its pods had")
	case <-ctx.Done():
		a.mu.Lock()
		defer a.mu.Unlock()
		return fmt.Errorf("node agent: %d pods still stop: %w", a.live, context.Cause(ctx))
	}
}

// clear removes what no worker had: sandboxes whose pod is not known (yet).
func (a *Agent) clear(ctx context.Context) error {
	boxes, err := a.c.Runtime.List(ctx)
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	for _, b := range boxes {
		if rmErr := a.c.Runtime.RemoveSandbox(ctx, b.ID); rmErr != nil {
			err = errors.Join(err, fmt.Errorf("remove sandbox of pod %s/%s: %w", b.Namespace, b.Name, rmErr))
		}
	}
	uids, listErr := a.volumes.List()
	err = errors.Join(err, listErr)
	for _, uid := range uids {
		err = errors.Join(err, a.volumes.Release(uid))
	}
	return err
}

func (a *Agent) worker(uid types.UID) *pod.Worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.workers[uid]
}

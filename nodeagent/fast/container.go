package fast

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podsnap/podsnap/nodeagent/launch"
	"github.com/podsnap/podsnap/nodeagent/output"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// container is what the runtime knows of a container. Runtime.mu guards info
// and exiting.
type container struct {
	life    sync.Mutex // held for removal
	sandbox *sandbox
	out     *output.Output
	made    *specs.Spec // its process and namespaces, for Exec
	chain   string      // of its image's layers
	root    *rootfs     // nil: not yet, or given back; Runtime.mu guards it

	info    runtime.Container
	exiting bool
	settled func()        // its start is over, as far as others are concerned
	failed  bool          // it could not be started; set before started is closed
	started chan struct{} // closed when StartContainer is over
	done    chan struct{} // closed when the exit is dealt with
}

// containerRecord is a container on disk.
type containerRecord struct {
	Container runtime.Container `json:"container"`
	Spec      *specs.Spec       `json:"spec"`
	Chain     string            `json:"chain"`
	Root      string            `json:"root"`
}

func (c *container) starting() bool {
	select {
	case <-c.started:
		return c.failed
	default:
		return true
	}
}

// StartContainer implements runtime.Runtime. The exit of a container that ends
// at once may be told of before this returns.
func (r *Runtime) StartContainer(ctx context.Context, s runtime.ContainerSpec) (runtime.Container, error) {
	begin := time.Now()
	sb := r.sandbox(s.Sandbox)
	if sb == nil {
		return runtime.Container{}, notFound("sandboxes", s.Sandbox)
	}
	sb.life.RLock()
	defer sb.life.RUnlock()
	c, err := r.startContainer(ctx, sb, s)
	if err != nil {
		if _, ok := errors.AsType[*runtime.StartError](err); !ok {
			err = startError("CreateContainerError", err)
		}
		return runtime.Container{}, err
	}
	r.metrics.started("container", begin)
	r.mu.Lock()
	defer r.mu.Unlock()
	return c.info, nil
}

func startError(reason string, err error) error {
	return &runtime.StartError{Reason: reason, Err: err}
}

func (r *Runtime) startContainer(ctx context.Context, sb *sandbox, s runtime.ContainerSpec) (_ *container, err error) {
	c := &container{
		sandbox: sb, started: make(chan struct{}), done: make(chan struct{}),
		info: runtime.Container{
			ID: newID(), Sandbox: s.Sandbox, Name: s.Name, Attempt: s.Attempt, Image: s.Image,
			State: runtime.Running, StartedAt: time.Now(), LogPath: s.LogPath, Labels: s.Labels,
		},
	}
	if err := r.register(c); err != nil {
		return nil, startError("RunContainerError", fmt.Errorf("container %q: %w", s.Name, err))
	}
	defer func() {
		c.failed = err != nil
		close(c.started)
		if err != nil {
			err = errors.Join(err, r.undo(ctx, c))
		}
	}()
	plan, err := r.plan(ctx, c, s)
	if err != nil {
		return nil, err
	}
	if c.settled, err = r.gate.enter(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.settled()
			return
		}
		time.AfterFunc(headway, c.settled)
	}()
	if err := os.MkdirAll(r.containerDir(c), 0o711); err != nil {
		return nil, err
	}
	c.out, err = output.Start(output.Config{
		Dir: r.containerDir(c), Log: s.LogPath, MaxSize: r.c.LogMaxSize, Files: r.c.LogFiles, Logger: r.c.Log,
	}, &r.work)
	if err != nil {
		return nil, err
	}
	defer c.out.HandOver()
	if err := r.launch(ctx, c, plan); err != nil {
		return nil, err
	}
	if err := r.saveContainer(c); err != nil {
		return nil, err
	}
	return c, nil
}

// register makes the container known, so that its exit is not missed, if the
// sandbox can take one.
func (r *Runtime) register(c *container) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return errors.New("the fast runtime is shutting down")
	case c.sandbox.gone || c.sandbox.slot == nil:
		return errors.New("the pod's sandbox has ended")
	}
	for _, other := range r.containers {
		if other.sandbox == c.sandbox && other.info.State == runtime.Running {
			return fmt.Errorf("container %q runs already, and a pod has one container here", other.info.Name)
		}
	}
	r.containers[c.info.ID] = c
	return nil
}

func (r *Runtime) saveContainer(c *container) error {
	r.mu.Lock()
	info, root := c.info, ""
	if c.root != nil {
		root = c.root.id
	}
	r.mu.Unlock()
	rec := containerRecord{Container: info, Chain: c.chain, Root: root, Spec: &specs.Spec{
		Process: c.made.Process, Linux: &specs.Linux{Namespaces: c.made.Linux.Namespaces},
	}}
	if c.made.Linux.Seccomp != nil {
		rec.Spec.Linux.Seccomp = &specs.LinuxSeccomp{} // that there is one: which one follows from the capabilities
	}
	return save(filepath.Join(r.containerDir(c), "container.json"), rec)
}

func (r *Runtime) containerDir(c *container) string {
	return filepath.Join(r.sandboxDir(c.info.Sandbox), c.info.ID)
}

// undo takes back a start that has failed, whatever it had come to.
func (r *Runtime) undo(ctx context.Context, c *container) error {
	ctx, cancel := cleanup(ctx)
	defer cancel()
	err := r.end(ctx, c)
	c.out.Stop()
	r.discard(c) //nolint:contextcheck // goes on in the background
	r.mu.Lock()
	delete(r.containers, c.info.ID)
	r.mu.Unlock()
	return errors.Join(err, os.RemoveAll(r.containerDir(c)))
}

// Signal implements runtime.Runtime.
func (r *Runtime) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	c := r.container(id)
	if c == nil {
		return notFound("containers", id)
	}
	r.mu.Lock()
	over := c.info.State == runtime.Exited
	r.mu.Unlock()
	if over {
		return nil
	}
	_, err := r.keeper.Do(ctx, launch.Request{Op: launch.Signal, ID: id, Sig: sig}, nil)
	if err != nil && !errors.Is(err, launch.ErrNone) {
		return fmt.Errorf("signal container %s: %w", id, err)
	}
	return nil
}

// RemoveContainer implements runtime.Runtime.
func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	c := r.container(id)
	if c == nil {
		return nil
	}
	c.life.Lock()
	defer c.life.Unlock()
	if r.container(id) == nil {
		return nil // removed meanwhile
	}
	if err := r.end(ctx, c); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	c.out.Drain()
	c.out.Stop()
	r.discard(c) //nolint:contextcheck // goes on in the background
	if err := os.RemoveAll(r.containerDir(c)); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.containers, id)
	return nil
}

// end kills a container, waits for its end and has the launcher forget it. One
// that the launcher does not know, as its start was never heard of, is killed by
// its group.
func (r *Runtime) end(ctx context.Context, c *container) error {
	id := c.info.ID
	r.mu.Lock()
	over := c.info.State == runtime.Exited
	sl := c.sandbox.slot
	r.mu.Unlock()
	if !over {
		if sl != nil { // a frozen process would not see the signal
			_ = r.cgroups.Freeze(r.cgroups.Slot(sl.id), false)
		}
		_, err := r.keeper.Do(ctx, launch.Request{Op: launch.Signal, ID: id, Sig: syscall.SIGKILL}, nil)
		switch {
		case errors.Is(err, launch.ErrNone):
			if sl != nil {
				err = r.cgroups.Kill(r.cgroups.Slot(sl.id))
			}
			if err != nil {
				return err
			}
			r.exited(launch.Process{ID: id, Ended: true, Code: lostExitCode, At: time.Now()}) //nolint:contextcheck // goes on in the background
		case err != nil:
			return err
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	_, err := r.keeper.Do(ctx, launch.Request{Op: launch.Forget, ID: id}, nil)
	return err
}

// discard gives the container's root file system back, once.
func (r *Runtime) discard(c *container) {
	r.mu.Lock()
	f := c.root
	c.root = nil
	r.mu.Unlock()
	if f != nil {
		r.giveRootfs(f)
	}
}

func (r *Runtime) sweepTrash(ctx context.Context) {
	for {
		for _, n := range names(r.trashDir("")) {
			if err := os.RemoveAll(r.trashDir(n)); err != nil {
				r.c.Log.Warn("remove root file system", slog.String("container", n), slog.Any("error", err))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-r.trash:
		}
	}
}

func names(dir string) []string {
	all, _ := os.ReadDir(dir)
	out := make([]string, len(all))
	for i, e := range all {
		out[i] = e.Name()
	}
	return out
}

func (r *Runtime) container(id string) *container {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.containers[id]
}

// Stats implements runtime.Stats.
func (r *Runtime) Stats(_ context.Context, id string) (cpuSeconds float64, memory uint64, err error) {
	c := r.container(id)
	if c == nil {
		return 0, 0, notFound("containers", id)
	}
	r.mu.Lock()
	sl, over, before := c.sandbox.slot, c.info.State == runtime.Exited, 0.0
	if sl != nil {
		before = sl.spent
	}
	r.mu.Unlock()
	if sl == nil || over {
		return 0, 0, notFound("containers", id) // it has ended
	}
	cpuSeconds, memory, err = r.cgroups.Usage(r.cgroups.Slot(sl.id))
	if err != nil {
		return 0, 0, fmt.Errorf("stats of container %s: %w", id, err)
	}
	return max(0, cpuSeconds-before), memory, nil
}

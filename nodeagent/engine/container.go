package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podsnap/podsnap/nodeagent/output"
	"github.com/podsnap/podsnap/nodeagent/runtime"
	"github.com/podsnap/podsnap/nodeagent/spec"
)

// container is what the engine knows of a container. Engine.mu guards info,
// exiting and oom.
type container struct {
	life   sync.Mutex // held for removal
	cgroup string
	logs   *output.Output

	info    runtime.Container
	exiting bool
	oom     bool          // containerd told of an OOM kill
	failed  bool          // it could not be started; set before started is closed
	started chan struct{} // closed when StartContainer is over
	done    chan struct{} // closed when the exit is dealt with
}

func (c *container) starting() bool {
	select {
	case <-c.started:
		return c.failed
	default:
		return true
	}
}

// StartContainer implements runtime.Runtime. The exit of a container that
// ends at once may be on the event stream before this returns.
func (e *Engine) StartContainer(ctx context.Context, s runtime.ContainerSpec) (runtime.Container, error) {
	begin := time.Now()
	ctx = e.ns(ctx)
	sb := e.sandbox(s.Sandbox)
	if sb == nil {
		return runtime.Container{}, notFound("sandboxes", s.Sandbox)
	}
	sb.life.RLock()
	defer sb.life.RUnlock()
	c, err := e.startContainer(ctx, sb, s)
	if err != nil {
		if _, ok := errors.AsType[*runtime.StartError](err); !ok {
			err = &runtime.StartError{Reason: "CreateContainerError", Err: err}
		}
		return runtime.Container{}, err
	}
	e.metrics.started("container", begin)
	e.mu.Lock()
	defer e.mu.Unlock()
	return c.info, nil
}

func (e *Engine) startContainer(ctx context.Context, sb *sandbox, s runtime.ContainerSpec) (_ *container, err error) {
	e.mu.Lock()
	pid, alive := sb.info.Pid, !sb.exiting && !sb.gone
	e.mu.Unlock()
	if !alive {
		return nil, startError("RunContainerError", fmt.Errorf("container %q: the pod's sandbox has ended", s.Name))
	}
	img, err := e.localImage(ctx, s.Image)
	if err != nil {
		return nil, startError("CreateContainerError", fmt.Errorf("container %q: %w", s.Name, err))
	}
	id := newID()
	c := &container{
		cgroup: e.cgroups.Of(string(sb.spec.UID), id), started: make(chan struct{}), done: make(chan struct{}),
		info: runtime.Container{
			ID: id, Sandbox: s.Sandbox, Name: s.Name, Attempt: s.Attempt, Image: s.Image, ImageID: img.ID,
			State: runtime.Running, StartedAt: time.Now(), LogPath: s.LogPath, Labels: s.Labels, Stdin: s.Stdin, TTY: s.TTY,
		},
	}
	defer func() {
		c.failed = err != nil
		close(c.started)
		if err == nil {
			return
		}
		undo, cancel := e.cleanup(ctx)
		defer cancel()
		err = errors.Join(err, e.destroy(undo, id, id), os.RemoveAll(e.fifoDir(id)), e.cgroups.Remove(c.cgroup))
		e.mu.Lock()
		delete(e.containers, id)
		e.mu.Unlock()
	}()
	mounts, err := e.snapshots.Prepare(ctx, id, img.chainID, snapshots.WithLabels(map[string]string{
		gcRoot: time.Now().UTC().Format(time.RFC3339), kindLabel: "container",
	}))
	if err != nil {
		return nil, startError("CreateContainerError", fmt.Errorf("container %q: prepare root file system: %w", s.Name, err))
	}
	made, err := e.makeSpec(sb, pid, c, s, img, mounts)
	if err != nil {
		return nil, startError("CreateContainerConfigError", fmt.Errorf("container %q: %w", s.Name, err))
	}
	if c.logs, err = e.startLogs(&c.info, false); err != nil {
		return nil, startError("CreateContainerError", err)
	}
	defer c.logs.HandOver()
	if err := e.register(func() { e.containers[id] = c }); err != nil {
		c.logs.Stop()
		return nil, err
	}
	rec := record{Container: &c.info}
	if err := e.createContainer(ctx, id, rec, labels("container", sb.spec, "podsnap.dev/container", s.Name), made, id, s.Image); err != nil {
		return nil, startError("CreateContainerError", fmt.Errorf("container %q: %w", s.Name, err))
	}
	if err := e.runTask(ctx, c, mounts); err != nil {
		return nil, startError("RunContainerError", spec.Explain(s.Name, made.Process, err))
	}
	return c, nil
}

// makeSpec looks into the image for what the spec needs of it.
func (e *Engine) makeSpec(sb *sandbox, pid int, c *container, s runtime.ContainerSpec, img *image, mounts []mount.Mount) (*specs.Spec, error) {
	acc, err := img.inspect(mounts)
	if err != nil {
		return nil, err
	}
	var devices []specs.LinuxDevice
	if s.Security.Privileged {
		if devices, err = oci.HostDevices(); err != nil {
			return nil, fmt.Errorf("list the host's devices for a privileged container: %w", err)
		}
	}
	target, err := e.target(s.Target)
	if err != nil {
		return nil, err
	}
	out, err := spec.Container(spec.Input{
		Sandbox: sb.info.ID, Cgroup: c.cgroup, PausePid: pid, TargetPid: target, Pod: sb.spec,
		Shm: e.sandboxDir(sb.info.ID) + "/shm", Files: e.sandboxDir(sb.info.ID),
		Image: img.Config, Accounts: acc, Spec: s, CgroupV2: e.cgroups.V2, SwapLimit: e.cgroups.Swap, Privilege: e.privilege, Devices: devices,
	})
	if err != nil {
		return nil, err
	}
	if !s.Security.Privileged && !s.Security.SeccompUnconfined {
		if out.Linux.Seccomp, err = e.profiles.Of(out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// target is a process of the container whose process namespace another one
// wants to share; 0 is none.
func (e *Engine) target(id string) (int, error) {
	if id == "" {
		return 0, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.containers[id]
	if c == nil || c.info.State != runtime.Running || c.info.Pid == 0 {
		return 0, fmt.Errorf("target container %s does not run", id)
	}
	return c.info.Pid, nil
}

// createContainer writes a container's metadata to containerd.
func (e *Engine) createContainer(ctx context.Context, id string, rec record, labels map[string]string, of *specs.Spec, snapshot, image string) error {
	ext, err := rec.any()
	if err != nil {
		return err
	}
	encoded, err := typeurl.MarshalAny(of)
	if err != nil {
		return fmt.Errorf("encode spec: %w", err)
	}
	c := containers.Container{
		ID: id, Labels: labels, Image: image, Spec: encoded, Extensions: ext,
		Runtime: containers.RuntimeInfo{Name: runcRuntime},
	}
	if snapshot != "" {
		c.SnapshotKey, c.Snapshotter = snapshot, snapshotter
	}
	if e.c.Runc != "" {
		if c.Runtime.Options, err = typeurl.MarshalAny(&options.Options{BinaryName: e.c.Runc}); err != nil {
			return fmt.Errorf("encode runtime options: %w", err)
		}
	}
	if _, err := e.client.ContainerService().Create(ctx, c); err != nil {
		return fmt.Errorf("create container %s: %w", id, err)
	}
	return nil
}

func (e *Engine) runTask(ctx context.Context, c *container, mounts []mount.Mount) error {
	req := &tasks.CreateTaskRequest{ContainerID: c.info.ID, Stdin: c.logs.Stdin, Stdout: c.logs.Stdout, Stderr: c.logs.Stderr}
	if c.info.TTY {
		req.Terminal, req.Stderr = true, ""
	}
	for _, m := range mounts {
		req.Rootfs = append(req.Rootfs, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	t, err := e.client.TaskService().Create(ctx, req)
	if err != nil {
		return runcError(err)
	}
	c.logs.HandOver()
	e.mu.Lock()
	c.info.Pid, c.info.StartedAt = int(t.Pid), time.Now()
	e.mu.Unlock()
	if _, err := e.client.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: c.info.ID}); err != nil {
		return runcError(err)
	}
	return nil
}

// Signal implements runtime.Runtime.
func (e *Engine) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	c := e.container(id)
	if c == nil {
		return notFound("containers", id)
	}
	e.mu.Lock()
	over := c.info.State == runtime.Exited
	e.mu.Unlock()
	if over {
		return nil
	}
	_, err := e.client.TaskService().Kill(e.ns(ctx), &tasks.KillRequest{ContainerID: id, Signal: uint32(sig)})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("signal container %s: %w", id, err)
	}
	return nil
}

// RemoveContainer implements runtime.Runtime.
func (e *Engine) RemoveContainer(ctx context.Context, id string) error {
	ctx = e.ns(ctx)
	c := e.container(id)
	if c == nil {
		return nil
	}
	c.life.Lock()
	defer c.life.Unlock()
	if e.container(id) == nil {
		return nil // removed meanwhile
	}
	if err := e.destroy(ctx, id, id); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	c.logs.Drain()
	c.logs.Stop()
	if err := errors.Join(os.RemoveAll(e.fifoDir(id)), e.cgroups.Remove(c.cgroup)); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.containers, id)
	return nil
}

// destroy kills a container or a pause process and removes all that
// containerd has of it. It does not need the event stream. What is not there
// is no error.
func (e *Engine) destroy(ctx context.Context, id, snapshot string) error {
	ts := e.client.TaskService()
	_, err := ts.Kill(ctx, &tasks.KillRequest{ContainerID: id, Signal: kill, All: true})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
		e.c.Log.Debug("kill before removal", logID(id), logError(err))
	}
	code, at := lostExitCode, time.Now()
	err = persist(ctx, func() error {
		w, err := ts.Wait(ctx, &tasks.WaitRequest{ContainerID: id})
		if err == nil {
			code, at = int(w.ExitStatus), w.ExitedAt.AsTime()
		}
		return err
	})
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("wait for its end: %w", err)
	}
	if done := e.exited(ctx, id, code, at); done != nil {
		select {
		case <-done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	err = persist(ctx, func() error {
		_, err := ts.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
		return err
	})
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete task: %w", err)
	}
	if err := e.client.ContainerService().Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete container: %w", err)
	}
	if snapshot == "" {
		return nil
	}
	if err := e.snapshots.Remove(ctx, snapshot); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove root file system: %w", err)
	}
	return nil
}

// persist calls the task service until its answer does not come from a shim
// that has just ended. Two deletions of one task at once do that: the first
// one has the shim exit, and containerd takes a moment to notice. After that
// it says NotFound.
func persist(ctx context.Context, call func() error) error {
	for {
		err := errgrpc.ToNative(call())
		if err == nil || !strings.Contains(err.Error(), "ttrpc: closed") {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (e *Engine) container(id string) *container {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.containers[id]
}

// Stats implements runtime.Stats.
func (e *Engine) Stats(_ context.Context, id string) (cpuSeconds float64, memory uint64, err error) {
	c := e.container(id)
	if c == nil {
		return 0, 0, notFound("containers", id)
	}
	cpuSeconds, memory, err = e.cgroups.Usage(c.cgroup)
	if errors.Is(err, os.ErrNotExist) {
		return 0, 0, notFound("containers", id) // it has ended
	}
	if err != nil {
		return 0, 0, fmt.Errorf("stats of container %s: %w", id, err)
	}
	return cpuSeconds, memory, nil
}

package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/podsnap/podsnap/nodeagent/network"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// sandbox is what the engine knows of a sandbox. Engine.mu guards info and
// exiting.
type sandbox struct {
	life sync.RWMutex // shared while a container is started, exclusive for removal
	spec runtime.SandboxSpec

	info    runtime.Sandbox
	exiting bool
	gone    bool          // removed or being removed: its exit is no news
	done    chan struct{} // closed when the pause process's exit is dealt with
}

// StartSandbox implements runtime.Runtime.
func (e *Engine) StartSandbox(ctx context.Context, s runtime.SandboxSpec) (runtime.Sandbox, error) {
	start := time.Now()
	ctx = e.ns(ctx)
	sb := &sandbox{spec: s, done: make(chan struct{}), info: runtime.Sandbox{
		ID: newID(), UID: s.UID, Namespace: s.Namespace, Name: s.Name, CreatedAt: start, Labels: s.Labels,
	}}
	sb.life.Lock()
	defer sb.life.Unlock()
	if err := e.register(func() { e.sandboxes[sb.info.ID] = sb }); err != nil {
		return runtime.Sandbox{}, err
	}
	if err := e.startSandbox(ctx, sb); err != nil {
		undo, cancel := e.cleanup(ctx)
		defer cancel()
		return runtime.Sandbox{}, errors.Join(fmt.Errorf("start sandbox of pod %s/%s: %w", s.Namespace, s.Name, err), e.removeSandbox(undo, sb))
	}
	e.metrics.started("sandbox", start)
	e.mu.Lock()
	defer e.mu.Unlock()
	return sb.info, nil
}

// register adds to the engine's memory unless the engine has ended.
func (e *Engine) register(add func()) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errors.New("the container engine is shutting down")
	}
	add()
	return nil
}

func (e *Engine) startSandbox(ctx context.Context, sb *sandbox) error {
	id, s := sb.info.ID, sb.spec
	if s.UID == "" || filepath.Base(string(s.UID)) != string(s.UID) {
		return fmt.Errorf("pod uid %q cannot name a cgroup", s.UID)
	}
	in := sandboxInput{id: id, rootfs: e.pauseRoot, cgroup: e.cgroups.Of(string(s.UID), id), oomScore: e.privilege.PauseScore, spec: s}
	if !s.HostNetwork {
		ns, err := network.NewNamespace()
		if err != nil {
			return err
		}
		defer ns.Close() // by then the pause process holds it
		in.netns = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd())
		if err := e.join(ctx, sb, ns, in.netns); err != nil {
			return err
		}
	}
	if err := e.writePodFiles(sb); err != nil {
		return err
	}
	if err := e.cgroups.LimitPod(string(s.UID), s.Resources); err != nil {
		return err
	}
	spec := sandboxSpec(in)
	var err error
	if spec.Linux.Seccomp, err = e.profiles.Of(spec); err != nil {
		return err
	}
	rec := record{Sandbox: &sb.info, Spec: &sb.spec}
	if err := e.createContainer(ctx, id, rec, labels("sandbox", s), spec, "", ""); err != nil {
		return err
	}
	t, err := e.client.TaskService().Create(ctx, &tasks.CreateTaskRequest{ContainerID: id})
	if err != nil {
		return runcError(err)
	}
	if _, err := e.client.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: id}); err != nil {
		return runcError(err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	sb.info.Pid = int(t.Pid)
	return nil
}

// join gives a sandbox the network that it is to have in its namespace.
func (e *Engine) join(ctx context.Context, sb *sandbox, ns *os.File, path string) error {
	if sb.spec.NoNetwork {
		return network.Alone(ns)
	}
	ip, err := e.c.Network.Attach(ctx, sb.info.ID, path)
	if err != nil {
		return err
	}
	sb.info.IP, sb.info.IP6 = ip.String(), network.Text(e.c.Network.Second(ip))
	return e.settle(sb)
}

// settle has the network treat a sandbox that it knows as the pod is to be treated.
func (e *Engine) settle(sb *sandbox) error {
	if sb.spec.Owner != "" { // a function
		if err := e.c.Network.Confine(sb.info.ID); err != nil {
			return err
		}
	}
	if sb.spec.Segment != "" {
		return e.c.Network.Share(sb.info.ID, sb.spec.Segment)
	}
	return nil
}

// writePodFiles makes what the pod's containers share: /dev/shm and the files
// that name the pod and its DNS servers.
func (e *Engine) writePodFiles(sb *sandbox) error {
	dir := e.sandboxDir(sb.info.ID)
	shm := filepath.Join(dir, "shm")
	if err := os.MkdirAll(shm, 0o700); err != nil {
		return fmt.Errorf("make sandbox directory: %w", err)
	}
	if err := unix.Mount("shm", shm, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size=64m"); err != nil {
		return fmt.Errorf("mount shared memory: %w", err)
	}
	var hosts strings.Builder
	hosts.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, ip := range sb.info.IPs() {
		hosts.WriteString(ip + "\t" + sb.spec.Hostname + "\n")
	}
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("read the host's DNS servers: %w", err)
	}
	for name, text := range map[string]string{"hosts": hosts.String(), "hostname": sb.spec.Hostname + "\n", "resolv.conf": string(resolv)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write pod file: %w", err)
		}
	}
	return nil
}

// RemoveSandbox implements runtime.Runtime.
func (e *Engine) RemoveSandbox(ctx context.Context, id string) error {
	ctx = e.ns(ctx)
	sb := e.sandbox(id)
	if sb == nil {
		return nil
	}
	sb.life.Lock()
	defer sb.life.Unlock()
	if e.sandbox(id) == nil {
		return nil // removed meanwhile
	}
	if err := e.removeSandbox(ctx, sb); err != nil {
		return fmt.Errorf("remove sandbox of pod %s/%s: %w", sb.info.Namespace, sb.info.Name, err)
	}
	return nil
}

// removeSandbox works on a sandbox in any state, with its life lock held.
func (e *Engine) removeSandbox(ctx context.Context, sb *sandbox) error {
	id := sb.info.ID
	uid := string(sb.spec.UID)
	group := e.cgroups.Pod(uid)
	e.mu.Lock()
	sb.gone = true
	for _, other := range e.sandboxes {
		if other != sb && other.spec.UID == sb.spec.UID {
			group = e.cgroups.Of(uid, id) // the pod has a newer sandbox
		}
	}
	var members []string
	for _, c := range e.containers {
		if c.info.Sandbox == id {
			members = append(members, c.info.ID)
		}
	}
	e.mu.Unlock()
	var g errgroup.Group
	for _, c := range members {
		g.Go(func() error { return e.RemoveContainer(ctx, c) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := e.destroy(ctx, id, ""); err != nil {
		return err
	}
	err := errors.Join(
		e.c.Network.Detach(ctx, id),
		removeMounted(e.sandboxDir(id)),
		e.cgroups.Remove(group),
	)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.sandboxes, id)
	return nil
}

// removeMounted removes a sandbox's directory with the mount in it.
func removeMounted(dir string) error {
	shm := filepath.Join(dir, "shm")
	if err := unix.Unmount(shm, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", shm, err)
	}
	return os.RemoveAll(dir)
}

func (e *Engine) sandbox(id string) *sandbox {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sandboxes[id]
}

// List implements runtime.Runtime.
func (e *Engine) List(context.Context) ([]runtime.Sandbox, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]runtime.Sandbox, 0, len(e.sandboxes))
	at := map[string]int{}
	for id, sb := range e.sandboxes {
		if sb.gone || (sb.info.Pid == 0 && !sb.exiting) {
			continue // going, or still being started
		}
		at[id] = len(out)
		out = append(out, sb.info)
	}
	for _, c := range e.containers {
		if i, ok := at[c.info.Sandbox]; ok && !c.starting() {
			out[i].Containers = append(out[i].Containers, c.info)
		}
	}
	for _, s := range out {
		slices.SortFunc(s.Containers, func(a, b runtime.Container) int {
			if a.Attempt != b.Attempt {
				return a.Attempt - b.Attempt
			}
			return a.StartedAt.Compare(b.StartedAt)
		})
	}
	return out, nil
}

func notFound(kind, id string) error {
	return apierrors.NewNotFound(schema.GroupResource{Resource: kind}, id)
}

const kill = uint32(syscall.SIGKILL)

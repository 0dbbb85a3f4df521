package fast

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podsnap/podsnap/nodeagent/confine"
	"github.com/podsnap/podsnap/nodeagent/launch"
	"github.com/podsnap/podsnap/nodeagent/program"
	"github.com/podsnap/podsnap/nodeagent/runtime"
	"github.com/podsnap/podsnap/nodeagent/seccomp"
	"github.com/podsnap/podsnap/nodeagent/spec"
)

// plan is a container that can be launched.
type plan struct {
	in    confine.Input
	lower []string // the image's layers
	spec  runtime.ContainerSpec
	limit runtime.Resources
}

// plan decides all that follows from the image and from what is asked for.
func (r *Runtime) plan(ctx context.Context, c *container, s runtime.ContainerSpec) (plan, error) {
	r.mu.Lock()
	images := r.images
	r.mu.Unlock()
	root, err := images.Rootfs(ctx, s.Image)
	if err != nil {
		err = fmt.Errorf("container %q: %w", s.Name, err)
		if se, ok := errors.AsType[*runtime.StartError](err); ok {
			return plan{}, startError(se.Reason, err)
		}
		return plan{}, startError("CreateContainerError", err)
	}
	c.chain = root.Chain
	r.mu.Lock()
	c.info.ImageID = root.Image.ID
	r.mu.Unlock()
	in, err := r.confine(c, s, root)
	if err != nil {
		return plan{}, startError("CreateContainerConfigError", fmt.Errorf("container %q: %w", s.Name, err))
	}
	c.made = in.Spec
	return plan{in: in, lower: root.Lower, spec: s, limit: tighter(s.Resources, c.sandbox.spec.Resources)}, nil
}

// tighter are the limits of the container and of its pod in one group, as there
// is nothing else in the pod.
func tighter(a, b runtime.Resources) runtime.Resources {
	least := func(a, b int64) int64 {
		if a <= 0 || b > 0 && b < a {
			return b
		}
		return a
	}
	out := runtime.Resources{CPUShares: a.CPUShares, CPUQuota: least(a.CPUQuota, b.CPUQuota), Memory: least(a.Memory, b.Memory), Pids: least(a.Pids, b.Pids)}
	if out.CPUShares == 0 {
		out.CPUShares = b.CPUShares
	}
	return out
}

func (r *Runtime) confine(c *container, s runtime.ContainerSpec, root spec.Rootfs) (confine.Input, error) {
	sb := c.sandbox
	files := r.sandboxDir(sb.info.ID)
	made, err := spec.Container(spec.Input{
		Sandbox: sb.info.ID, Pod: sb.spec, Shm: files, Files: files, Image: root.Image.Config, Accounts: root.Accounts, Spec: s,
		CgroupV2: r.cgroups.V2, SwapLimit: r.cgroups.Swap, Privilege: r.c.Privilege,
	})
	if err != nil {
		return confine.Input{}, err
	}
	if s.Security.Privileged {
		return confine.Input{}, errors.New("privileged containers are not for the fast runtime: set runtimeClassName to runc")
	}
	made.Hostname = sb.spec.Hostname
	made.Linux.Sysctl = sb.spec.Sysctls
	made.Linux.Namespaces = namespaces(r.cgroups.V2)
	for i, m := range made.Mounts {
		if m.Destination == "/dev/shm" && m.Source == files {
			made.Mounts[i] = specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=64m"}}
		}
	}
	in := confine.Input{
		ID: c.info.ID, Spec: made, Files: map[string]bool{}, Join: r.cgroups.Join(r.cgroups.Slot(sb.slot.id)),
		Groups: r.groups(sb.slot.id), At: filepath.Join(r.runDir(), "root"),
	}
	if !s.Security.SeccompUnconfined {
		if in.Filter, err = r.filter(made); err != nil {
			return confine.Input{}, err
		}
	}
	return in, nil
}

// namespaces are a container's own. With version 2 control groups it sees its
// group as the root of all.
func namespaces(v2 bool) []specs.LinuxNamespace {
	own := []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.PIDNamespace}}
	if v2 {
		own = append(own, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return own
}

// groups are the version 1 groups that a container sees.
func (r *Runtime) groups(slot string) (out []confine.Mounted) {
	if r.cgroups.V2 {
		return nil
	}
	for _, h := range r.cgroups.Controllers() {
		if filepath.Base(h) == "unified" {
			continue // version 2 beside version 1 has no limits of ours, and runc does not show it
		}
		out = append(out, confine.Mounted{Name: filepath.Base(h), Source: filepath.Join(h, r.cgroups.Slot(slot))})
	}
	return out
}

// filter compiles a container's system call profile, once for each.
func (r *Runtime) filter(made *specs.Spec) ([]byte, error) {
	p, err := r.profiles.Of(made)
	if err != nil {
		return nil, err
	}
	made.Linux.Seccomp = p
	r.mu.Lock()
	defer r.mu.Unlock()
	if f, ok := r.filters[p]; ok {
		return f, nil
	}
	f, err := seccomp.Compile(p, goruntime.GOARCH)
	if err == nil {
		r.filters[p] = f
	}
	return f, err
}

// launch makes what the container stands on and has it started.
func (r *Runtime) launch(ctx context.Context, c *container, p plan) error {
	sb, fail := c.sandbox, func(err error) error {
		return startError("RunContainerError", fmt.Errorf("container %q: %w", p.spec.Name, err))
	}
	if err := r.sources(sb, &p.in); err != nil {
		return fail(err)
	}
	below, err := r.below(&p.in)
	if err != nil {
		return fail(err)
	}
	if len(sb.spec.Sysctls) > 0 || len(c.made.Process.Capabilities.Bounding) > 0 {
		sb.slot.dirty = true // it may have changed its network
	}
	p.in.Stdout, p.in.Stderr = c.out.Stdout, c.out.Stderr
	prog, err := confine.Start(p.in)
	if err != nil {
		return startError("CreateContainerConfigError", fmt.Errorf("container %q: %w", p.spec.Name, err))
	}
	q := launch.Request{Op: launch.Start, ID: c.info.ID, Name: sb.slot.id, Flags: prog.Flags, Cgroup: r.cgroups.Born(r.cgroups.Slot(sb.slot.id))}
	a, err := r.ask(ctx, c, func() (*rootfs, error) {
		if err := r.cgroups.Limit(r.cgroups.Slot(sb.slot.id), p.limit); err != nil {
			return nil, err
		}
		return r.takeRootfs(ctx, sb.spec.Owner, p.lower, below, c.chain)
	}, q, prog.Image)
	if f, ok := errors.AsType[*program.Fault](err); ok {
		return startError("RunContainerError", spec.Explain(p.spec.Name, c.made.Process, prog.Explain(f)))
	}
	if err != nil {
		return fail(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.info.State == runtime.Running {
		c.info.Pid = a.Pid
	}
	return nil
}

// ask has the launcher start a container on ground that take makes ready. When it
// goes away meanwhile, the next one knows whether it has: if not, it is asked
// again, on new ground. So it is when the container was killed in a version 2
// group before it was anything: somebody may have used the group's cgroup.kill,
// after which nothing lives in it (see cgroup.Tree.Kill).
func (r *Runtime) ask(ctx context.Context, c *container, take func() (*rootfs, error), q launch.Request, image []byte) (launch.Reply, error) {
	for try := 0; ; try++ {
		f, err := take()
		if err != nil {
			return launch.Reply{}, err
		}
		r.mu.Lock()
		c.root, q.Root = f, f.id
		r.mu.Unlock()
		a, err := r.keeper.Do(ctx, q, image)
		lost := errors.Is(err, launch.ErrLost)
		killed := try == 0 && r.cgroups.V2 && errors.Is(err, program.ErrKilled)
		if !lost && !killed && !errors.Is(err, launch.ErrNone) || try == 2 {
			return a, err
		}
		if killed {
			if err := r.renew(c.sandbox.slot); err != nil {
				return a, err
			}
		}
		if lost {
			w, err := r.keeper.Do(ctx, launch.Request{Op: launch.Hello}, nil)
			if err != nil {
				return a, err
			}
			for _, p := range w.Hello.Processes {
				if p.ID == q.ID {
					return launch.Reply{Pid: p.Pid}, nil
				}
			}
			if err := r.cgroups.Kill(r.cgroups.Slot(c.sandbox.slot.id)); err != nil {
				return a, err
			}
		}
		r.discard(c) //nolint:contextcheck // goes on in the background
	}
}

// sources looks at what is mounted from the host, and writes the pod's files
// that nothing takes the place of.
func (r *Runtime) sources(sb *sandbox, in *confine.Input) error {
	own := r.sandboxDir(sb.info.ID) + "/"
	for _, m := range in.Spec.Mounts {
		if m.Type != "bind" {
			continue
		}
		if name, ok := strings.CutPrefix(m.Source, own); ok {
			if err := r.podFile(sb, name); err != nil {
				return err
			}
			in.Files[m.Source] = true
			continue
		}
		st, err := os.Stat(m.Source)
		if err != nil {
			return fmt.Errorf("mount at %q: %w", m.Destination, err)
		}
		in.Files[m.Source] = !st.IsDir()
	}
	return nil
}

// podFile writes one of the files that name the pod and its DNS servers.
func (r *Runtime) podFile(sb *sandbox, name string) error {
	text := ""
	switch name {
	case "hosts":
		text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
		for _, ip := range sb.info.IPs() {
			text += ip + "\t" + sb.spec.Hostname + "\n"
		}
	case "hostname":
		text = sb.spec.Hostname + "\n"
	case "resolv.conf":
		b, err := os.ReadFile("/etc/resolv.conf")
		if err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("read the host's DNS servers: %w", err)
		}
		text = string(b)
	}
	path := filepath.Join(r.sandboxDir(sb.info.ID), name)
	if _, err := os.Stat(path); err == nil {
		return nil // of an earlier container: it may have written to it
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write pod file: %w", err)
	}
	return nil
}

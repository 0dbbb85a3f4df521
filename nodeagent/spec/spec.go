// Package spec makes the OCI specification of a container: what it runs, as
// whom, and how it is confined. Both runtimes of the node start from it, so that
// they confine alike. It is pure but for the seccomp profile, which depends on
// the kernel.
package spec

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// GroupAnnotation has all containers of a pod share one shim process.
const GroupAnnotation = "io.containerd.runc.v2.group"

// What all specifications have in common.
const (
	Version   = "1.0.2" // of the format: what runc 1.1 knows
	CPUPeriod = 100_000 // microseconds
)

// Input is what the spec of a container is made from.
type Input struct {
	Sandbox   string
	Cgroup    string
	PausePid  int
	TargetPid int                 // of the container whose process namespace it shares; 0 is none
	Pod       runtime.SandboxSpec // Hostname, HostNetwork, HostPID, HostIPC, SharePID count
	Shm       string              // the pod's /dev/shm on the host
	Files     string              // directory of the pod's hosts, hostname and resolv.conf
	Image     runtime.ImageConfig
	Accounts  Accounts
	Spec      runtime.ContainerSpec
	CgroupV2  bool
	SwapLimit bool // the kernel can limit swap
	Privilege Privilege
	Devices   []specs.LinuxDevice // all of the host's, for a privileged container
}

// Container makes the OCI spec of a container. Nothing in it that touches
// the host follows from the image.
func Container(in Input) (*specs.Spec, error) {
	c, sec := in.Spec, in.Spec.Security
	args, err := arguments(in.Image, c.Command, c.Args)
	if err != nil {
		return nil, err
	}
	cwd, err := workingDir(c.WorkingDir, in.Image.WorkingDir)
	if err != nil {
		return nil, err
	}
	who, home, err := userOf(sec, in.Image.User, in.Accounts)
	if err != nil {
		return nil, err
	}
	mounts, err := containerMounts(in)
	if err != nil {
		return nil, err
	}
	caps := capabilities(sec, in.Privilege.Caps)
	score := 1000
	if c.Resources.Memory > 0 {
		score = 900 // those without a limit go first
	}
	s := &specs.Spec{
		Version: Version,
		Root:    &specs.Root{Path: "rootfs", Readonly: sec.ReadOnlyRoot},
		Process: &specs.Process{
			Args: args, Cwd: cwd, Env: Terminal(environment(in.Pod.Hostname, home, in.Image.Env, c.Env), c.TTY), User: who, Terminal: c.TTY,
			NoNewPrivileges: !sec.AllowEscalation && !sec.Privileged,
			Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: in.Privilege.OpenFiles, Hard: in.Privilege.OpenFiles}},
			OOMScoreAdj:     &score,
		},
		Mounts: mounts,
		Linux: &specs.Linux{
			Namespaces: containerNamespaces(in), CgroupsPath: in.Cgroup,
			Resources: resources(c.Resources, in.SwapLimit, in.CgroupV2),
		},
		Annotations: map[string]string{GroupAnnotation: in.Sandbox},
	}
	if slices.ContainsFunc(c.Mounts, func(m runtime.Mount) bool { return m.Propagation != "" && m.Propagation != "rprivate" }) {
		s.Linux.RootfsPropagation = "rslave"
	}
	if !sec.Privileged {
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = MaskedPaths(), ReadonlyPaths()
		s.Linux.Resources.Devices = DeviceRules()
		return s, nil
	}
	s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	s.Linux.Devices = in.Devices
	return s, nil
}

func containerNamespaces(in Input) []specs.LinuxNamespace {
	of := func(kind string) string { return fmt.Sprintf("/proc/%d/ns/%s", in.PausePid, kind) }
	ns := []specs.LinuxNamespace{
		{Type: specs.MountNamespace},
		{Type: specs.UTSNamespace, Path: of("uts")},
	}
	if !in.Pod.HostIPC {
		ns = append(ns, specs.LinuxNamespace{Type: specs.IPCNamespace, Path: of("ipc")})
	}
	if !in.Pod.HostNetwork {
		ns = append(ns, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: of("net")})
	}
	if !in.Pod.HostPID {
		pid := specs.LinuxNamespace{Type: specs.PIDNamespace}
		switch {
		case in.TargetPid != 0:
			pid.Path = fmt.Sprintf("/proc/%d/ns/pid", in.TargetPid)
		case in.Pod.SharePID:
			pid.Path = of("pid")
		}
		ns = append(ns, pid)
	}
	if in.CgroupV2 && !in.Spec.Security.Privileged {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return ns
}

// containerMounts are the kernel's file systems, the pod's files and what the
// container asks for; a wish for a target replaces what would be there.
func containerMounts(in Input) ([]specs.Mount, error) {
	sys, cgroup := []string{"nosuid", "noexec", "nodev", "ro"}, []string{"nosuid", "noexec", "nodev", "relatime", "ro"}
	if in.Spec.Security.Privileged {
		sys[3], cgroup[4] = "rw", "rw"
	}
	bind := func(target, source string, options ...string) specs.Mount {
		return specs.Mount{Destination: target, Type: "bind", Source: source, Options: append([]string{"rbind", "rprivate", "nosuid", "nodev"}, options...)}
	}
	shm := in.Shm
	if in.Pod.HostIPC {
		shm = "/dev/shm"
	}
	all := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		bind("/dev/shm", shm, "noexec"),
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: sys},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: cgroup},
		bind("/etc/hosts", filepath.Join(in.Files, "hosts")),
		bind("/etc/hostname", filepath.Join(in.Files, "hostname"), "ro"),
		bind("/etc/resolv.conf", filepath.Join(in.Files, "resolv.conf")),
	}
	for _, m := range in.Spec.Mounts {
		if !filepath.IsAbs(m.Target) || !filepath.IsAbs(m.Source) {
			return nil, fmt.Errorf("mount %q at %q: want absolute paths", m.Source, m.Target)
		}
		target := filepath.Clean(m.Target)
		all = slices.DeleteFunc(all, func(o specs.Mount) bool { return o.Destination == target })
		access, propagation := "rw", m.Propagation
		if m.ReadOnly {
			access = "ro"
		}
		if propagation == "" {
			propagation = "rprivate"
		}
		all = append(all, specs.Mount{Destination: target, Type: "bind", Source: m.Source, Options: []string{"rbind", propagation, access}})
	}
	// A mount below another must come after it.
	slices.SortStableFunc(all, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	return all, nil
}

// resources are the limits in OCI's terms. Swap is not allowed on top of a
// memory limit. For want of memory all processes of a container are killed where
// the kernel can do that (version 2 control groups), as the kubelet has it.
func resources(r runtime.Resources, swapLimit, v2 bool) *specs.LinuxResources {
	out := &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(uint64(2))}}
	if v2 {
		out.Unified = map[string]string{"memory.oom.group": "1"}
	}
	if r.CPUShares > 0 {
		out.CPU.Shares = new(uint64(max(2, r.CPUShares)))
	}
	if r.CPUQuota > 0 {
		out.CPU.Quota, out.CPU.Period = new(max(1000, r.CPUQuota)), new(uint64(CPUPeriod))
	}
	if r.Memory > 0 {
		out.Memory = &specs.LinuxMemory{Limit: new(r.Memory)}
		if swapLimit {
			out.Memory.Swap = new(r.Memory)
		}
	}
	if r.Pids > 0 {
		out.Pids = &specs.LinuxPids{Limit: new(r.Pids)}
	}
	return out
}

// DeviceRules deny all devices; runc adds those that every container has
// (null, zero, full, random, urandom, tty, ptmx).
func DeviceRules() []specs.LinuxDeviceCgroup {
	return []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
}

// MaskedPaths are hidden from containers, as in Docker.
func MaskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
		"/sys/firmware", "/sys/devices/virtual/powercap",
	}
}

// ReadonlyPaths cannot be written to by containers, as in Docker.
func ReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// Privilege is what the platform itself may do; a container cannot be given
// more.
type Privilege struct {
	PauseScore int    // OOM score of pause processes
	OpenFiles  uint64 // limit of open files in a container
	Caps       []string
}

// Rootfs is an image as it lies on the node.
type Rootfs struct {
	Image    runtime.Image
	Lower    []string // directories of its layers, uppermost first
	Accounts Accounts
	Chain    string // names the layers, whatever image has them
}

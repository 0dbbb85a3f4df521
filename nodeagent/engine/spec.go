package engine

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// groupAnnotation has all containers of a pod share one shim process.
const groupAnnotation = "io.containerd.runc.v2.group"

const (
	specVersion = "1.0.2" // what runc 1.1 knows
	cpuPeriod   = 100_000 // microseconds
)

// sandboxInput is what the spec of a pause process is made from.
type sandboxInput struct {
	id, rootfs, cgroup string
	netns              string // path; "" is the host's
	oomScore           int
	spec               runtime.SandboxSpec
}

func sandboxSpec(in sandboxInput) *specs.Spec {
	namespaces := []specs.LinuxNamespace{
		{Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.PIDNamespace},
	}
	sysctl := map[string]string{}
	if in.netns != "" {
		namespaces = append(namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: in.netns})
		// Processes without capabilities may serve port 80.
		sysctl["net.ipv4.ip_unprivileged_port_start"] = "0"
	}
	maps.Copy(sysctl, in.spec.Sysctls)
	return &specs.Spec{
		Version:  specVersion,
		Hostname: in.spec.Hostname,
		Root:     &specs.Root{Path: in.rootfs, Readonly: true},
		Process: &specs.Process{
			Args: []string{"/pause"}, Cwd: "/", Env: []string{"PATH=/"},
			User:            specs.User{UID: 65535, GID: 65535},
			NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{}, OOMScoreAdj: &in.oomScore,
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=64k"}},
		},
		Linux: &specs.Linux{
			Namespaces: namespaces, CgroupsPath: in.cgroup, Sysctl: sysctl,
			MaskedPaths: maskedPaths(), ReadonlyPaths: readonlyPaths(),
			Resources: &specs.LinuxResources{Devices: deviceRules(), CPU: &specs.LinuxCPU{Shares: new(uint64(2))}},
		},
		Annotations: map[string]string{groupAnnotation: in.id},
	}
}

// containerInput is what the spec of a container is made from.
type containerInput struct {
	sandbox   string
	cgroup    string
	pausePid  int
	pod       runtime.SandboxSpec // Hostname, HostNetwork, HostPID count
	shm       string              // the pod's /dev/shm on the host
	files     string              // directory of the pod's hosts, hostname and resolv.conf
	image     runtime.ImageConfig
	accounts  accounts
	spec      runtime.ContainerSpec
	cgroupV2  bool
	swapLimit bool // the kernel can limit swap
	privilege privilege
}

// containerSpec makes the OCI spec of a container. Nothing in it that touches
// the host follows from the image.
func containerSpec(in containerInput) (*specs.Spec, error) {
	c, sec := in.spec, in.spec.Security
	args, err := arguments(in.image, c.Command, c.Args)
	if err != nil {
		return nil, err
	}
	cwd, err := workingDir(c.WorkingDir, in.image.WorkingDir)
	if err != nil {
		return nil, err
	}
	who, err := userOf(sec, in.image.User, in.accounts)
	if err != nil {
		return nil, err
	}
	mounts, err := containerMounts(in)
	if err != nil {
		return nil, err
	}
	caps := capabilities(sec, in.privilege.caps)
	score := 1000
	if c.Resources.Memory > 0 {
		score = 900 // those without a limit go first
	}
	s := &specs.Spec{
		Version: specVersion,
		Root:    &specs.Root{Path: "rootfs", Readonly: sec.ReadOnlyRoot},
		Process: &specs.Process{
			Args: args, Cwd: cwd, Env: environment(in.pod.Hostname, in.image.Env, c.Env), User: who,
			NoNewPrivileges: !sec.AllowEscalation && !sec.Privileged,
			Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: in.privilege.openFiles, Hard: in.privilege.openFiles}},
			OOMScoreAdj:     &score,
		},
		Mounts: mounts,
		Linux: &specs.Linux{
			Namespaces: containerNamespaces(in), CgroupsPath: in.cgroup,
			Resources: resources(c.Resources, in.swapLimit),
		},
		Annotations: map[string]string{groupAnnotation: in.sandbox},
	}
	if slices.ContainsFunc(c.Mounts, func(m runtime.Mount) bool { return m.Propagation != "" && m.Propagation != "rprivate" }) {
		s.Linux.RootfsPropagation = "rslave"
	}
	if !sec.Privileged {
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = maskedPaths(), readonlyPaths()
		s.Linux.Resources.Devices = deviceRules()
		return s, nil
	}
	s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	if s.Linux.Devices, err = oci.HostDevices(); err != nil {
		return nil, fmt.Errorf("list the host's devices for a privileged container: %w", err)
	}
	return s, nil
}

func containerNamespaces(in containerInput) []specs.LinuxNamespace {
	of := func(kind string) string { return fmt.Sprintf("/proc/%d/ns/%s", in.pausePid, kind) }
	ns := []specs.LinuxNamespace{
		{Type: specs.MountNamespace},
		{Type: specs.IPCNamespace, Path: of("ipc")},
		{Type: specs.UTSNamespace, Path: of("uts")},
	}
	if !in.pod.HostNetwork {
		ns = append(ns, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: of("net")})
	}
	if !in.pod.HostPID {
		ns = append(ns, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	if in.cgroupV2 && !in.spec.Security.Privileged {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return ns
}

// containerMounts are the kernel's file systems, the pod's files and what the
// container asks for; a wish for a target replaces what would be there.
func containerMounts(in containerInput) ([]specs.Mount, error) {
	sys, cgroup := []string{"nosuid", "noexec", "nodev", "ro"}, []string{"nosuid", "noexec", "nodev", "relatime", "ro"}
	if in.spec.Security.Privileged {
		sys[3], cgroup[4] = "rw", "rw"
	}
	bind := func(target, source string, options ...string) specs.Mount {
		return specs.Mount{Destination: target, Type: "bind", Source: source, Options: append([]string{"rbind", "rprivate", "nosuid", "nodev"}, options...)}
	}
	all := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		bind("/dev/shm", in.shm, "noexec"),
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: sys},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: cgroup},
		bind("/etc/hosts", filepath.Join(in.files, "hosts")),
		bind("/etc/hostname", filepath.Join(in.files, "hostname"), "ro"),
		bind("/etc/resolv.conf", filepath.Join(in.files, "resolv.conf")),
	}
	for _, m := range in.spec.Mounts {
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
// memory limit.
func resources(r runtime.Resources, swapLimit bool) *specs.LinuxResources {
	out := &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(uint64(2))}}
	if r.CPUShares > 0 {
		out.CPU.Shares = new(uint64(max(2, r.CPUShares)))
	}
	if r.CPUQuota > 0 {
		out.CPU.Quota, out.CPU.Period = new(max(1000, r.CPUQuota)), new(uint64(cpuPeriod))
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

// deviceRules deny all devices; runc adds those that every container has
// (null, zero, full, random, urandom, tty, ptmx).
func deviceRules() []specs.LinuxDeviceCgroup {
	return []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
}

func maskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
		"/sys/firmware", "/sys/devices/virtual/powercap",
	}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

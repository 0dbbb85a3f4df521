package engine

import (
	"maps"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podsnap/podsnap/nodeagent/runtime"
	"github.com/podsnap/podsnap/nodeagent/spec"
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
		{Type: specs.MountNamespace}, {Type: specs.UTSNamespace}, {Type: specs.PIDNamespace},
	}
	if !in.spec.HostIPC {
		namespaces = append(namespaces, specs.LinuxNamespace{Type: specs.IPCNamespace})
	}
	sysctl := map[string]string{}
	if in.netns != "" {
		namespaces = append(namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: in.netns})
		// Processes without capabilities may serve port 80.
		sysctl["net.ipv4.ip_unprivileged_port_start"] = "0"
	}
	maps.Copy(sysctl, in.spec.Sysctls)
	return &specs.Spec{
		Version:  spec.Version,
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
			MaskedPaths: spec.MaskedPaths(), ReadonlyPaths: spec.ReadonlyPaths(),
			Resources: &specs.LinuxResources{Devices: spec.DeviceRules(), CPU: &specs.LinuxCPU{Shares: new(uint64(2))}},
		},
		Annotations: map[string]string{spec.GroupAnnotation: in.id},
	}
}

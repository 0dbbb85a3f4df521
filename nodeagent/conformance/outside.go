package conformance

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// lookFromOutside tells what the host sees of a container's first process.
// deep also reads its system call filter.
func lookFromOutside(t *testing.T, pid int, deep bool) Facts {
	t.Helper()
	f := Facts{}
	dir := fmt.Sprintf("/proc/%d", pid)
	for _, ns := range []string{"mnt", "pid", "ipc", "uts", "net", "cgroup", "user", "time"} {
		of, err1 := os.Readlink(filepath.Join(dir, "ns", ns))
		host, err2 := os.Readlink(filepath.Join("/proc/self/ns", ns))
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		f["own."+ns] = fmt.Sprint(of != host)
	}
	for controller, group := range groupsOf(t, pid) {
		f["cgroup."+controller] = group
		for _, name := range limitFiles {
			b, err := os.ReadFile(filepath.Join(hierarchy(controller), group, name))
			// An empty one limits nothing: version 2's cpuset, which runc turns on.
			if err == nil && len(bytes.TrimSpace(b)) > 0 {
				f["limit."+name] = strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", "|")
			}
		}
	}
	if deep {
		code, err := readFilter(pid)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range code.facts() {
			f["filter."+k] = v
		}
	}
	return f
}

var limitFiles = []string{
	"memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.swappiness", "memory.use_hierarchy",
	"cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.rt_runtime_us", "cpuset.cpus", "cpuset.mems", "pids.max", "devices.list", "freezer.state", "blkio.weight", "notify_on_release",
	"memory.max", "memory.high", "memory.low", "memory.swap.max", "memory.oom.group", "cpu.max", "cpu.weight", "cgroup.freeze", "cgroup.type",
}

// groupsOf are a process's cgroups by controller; "" is version 2.
func groupsOf(t *testing.T, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for l := range strings.Lines(string(b)) {
		part := strings.SplitN(strings.TrimSpace(l), ":", 3)
		out[part[1]] = part[2]
	}
	return out
}

// hierarchy is where a controller's groups are mounted on the host.
func hierarchy(controller string) string {
	const root = "/sys/fs/cgroup"
	if controller == "" {
		if _, err := os.Stat(root + "/unified"); err == nil {
			return root + "/unified"
		}
		return root
	}
	return filepath.Join(root, strings.TrimPrefix(controller, "name="))
}

// control runs the probe on the host in namespaces that nobody has touched:
// what a container's namespaces look like to begin with.
func (r *rig) control(areas ...string) Facts {
	r.t.Helper()
	file := filepath.Join(r.Dir, "control")
	if err := os.WriteFile(file, r.probe, 0o755); err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.CommandContext(r.t.Context(), file, append([]string{"facts"}, areas...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS}
	var out bytes.Buffer
	cmd.Stdout = &out
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		r.t.Fatalf("run the probe on the host: %v", err)
	}
	f, err := parse(out.String())
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

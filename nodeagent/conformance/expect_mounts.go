package conformance

import (
	"fmt"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

// masked are the paths that tell of the host or of other containers; what of
// them the kernel has must be hidden.
func masked() []string {
	all := []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
		"/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	for n := range 1024 {
		all = append(all, fmt.Sprintf("/sys/devices/system/cpu/cpu%d/thermal_throttle", n))
	}
	return slices.DeleteFunc(all, func(p string) bool { _, err := os.Lstat(p); return err != nil })
}

// levers are the paths by which the host could be changed; what of them the
// kernel has must be read-only.
func levers() []string {
	all := []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	return slices.DeleteFunc(all, func(p string) bool { _, err := os.Lstat(p); return err != nil })
}

var (
	overlayDirs = regexp.MustCompile(`(lowerdir|upperdir|workdir)=[^, ]*`)
	hexID       = regexp.MustCompile(`[0-9a-f]{32,64}`)
)

// table is the table of mounts, by mount point, without what differs between
// two containers alike: ids, and where on the host a file lies.
func (f Facts) table() Facts {
	out := f.under("mount.")
	for at, m := range out {
		if i := strings.Index(m, " super="); strings.HasPrefix(at, "/etc/") || strings.HasPrefix(at, "/data/") {
			from, rest, _ := strings.Cut(m[:i], " root=")
			_ = from
			root, rest, _ := strings.Cut(rest, " ")
			m = "bind of " + path.Base(root) + " " + rest
		}
		m = overlayDirs.ReplaceAllString(m, "$1=…")
		if strings.HasPrefix(at, "/sys/fs/cgroup/") || at == "/sys/fs/cgroup" && strings.HasPrefix(m, "cgroup2 ") {
			root, rest, _ := strings.Cut(m, " options=")
			kind, _, _ := strings.Cut(root, " ")
			m = kind + " options=" + rest
		}
		out[at] = hexID.ReplaceAllString(m, "…")
	}
	return out
}

// mounts are exactly those that a container has in Kubernetes.
func (x expectation) mounts() {
	got := x.f.table()
	want := Facts{
		"/proc":            "proc of proc root=/ options=rw,nosuid,nodev,noexec,relatime propagation= super=rw",
		"/dev":             "tmpfs of tmpfs root=/ options=rw,nosuid propagation= super=rw,size=65536k,mode=755",
		"/dev/pts":         "devpts of devpts root=/ options=rw,nosuid,noexec,relatime propagation= super=rw,gid=5,mode=620,ptmxmode=666",
		"/dev/mqueue":      "mqueue of mqueue root=/ options=rw,nosuid,nodev,noexec,relatime propagation= super=rw",
		"/dev/shm":         "tmpfs of shm root=/ options=rw,nosuid,nodev,noexec,relatime propagation= super=rw,size=65536k",
		"/sys":             "sysfs of sysfs root=/ options=ro,nosuid,nodev,noexec,relatime propagation= super=ro",
		"/etc/hosts":       "bind of hosts options=rw,nosuid,nodev,relatime propagation=",
		"/etc/hostname":    "bind of hostname options=ro,nosuid,nodev,relatime propagation=",
		"/etc/resolv.conf": "bind of resolv.conf options=rw,nosuid,nodev,relatime propagation=",
	}
	if x.c.want.hostNamespaces { // the host's own, by another mount
		want["/sys"] = strings.Replace(want["/sys"], "super=ro", "super=rw", 1)
	}
	access := "ro"
	if x.c.want.privileged {
		access = "rw"
		want["/sys"] = strings.NewReplacer("options=ro", "options=rw", "super=ro", "super=rw").Replace(want["/sys"])
	} else {
		for _, p := range masked() {
			i, err := os.Stat(p)
			if err != nil {
				x.t.Fatal(err)
			}
			want[p] = "tmpfs of tmpfs root=/null options=rw,nosuid propagation= super=rw,size=65536k,mode=755" // /dev/null
			if i.IsDir() {
				want[p] = "tmpfs of tmpfs root=/ options=ro,relatime propagation= super=ro"
			}
		}
		for _, p := range levers() {
			want[p] = "proc of proc root=" + strings.TrimPrefix(p, "/proc") + " options=ro,nosuid,nodev,noexec,relatime propagation= super=rw"
		}
	}
	root := got["/"]
	rootAccess := "rw"
	if x.c.want.readOnly {
		rootAccess = "ro"
	}
	if !strings.HasPrefix(root, "overlay of overlay root=/ options="+rootAccess+",relatime propagation= super=rw,lowerdir=…,upperdir=…,workdir=…") {
		x.t.Errorf("root file system: %q", root)
	}
	delete(got, "/")
	for at, m := range got { // of cgroups: as many as the host has hierarchies
		if under := strings.HasPrefix(at, "/sys/fs/cgroup/"); under || at == "/sys/fs/cgroup" && strings.HasPrefix(m, "cgroup2 ") {
			if !strings.Contains(m, "options="+access+",nosuid,nodev,noexec,relatime propagation=") {
				x.t.Errorf("%s: %q, want it %s", at, m, access)
			}
			delete(got, at)
		}
		// The file system that only holds the mount points of version 1; runc
		// leaves it writable, which hurts nobody but the container itself.
		if at == "/sys/fs/cgroup" && strings.HasPrefix(m, "tmpfs of ") {
			if !strings.Contains(m, ",nosuid,nodev,noexec") {
				x.t.Errorf("%s: %q", at, m)
			}
			delete(got, at)
		}
	}
	for _, at := range slices.Sorted(maps.Keys(got)) {
		if strings.HasPrefix(at, "/etc/") { // files of the pod may lie on a stricter file system
			got[at] = strings.Replace(got[at], ",noexec", "", 1)
		}
		got[at] = strings.TrimSuffix(got[at], ",inode64") // some kernels' own default for a tmpfs
		if got[at] != want[at] {
			x.t.Errorf("mount at %s: got %q, want %q", at, got[at], want[at])
		}
	}
	for _, at := range slices.Sorted(maps.Keys(want)) {
		if _, ok := got[at]; !ok {
			x.t.Errorf("nothing is mounted at %s, want %q", at, want[at])
		}
	}
	x.f.want(x.t, map[string]string{"size./dev": fmt.Sprint(64 << 20), "size./dev/shm": fmt.Sprint(64 << 20)})
}

// paths: what is masked tells nothing, what is a lever cannot be moved.
func (x expectation) paths() {
	for _, p := range masked() {
		got, told := x.f["path."+p]
		if told && !strings.Contains(got, "empty=true create=EROFS") && !strings.Contains(got, "something=false") {
			x.t.Errorf("%s is masked and tells something: %s", p, got)
		}
	}
	for _, p := range []string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/kernel/modprobe", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/vm/panic_on_oom",
		"/proc/sysrq-trigger", "/sys/kernel/uevent_helper", "/sys/power/state", "/sys/class/net/lo/mtu",
	} {
		if got := x.f["path."+p]; got != "ENOENT" && !strings.Contains(got, "write=EROFS") && (x.c.want.uid == "0" || !strings.Contains(got, "write=EACCES")) {
			x.t.Errorf("%s can be written: %q", p, got)
		}
	}
	gone := []string{
		"/dev/mem", "/dev/kmsg", "/dev/port", "/dev/kvm", "/dev/fuse", "/dev/net/tun", "/.dockerenv", "/run", "/var/run/docker.sock",
		"/run/containerd/containerd.sock", "/etc/shadow", "/host", "/oldroot", "/.pivot_root", "/put_old", "/sys/fs/cgroup/release_agent",
	}
	for _, p := range gone {
		x.f.want(x.t, map[string]string{"path." + p: "ENOENT"})
	}
	if got := x.f["path./proc/kmsg"]; !strings.Contains(got, "read=E") {
		x.t.Errorf("/proc/kmsg can be read: %s", got)
	}
	if got := x.f["path./proc/1/exe"]; strings.Contains(got, "write=ok") {
		x.t.Errorf("/proc/1/exe can be written: %s", got)
	}
	x.f.want(x.t, map[string]string{
		"file./etc/hosts":    "127.0.0.1\tlocalhost|::1\tlocalhost ip6-localhost ip6-loopback|" + x.o.sandbox.IP + "\tprobe-host",
		"file./etc/hostname": "probe-host",
	})
	roots := slices.Sorted(maps.Keys(x.f.under("root./")))
	if want := []string{"bin", "data", "dev", "etc", "proc", "root", "sys", "tmp", "work"}; !slices.Equal(roots, want) {
		x.t.Errorf("the root directory holds %v, want %v: what the image has and the mount points", roots, want)
	}
	may := []string{"/dev/shm", "/dev/mqueue"} // by anybody
	if !x.c.want.readOnly {
		may = append(may, "/tmp")
	}
	if x.c.want.uid == "0" {
		may = append(may, "/dev", "/sys/fs/cgroup") // the latter is a tmpfs with version 1
		if !x.c.want.readOnly {
			may = append(may, "/", "/etc")
		}
	}
	for at, got := range x.f.under("create.") {
		if got == "ok" && !slices.Contains(may, at) {
			x.t.Errorf("a file can be made in %s", at)
		}
	}
	x.writable()
}

// writable: below /proc and /sys nothing may be open for writing but what
// means this container alone, or what the kernel itself guards by
// capabilities. Root may open most files of /proc for writing; no write of
// theirs is implemented.
func (x expectation) writable() {
	list := strings.Fields(strings.Trim(x.f["writable"], "[]"))
	for _, p := range list {
		for _, bad := range []string{"/sys/", "/proc/sys/", "/proc/sysrq-trigger", "/proc/irq/", "/proc/bus/", "/proc/fs/", "/proc/scsi/", "/proc/acpi/", "/proc/driver/nvram"} {
			if strings.HasPrefix(p+"/", bad) && p != "/sys/fs/cgroup" {
				x.t.Errorf("%s can be opened for writing", p)
			}
		}
	}
	if x.c.want.uid == "0" {
		return
	}
	for _, p := range list {
		if !slices.Contains(masked(), p) && !strings.HasPrefix(p, "/proc/pressure/") && p != "/proc/self" {
			x.t.Errorf("%s can be opened for writing by user %s", p, x.c.want.uid)
		}
	}
}

package fast

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// What a process sees of its confinement is the same as under runc.
func TestLikeRunc(t *testing.T) {
	n := newNode(t)
	look := func(r runtime.Runtime, name string, files ...string) []string {
		t.Helper()
		sb, err := r.StartSandbox(t.Context(), runtime.SandboxSpec{UID: types.UID("uid-" + name), Namespace: "default", Name: name, Hostname: "same"})
		if err != nil {
			t.Fatal(err)
		}
		s := n.spec(sb, append([]string{"read"}, files...)...)
		s.LogPath = filepath.Join(n.dir, "logs", name)
		// Else Go's own scheduler sends the probe signals (SIGURG), which may be
		// pending as it looks.
		s.Env = append(s.Env, "GODEBUG=asyncpreemptoff=1")
		s.Resources = runtime.Resources{CPUShares: 512, CPUQuota: 50_000, Memory: 64 << 20, Pids: 77}
		s.Security = runtime.Security{User: new(int64(1000)), AddCapabilities: []string{"NET_BIND_SERVICE"}}
		exits := r.Events(t.Context())
		c, err := r.StartContainer(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		n.exit(exits, c.ID)
		return strings.Split(n.log(s.LogPath), "\n")
	}
	both := func(name string, same func(lines []string) []string, files ...string) {
		t.Helper()
		want, got := same(look(n.engine, "runc-"+name, files...)), same(look(n.Runtime, "fast-"+name, files...))
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-runc +fast)\n%s", name, d)
		}
		if len(got) < 3 {
			t.Errorf("%s: there is nothing to compare: %q", name, got)
		}
	}
	as := func(lines []string) []string { return lines }
	without := func(words ...string) func([]string) []string {
		return func(lines []string) []string {
			return slices.DeleteFunc(lines, func(l string) bool {
				return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(l, w) })
			})
		}
	}
	both("limits", as, "/proc/self/limits", "/proc/self/oom_score_adj")
	both("devices", as, "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue")
	// The image's link that leads nowhere: runc makes what it leads to, we put a
	// file in its place.
	both("files", without("//run", "resolv.conf"), "/", "/etc", "/sys", "/etc/hostname", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/kernel/hostname", "/proc/sys/kernel/shmmax")
	both("status", func(lines []string) []string {
		return slices.DeleteFunc(lines, func(l string) bool {
			return !regexp.MustCompile(`^(Umask|Uid|Gid|Groups|Pid|NSpid|Seccomp|NoNewPrivs|Cap|Sig|Shd|Threads|Cpus_allowed|Mems_allowed)`).MatchString(l) || strings.HasPrefix(l, "Seccomp_filters") || strings.HasPrefix(l, "SigQ") || strings.HasPrefix(l, "Threads")
		})
	}, "/proc/self/status")
	both("mounts", mountsOf, "/proc/self/mountinfo")
	both("groups", func(lines []string) []string {
		for i, l := range lines {
			if at := strings.LastIndex(l, ":"); at > 0 {
				lines[i] = l[:at] // the path is each one's own
			}
		}
		return lines
	}, "/proc/self/cgroup")
	group := []string{"/sys/fs/cgroup"}
	if n.cgroups.V2 { // the folder has files of controllers that runc turns on and nobody limits
		group = nil
		for _, f := range []string{"memory.max", "memory.swap.max", "memory.high", "memory.oom.group", "cpu.max", "cpu.weight", "pids.max", "cgroup.freeze", "cgroup.type", "cgroup.subtree_control", "cgroup.procs"} {
			group = append(group, "/sys/fs/cgroup/"+f)
		}
		both("control groups", as, group...)
		return
	}
	for _, f := range []string{"devices/devices.list", "memory/memory.limit_in_bytes", "memory/memory.memsw.limit_in_bytes", "cpu/cpu.shares", "cpu/cpu.cfs_quota_us", "pids/pids.max", "cpuset/cpuset.cpus", "freezer/freezer.state"} {
		group = append(group, "/sys/fs/cgroup/"+f)
	}
	// tun needs a right that nobody here has; runc lets it be used all the same.
	both("control groups", func(lines []string) []string {
		lines = without("c 10:200 rwm")(lines)
		slices.Sort(lines)
		return lines
	}, group...)
}

var deviceNumbers = regexp.MustCompile(`^\d+ \d+ \S+ `)

// mountsOf are the lines of mountinfo, by mount point, without what names the
// container or the file system.
func mountsOf(lines []string) []string {
	var out []string
	for _, l := range lines {
		f := strings.Fields(deviceNumbers.ReplaceAllString(l, ""))
		if len(f) < 6 {
			continue
		}
		root, at, options := f[0], f[1], f[2]
		if strings.HasPrefix(at, "/etc/") || strings.HasSuffix(at, "/resolv.conf") || strings.HasPrefix(at, "/sys/fs/cgroup/") || at == "/dev/shm" {
			root = ""
		}
		kind := ""
		for i, w := range f {
			if w == "-" {
				kind = f[i+1]
				if at != "/" && !strings.HasPrefix(at, "/etc/") && at != "/dev/shm" && !strings.HasPrefix(at, "/sys/fs/cgroup/") {
					kind += " " + f[len(f)-1]
				}
			}
		}
		if strings.HasSuffix(at, "/resolv.conf") {
			at = "/etc/resolv.conf" // see above
		}
		if strings.HasPrefix(at, "/etc/") {
			kind = "file"
		}
		if at == "/sys/fs/cgroup" {
			options = strings.Replace(options, "rw", "ro", 1) // runc leaves this folder writable
		}
		out = append(out, at+" "+root+" "+options+" "+strings.Join(f[3:slices.Index(f, "-")], " ")+" "+kind)
	}
	slices.Sort(out)
	return out
}

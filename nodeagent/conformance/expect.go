package conformance

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// expectation holds the facts of one probe against what is wanted.
type expectation struct {
	t    *testing.T
	f    Facts
	o    observed
	c    aCase
	host Facts // of the probe in fresh namespaces of the host
	exec bool
}

func (x expectation) all() {
	x.process()
	x.identity()
	if _, ok := x.f["statfs./"]; ok {
		x.mounts()
	}
	if _, ok := x.f["writable"]; ok {
		x.paths()
	}
	if _, ok := x.f["dev./dev"]; ok {
		x.devices()
	}
	if _, ok := x.f["links"]; ok {
		x.network()
		x.sysctls()
		x.ipc()
	}
	if _, ok := x.f["unshare.user"]; ok {
		x.calls()
	}
	if _, ok := x.f["native.000"]; ok {
		x.numbers()
	}
}

// process is what a process is born with.
func (x expectation) process() {
	want := map[string]string{
		"fds": "3",
		"cwd": "/work ok", "self.exe": "/bin/probe ok", "self.root": "/ ok", "self.personality": "00000000", "personality": "0x0 ok",
		"signals.SigBlk": "0000000000000000", "signals.SigIgn": "0000000000000000", "status.Umask": "0022",
		"tty_nr": "0", "tpgid": "-1", "controlling terminal": "ENXIO", "status.TracerPid": "0",
		"prctl.pdeathsig": "0 ok", "prctl.subreaper": "0 ok", "prctl.keepcaps": "0 ok", "prctl.securebits": "0 ok", "prctl.dumpable": "1 ok", "prctl.thp_disable": "0 ok", "prctl.timerslack": "50000 ok",
		"scheduler": "0 ok", "ioprio": "0 ok", "nice": x.host["nice"],
		"self.uid_map": x.host["self.uid_map"], "self.gid_map": x.host["self.gid_map"], "self.setgroups": "allow", "self.coredump_filter": x.host["self.coredump_filter"],
		"self.timens_offsets": x.host["self.timens_offsets"], "status.Cpus_allowed": x.host["status.Cpus_allowed"], "status.Mems_allowed": x.host["status.Mems_allowed"],
		"uname.nodename": "probe-host", "uname.domainname": x.host["uname.domainname"], "uname.release": x.host["uname.release"], "uname.sysname": "Linux",
		"env": fmt.Sprintf("%q", []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=probe-host", "A=image", "B=image", "HOME=" + x.home()}),
	}
	if got := x.f["fd.0"]; got != "/dev/null type=20000 access=0 rdev=1:3" && got != "/dev/null type=20000 access=2 rdev=1:3" {
		x.t.Errorf("standard input is %q", got)
	}
	// A pipe, with or without a name; one that the container may read as well
	// is its own all the same.
	for _, fd := range []string{"fd.1", "fd.2"} {
		if got := x.f[fd]; !strings.HasSuffix(got, " type=10000 access=1 rdev=0:0") && !strings.HasSuffix(got, " type=10000 access=2 rdev=0:0") {
			x.t.Errorf("%s is %q", fd, got)
		}
	}
	score := x.c.want.oomScore
	if score == 0 {
		score = 1000
	}
	want["self.oom_score_adj"] = fmt.Sprint(score)
	want["args"] = fmt.Sprintf("%q", append([]string{"/bin/probe"}, x.o.spec.Args...))
	if x.exec {
		want["args"] = fmt.Sprintf("%q", append([]string{"/bin/probe", "facts"}, x.o.again...))
	}
	if !x.c.want.hostNamespaces {
		pid := "1"
		want["processes"] = "[probe]"
		if x.exec {
			_, pid, _ = strings.Cut(x.f["session"], " pid=")
			want["processes"] = "[probe probe]"
		}
		want["session"] = fmt.Sprintf("sid=%s pgid=%s ppid=0 pid=%s", pid, pid, pid)
		want["status.NSpid"] = pid // one namespace deep, seen from inside
	}
	for i, name := range rlimits {
		var own unix.Rlimit
		if err := unix.Getrlimit(i, &own); err != nil {
			x.t.Fatal(err)
		}
		want["rlimit."+name] = fmt.Sprintf("%d %d ok", own.Cur, own.Max)
		if i == unix.RLIMIT_NOFILE {
			want["rlimit."+name] = fmt.Sprintf("%d ok", openFiles(own.Max))
		}
	}
	x.f.want(x.t, want)
}

var rlimits = []string{
	"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME",
}

// openFiles is 65536, or less where the platform itself may not have as many.
func openFiles(own uint64) uint64 {
	if ownCaps()&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		return 65536
	}
	return min(own, 65536)
}

func (x expectation) home() string {
	switch x.c.want.uid {
	case "0":
		return "/root"
	default:
		return "/"
	}
}

// identity is who a process is and what it may become.
func (x expectation) identity() {
	w := x.c.want
	four := func(id string) string { return strings.Join([]string{id, id, id, id}, " ") }
	caps := fmt.Sprintf("%016x", w.caps)
	effective := caps
	if w.uid != "0" { // as in Kubernetes: none is ambient, so that a user has only those that a file gives
		effective = fmt.Sprintf("%016x", 0)
	}
	want := map[string]string{
		"status.Uid": four(w.uid), "status.Gid": four(w.gid), "status.Groups": w.groups,
		"status.CapEff": effective, "status.CapPrm": effective, "status.CapBnd": caps,
		"status.CapInh": "0000000000000000", "status.CapAmb": "0000000000000000",
		"status.NoNewPrivs": flag(!w.escalation), "status.Seccomp": "2", "status.Seccomp_filters": "1",
		"keyring.session": "EPERM", "keyring.user": "EPERM",
	}
	if w.unconfined {
		want["status.Seccomp"], want["status.Seccomp_filters"] = "0", "0"
		delete(want, "keyring.session")
		delete(want, "keyring.user")
		if k := x.f["keyring.session"]; !strings.HasPrefix(k, "keyring;0;0;3f1b0000;_ses.") || !strings.HasSuffix(k, " ok") {
			x.t.Errorf("the session keyring is not the container's own: %q", x.f["keyring.session"])
		}
		if x.f["keyring.session.serial"] == x.host["keyring.session.serial"] {
			x.t.Errorf("the session keyring is the host's")
		}
	}
	x.f.want(x.t, want)
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// ownCaps are the capabilities of this process: nobody can be given more.
func ownCaps() uint64 {
	b, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(b), "CapEff:")
	word, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	n, _ := strconv.ParseUint(word, 16, 64)
	return n
}

// network is the pod's: a loopback, one link with one address, one way out.
func (x expectation) network() {
	want := map[string]string{
		"links": "2 ok", "link.lo": "up|loopback|running mtu=65536 mac= addresses=[127.0.0.1/8 ::1/128]",
		"net.arp":    "IP address HW type Flags HW address Mask Device|169.254.1.1 0x1 0x6 ee:ee:ee:ee:ee:ee * eth0",
		"net.route":  "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT|eth0 00000000 0101FEA9 0003 0 0 0 00000000 0 0 0|eth0 0101FEA9 00000000 0005 0 0 0 FFFFFFFF 0 0 0",
		"net.packet": "0", "net.if_inet6": "00000000000000000000000000000001 01 80 10 80 lo",
		"sockets.tcp": "0 ok", "sockets.tcp6": "0 ok", "sockets.udp": "0 ok", "sockets.udp6": "0 ok", "sockets.unix": "0 ok", "sockets.icmp": "0 ok", "sockets.raw6": "0 ok",
		"tcp metrics": "0",
	}
	x.f.want(x.t, want)
	if l := x.f["link.eth0"]; !strings.HasPrefix(l, "up|broadcast|multicast|running mtu=1500 mac=0a:58:") || !strings.HasSuffix(l, " addresses=["+x.o.sandbox.IP+"/32]") {
		x.t.Errorf("eth0: %s", l)
	}
}

// sysctls are as in namespaces that nobody has touched, but for the one that
// lets a function serve port 80, and what package network says.
func (x expectation) sysctls() {
	got, fresh := x.f.under("sysctl."), x.host.under("sysctl.")
	if len(got) < 100 {
		x.t.Errorf("only %d settings could be read", len(got))
	}
	for k, v := range got {
		want, known := fresh[k]
		switch {
		case k == "net.ipv4.ip_unprivileged_port_start":
			want = "0"
		case k == "net.ipv4.tcp_no_metrics_save":
			want = "1" // what the kernel does not remember need not be forgotten, see package network
		case k == "kernel.hostname":
			want = "probe-host"
		case k == "net.ipv4.tcp_ehash_entries":
			continue // a table of connections of its own, see package network
		case strings.Contains(k, ".neigh.eth0."):
			want = fresh[strings.Replace(k, ".eth0.", ".lo.", 1)]
		case strings.Contains(k, ".eth0."):
			twin := strings.Replace(k, ".eth0.", ".default.", 1)
			want = fresh[twin]
			if strings.HasSuffix(k, "ipv6.conf.eth0.disable_ipv6") {
				want = "1"
			}
			if strings.HasSuffix(k, ".mtu") || strings.HasSuffix(k, ".keep_addr_on_down") {
				continue
			}
		case k == "kernel.pid_max", k == "kernel.cad_pid": // of the pid namespace, the latter as seen from it
			continue
		case !known:
			continue // the host reads it in another place, or only root does
		}
		if v != want && !strings.HasPrefix(v, "!") && !strings.HasPrefix(want, "!") {
			x.t.Errorf("sysctl %s is %q, in fresh namespaces it is %q", k, v, want)
		}
	}
}

// ipc: nothing is there that somebody else has left.
func (x expectation) ipc() {
	x.f.want(x.t, map[string]string{
		"sysvipc.msg": "0", "sysvipc.sem": "0", "sysvipc.shm": "0", "list./dev/mqueue": "[] ok", "list./dev/shm": "[] ok", "abstract socket": "ECONNREFUSED",
	})
}

// checkOutside is what the host knows of the container.
func checkOutside(t *testing.T, c aCase, o observed, single bool) {
	t.Helper()
	want := map[string]string{"own.mnt": "true", "own.ipc": "true", "own.uts": "true", "own.user": "false", "own.time": "false", "own.pid": fmt.Sprint(!c.want.hostNamespaces), "own.net": fmt.Sprint(!c.want.hostNamespaces)}
	// With version 1 the host's cgroup namespace is shared, as in Docker.
	v2 := o.outside["limit.cgroup.type"] != "" && o.outside["limit.memory.max"] != ""
	want["own.cgroup"] = fmt.Sprint(v2 && !c.want.privileged)
	o.outside.want(t, want)
	groups := o.outside.under("cgroup.")
	if len(groups) == 0 {
		t.Error("no cgroups")
	}
	var paths []string
	for controller, group := range groups {
		if !single && !strings.Contains(group, string(o.sandbox.UID)) || strings.Count(group, "/") < 2 {
			t.Errorf("cgroup of %q is %q, want one below the pod's", controller, group)
		}
		if !slices.Contains(paths, group) {
			paths = append(paths, group)
		}
	}
	if len(paths) != 1 {
		t.Errorf("the container is in different groups: %v", groups)
	}
	for file, want := range c.want.limits {
		if got, ok := o.outside["limit."+file]; ok && got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
	memory, pids := o.outside["limit.memory.max"], o.outside["limit.pids.max"]
	if !v2 {
		memory = o.outside["limit.memory.limit_in_bytes"]
	}
	if memory == "" || pids == "" {
		t.Errorf("there is no limit of memory or processes to be read: %v", o.outside.under("limit."))
	}
}

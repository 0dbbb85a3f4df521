package conformance

import (
	"embed"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// devices are those of every container, and no others can be opened, however
// they came to be.
func (x expectation) devices() {
	want := Facts{
		"/dev": "40755 0:0", "/dev/mqueue": "41777 0:0", "/dev/pts": "40755 0:0", "/dev/shm": "41777 0:0",
		"/dev/full": "20666 0:0 rdev=1:7 open=ok", "/dev/null": "20666 0:0 rdev=1:3 open=ok", "/dev/random": "20666 0:0 rdev=1:8 open=ok",
		"/dev/urandom": "20666 0:0 rdev=1:9 open=ok", "/dev/zero": "20666 0:0 rdev=1:5 open=ok", "/dev/tty": "20666 0:0 rdev=5:0 open=ENXIO",
		"/dev/ptmx": "120777 0:0 to pts/ptmx", "/dev/fd": "120777 0:0 to /proc/self/fd", "/dev/stdin": "120777 0:0 to /proc/self/fd/0",
		"/dev/stdout": "120777 0:0 to /proc/self/fd/1", "/dev/stderr": "120777 0:0 to /proc/self/fd/2",
	}
	got := x.f.under("dev.")
	got.want(x.t, want)
	for _, p := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[p]; !ok && p != "/dev/core" {
			x.t.Errorf("%s is there: %s", p, got[p])
		}
	}
	// A node of a permitted device is as good as the one in /dev.
	permitted := []string{"c 1:3", "c 1:5", "c 1:7", "c 1:8", "c 1:9", "c 5:0", "c 5:2", "c 136:0", "c 136:7"}
	made := 0
	for node, how := range x.f.under("mknod.") {
		_, device, _ := strings.Cut(node, ".")
		if strings.HasPrefix(how, "made") {
			made++
		}
		if how == "made r=EPERM w=EPERM" || !strings.HasPrefix(how, "made") || slices.Contains(permitted, device) || strings.HasPrefix(node, "/dev/shm/") && how == "made r=EACCES w=EACCES" {
			continue
		}
		if device == "c 10:200" {
			continue // tun: runc before 1.2 permits it to all; it is of no use without CAP_NET_ADMIN
		}
		x.t.Errorf("a node of device %s at %s: %s", device, node, how)
	}
	mknod := x.c.want.caps&(1<<unix.CAP_MKNOD) != 0
	if mknod != (made > 0) {
		x.t.Errorf("CAP_MKNOD is %v, and %d device nodes could be made", mknod, made)
	}
}

// calls are the ways out of a container that the filter and missing
// capabilities close.
func (x expectation) calls() {
	want := map[string]string{}
	can := func(c int) bool { return x.c.want.caps&(1<<c) != 0 }
	either := func(c int, key, without string) {
		if want[key] = without; can(c) {
			want[key] = "ok"
		}
	}
	for _, ns := range []string{"mnt", "cgroup", "uts", "ipc", "user", "pid", "net"} {
		either(unix.CAP_SYS_ADMIN, "unshare."+ns, "EPERM")
		either(unix.CAP_SYS_ADMIN, "clone."+ns, "EPERM")
	}
	want["clone.plain"] = "ok"
	for _, p := range []string{"0x1", "0x40000", "0x200000", "0x400000", "0x4000000", "0x8000000", "0xfffffffe"} {
		want["personality."+p] = "EPERM"
	}
	for _, kind := range []string{"stream", "dgram", "seqpacket", "raw"} {
		want["socket.40."+kind] = "EPERM" // AF_VSOCK: the hypervisor
		want["socket.38."+kind] = "EPERM" // AF_ALG: the kernel's ciphers
	}
	either(unix.CAP_NET_RAW, "socket.icmp", "EPERM")
	either(unix.CAP_NET_RAW, "socket.packet", "EPERM")
	either(unix.CAP_SYS_CHROOT, "call.chroot", "EPERM")
	for call, c := range map[string]int{
		"mount tmpfs": unix.CAP_SYS_ADMIN, "remount root": unix.CAP_SYS_ADMIN, "umount": unix.CAP_SYS_ADMIN, "setns": unix.CAP_SYS_ADMIN, "sethostname": unix.CAP_SYS_ADMIN,
		"bpf": unix.CAP_BPF, "perf": unix.CAP_PERFMON, "fsopen": unix.CAP_SYS_ADMIN, "open_tree": unix.CAP_SYS_ADMIN, "fanotify": unix.CAP_SYS_ADMIN, "quotactl": unix.CAP_SYS_ADMIN,
		"syslog": unix.CAP_SYSLOG, "reboot": unix.CAP_SYS_BOOT, "settimeofday": unix.CAP_SYS_TIME, "handle": unix.CAP_DAC_READ_SEARCH, "module": unix.CAP_SYS_MODULE, "acct": unix.CAP_SYS_PACCT,
	} {
		if !can(c) {
			want["call."+call] = "EPERM"
		}
	}
	for _, never := range []string{"add_key", "keyctl", "io_uring", "userfaultfd", "swapoff", "kexec", "pivot_root"} {
		want["call."+never] = "EPERM"
	}
	either(unix.CAP_SETUID, "call.setuid 0", x.other("0", "EPERM"))
	either(unix.CAP_SETGID, "call.setgroups", "EPERM")
	either(unix.CAP_SETUID, "call.setresuid 1", "EPERM")
	either(unix.CAP_SETPCAP, "call.secure bits", "EPERM")
	if !can(unix.CAP_SYS_NICE) {
		want["call.nice"], want["call.realtime"], want["call.io class"] = "EACCES", "EPERM", "EPERM"
		if x.host["nice"] == "-1 ok" {
			delete(want, "call.nice")
		}
	}
	want["oom_score_adj lower"] = "EACCES"
	if can(unix.CAP_SYS_RESOURCE) {
		want["oom_score_adj lower"] = "ok"
	}
	want["open./dev/ptmx"], want["pts.mode"] = "ok", fmt.Sprintf("20620 %s:5 ok", x.c.want.uid)
	if !can(unix.CAP_SYS_ADMIN) {
		want["ioctl.TIOCSTI"] = "EPERM"
		if b, _ := os.ReadFile("/proc/sys/dev/tty/legacy_tiocsti"); strings.TrimSpace(string(b)) == "0" {
			want["ioctl.TIOCSTI"] = "EIO"
		}
	}
	x.f.want(x.t, want)
}

// other is got unless the container runs as that user already.
func (x expectation) other(uid, got string) string {
	if x.c.want.uid == uid {
		return "ok"
	}
	return got
}

//go:embed decisions
var decisions embed.FS

var ownNumber = regexp.MustCompile(`^(native|x32|ia32)\.(\d+)$`)

// numbers: what the filter says is what happens, by every way into the kernel.
func (x expectation) numbers() {
	checked := 0
	for k, got := range x.f {
		m := ownNumber.FindStringSubmatch(k)
		if m == nil {
			continue
		}
		way := map[string]string{"native": "x86_64", "x32": "x32", "ia32": "i386"}[m[1]]
		n, _ := strconv.Atoi(m[2])
		verdict, ok := x.o.outside[fmt.Sprintf("filter.%s.%03d", way, n)]
		if !ok {
			x.t.Fatalf("no verdict on %s", k)
		}
		checked++
		// With these numbers all arguments are junk: what the filter lets
		// through by argument it does not let through here.
		junk := map[string]string{"native.016": "allow", "native.041": "allow", "native.056": "EPERM", "native.135": "allow"}[k]
		if junk != "" {
			verdict = junk
		}
		if k == "native.335" || k == "native.336" {
			continue // uretprobe, uprobe: the kernel asks no filter about them, they only serve its own probes
		}
		if verdict != "allow" && got != verdict {
			x.t.Errorf("%s: the filter says %s and the call ended with %s", k, verdict, got)
		}
	}
	if checked < 900 {
		x.t.Errorf("only %d calls were made", checked)
	}
}

// checkFilter compares the decisions of a filter, one for each number, with
// those that are written down.
func checkFilter(t *testing.T, profile string, outside Facts) {
	t.Helper()
	for _, way := range []string{"x86_64", "x32", "i386"} {
		got := outside.under("filter." + way + ".")
		for k := range got {
			if n, err := strconv.Atoi(k); err != nil || n > lastKnown || n == uretprobe && way == "x86_64" {
				delete(got, k)
			}
		}
		name := "decisions/" + profile + "." + way
		b, err := decisions.ReadFile(name)
		if err != nil {
			t.Errorf("%v; found:\n%s", err, ranges(got))
			continue
		}
		if text := ranges(got); text != string(b) && (way != "x32" || text != "000-450 ENOSYS\n") {
			t.Errorf("%s: the filter decides differently:\n%s", name, changes(string(b), text))
		}
	}
}

// lastKnown is the last number that every library in use knows of: what comes
// after it is refused by one as unknown and by another as forbidden.
const lastKnown = 450

// uretprobe is a number below that not every library knows; see numbers.
const uretprobe = 335

// changes are the lines that only one of two texts has.
func changes(want, got string) string {
	var out []string
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for _, l := range w {
		if !slices.Contains(g, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range g {
		if !slices.Contains(w, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}

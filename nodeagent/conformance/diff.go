package conformance

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Diff compares two runtimes' reports fact by fact. Only what belongs to one
// container or one moment may differ; see differs.
func Diff(t *testing.T, a, b Report) {
	t.Helper()
	compared := 0
	for _, c := range slices.Sorted(maps.Keys(a)) {
		if b[c] == nil {
			t.Errorf("%s: only one of the reports has it", c)
			continue
		}
		x, y := a[c].normal(), b[c].normal()
		for _, k := range slices.Sorted(maps.Keys(x)) {
			compared++
			if v, ok := y[k]; !ok || v != x[k] {
				t.Errorf("%s: %s: %q and %q (told: %v)", c, k, x[k], v, ok)
			}
		}
		for _, k := range slices.Sorted(maps.Keys(y)) {
			if _, ok := x[k]; !ok {
				t.Errorf("%s: %s: only one of them tells it: %q", c, k, y[k])
			}
		}
	}
	if compared < 5000 {
		t.Errorf("only %d facts were compared", compared)
	}
	t.Logf("%d facts were compared", compared)
}

var (
	podIP      = regexp.MustCompile(`\b10\.\d+\.\d+\.\d+\b`)
	podMAC     = regexp.MustCompile(`0a:58:(..:){3}..`)
	podUID     = regexp.MustCompile(`uid-conformance\d+-\d+`)
	groupPath  = regexp.MustCompile(`/[^ |]*/uid-…[^ |]*`)
	processIDs = regexp.MustCompile(`\b(sid|pgid|pid)=(\d+)`)
	keyring    = regexp.MustCompile(`_ses\.[^ ]*`)
)

// differs says which facts are not comparable, and why.
func differs(k string) bool {
	switch {
	case strings.HasPrefix(k, "ns."): // ids; that they are the pod's own is checked against the host's
		return true
	case strings.HasPrefix(k, "keyring.") && strings.HasSuffix(k, ".serial"): // the same
		return true
	case strings.HasPrefix(k, "mount."): // by table below
		return true
	case strings.HasPrefix(k, "cgroup."), k == "self.cgroup", k == "self.cpuset": // paths; checked by checkOutside
		return true
	case k == "status.NSpid", k == "status.NSpgid", k == "status.NSsid", k == "status.NStgid", k == "prctl.tsc": // pids
		return true
	case strings.HasPrefix(k, "filter.arm."), strings.HasPrefix(k, "filter.aarch64."): // not of this machine: the thread is killed, or the process
		return true
	case k == "dev./dev/core": // a link to /proc/kcore, made only where the kernel has that, or always
		return true
	case k == "create./sys/fs/cgroup": // see table below
		return true
	case strings.HasSuffix(k, ".c 10:200"): // tun, see expectation.devices
		return true
	case k == "limit.devices.list": // the rules may be written in another way; what they decide is compared
		return true
	}
	// One library decides x32 calls one by one, the other refuses them all; the
	// kernels that have them are few.
	if strings.HasPrefix(k, "filter.x32.") || strings.HasPrefix(k, "x32.") {
		return true
	}
	// Numbers that not every library knows: see lastKnown.
	for _, way := range []string{"filter.x86_64.", "filter.i386.", "native.", "ia32."} {
		if rest, ok := strings.CutPrefix(k, way); ok {
			n, err := strconv.Atoi(rest)
			return err == nil && (n > lastKnown || n == uretprobe && way != "filter.i386." && way != "ia32.")
		}
	}
	return false
}

// normal is the comparable part of the facts.
func (f Facts) normal() Facts {
	out := Facts{}
	for at, m := range f.table() {
		if at == "/" { // options that only this mount has: fsync=volatile
			m, _, _ = strings.Cut(m, ",workdir=…")
		}
		if strings.HasPrefix(at, "/etc/") { // stricter where the file lies on a file system that is
			m = strings.Replace(m, ",noexec", "", 1)
		}
		if at == "/sys/fs/cgroup" { // with version 1, an empty file system of the container's own
			m = strings.Replace(m, "options=ro,", "options=rw,", 1)
			m = strings.TrimSuffix(m, ",nsdelegate") // the host's, until runc mounts it for a privileged container, without
		}
		out["table."+at] = groupPath.ReplaceAllString(podUID.ReplaceAllString(m, "uid-…"), "…")
	}
	for k, v := range f {
		if differs(k) {
			continue
		}
		switch k {
		case "fd.0": // /dev/null, whether it can be written to or not
			v, _, _ = strings.Cut(v, " ")
		case "fd.1", "fd.2": // a pipe, with or without a name, that can be read or not
			_, v, _ = strings.Cut(v, " type=")
			v, _, _ = strings.Cut(v, " ")
		case "writable":
			v = strings.Replace(v, " /sys/fs/cgroup]", "]", 1)
		case "session":
			v = processIDs.ReplaceAllString(v, "$1=…")
		}
		v = podIP.ReplaceAllString(podMAC.ReplaceAllString(v, "MAC"), "IP")
		v = keyring.ReplaceAllString(hexID.ReplaceAllString(v, "…"), "_ses.…")
		out[k] = v
	}
	return out
}

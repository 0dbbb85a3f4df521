package fast

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/nodeagent/cgroup"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// onUnified has the runtime take the version 2 hierarchy that lies beside those
// of version 1 for the machine's: everything is as with version 2 alone but for
// the controllers, which it has not. A machine with version 2 alone needs no
// such thing: all tests run on it as it is.
func onUnified(t *testing.T) func(*Config) {
	t.Helper()
	const root = "/sys/fs/cgroup/unified"
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		t.Skip("needs version 1 control groups with a version 2 hierarchy beside them")
	}
	return func(c *Config) {
		c.groups = func(parent string) (cgroup.Tree, error) {
			tree, err := cgroup.Open(root, parent)
			tree.Wants = []string{}
			return tree, err
		}
	}
}

// TestVersion2 runs real containers in version 2 groups.
func TestVersion2(t *testing.T) {
	n := newNode(t, onUnified(t))
	n.parked()
	tests := containerTests()
	for _, limited := range []string{"process and limits", "out of memory", "pod limits", "network", "faults"} {
		delete(tests, limited) // needs controllers
	}
	tests["own group"] = testOwnGroup
	n.each(t, tests)
}

// testOwnGroup looks at a version 2 group from outside and from inside.
func testOwnGroup(t *testing.T, n *node) {
	sb := n.sandbox("group")
	s := n.spec(sb, "serve")
	s.Security.User = new(int64(0))
	c := n.start(s)
	got, _ := n.find(c.ID)
	slot := n.Runtime.sandbox(sb.ID).slot
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", got.Pid))
	if want := "0::" + n.cgroups.Slot(slot.id) + "\n"; err != nil || !strings.Contains(string(b), want) {
		t.Errorf("got %q, %v, want %q", b, err, want)
	}
	of, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/cgroup", got.Pid))
	if own, _ := os.Readlink("/proc/self/ns/cgroup"); of == "" || of == own {
		t.Errorf("its control group namespace is %q, and the host's %q", of, own)
	}
	inside := func(args ...string) string {
		var out bytes.Buffer
		if code, err := n.Exec(t.Context(), c.ID, runtime.Exec{Command: append([]string{"/bin/probe"}, args...), Stdout: &out}); code != 0 || err != nil {
			t.Fatalf("%q: %d, %v", args, code, err)
		}
		return out.String()
	}
	if out := inside("read", "/proc/self/cgroup"); !strings.Contains(out, "0::/\n") {
		t.Errorf("it sees itself in %q", out)
	}
	mounted := ""
	for l := range strings.Lines(inside("read", "/proc/self/mountinfo")) {
		if strings.Contains(l, " /sys/fs/cgroup ") {
			mounted += l
		}
	}
	if !strings.Contains(mounted, " / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime ") || !strings.Contains(mounted, " - cgroup2 ") {
		t.Errorf("got %q", mounted)
	}
	// Its group is the uppermost: it has processes, itself and the one that looks.
	if out := strings.Fields(inside("read", "/sys/fs/cgroup/cgroup.procs")); len(out) < 2 || out[0] != "1" {
		t.Errorf("got processes %q", out)
	}
	if out := inside("write", "/sys/fs/cgroup/cgroup.freeze"); !strings.Contains(out, "read-only file system") {
		t.Errorf("got %q", out)
	}
	// The host's hierarchy is not read-only by it.
	if f, err := os.OpenFile(filepath.Join(n.cgroups.Born(n.cgroups.Slot(slot.id)), "cgroup.freeze"), os.O_WRONLY, 0); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
}

// TestVersion2Recycled: a container that dies frozen leaves a slot that the next
// one can be born in, whose counters start anew.
func TestVersion2Recycled(t *testing.T) {
	n := newNode(t, onUnified(t))
	n.parked()
	sb := n.sandbox("first")
	c := n.start(n.spec(sb, "serve"))
	if _, err := get(sb.IP, "/"); err != nil {
		t.Fatal(err)
	}
	if err := n.Freeze(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	box := n.Runtime.sandbox(sb.ID)
	ch := n.events()
	if err := n.cgroups.Kill(n.cgroups.Slot(box.slot.id)); err != nil {
		t.Fatal(err)
	}
	if x := n.exit(ch, c.ID); x.ExitCode != 137 {
		t.Errorf("got %+v", x)
	}
	// In the same sandbox,
	c = n.start(n.spec(sb, "serve"))
	if _, err := get(sb.IP, "/"); err != nil {
		t.Fatal(err)
	}
	before, _, err := n.Stats(t.Context(), c.ID)
	if err != nil || before <= 0 {
		t.Fatalf("%v s, %v", before, err)
	}
	if err := n.Freeze(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if err := n.cgroups.Kill(n.cgroups.Slot(box.slot.id)); err != nil {
		t.Fatal(err)
	}
	n.exit(ch, c.ID)
	// and in the next one of its slot.
	slot, err := n.recycleSlot(box.slot)
	if err != nil {
		t.Fatal(err)
	}
	if slot.spent < before {
		t.Errorf("%v s are counted before, want %v at least", slot.spent, before)
	}
	n.mu.Lock()
	box.slot, box.info.IP = slot, slot.ip.String()
	n.mu.Unlock()
	c = n.start(n.spec(sb, "serve"))
	after, _, err := n.Stats(t.Context(), c.ID)
	if err != nil || after < 0 || after > before+slot.spent/2 {
		t.Errorf("%v s after %v, %v", after, slot.spent, err)
	}
	// Somebody else kills the whole group, which newer kernels remember.
	kill := filepath.Join(n.cgroups.Born(n.cgroups.Slot(slot.id)), "cgroup.kill")
	if err := os.WriteFile(kill, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	n.exit(ch, c.ID)
	n.start(n.spec(sb, "serve"))
	if _, err := get(sb.IP, "/"); err != nil {
		t.Error(err)
	}
}

// A machine that lacks what is needed is told so, and nothing is left on it.
func TestVersion2Missing(t *testing.T) {
	unified := onUnified(t)
	c := Config{StateDir: t.TempDir(), Network: quiet{}, Launcher: []byte("x")}
	unified(&c)
	open := c.groups
	c.groups = func(parent string) (cgroup.Tree, error) {
		tree, err := open(parent)
		tree.Wants = nil
		return tree, err
	}
	_, err := New(c)
	if err == nil || !strings.HasPrefix(err.Error(), ErrUnsupported.Error()+": ") || !strings.Contains(err.Error(), "lacks cpu, memory, pids") {
		t.Errorf("got %v", err)
	}
	if left := names(c.StateDir); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

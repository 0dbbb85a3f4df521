package fast

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/nodeagent/cgroup"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// onVersion2 has the runtime take the machine for one with version 2 alone, if it
// is not: the version 2 hierarchy that lies beside those of version 1 has
// everything but the controllers. full tells whether it has them as well.
func onVersion2(t *testing.T) (change func(*Config), full bool) {
	t.Helper()
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); err == nil {
		return func(*Config) {}, true
	}
	root += "/unified"
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		t.Skip("needs a version 2 hierarchy of control groups")
	}
	return func(c *Config) {
		c.groups = func(parent string) (cgroup.Tree, error) {
			tree, err := cgroup.Open(root, parent)
			tree.Wants = []string{}
			return tree, err
		}
	}, false
}

// TestVersion2 runs real containers in version 2 groups.
func TestVersion2(t *testing.T) {
	change, full := onVersion2(t)
	n := newNode(t, change)
	n.parked()
	tests := containerTests()
	if full { // TestContainers has done that
		clear(tests)
	}
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
	change, _ := onVersion2(t)
	n := newNode(t, change)
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
	if _, err := get(slot.ip.String(), "/"); err != nil {
		t.Error(err)
	}
}

// TestVersion2Missing: a machine that lacks what is needed is told so, and nothing
// is left on it.
func TestVersion2Missing(t *testing.T) {
	change, _ := onVersion2(t)
	c := Config{StateDir: t.TempDir(), Network: quiet{}, Launcher: func() ([]byte, error) { return []byte("x"), nil }}
	change(&c)
	open := c.groups
	if open == nil {
		open = func(parent string) (cgroup.Tree, error) { return cgroup.Open("/sys/fs/cgroup", parent) }
	}
	c.groups = func(parent string) (cgroup.Tree, error) {
		tree, err := open(parent)
		tree.Wants = []string{"cpu", "nothing-of-the-kind"}
		return tree, err
	}
	_, err := New(c)
	if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "nothing-of-the-kind: start the kernel with them") {
		t.Errorf("got %v", err)
	}
	if left := names(c.StateDir); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

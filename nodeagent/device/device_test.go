package device

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/nodeagent/program"
)

func TestRules(t *testing.T) {
	var got []string
	for _, r := range Default() {
		got = append(got, r.String())
	}
	want := "c *:* m, b *:* m, c 1:3 rwm, c 1:5 rwm, c 1:7 rwm, c 1:8 rwm, c 1:9 rwm, c 5:0 rwm, c 5:2 rwm, c 136:* rwm"
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("got %s, want %s", s, want)
	}
}

// What a rule does not match, the next one is asked for.
func TestCompile(t *testing.T) {
	all := compile([]Rule{{'b', Any, Any, "m"}, {'c', 1, 3, "rwm"}})
	want := []string{"rule0", "rule1", "forbid"}
	var got []string
	for _, i := range all {
		if i.Symbol() != "" {
			got = append(got, i.Symbol())
		}
		if to := i.Reference(); to != "" && to != want[len(got)] {
			t.Errorf("after %v: a jump to %s\n%v", got, to, all)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// group makes a version 2 group: anywhere on this machine, as no controller is
// needed.
func group(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: loads a program into the kernel")
	}
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		root += "/unified"
	}
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		t.Skip("needs a version 2 hierarchy of control groups")
	}
	dir, err := os.MkdirTemp(root, "podsnap-device")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// attempt has a process of the group make one system call.
func attempt(t *testing.T, group string, nr uintptr, args ...program.Arg) error {
	t.Helper()
	dir, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var b program.Builder
	b.Call("the call", nr, args...)
	b.Fail("it went well", unix.EHWPOISON)
	p, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	_, err = program.Run(p.Image, program.Options{Cgroup: int(dir.Fd())})
	f, ok := errors.AsType[*program.Fault](err)
	switch {
	case !ok:
		t.Fatal(err)
	case f.Errno == unix.EHWPOISON:
		return nil
	}
	return f.Errno
}

// TestInTheKernel has a real process try devices, before and after its group
// has the rules.
func TestInTheKernel(t *testing.T) {
	dir, nodes := group(t), t.TempDir()
	p, err := Load(Default())
	if err != nil {
		t.Fatal(err)
	}
	const char, block = unix.S_IFCHR | 0o600, unix.S_IFBLK | 0o600
	node := func(name string, mode int, major, minor uint32) string {
		path := filepath.Join(nodes, name)
		if err := unix.Mknod(path, uint32(mode), int(unix.Mkdev(major, minor))); err != nil {
			t.Fatal(err)
		}
		return path
	}
	null, full := node("null", char, 1, 3), node("full", char, 1, 7)
	mem, kmsg, loop, ramdisk := node("mem", char, 1, 1), node("kmsg", char, 1, 11), node("loop", block, 7, 0), node("null-that-is-a-disk", block, 1, 3)
	opens := func(path string, flags int) error {
		return attempt(t, dir, unix.SYS_OPENAT, program.Int(-100), program.Text(path), program.Int(flags|unix.O_CLOEXEC|unix.O_NONBLOCK), program.Int(0))
	}
	makes := func(name string, mode int, major, minor uint32) error {
		return attempt(t, dir, unix.SYS_MKNODAT, program.Int(-100), program.Text(filepath.Join(nodes, name)), program.Int(mode), program.Int(unix.Mkdev(major, minor)))
	}
	if err := opens(kmsg, unix.O_RDONLY); err != nil {
		t.Fatalf("before there are rules: %v", err)
	}
	if err := p.Attach(dir); err != nil {
		t.Fatal(err)
	}
	if err := p.Attach(dir); err == nil {
		t.Error("twice: got no error")
	}
	if err := p.Close(); err != nil { // as when the agent ends
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"read null": opens(null, unix.O_RDONLY), "read and write null": opens(null, unix.O_RDWR), "write full": opens(full, unix.O_WRONLY),
		"make null": makes("a", char, 1, 3), "make mem": makes("b", char, 1, 1), "make a disk": makes("c", block, 8, 0), "make what nobody knows": makes("d", char, 4000, 9),
		"a directory": opens(nodes, unix.O_RDONLY),
	} {
		if err != nil {
			t.Errorf("%s: got %v, want no error", what, err)
		}
	}
	for what, err := range map[string]error{
		"read mem": opens(mem, unix.O_RDONLY), "read kmsg": opens(kmsg, unix.O_RDONLY), "write kmsg": opens(kmsg, unix.O_WRONLY),
		"read a disk": opens(loop, unix.O_RDONLY), "write a disk": opens(loop, unix.O_RDWR), "read a disk with null's number": opens(ramdisk, unix.O_RDONLY),
	} {
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: got %v, want %v", what, err, unix.EPERM)
		}
	}
	// A group below is held to the same, and cannot allow more.
	below := filepath.Join(dir, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(below)
	all, err := Load([]Rule{{'c', Any, Any, "rwm"}})
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	if err := all.Attach(below); err != nil {
		t.Fatal(err)
	}
	dir = below
	if err := opens(kmsg, unix.O_RDONLY); !errors.Is(err, unix.EPERM) {
		t.Errorf("in a group below: got %v, want %v", err, unix.EPERM)
	}
}

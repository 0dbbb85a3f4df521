package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// unifiedTree is a version 2 tree of this machine. Beside version 1 hierarchies
// it has next to no controllers: full tells whether it has ours.
func unifiedTree(t *testing.T) (tree Tree, full bool) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes control groups")
	}
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		root += "/" + unified
	}
	have, err := os.ReadFile(root + "/cgroup.controllers")
	if err != nil {
		t.Skip("needs a version 2 hierarchy of control groups")
	}
	dir, err := os.MkdirTemp(root, "podsnap-cgroup")
	if err != nil {
		t.Fatal(err)
	}
	tree, err = Open(root, "/"+filepath.Base(dir))
	if err != nil || !tree.V2 {
		t.Fatalf("got %+v, %v", tree, err)
	}
	if full = tree.missing() == nil; !full {
		tree.Wants = strings.Fields(string(have))
	}
	before, err := os.ReadFile(root + "/cgroup.subtree_control")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tree.Close()
		if err := tree.Remove(tree.Parent); err != nil {
			t.Error(err)
		}
		for _, c := range tree.wanted() {
			if !slices.Contains(strings.Fields(string(before)), c) { // others may use it by now: then it stays
				_ = os.WriteFile(root+"/cgroup.subtree_control", []byte("-"+c), 0o644)
			}
		}
	})
	return tree, full
}

// sleeper is a process that is born in a group.
func sleeper(t *testing.T, tree Tree, group string) *exec.Cmd {
	t.Helper()
	dir, err := os.Open(tree.Born(group))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // no error matters: it has been, mostly
	return cmd
}

// A slot's life with real processes.
func TestSlotOfVersion2(t *testing.T) {
	tree, full := unifiedTree(t)
	t.Logf("all controllers: %v", full)
	if err := tree.Equip(); err != nil {
		t.Fatal(err)
	}
	if err := tree.PrepareSlots(); err != nil {
		t.Fatal(err)
	}
	if got := tree.Slots(); len(got) != 0 {
		t.Errorf("what was tried on is left: %q", got)
	}
	if err := tree.MakeSlot("s1"); err != nil {
		t.Fatal(err)
	}
	group := tree.Slot("s1")
	dir := filepath.Join(tree.root, group)
	limits := runtime.Resources{CPUShares: 1024, CPUQuota: 50_000, Memory: 64 << 20, Pids: 9}
	if err := tree.Limit(group, limits); err != nil {
		t.Fatal(err)
	}
	if full {
		for name, want := range map[string]string{"memory.max": "67108864", "memory.oom.group": "1", "cpu.max": "50000 100000", "cpu.weight": "39", "pids.max": "9"} {
			if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || strings.TrimSpace(string(b)) != want {
				t.Errorf("%s: got %q, %v, want %q", name, b, err, want)
			}
		}
	}
	cmd := sleeper(t, tree, group)
	if err := tree.Reset(group); !errors.Is(err, ErrUsed) {
		t.Errorf("with a process in it: got %v, want %v", err, ErrUsed)
	}
	if err := tree.Freeze(group, true); err != nil {
		t.Fatal(err)
	}
	if err := await(dir, "frozen", 1); err != nil {
		t.Error(err)
	}
	if frozen, err := tree.Frozen(group); err != nil || !frozen {
		t.Errorf("got %v, %v", frozen, err)
	}
	if err := tree.Freeze(group, false); err != nil {
		t.Fatal(err)
	}
	if err := await(dir, "frozen", 0); err != nil {
		t.Error(err)
	}
	// A frozen process can be killed, which leaves a frozen group.
	if err := tree.Freeze(group, true); err != nil {
		t.Fatal(err)
	}
	if err := tree.Kill(group); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("got %v, want a kill", err)
	}
	if err := await(dir, "populated", 0); err != nil {
		t.Error(err)
	}
	if cpu, _, err := tree.Usage(group); err != nil || cpu <= 0 || tree.Spent(group) != cpu {
		t.Errorf("got %v CPU seconds, %v; %v to start from", cpu, err, tree.Spent(group))
	}
	if err := tree.Reset(group); err != nil {
		t.Fatal(err)
	}
	if frozen, err := tree.Frozen(group); err != nil || frozen {
		t.Errorf("reset: got %v, %v", frozen, err)
	}
	// Whoever is left dies with the group, frozen or not.
	cmd = sleeper(t, tree, group)
	if err := tree.Freeze(group, true); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- cmd.Wait() }()
	begin := time.Now()
	if err := tree.Remove(group); err != nil {
		t.Error(err)
	}
	<-ended
	if d := time.Since(begin); d > patience/2 {
		t.Errorf("it took %v", d)
	}
	if err := tree.Kill(group); err != nil {
		t.Errorf("a group that is gone: %v", err)
	}
}

// What is missing is named, and what was made is taken back.
func TestEquipNamesWhatIsMissing(t *testing.T) {
	tree, _ := unifiedTree(t)
	tree.Wants = []string{"nothing-of-the-kind", "memory"}
	if err := tree.Equip(); err == nil || !strings.Contains(err.Error(), "lacks nothing-of-the-kind") {
		t.Errorf("got %v", err)
	}
	tree.Wants = nil
	have, _ := os.ReadFile(filepath.Join(tree.root, "cgroup.controllers"))
	if tree.Wants = strings.Fields(string(have)); len(tree.Wants) == 0 {
		t.Skip("no controller is left to this hierarchy")
	}
	cmd := sleeper(t, tree, tree.Parent) // a process in an inner group
	err := tree.Equip()
	if err == nil || !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "processes of its own") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(tree.root, tree.Parent, slots)); err == nil {
		t.Error("a folder of slots is left")
	}
	if err := tree.MakeSlot("s1"); err == nil {
		t.Error("a slot whose devices nobody closes was made")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err := tree.Equip(); err != nil {
		t.Errorf("and then: %v", err)
	}
}

// A tree of version 1 needs nothing.
func TestEquipVersion1(t *testing.T) {
	tree := Tree{root: t.TempDir()}
	if err := tree.Equip(); err != nil {
		t.Error(err)
	}
	tree.Close()
}

// On plain files nothing is really there: no device program, no freezing.
func TestEquipOnFiles(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte("cpu io memory\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tree, err := Open(root, "/pods")
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Equip(); err == nil || !strings.Contains(err.Error(), "lacks pids: ") {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte("cpu io memory pids\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := tree.Equip(); err == nil {
		t.Error("got no error")
	}
}

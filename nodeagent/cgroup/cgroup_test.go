package cgroup

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// Version 2 is tested on plain files, as test machines may have version 1.
func TestCgroupV2Files(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("cgroup.controllers", "cpu memory pids")
	c, err := Open(root, "/pods")
	if err != nil || !c.V2 {
		t.Fatalf("got %+v, %v", c, err)
	}
	if err := c.LimitPod("u1", runtime.Resources{Memory: 1 << 20, CPUShares: 1024, CPUQuota: 50_000, Pids: 9}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"cgroup.subtree_control": "+cpu +memory +pids", "pods/cgroup.subtree_control": "+cpu +memory +pids",
		"pods/u1/memory.max": "1048576", "pods/u1/memory.swap.max": "0", "pods/u1/cpu.weight": "39", "pods/u1/cpu.max": "50000 100000", "pods/u1/pids.max": "9",
	} {
		if b, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(b) != want {
			t.Errorf("%s: got %q, %v, want %q", name, b, err, want)
		}
	}
	group := c.Of("u1", "c1")
	write("pods/u1/c1/memory.events", "low 0\noom 1\noom_kill 2\n")
	write("pods/u1/c1/cpu.stat", "usage_usec 1500000\nuser_usec 1\n")
	write("pods/u1/c1/memory.current", "5000\n")
	write("pods/u1/c1/memory.stat", "anon 1\ninactive_file 2000\n")
	if got := c.OOMKills(group); got != 2 {
		t.Errorf("got %d OOM kills", got)
	}
	if cpu, mem, err := c.Usage(group); cpu != 1.5 || mem != 3000 || err != nil {
		t.Errorf("got %v, %v, %v", cpu, mem, err)
	}
	if _, err := Open(t.TempDir(), "/pods"); err == nil {
		t.Error("no cgroups: got no error")
	}
	for _, bad := range []string{"", "/", "pods"} {
		if _, err := Open(root, bad); err == nil {
			t.Errorf("parent %q: got no error", bad)
		}
	}
}

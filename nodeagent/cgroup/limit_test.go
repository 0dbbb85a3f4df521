package cgroup

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

func written(all []setting) (out []string) {
	for _, s := range all {
		line := fmt.Sprintf("%s %s=%s", s.controller, s.file, s.value)
		if s.optional {
			line += " optional"
		}
		out = append(out, strings.TrimSpace(line))
	}
	return out
}

func TestLimits(t *testing.T) {
	all := runtime.Resources{CPUShares: 1024, CPUQuota: 50_000, Memory: 1 << 20, Pids: 9}
	for name, c := range map[string]struct {
		got  []setting
		want []string
	}{
		"v2, all": {limits(true, true, all), []string{
			"cpu cpu.weight=39", "cpu cpu.max=50000 100000", "memory memory.max=1048576", "memory memory.swap.max=0 optional", "pids pids.max=9", "cgroup.freeze=0",
		}},
		"v2, none": {limits(true, true, runtime.Resources{}), []string{
			"cpu cpu.weight=1", "cpu cpu.max=max 100000", "memory memory.max=max", "memory memory.swap.max=max optional", "pids pids.max=max", "cgroup.freeze=0",
		}},
		"v2, less than the kernel takes": {limits(true, true, runtime.Resources{CPUShares: 1, CPUQuota: 10}), []string{
			"cpu cpu.weight=1", "cpu cpu.max=1000 100000", "memory memory.max=max", "memory memory.swap.max=max optional", "pids pids.max=max", "cgroup.freeze=0",
		}},
		"v2, most": {limits(true, true, runtime.Resources{CPUShares: 1 << 40}), []string{
			"cpu cpu.weight=10000", "cpu cpu.max=max 100000", "memory memory.max=max", "memory memory.swap.max=max optional", "pids pids.max=max", "cgroup.freeze=0",
		}},
		"v1, all": {limits(false, true, all), []string{
			"memory memory.memsw.limit_in_bytes=-1", "memory memory.limit_in_bytes=1048576", "memory memory.memsw.limit_in_bytes=1048576",
			"cpu cpu.shares=1024", "cpu cpu.cfs_quota_us=50000", "pids pids.max=9",
		}},
		"v1, none": {limits(false, true, runtime.Resources{}), []string{
			"memory memory.memsw.limit_in_bytes=-1", "memory memory.limit_in_bytes=-1", "cpu cpu.shares=2", "cpu cpu.cfs_quota_us=-1", "pids pids.max=max",
		}},
		"v1, no swap limits": {limits(false, false, runtime.Resources{Memory: 4096, CPUQuota: 1}), []string{
			"memory memory.limit_in_bytes=4096", "cpu cpu.shares=2", "cpu cpu.cfs_quota_us=1000", "pids pids.max=max",
		}},
		"pod, v2, all": {podLimits(true, all), []string{
			"memory memory.max=1048576", "memory memory.swap.max=0 optional", "cpu cpu.weight=39", "cpu cpu.max=50000 100000", "pids pids.max=9",
		}},
		"pod, v2, memory": {podLimits(true, runtime.Resources{Memory: 5}), []string{"memory memory.max=5", "memory memory.swap.max=0 optional"}},
		"pod, v1, all": {podLimits(false, all), []string{
			"memory memory.limit_in_bytes=1048576", "memory memory.memsw.limit_in_bytes=1048576 optional",
			"cpu cpu.shares=1024", "cpu cpu.cfs_period_us=100000", "cpu cpu.cfs_quota_us=50000", "pids pids.max=9",
		}},
		"pod, none": {podLimits(true, runtime.Resources{}), nil},
		"a slot":    {slotSettings(), []string{"memory memory.oom.group=1"}},
	} {
		if d := cmp.Diff(c.want, written(c.got)); d != "" {
			t.Errorf("%s (-want +got)\n%s", name, d)
		}
	}
}

// The range of version 1 is the range of version 2, ends included.
func TestWeight(t *testing.T) {
	for shares, want := range map[int64]int64{0: 1, 2: 1, 1024: 39, 262144: 10000, 1 << 50: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("%d shares: got weight %d, want %d", shares, got, want)
		}
	}
}

// A kernel without swap limits has no such files, and lets none be made.
func TestOptional(t *testing.T) {
	tree, _ := unifiedTree(t)
	if err := tree.apply(tree.Parent, []setting{{"", "no.such.file", "1", true}}); err != nil {
		t.Error(err)
	}
	if err := tree.apply(tree.Parent, []setting{{"", "no.such.file", "1", false}}); err == nil {
		t.Error("a file that is needed: got no error")
	}
}

// Package cgroup is the node's tree of control groups, version 1 (also hybrid)
// or 2: limits, use and removal of the groups of pods and containers.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

const period = 100_000 // of CPU quotas, microseconds

// Tree is the node's cgroup tree, version 1 (also hybrid) or 2.
type Tree struct {
	root   string // /sys/fs/cgroup
	Parent string // of all pods, such as /podsnap
	V2     bool
	Swap   bool // swap can be limited
}

// Open looks which version the tree below root has. parent is the group of all
// pods, such as /podsnap.
func Open(root, parent string) (Tree, error) {
	if !filepath.IsAbs(parent) || filepath.Clean(parent) == "/" {
		return Tree{}, fmt.Errorf("cgroup parent %q: want an absolute path below the root", parent)
	}
	t := Tree{root: root, Parent: filepath.Clean(parent)}
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		t.V2 = true
	} else if _, err := os.Stat(filepath.Join(root, "memory")); err != nil {
		return Tree{}, fmt.Errorf("no memory cgroup controller below %s: mount the cgroup file systems", root)
	}
	if t.V2 {
		swap, err := os.ReadFile("/proc/swaps")
		t.Swap = err != nil || len(swap) > 0 // swap.max of a child is there with CONFIG_SWAP
	} else {
		_, err := os.Stat(filepath.Join(root, "memory", "memory.memsw.limit_in_bytes"))
		t.Swap = err == nil
	}
	return t, nil
}

// Pod is the path of a pod's cgroup in OCI's terms.
func (t Tree) Pod(uid string) string { return filepath.Join(t.Parent, uid) }

// Of is the path of a container's.
func (t Tree) Of(uid, container string) string { return filepath.Join(t.Pod(uid), container) }

// Controllers are the hierarchies that hold our groups: one in version 2.
func (t Tree) Controllers() []string {
	if t.V2 {
		return []string{t.root}
	}
	all, _ := os.ReadDir(t.root)
	var out []string
	for _, e := range all {
		if e.IsDir() { // links such as cpu → cpu,cpuacct are left out
			out = append(out, filepath.Join(t.root, e.Name()))
		}
	}
	return out
}

// File is where a controller's file of a group lies.
func (t Tree) File(controller, group, name string) string {
	if t.V2 {
		return filepath.Join(t.root, group, name)
	}
	return filepath.Join(t.root, controller, group, name)
}

// LimitPod makes a pod's cgroup and sets the limits of the pod as a whole.
func (t Tree) LimitPod(uid string, r runtime.Resources) error {
	if r == (runtime.Resources{}) {
		return nil // runc makes the group with the first container
	}
	group := t.Pod(uid)
	if t.V2 {
		if err := t.Delegate(group); err != nil {
			return err
		}
	}
	type setting struct{ controller, file, value string }
	var set []setting
	num := func(n int64) string { return strconv.FormatInt(n, 10) }
	if r.Memory > 0 {
		if t.V2 {
			set = append(set, setting{"memory", "memory.max", num(r.Memory)}, setting{"memory", "memory.swap.max", "0"})
		} else {
			set = append(set, setting{"memory", "memory.limit_in_bytes", num(r.Memory)}, setting{"memory", "memory.memsw.limit_in_bytes", num(r.Memory)})
		}
	}
	if r.CPUShares > 0 {
		if t.V2 {
			set = append(set, setting{"cpu", "cpu.weight", num(weight(r.CPUShares))})
		} else {
			set = append(set, setting{"cpu", "cpu.shares", num(max(2, r.CPUShares))})
		}
	}
	if r.CPUQuota > 0 {
		if t.V2 {
			set = append(set, setting{"cpu", "cpu.max", num(r.CPUQuota) + " " + num(period)})
		} else {
			set = append(set, setting{"cpu", "cpu.cfs_period_us", num(period)}, setting{"cpu", "cpu.cfs_quota_us", num(r.CPUQuota)})
		}
	}
	if r.Pids > 0 {
		set = append(set, setting{"pids", "pids.max", num(r.Pids)})
	}
	for _, s := range set {
		path := t.File(s.controller, group, s.file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("make pod cgroup: %w", err)
		}
		err := os.WriteFile(path, []byte(s.value), 0o644)
		if errors.Is(err, fs.ErrNotExist) && strings.Contains(s.file, "sw") {
			continue // a kernel that cannot limit swap
		}
		if err != nil {
			return fmt.Errorf("limit pod: %w", err)
		}
	}
	return nil
}

// Delegate makes a version 2 group and has its controllers on along the way.
func (t Tree) Delegate(group string) error {
	at := t.root
	for name := range strings.SplitSeq(strings.Trim(group, "/"), "/") {
		if err := os.WriteFile(filepath.Join(at, "cgroup.subtree_control"), []byte("+cpu +memory +pids"), 0o644); err != nil {
			return fmt.Errorf("turn on cgroup controllers: %w", err)
		}
		at = filepath.Join(at, name)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return fmt.Errorf("make pod cgroup: %w", err)
		}
	}
	return nil
}

// weight turns version 1 shares (2…262144) into a version 2 weight (1…10000),
// as runc and Kubernetes do.
func weight(shares int64) int64 {
	shares = min(max(shares, 2), 262144)
	return 1 + ((shares-2)*9999)/262142
}

// OOMKills is how many processes of the group the kernel has killed for lack
// of memory; 0 when the group is gone.
func (t Tree) OOMKills(group string) int64 {
	name := "memory.oom_control"
	if t.V2 {
		name = "memory.events"
	}
	kv, _ := keyValues(t.File("memory", group, name))
	return kv["oom_kill"]
}

// Usage is the group's CPU time in seconds and its working set in bytes: what
// the kernel could not take back without swapping.
func (t Tree) Usage(group string) (cpu float64, memory uint64, err error) {
	var used, inactive int64
	if t.V2 {
		kv, err := keyValues(t.File("cpu", group, "cpu.stat"))
		if err != nil {
			return 0, 0, err
		}
		cpu = float64(kv["usage_usec"]) / 1e6
		if used, err = Number(t.File("memory", group, "memory.current")); err != nil {
			return 0, 0, err
		}
		kv, err = keyValues(t.File("memory", group, "memory.stat"))
		if err != nil {
			return 0, 0, err
		}
		inactive = kv["inactive_file"]
	} else {
		ns, err := Number(t.File("cpuacct", group, "cpuacct.usage"))
		if err != nil {
			return 0, 0, err
		}
		cpu = float64(ns) / 1e9
		if used, err = Number(t.File("memory", group, "memory.usage_in_bytes")); err != nil {
			return 0, 0, err
		}
		kv, err := keyValues(t.File("memory", group, "memory.stat"))
		if err != nil {
			return 0, 0, err
		}
		inactive = kv["total_inactive_file"]
	}
	return cpu, uint64(max(0, used-inactive)), nil
}

// Number reads a file that holds one.
func Number(path string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

func keyValues(path string) (map[string]int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string]int64{}
	for s := bufio.NewScanner(f); s.Scan(); {
		k, v, _ := strings.Cut(s.Text(), " ")
		if n, err := strconv.ParseInt(v, 10, 64); err == nil {
			out[k] = n
		}
	}
	return out, nil
}

// Pods lists the UIDs that have a group in any hierarchy.
func (t Tree) Pods() []string {
	return slices.DeleteFunc(t.below(t.Parent), func(name string) bool { return name == slots })
}

// below lists the groups right below one, of all hierarchies.
func (t Tree) below(group string) []string {
	var out []string
	for _, h := range t.Controllers() {
		all, _ := os.ReadDir(filepath.Join(h, group))
		for _, e := range all {
			if e.IsDir() && !slices.Contains(out, e.Name()) {
				out = append(out, e.Name())
			}
		}
	}
	return out
}

// Remove ends what still runs in a group and those below, in every hierarchy,
// and removes them. A group that is not there is no error.
func (t Tree) Remove(group string) error {
	var errs []error
	for _, h := range t.Controllers() {
		errs = append(errs, removeGroup(filepath.Join(h, group)))
	}
	return errors.Join(errs...)
}

func removeGroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	err = os.Remove(dir)
	if errors.Is(err, unix.EBUSY) {
		if err := killGroup(dir); err != nil {
			return err
		}
		err = os.Remove(dir)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	return nil
}

// killGroup kills the processes of one group and waits, 5 s at most, until
// they have ended.
func killGroup(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err
	}
	for s := range strings.FieldsSeq(string(b)) {
		pid, err := strconv.Atoi(s)
		if err != nil || pid <= 1 {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // ended meanwhile
		}
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
		_ = unix.Close(fd)
	}
	return nil
}

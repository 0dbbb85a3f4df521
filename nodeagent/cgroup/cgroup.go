// Package cgroup is the node's tree of control groups, version 1 (also hybrid)
// or 2: limits, use and removal of the groups of pods and containers.
package cgroup

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/podsnap/podsnap/nodeagent/device"
)

// Tree is the node's cgroup tree, version 1 (also hybrid) or 2.
type Tree struct {
	root   string // /sys/fs/cgroup
	Parent string // of all pods, such as /podsnap
	V2     bool
	Swap   bool // swap can be limited
	// Wants are the version 2 controllers that our groups get: nil is cpu, memory
	// and pids. Tests want others, on machines that have given these to version
	// 1: then what these would limit has no limit.
	Wants       []string
	hierarchies []string        // as Open has found them: each start asks several times
	devices     *device.Program // version 2: closes devices to slots; see Equip
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
	t.hierarchies = t.look()
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
func (t Tree) Controllers() []string { return slices.Clone(t.hierarchies) }

// look finds them.
func (t Tree) look() []string {
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
		if !t.wants("memory") {
			return cpu, 0, nil
		}
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
	return parse(f)
}

// parse reads lines of a word and a number; others are left out.
func parse(r io.Reader) (map[string]int64, error) {
	out := map[string]int64{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		k, v, _ := strings.Cut(lines.Text(), " ")
		if n, err := strconv.ParseInt(v, 10, 64); err == nil {
			out[k] = n
		}
	}
	return out, lines.Err()
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

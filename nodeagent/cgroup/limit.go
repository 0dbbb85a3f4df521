package cgroup

import (
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

const (
	period   = 100_000 // of CPU quotas, microseconds
	minQuota = 1000    // the kernel takes no less
)

// setting is what is written to a file of a group.
type setting struct {
	controller, file, value string // "" is a file that every version 2 group has
	optional                bool   // not every kernel has the file
}

// limits are all limits of a group, in the order in which they have to be
// written; those that are not wanted are as in a new group. Swap comes on top of
// no memory limit. In version 2 they end with a thaw: a process that is born in
// a frozen group stands still before it is anything, and its maker with it.
func limits(v2, swap bool, r runtime.Resources) []setting {
	shares := max(2, r.CPUShares)
	quota := r.CPUQuota
	if quota > 0 {
		quota = max(minQuota, quota)
	}
	if v2 {
		noSwap := "max"
		if r.Memory > 0 {
			noSwap = "0"
		}
		return []setting{
			{"cpu", "cpu.weight", number(weight(shares), ""), false},
			{"cpu", "cpu.max", number(quota, "max") + " " + strconv.Itoa(period), false},
			{"memory", "memory.max", number(r.Memory, "max"), false},
			{"memory", "memory.swap.max", noSwap, true},
			{"pids", "pids.max", number(r.Pids, "max"), false},
			{"", "cgroup.freeze", "0", false},
		}
	}
	var out []setting
	if swap { // the limit with swap is never below the one without
		out = append(out, setting{"memory", "memory.memsw.limit_in_bytes", "-1", false})
	}
	out = append(out, setting{"memory", "memory.limit_in_bytes", number(r.Memory, "-1"), false})
	if swap && r.Memory > 0 {
		out = append(out, setting{"memory", "memory.memsw.limit_in_bytes", number(r.Memory, ""), false})
	}
	return append(out,
		setting{"cpu", "cpu.shares", number(shares, ""), false},
		setting{"cpu", "cpu.cfs_quota_us", number(quota, "-1"), false},
		setting{"pids", "pids.max", number(r.Pids, "max"), false},
	)
}

// podLimits are the limits of a pod whose containers have groups of their own
// below: only those that are wanted, as the group is new.
func podLimits(v2 bool, r runtime.Resources) (out []setting) {
	add := func(wanted int64, controller, file, value string, optional bool) {
		if wanted > 0 {
			out = append(out, setting{controller, file, value, optional})
		}
	}
	quota := max(minQuota, r.CPUQuota)
	if v2 {
		add(r.Memory, "memory", "memory.max", number(r.Memory, ""), false)
		add(r.Memory, "memory", "memory.swap.max", "0", true)
		add(r.CPUShares, "cpu", "cpu.weight", number(weight(r.CPUShares), ""), false)
		add(r.CPUQuota, "cpu", "cpu.max", number(quota, "")+" "+strconv.Itoa(period), false)
	} else {
		add(r.Memory, "memory", "memory.limit_in_bytes", number(r.Memory, ""), false)
		add(r.Memory, "memory", "memory.memsw.limit_in_bytes", number(r.Memory, ""), true)
		add(r.CPUShares, "cpu", "cpu.shares", number(max(2, r.CPUShares), ""), false)
		add(r.CPUQuota, "cpu", "cpu.cfs_period_us", strconv.Itoa(period), false)
		add(r.CPUQuota, "cpu", "cpu.cfs_quota_us", number(quota, ""), false)
	}
	add(r.Pids, "pids", "pids.max", number(r.Pids, ""), false)
	return out
}

// slotSettings are what a container's version 2 group has whatever its limits
// are. For want of memory all of its processes are killed and not one, as the
// kubelet has it: a container that is half dead serves nobody.
func slotSettings() []setting { return []setting{{"memory", "memory.oom.group", "1", false}} }

// number is a limit as it is written; none stands for no limit.
func number(n int64, none string) string {
	if n <= 0 {
		return none
	}
	return strconv.FormatInt(n, 10)
}

// weight turns version 1 shares (2…262144) into a version 2 weight (1…10000),
// as runc and Kubernetes do.
func weight(shares int64) int64 {
	shares = min(max(shares, 2), 262144)
	return 1 + ((shares-2)*9999)/262142
}

// apply writes settings in their order, and ends with the first that cannot be.
func (t Tree) apply(group string, all []setting) error {
	for _, s := range all {
		if !t.wants(s.controller) {
			continue
		}
		err := t.set(group, s.controller, s.file, s.value)
		if err == nil {
			continue
		}
		// The error does not tell: the kernel refuses to make a file.
		if _, gone := os.Lstat(t.File(s.controller, group, s.file)); s.optional && errors.Is(gone, fs.ErrNotExist) {
			continue
		}
		return err
	}
	return nil
}

// Limit sets all limits of a group; those that are not wanted are taken off. A
// version 2 group is thawed by it.
func (t Tree) Limit(group string, r runtime.Resources) error {
	return t.apply(group, limits(t.V2, t.Swap, r))
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
	all := podLimits(t.V2, r)
	for _, s := range all {
		if err := os.MkdirAll(filepath.Dir(t.File(s.controller, group, s.file)), 0o755); err != nil {
			return fmt.Errorf("make pod cgroup: %w", err)
		}
	}
	if err := t.apply(group, all); err != nil {
		return fmt.Errorf("limit pod: %w", err)
	}
	return nil
}

// wanted are the version 2 controllers that groups get.
func (t Tree) wanted() []string {
	if t.Wants != nil {
		return t.Wants
	}
	return []string{"cpu", "memory", "pids"}
}

// wants tells whether our groups have a controller.
func (t Tree) wants(controller string) bool {
	return !t.V2 || controller == "" || slices.Contains(t.wanted(), controller)
}

// Delegate makes a version 2 group and has its controllers on along the way.
func (t Tree) Delegate(group string) error {
	at := ""
	for name := range strings.SplitSeq(strings.Trim(group, "/"), "/") {
		if err := t.handOn(at); err != nil {
			return err
		}
		at = filepath.Join(at, name)
		if err := os.MkdirAll(filepath.Join(t.root, at), 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	return nil
}

// handOn gives the groups below a version 2 group the controllers. A group that
// does has no processes itself, but for the root of all.
func (t Tree) handOn(group string) error {
	if len(t.wanted()) == 0 {
		return nil
	}
	all := "+" + strings.Join(t.wanted(), " +")
	err := t.set(group, "", "cgroup.subtree_control", all)
	dir := filepath.Join(t.root, group)
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("turn on controllers below %s: it has processes of its own: move them into a group below it, or give another parent: %w", dir, err)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINVAL):
		have, _ := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		return fmt.Errorf("turn on controllers below %s: want %s, and it has %q: the kernel has to be started with them, and the group above (systemd: Delegate=yes) has to hand them on: %w", dir, all, strings.TrimSpace(string(have)), err)
	}
	return err
}

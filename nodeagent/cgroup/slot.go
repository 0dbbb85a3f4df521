package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/podsnap/podsnap/nodeagent/device"
)

// slots is the name below the parent under which groups are made ahead.
const slots = "fast"

// Slot is the path of a group that is made before there is a container for it.
func (t Tree) Slot(id string) string { return filepath.Join(t.Parent, slots, id) }

// Slots lists the ids that have a group in any hierarchy.
func (t Tree) Slots() []string { return t.below(filepath.Join(t.Parent, slots)) }

// PrepareSlots makes what the groups of all slots lie below.
func (t Tree) PrepareSlots() error {
	group := filepath.Join(t.Parent, slots)
	if t.V2 {
		if err := t.Delegate(group); err != nil {
			return err
		}
		return t.handOn(group)
	}
	for _, h := range t.Controllers() {
		if err := os.MkdirAll(filepath.Join(h, group), 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	return t.inheritSets(group)
}

// inheritSets gives the groups down to one the processors and memory nodes of
// those above: without, a version 1 group takes no process. Groups made below
// it get them by themselves.
func (t Tree) inheritSets(group string) error {
	at := filepath.Join(t.root, "cpuset")
	if _, err := os.Stat(filepath.Join(at, "cpuset.cpus")); err != nil {
		return nil // not mounted
	}
	for name := range strings.SplitSeq(strings.Trim(group, "/"), "/") {
		up := at
		at = filepath.Join(at, name)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			have, err := os.ReadFile(filepath.Join(at, file))
			if err != nil {
				return fmt.Errorf("read cgroup: %w", err)
			}
			if strings.TrimSpace(string(have)) != "" {
				continue
			}
			b, err := os.ReadFile(filepath.Join(up, file))
			if err == nil {
				err = os.WriteFile(filepath.Join(at, file), b, 0o644)
			}
			if err != nil {
				return fmt.Errorf("set up cgroup: %w", err)
			}
		}
	}
	return os.WriteFile(filepath.Join(at, "cgroup.clone_children"), []byte("1"), 0o644)
}

// MakeSlot makes a slot's group in every hierarchy, without limits, and closes
// the devices to it that containers do not have.
func (t Tree) MakeSlot(id string) error {
	group := t.Slot(id)
	for _, h := range t.Controllers() {
		if err := os.Mkdir(filepath.Join(h, group), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	if t.V2 {
		if t.devices == nil {
			return errors.New("make cgroup: nothing closes devices to it: equip the tree first")
		}
		return errors.Join(t.apply(group, slotSettings()), t.devices.Attach(filepath.Join(t.root, group)))
	}
	if err := t.set(group, "devices", "devices.deny", "a"); err != nil {
		return err
	}
	for _, rule := range device.Default() {
		if err := t.set(group, "devices", "devices.allow", rule.String()); err != nil {
			return err
		}
	}
	return nil
}

// RenewSlot puts a new group in the place of a slot's, whatever has become of
// that one, and ends what is in it.
func (t Tree) RenewSlot(id string) error {
	if err := t.Remove(t.Slot(id)); err != nil {
		return err
	}
	return t.MakeSlot(id)
}

func (t Tree) set(group, controller, file, value string) error {
	if err := os.WriteFile(t.File(controller, group, file), []byte(value), 0o644); err != nil {
		return fmt.Errorf("set up cgroup: %w", err)
	}
	return nil
}

// Join lists the files that a process enters a group by, when it has one thread
// and writes "0" to them: the version 1 hierarchies' tasks. Moving oneself so,
// the kernel need not keep all processes from forking; through cgroup.procs it
// has to, and waits 5 to 20 ms for that (an RCU grace period).
func (t Tree) Join(group string) (files []string) {
	if t.V2 {
		return nil
	}
	for _, h := range t.Controllers() {
		if filepath.Base(h) != unified {
			files = append(files, filepath.Join(h, group, "tasks"))
		}
	}
	return files
}

// unified is the name of the version 2 hierarchy beside those of version 1.
const unified = "unified"

// Born is the directory of a group that a process is born in, as it cannot join
// it at no cost: the version 2 hierarchy's. "" when there is none.
func (t Tree) Born(group string) string {
	if t.V2 {
		return filepath.Join(t.root, group)
	}
	if at := filepath.Join(t.root, unified); slices.Contains(t.Controllers(), at) {
		return filepath.Join(at, group)
	}
	return ""
}

// residue is how much memory a group may still be charged for when it is used
// again: page cache of an image's files, mostly, which the next container of
// the image has for nothing.
const residue = 32 << 20

// ErrUsed is a group that is not as good as new.
var ErrUsed = errors.New("the cgroup cannot be used again")

// Reset makes a group ready for another container: empty, counters at zero where
// the kernel lets them be (see Spent and OOMKills for where it does not). Its
// limits stay until the next container's take their places (see Limit). ErrUsed
// means that it has to be replaced.
func (t Tree) Reset(group string) error {
	first := t.Born(group) // who is in any of the groups, if only on the way, has entered this one before
	if first == "" {
		first = filepath.Join(t.hierarchies[0], group)
	}
	b, err := os.ReadFile(filepath.Join(first, "cgroup.procs"))
	if err != nil {
		return err
	}
	if len(b) > 0 {
		return fmt.Errorf("%w: processes are left in it", ErrUsed)
	}
	usage := "memory.current"
	if t.V2 {
		if err := t.Freeze(group, false); err != nil {
			return err
		}
	} else {
		usage = "memory.usage_in_bytes"
		if err := errors.Join(
			t.set(group, "memory", "memory.max_usage_in_bytes", "0"),
			t.set(group, "memory", "memory.failcnt", "0"),
			t.set(group, "cpuacct", "cpuacct.usage", "0"),
		); err != nil {
			return err
		}
		if t.Swap {
			if err := t.set(group, "memory", "memory.memsw.max_usage_in_bytes", "0"); err != nil {
				return err
			}
		}
	}
	if !t.wants("memory") {
		return nil
	}
	used, err := Number(t.File("memory", group, usage))
	if err != nil {
		return err
	}
	if used > residue {
		return fmt.Errorf("%w: %d bytes are charged to it", ErrUsed, used)
	}
	return nil
}

// Spent is the CPU time, in seconds, that a group's counter starts from when it
// is used again: version 2's cannot be set to zero.
func (t Tree) Spent(group string) float64 {
	if !t.V2 {
		return 0
	}
	kv, _ := keyValues(t.File("cpu", group, "cpu.stat"))
	return float64(kv["usage_usec"]) / 1e6
}

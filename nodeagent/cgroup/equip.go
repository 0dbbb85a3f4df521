package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/nodeagent/device"
	"github.com/podsnap/podsnap/nodeagent/program"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// trial is the slot that Equip tries everything on. It is in the way of no other:
// their names are longer.
const trial = "trial"

// Equip makes a version 2 tree ready for slots, and tries on one that is thrown
// away all that a container will rely on: controllers that are handed on, limits,
// devices that are closed, freezing, a process that is born in the group. The
// error names what is missing; then no slot has been left. Version 1 needs
// nothing of it. To be called once, before PrepareSlots; Close undoes it.
func (t *Tree) Equip() error {
	if !t.V2 {
		return nil
	}
	if err := t.missing(); err != nil {
		return err
	}
	p, err := device.Load(device.Default())
	if err != nil {
		return err
	}
	t.devices = p
	err = t.try()
	if err != nil {
		t.Close()
		t.devices = nil
		_ = os.Remove(filepath.Join(t.root, t.Parent, slots)) // unless a former runtime has some
	}
	return err
}

// Close gives up what Equip has taken: no slot can be made after it. Those that
// there are stay as they are.
func (t Tree) Close() {
	if t.devices != nil {
		_ = t.devices.Close()
	}
}

// missing names controllers that the tree does not have.
func (t *Tree) missing() error {
	path := filepath.Join(t.root, "cgroup.controllers")
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	have := strings.Fields(string(b))
	lacks := slices.DeleteFunc(slices.Clone(t.wanted()), func(c string) bool { return slices.Contains(have, c) })
	if len(lacks) == 0 {
		return nil
	}
	return fmt.Errorf("%s lacks %s: start the kernel with them (cgroup_enable=…, not mounted as version 1), or have the group above hand them on (systemd: Delegate=yes)", path, strings.Join(lacks, ", "))
}

func (t *Tree) try() (err error) {
	if err := t.PrepareSlots(); err != nil {
		return err
	}
	group := t.Slot(trial)
	dir := filepath.Join(t.root, group)
	if err := t.Remove(group); err != nil { // of one that was killed meanwhile
		return err
	}
	defer func() { err = errors.Join(err, t.Remove(group)) }()
	if err := t.MakeSlot(trial); err != nil {
		return err
	}
	_, err = os.Stat(filepath.Join(dir, "memory.swap.max"))
	t.Swap = err == nil
	if err := t.Limit(group, runtime.Resources{CPUShares: 512, CPUQuota: 50_000, Memory: 64 << 20, Pids: 64}); err != nil {
		return err
	}
	if err := tryDevice(dir); err != nil {
		return err
	}
	if err := t.Freeze(group, true); err != nil {
		return fmt.Errorf("the kernel cannot freeze groups (since Linux 5.2): %w", err)
	}
	if err := await(dir, "frozen", 1); err != nil { // an empty group is so at once
		return err
	}
	if err := t.Freeze(group, false); err != nil {
		return err
	}
	return t.Reset(group)
}

// forbidden are devices that no container may open. A machine may lack some.
var forbidden = []string{"/dev/kmsg", "/dev/mem", "/dev/port", "/dev/loop-control", "/dev/fuse", "/dev/tty0"}

// tryDevice has a process that is born in the group open /dev/null, which works,
// and a device that this process may open, which does not.
func tryDevice(dir string) error {
	closed := ""
	for _, d := range forbidden {
		if fd, err := unix.Open(d, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
			_ = unix.Close(fd)
			closed = d
			break
		}
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	var b program.Builder
	open := func(path string) {
		b.Call("open "+path, unix.SYS_OPENAT, program.Int(unix.AT_FDCWD), program.Text(path), program.Int(unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC), program.Int(0))
	}
	open("/dev/null")
	if closed != "" {
		open(closed)
	}
	b.Fail("end", unix.EPERM) // as if it had been refused: there is nothing to try it on
	p, err := b.Build()
	if err != nil {
		return err
	}
	_, err = program.Run(p.Image, program.Options{Cgroup: fd})
	f, ok := errors.AsType[*program.Fault](err)
	switch {
	case errors.Is(err, program.ErrKilled):
		return fmt.Errorf("start a process in %s: %w: the group that this process is in has been killed once (cgroup.kill), which the kernel remembers: start it in a new one", dir, err)
	case !ok:
		return fmt.Errorf("start a process in %s: %w", dir, err)
	case f.Call == 0:
		return fmt.Errorf("a process in %s: %w, and containers need that", dir, p.Explain(f))
	case closed != "" && (f.Call != 1 || f.Errno != unix.EPERM):
		return fmt.Errorf("a process in %s can open %s: the kernel does not heed the program that closes devices", dir, closed)
	}
	return nil
}

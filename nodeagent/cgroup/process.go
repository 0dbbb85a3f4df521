package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Kill ends all processes of a group, without waiting for them. The group can be
// used again, and therefore version 2's cgroup.kill is not: since Linux 6.10 or
// so a group remembers it, and the kernel kills whatever is born in the group
// from then on (CLONE_INTO_CGROUP), taking it for one that was being born.
func (t Tree) Kill(group string) error {
	b, err := os.ReadFile(t.File("pids", group, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for s := range strings.FieldsSeq(string(b)) {
		if pid, err := strconv.Atoi(s); err == nil && pid > 1 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	return err
}

// Freeze stops the processes of a group where they are, or lets them go on. The
// kernel does it soon after.
func (t Tree) Freeze(group string, frozen bool) error {
	if t.V2 {
		return t.set(group, "", "cgroup.freeze", map[bool]string{true: "1", false: "0"}[frozen])
	}
	return t.set(group, "freezer", "freezer.state", map[bool]string{true: "FROZEN", false: "THAWED"}[frozen])
}

// Frozen reports whether the processes of a group are, or are about to be,
// stopped.
func (t Tree) Frozen(group string) (bool, error) {
	controller, file := "freezer", "freezer.self_freezing"
	if t.V2 {
		controller, file = "", "cgroup.freeze"
	}
	n, err := Number(t.File(controller, group, file))
	return n != 0, err
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

// patience is how long the kernel is given for what it does in the background.
const patience = 5 * time.Second

// killGroup kills the processes of one group, for good, and waits, patience at
// most, until they have ended. In version 2 none escapes by making another one.
func killGroup(dir string) error {
	kill, err := os.OpenFile(filepath.Join(dir, "cgroup.kill"), os.O_WRONLY, 0)
	if err == nil {
		_, err = kill.WriteString("1")
		kill.Close()
		if err != nil {
			return fmt.Errorf("kill cgroup: %w", err)
		}
		return await(dir, "populated", 0)
	}
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
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
		_ = unix.Close(fd)
	}
	return nil
}

// await waits, patience at most, until cgroup.events of a version 2 group has
// the value. The kernel wakes whoever polls the file.
func await(dir, key string, value int64) error {
	path := filepath.Join(dir, "cgroup.events")
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	var text [512]byte
	for end := time.Now().Add(patience); ; {
		n, err := unix.Pread(fd, text[:], 0)
		if err != nil {
			return &os.PathError{Op: "read", Path: path, Err: err}
		}
		kv, err := parse(bytes.NewReader(text[:n]))
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		if kv[key] == value {
			return nil
		}
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("%s: %q is not %d after %v", path, key, value, patience)
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for %s: %w", path, err)
		}
	}
}

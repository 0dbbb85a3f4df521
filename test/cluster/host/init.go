package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/podsnap/podsnap/test/cluster/hub"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The names that this program has when it is a host's first process: before and
// after it is in the host's control groups.
const (
	initName = "podsnap-host"
	readyArg = "in-its-groups"
)

// connFd is the first process's end of its connection.
const connFd = 3

// programs is where a host's own programs are, searched is where programs are
// looked for.
const (
	programs = "/run/bin"
	searched = programs + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// spec tells a first process what it is to be.
type spec struct {
	Name     string
	Addr     netip.Prefix
	MAC      string
	Disk     string
	Programs map[string]string
	Groups   []string // directories of the host's control group in each hierarchy
	Unified  bool     // one hierarchy, version 2
}

func (s spec) encode() (string, error) {
	b, err := json.Marshal(s)
	return string(b), err
}

// Main has to be the first thing that a program does which starts hosts: the
// program is started anew as a host's first process, and as what cleans up after
// a program that was killed. In these it does not return.
func Main() {
	switch {
	case os.Args[0] == initName && len(os.Args) > 1:
		fail(first(os.Args[1], len(os.Args) > 2 && os.Args[2] == readyArg))
	case os.Args[0] == cleanerName && len(os.Args) > 2:
		clean(os.Args[1], os.Args[2])
		os.Exit(0)
	}
}

// fail ends the first process, and everything with it, telling why.
func fail(err error) {
	if c, fault := connOf(os.NewFile(connFd, "host")); fault == nil && err != nil {
		_ = c.send(message{Op: opReady, Error: err.Error()})
	}
	os.Exit(1)
}

// first is the life of a first process.
func first(arg string, inGroups bool) error {
	unix.CloseOnExec(connFd)
	var s spec
	if err := json.Unmarshal([]byte(arg), &s); err != nil {
		return err
	}
	if !inGroups {
		return enterGroups(s, arg)
	}
	if err := settle(s); err != nil {
		return err
	}
	c, err := connOf(os.NewFile(connFd, "host"))
	if err != nil {
		return err
	}
	i := &initProcess{conn: c, ids: map[int]int{}, pids: map[int]int{}}
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	go func() {
		for range children {
			i.reap()
		}
	}()
	hw, err := net.ParseMAC(s.MAC)
	if err != nil {
		return err
	}
	ip := s.Addr.Addr().AsSlice()
	tap, err := hub.OpenTAP("eth0", hw, &net.IPNet{IP: ip, Mask: net.CIDRMask(s.Addr.Bits(), 32)})
	if err != nil {
		return err
	}
	err = c.send(message{Op: opReady}, tap)
	_ = unix.Close(tap)
	if err != nil {
		return err
	}
	for {
		m, fds, err := c.receive()
		if err != nil {
			os.Exit(0) // nobody is there any more; all processes of the host end with this one
		}
		i.do(m, fds)
	}
}

// enterGroups puts this process into the host's control groups, which become the
// roots of what can be seen of the trees, and starts the program once more: a
// Go process has threads that would not be in the new namespace.
func enterGroups(s spec, arg string) error {
	runtime.LockOSThread()
	for _, dir := range s.Groups {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return fmt.Errorf("enter a control group: %w", err)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make a control group namespace: %w", err)
	}
	if _, err := unix.FcntlInt(connFd, unix.F_SETFD, 0); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", []string{initName, arg, readyArg}, os.Environ())
}

// settle makes the host's surroundings: name, file systems, loopback device.
func settle(s spec) error {
	if err := unix.Sethostname([]byte(s.Name)); err != nil {
		return err
	}
	if err := mounts(s); err != nil {
		return err
	}
	if s.Unified {
		// Controllers can be handed on only by a group without processes.
		if err := os.Mkdir("/sys/fs/cgroup/init", 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := os.WriteFile("/sys/fs/cgroup/init/cgroup.procs", []byte("0"), 0o644); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// initProcess is the first process when it has settled.
type initProcess struct {
	conn *conn

	mu   sync.Mutex
	ids  map[int]int // by pid
	pids map[int]int // by id
}

func (i *initProcess) do(m message, fds []int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch m.Op {
	case opStart:
		pid, err := start(m, fds)
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		answer := message{Op: opStarted, ID: m.ID, Pid: pid}
		if err != nil {
			answer.Error = err.Error()
		} else {
			i.ids[pid], i.pids[m.ID] = m.ID, pid
		}
		_ = i.conn.send(answer) // when it fails, the next receive does too
	case opSignal:
		if pid := i.pids[m.ID]; pid != 0 {
			_ = unix.Kill(pid, unix.Signal(m.Signal))
		}
	}
}

// start does not use os/exec, which waits for its processes by itself.
func start(m message, fds []int) (int, error) {
	if len(fds) != 3 {
		return 0, fmt.Errorf("%d files instead of 3", len(fds))
	}
	if err := os.Setenv("PATH", searched); err != nil {
		return 0, err
	}
	path, err := exec.LookPath(m.Path)
	if err != nil {
		return 0, err
	}
	dir := m.Dir
	if dir == "" {
		dir = "/"
	}
	return syscall.ForkExec(path, m.Args, &syscall.ProcAttr{
		Dir: dir, Env: m.Env, Files: []uintptr{uintptr(fds[0]), uintptr(fds[1]), uintptr(fds[2])},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
}

// reap takes the exit status of all that has ended, orphans as well.
func (i *initProcess) reap() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if id, ok := i.ids[pid]; ok {
			delete(i.ids, pid)
			delete(i.pids, id)
			_ = i.conn.send(message{Op: opExited, ID: id, Status: uint32(status)})
		}
	}
}

// mounts makes the file systems of a host. The machine's root is the host's, so
// that programs are there; what processes leave behind is not.
func mounts(s spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	trees, err := cgroupMounts()
	if err != nil {
		return err
	}
	// They may lie below what is about to be hidden.
	held := map[string]int{}
	for name, path := range s.Programs {
		if held[name], err = unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
	disk, err := unix.Open(s.Disk, unix.O_PATH|unix.O_CLOEXEC|unix.O_DIRECTORY, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: s.Disk, Err: err}
	}
	if err := detach("/proc", "/sys", "/run", "/tmp", "/var/lib"); err != nil {
		return err
	}
	todo := []struct {
		what, at, kind, data string
		flags                uintptr
	}{
		{"proc", "/proc", "proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"sysfs", "/sys", "sysfs", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"tmpfs", "/run", "tmpfs", "mode=755", unix.MS_NOSUID | unix.MS_NODEV},
		{"tmpfs", "/tmp", "tmpfs", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
		{fmt.Sprintf("/proc/self/fd/%d", disk), "/var/lib", "", "", unix.MS_BIND},
	}
	for _, m := range todo {
		if err := unix.Mount(m.what, m.at, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	if err := os.Mkdir(programs, 0o755); err != nil {
		return err
	}
	for name, fd := range held {
		at := filepath.Join(programs, name)
		if err := os.WriteFile(at, nil, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", at, err)
		}
		_ = unix.Close(fd)
	}
	_ = unix.Close(disk)
	return mountGroups(trees)
}

// detach hides all mounts at and below some folders, the latest first. They stay
// where they are for everybody else.
func detach(below ...string) error {
	all, err := mountPoints()
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(all) {
		if !slices.ContainsFunc(below, func(b string) bool { return m.at == b || strings.HasPrefix(m.at, b+"/") }) {
			continue
		}
		// One that went with another, or was hidden by it, is no error.
		if err := unix.Unmount(m.at, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", m.at, err)
		}
	}
	return nil
}

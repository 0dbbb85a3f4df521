package main

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func addr(v *int32) uintptr { return uintptr(unsafe.Pointer(v)) }

// calls tries the ways out of a container that need a system call with certain
// arguments. What could change this process is tried in a child.
func calls() {
	for n, flag := range map[string]uintptr{
		"time": unix.CLONE_NEWTIME, "mnt": unix.CLONE_NEWNS, "cgroup": unix.CLONE_NEWCGROUP, "uts": unix.CLONE_NEWUTS,
		"ipc": unix.CLONE_NEWIPC, "user": unix.CLONE_NEWUSER, "pid": unix.CLONE_NEWPID, "net": unix.CLONE_NEWNET,
	} {
		say("unshare."+n, child(unix.SYS_UNSHARE, flag, 0, 0))
		if flag != unix.CLONE_NEWTIME { // that bit means a signal to clone
			say("clone."+n, clone(flag))
		}
	}
	say("clone.plain", clone(0))
	for n := range 47 {
		for kind, t := range map[string]int{"stream": unix.SOCK_STREAM, "dgram": unix.SOCK_DGRAM, "raw": unix.SOCK_RAW, "seqpacket": unix.SOCK_SEQPACKET} {
			say(fmt.Sprintf("socket.%d.%s", n, kind), socket(n, t, 0))
		}
	}
	for n := range 24 {
		say(fmt.Sprintf("socket.netlink.%d", n), socket(unix.AF_NETLINK, unix.SOCK_RAW, n))
	}
	say("socket.icmp", socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP))
	say("socket.ping", socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP))
	say("socket.packet", socket(unix.AF_PACKET, unix.SOCK_RAW, 0x0300))
	for _, p := range []uintptr{0, 1, 8, 0x20000, 0x20008, 0x40000, 0x0200000, 0x0400000, 0x4000000, 0x8000000, 0xffffffff, 0xfffffffe} {
		say(fmt.Sprintf("personality.%#x", p), child(unix.SYS_PERSONALITY, p, 0, 0))
	}
	root, none, tmpfs := []byte("/\x00"), []byte("none\x00"), []byte("tmpfs\x00") // none is no path either
	at := func(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }
	cwd := ^uintptr(99) // AT_FDCWD
	for n, c := range map[string][7]uintptr{
		"mount tmpfs":    {unix.SYS_MOUNT, at(none), at(none), at(tmpfs), 0, 0},
		"remount root":   {unix.SYS_MOUNT, at(none), at(none), at(none), unix.MS_REMOUNT | unix.MS_BIND, 0},
		"umount":         {unix.SYS_UMOUNT2, at(none), 0},
		"pivot_root":     {unix.SYS_PIVOT_ROOT, at(root), at(root)},
		"chroot":         {unix.SYS_CHROOT, at(root)},
		"setns":          {unix.SYS_SETNS, ^uintptr(0), 0},
		"setuid 0":       {unix.SYS_SETUID, 0},
		"setgid 0":       {unix.SYS_SETGID, 0},
		"setgroups":      {unix.SYS_SETGROUPS, 0, 0},
		"setresuid 1":    {unix.SYS_SETRESUID, 1, 1, 1},
		"sethostname":    {unix.SYS_SETHOSTNAME, 0, 1},
		"keyctl":         {unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, ^uintptr(2), 0},
		"add_key":        {unix.SYS_ADD_KEY, at(none), at(none), at(none), 1, ^uintptr(2)},
		"bpf":            {unix.SYS_BPF, 0, 0, 0},
		"perf":           {unix.SYS_PERF_EVENT_OPEN, 0, 0, ^uintptr(0), ^uintptr(0), 0},
		"ptrace traceme": {unix.SYS_PTRACE, 0, 0, 0, 0},
		"ptrace parent":  {unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(os.Getpid()), 0, 0},
		"io_uring":       {unix.SYS_IO_URING_SETUP, 1, 0},
		"userfaultfd":    {unix.SYS_USERFAULTFD, 1},
		"syslog":         {unix.SYS_SYSLOG, 10, 0, 0},
		"reboot":         {unix.SYS_REBOOT, 0, 0, 0, 0},
		"settimeofday":   {unix.SYS_SETTIMEOFDAY, 0, 0},
		"nice":           {unix.SYS_SETPRIORITY, 0, 0, ^uintptr(0)},
		"fsopen":         {unix.SYS_FSOPEN, at(tmpfs), 0},
		"open_tree":      {unix.SYS_OPEN_TREE, cwd, at(root), 1},
		"handle":         {unix.SYS_OPEN_BY_HANDLE_AT, cwd, at(root), 0},
		"fanotify":       {unix.SYS_FANOTIFY_INIT, 0, 0},
		"quotactl":       {unix.SYS_QUOTACTL, 0, 0, 0, 0},
		"swapoff":        {unix.SYS_SWAPOFF, at(root)},
		"kexec":          {unix.SYS_KEXEC_LOAD, 0, 0, 0, 0},
		"module":         {unix.SYS_FINIT_MODULE, 0, at(root), 0},
		"acct":           {unix.SYS_ACCT, at(root)},
		"setsid":         {unix.SYS_SETSID},
		"secure bits":    {unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, 0x2f, 0, 0, 0},
		"ambient":        {unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, 10, 0, 0},
		"dumpable":       {unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1, 0, 0, 0},
		"io class":       {unix.SYS_IOPRIO_SET, 1, 0, 1 << 13},
		"realtime":       {unix.SYS_SCHED_SETSCHEDULER, 0, 1, at([]byte{1, 0, 0, 0})},
		"mlockall":       {unix.SYS_MLOCKALL, 2},
	} {
		say("call."+n, child(c[0], c[1], c[2], c[3], c[4], c[5]))
	}
	say("oom_score_adj lower", why(os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0o644)))
	terminal()
	memory()
}

// terminal injects input into a terminal of its own (TIOCSTI), the way out of
// `exec -it`.
func terminal() {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	say("open./dev/ptmx", why(err))
	if err != nil {
		return
	}
	defer unix.Close(fd)
	var b byte = 'x'
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCSTI, uintptr(unsafe.Pointer(&b)))
	say("ioctl.TIOCSTI", name(errno))
	_, _, errno = unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), 0x541c, uintptr(unsafe.Pointer(&b))) // TIOCLINUX
	say("ioctl.TIOCLINUX", name(errno))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	say("pts", fmt.Sprintf("%d %s", n, why(err)))
	var st unix.Stat_t
	err = unix.Stat(fmt.Sprintf("/dev/pts/%d", n), &st)
	say("pts.mode", fmt.Sprintf("%o %d:%d %s", st.Mode, st.Uid, st.Gid, why(err)))
}

// memory reads this process's own memory as if it were another's.
func memory() {
	var word, got uint64 = 42, 0
	local := []unix.Iovec{{Base: (*byte)(unsafe.Pointer(&got)), Len: 8}}
	remote := []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&word)), Len: 8}}
	_, err := unix.ProcessVMReadv(os.Getpid(), local, remote, 0)
	say("process_vm_readv", why(err))
}

func socket(family, kind, proto int) string {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
	if err == nil {
		unix.Close(fd)
	}
	return why(err)
}

// verdict is the exit of a child whose exit code is an error's number.
func verdict(pid uintptr) string {
	var w syscall.WaitStatus
	for {
		_, err := syscall.Wait4(int(pid), &w, syscall.WALL, nil)
		if err == nil {
			break
		}
		if err != syscall.EINTR {
			return "wait: " + err.Error()
		}
	}
	if w.Signaled() {
		return fmt.Sprintf("signal %d", w.Signal())
	}
	return name(syscall.Errno(w.ExitStatus()))
}

func child(nr uintptr, args ...uintptr) string {
	var a [6]uintptr
	copy(a[:], args)
	pid, errno := forkCall(nr, &a)
	if errno != 0 {
		return "fork: " + name(errno)
	}
	return verdict(pid)
}

// clone makes a child with flags; it ends at once.
func clone(flags uintptr) string {
	pid, errno := forkExit(flags)
	if errno != 0 {
		return name(errno)
	}
	return verdict(pid)
}

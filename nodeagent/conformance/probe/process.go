package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process tells what the kernel keeps of this process.
func process() {
	say("args", fmt.Sprintf("%q", os.Args))
	say("env", fmt.Sprintf("%q", os.Environ()))
	status()
	stat()
	for _, f := range []string{"oom_score_adj", "coredump_filter", "setgroups", "uid_map", "gid_map", "attr/current", "personality", "timens_offsets", "projid_map", "cpuset"} {
		say("self."+f, text("/proc/self/"+f))
	}
	for _, l := range []string{"exe", "root"} {
		to, err := os.Readlink("/proc/self/" + l)
		say("self."+l, to+" "+why(err))
	}
	say("self.cgroup", text("/proc/self/cgroup"))
	entries, _ := os.ReadDir("/proc/self/ns")
	for _, e := range entries {
		to, _ := os.Readlink("/proc/self/ns/" + e.Name())
		say("ns."+e.Name(), to)
	}
	for i, n := range limits {
		var r unix.Rlimit
		err := unix.Getrlimit(i, &r)
		if i == unix.RLIMIT_NOFILE { // the language's runtime has raised its own soft limit
			say("rlimit."+n, fmt.Sprintf("%d %s", r.Max, why(err)))
			continue
		}
		say("rlimit."+n, fmt.Sprintf("%d %d %s", r.Cur, r.Max, why(err)))
	}
	for n, op := range map[string]int{
		"dumpable": unix.PR_GET_DUMPABLE, "keepcaps": unix.PR_GET_KEEPCAPS, "securebits": unix.PR_GET_SECUREBITS,
		"timerslack": unix.PR_GET_TIMERSLACK, "thp_disable": unix.PR_GET_THP_DISABLE, "no_new_privs": unix.PR_GET_NO_NEW_PRIVS, "timing": unix.PR_GET_TIMING,
	} {
		v, err := unix.PrctlRetInt(op, 0, 0, 0, 0)
		say("prctl."+n, fmt.Sprintf("%d %s", v, why(err)))
	}
	for n, op := range map[string]int{"pdeathsig": unix.PR_GET_PDEATHSIG, "subreaper": unix.PR_GET_CHILD_SUBREAPER, "tsc": unix.PR_GET_TSC} {
		var v int32
		err := unix.Prctl(op, addr(&v), 0, 0, 0)
		say("prctl."+n, fmt.Sprintf("%d %s", v, why(err)))
	}
	persona, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, 0xffffffff, 0, 0)
	say("personality", fmt.Sprintf("%#x %s", persona, name(errno)))
	nice, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	say("nice", fmt.Sprintf("%d %s", 20-nice, why(err)))
	policy, _, errno := unix.RawSyscall(unix.SYS_SCHED_GETSCHEDULER, 0, 0, 0)
	say("scheduler", fmt.Sprintf("%d %s", policy, name(errno)))
	io, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_GET, 1, 0, 0)
	say("ioprio", fmt.Sprintf("%d %s", io, name(errno)))
	sid, _ := unix.Getsid(0)
	say("session", fmt.Sprintf("sid=%d pgid=%d ppid=%d pid=%d", sid, unix.Getpgrp(), os.Getppid(), os.Getpid()))
	if f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0); err == nil {
		f.Close()
		say("controlling terminal", "ok")
	} else {
		say("controlling terminal", why(err))
	}
	pids, _ := filepath.Glob("/proc/[0-9]*")
	var names []string
	for _, p := range pids {
		if _, err := strconv.Atoi(filepath.Base(p)); err == nil {
			names = append(names, text(p+"/comm"))
		}
	}
	slices.Sort(names)
	say("processes", fmt.Sprint(names))
	var u unix.Utsname
	_ = unix.Uname(&u)
	for n, v := range map[string][65]byte{"sysname": u.Sysname, "nodename": u.Nodename, "release": u.Release, "version": u.Version, "machine": u.Machine, "domainname": u.Domainname} {
		say("uname."+n, unix.ByteSliceToString(v[:]))
	}
	keyrings()
}

var limits = []string{
	"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME",
}

// status is all of /proc/self/status but what changes by the moment or by the
// language's runtime.
func status() {
	b, _ := os.ReadFile("/proc/self/status")
	for l := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(l, ":")
		v = strings.Join(strings.Fields(v), " ")
		switch {
		case strings.HasPrefix(k, "Vm"), strings.HasPrefix(k, "Rss"), strings.HasSuffix(k, "ctxt_switches"):
		case slices.Contains([]string{"State", "Tgid", "Ngid", "Pid", "PPid", "FDSize", "HugetlbPages", "Threads", "SigQ", "SigCgt", "SigBlk", "SigIgn", "SigPnd", "ShdPnd"}, k):
		default:
			say("status."+k, v)
		}
	}
}

// stat is the controlling terminal.
func stat() {
	_, rest, _ := strings.Cut(text("/proc/self/stat"), ") ")
	f := strings.Fields(rest)
	if len(f) > 5 {
		say("tty_nr", f[4])
		say("tpgid", f[5])
	}
}

// keyrings can be asked about only where the system call is let through.
func keyrings() {
	for n, id := range map[string]int{"thread": unix.KEY_SPEC_THREAD_KEYRING, "process": unix.KEY_SPEC_PROCESS_KEYRING, "session": unix.KEY_SPEC_SESSION_KEYRING, "user": unix.KEY_SPEC_USER_KEYRING} {
		serial, err := unix.KeyctlGetKeyringID(id, false)
		if err != nil {
			say("keyring."+n, why(err))
			continue
		}
		what, err := unix.KeyctlString(unix.KEYCTL_DESCRIBE, serial)
		say("keyring."+n, what+" "+why(err))
		say("keyring."+n+".serial", serial)
	}
}

package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// lookEarly looks at what the process was born with and is soon changed by the
// language's own runtime: open files, the current directory.
func lookEarly() []func() {
	type fd struct{ n, link, mode string }
	var found []fd
	for n := range 1024 {
		var st unix.Stat_t
		if unix.Fstat(n, &st) != nil {
			continue
		}
		link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", n))
		if err != nil {
			link = "!" + why(err)
		}
		if kind, _, ok := strings.Cut(link, ":["); ok {
			link = kind // without the inode
		}
		flags, _ := unix.FcntlInt(uintptr(n), unix.F_GETFL, 0)
		found = append(found, fd{fmt.Sprint(n), link, fmt.Sprintf("type=%o access=%d rdev=%d:%d", st.Mode&unix.S_IFMT, flags&unix.O_ACCMODE, unix.Major(st.Rdev), unix.Minor(st.Rdev))})
	}
	wd, err := os.Getwd()
	signals := map[string]string{}
	for l := range strings.Lines(text("/proc/thread-self/status")) {
		if k, v, _ := strings.Cut(l, ":"); k == "SigBlk" || k == "SigIgn" {
			signals[k] = strings.TrimSpace(v)
		}
	}
	return []func(){func() {
		say("fds", len(found))
		for _, f := range found {
			say("fd."+f.n, f.link+" "+f.mode)
		}
		say("cwd", wd+" "+why(err))
		for k, v := range signals {
			say("signals."+k, v)
		}
	}}
}

func asErrno(err error, errno *unix.Errno) bool { return errors.As(err, errno) }

func name(errno unix.Errno) string {
	if errno == 0 {
		return "ok"
	}
	if n := unix.ErrnoName(errno); n != "" {
		return n
	}
	return fmt.Sprintf("errno%d", int(errno))
}

package main

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	sweepSize = 520
	running   = -1 // the call did not come back
	notCalled = -2
	x32       = 0x40000000
	getpid32  = 20
)

// numbers makes every system call there is, and some that there are not, by
// each way into the kernel, with arguments that mean nothing (all bits set),
// and tells the error. What the filter refuses is told apart from what the
// kernel finds wrong with the arguments by comparing with the filter itself,
// which the suite reads from outside.
func numbers() {
	sweepAll("native", 0, native, false)
	sweepAll("x32", x32, native, false)
	sweepAll("ia32", 0, compat, true)
}

func sweepAll(label string, base uintptr, skip []int, entry32 bool) {
	b, err := unix.Mmap(-1, 0, sweepSize*4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON)
	if err != nil {
		say(label, err)
		return
	}
	defer func() { _ = unix.Munmap(b) }()
	got := (*[sweepSize]int32)(unsafe.Pointer(&b[0]))
	var left [sweepSize]bool
	for _, n := range skip {
		left[n] = true
	}
	for i := range got {
		got[i] = notCalled
	}
	if entry32 {
		if pid, errno := sweep(getpid32, getpid32+1, base, got, &left, true); errno != 0 || verdict(pid) != "ok" {
			say(label, "there is no 32-bit entry")
			return
		}
	}
	died := map[int]string{}
	for from := 0; from < sweepSize; {
		pid, errno := sweep(int32(from), sweepSize, base, got, &left, entry32)
		if errno != 0 {
			say(label, "fork: "+name(errno))
			return
		}
		var w syscall.WaitStatus
		for {
			if _, err := syscall.Wait4(int(pid), &w, syscall.WALL, nil); err != syscall.EINTR {
				break
			}
		}
		at := -1
		for i, v := range got {
			if v == running && died[i] == "" {
				at = i
			}
		}
		if at < 0 {
			break
		}
		died[at] = fmt.Sprintf("exit %d", w.ExitStatus())
		if w.Signaled() {
			died[at] = fmt.Sprintf("signal %d", w.Signal())
		}
		from = at + 1
	}
	for i, v := range got {
		switch {
		case v == running:
			say(fmt.Sprintf("%s.%03d", label, i), died[i])
		case v != notCalled && v > 0:
			say(fmt.Sprintf("%s.%03d", label, i), name(syscall.Errno(v)))
		case v != notCalled:
			say(fmt.Sprintf("%s.%03d", label, i), "ok")
		}
	}
}

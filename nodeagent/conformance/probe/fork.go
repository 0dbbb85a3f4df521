package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// A child of a plain fork has one thread and no runtime: until it ends it may
// only make raw system calls, in functions that need no more stack.

// forkCall makes one system call in a child, which ends with the error's
// number as its exit code.
//
//go:norace
//go:nosplit
//go:noinline
func forkCall(nr uintptr, a *[6]uintptr) (uintptr, unix.Errno) {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	_, _, errno = unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(errno), 0, 0)
	}
}

//go:norace
//go:nosplit
//go:noinline
func forkExit(flags uintptr) (uintptr, unix.Errno) {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// sweep calls the numbers from..to in a child, each with arguments that mean
// nothing, and notes the results in shared memory, so that a number that ends
// the child is known. With entry32 the 32-bit entry is used.
//
//go:norace
//go:nosplit
//go:noinline
func sweep(from, to int32, base uintptr, got *[sweepSize]int32, skip *[sweepSize]bool, entry32 bool) (uintptr, unix.Errno) {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	// A call that faults ends the child; the handlers of the language's runtime
	// would not know where they are.
	var standard [4]uintptr
	for _, sig := range [...]uintptr{4, 5, 7, 11, 31} {
		unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&standard)), 0, 8, 0, 0)
	}
	const junk = ^uintptr(0)
	for n := from; n < to; n++ {
		if skip[n] {
			continue
		}
		got[n] = running
		if entry32 {
			got[n] = -enter32(uint32(n), 0xffffffff)
			continue
		}
		_, _, errno := unix.RawSyscall6(base|uintptr(n), junk, junk, junk, junk, junk, junk)
		got[n] = int32(errno)
	}
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// forkWait makes a child that waits for the pipe's other end to be closed,
// which happens when the parent ends.
//
//go:norace
//go:nosplit
//go:noinline
func forkWait(fd int) (uintptr, unix.Errno) {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	var b [1]byte
	unix.RawSyscall(unix.SYS_PAUSE, uintptr(fd), uintptr(unsafe.Pointer(&b)), 0)
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// Package disposition undoes what a process inherits that its children should
// not: make, for one, starts programs with the first two real-time signals
// ignored, and an ignored signal stays ignored over every execve, down to the
// processes in containers. Go leaves these two alone, as C libraries use them.
package disposition

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	defaultHandler = 0
	ignore         = 1
	setSize        = 8 // bytes of the kernel's signal set
)

// action is the kernel's struct sigaction, which amd64 and arm64 share.
type action struct {
	handler, flags, restorer, mask uint64
}

// Reset has signals 32 and 33 do what they do by default, if they are ignored.
func Reset() {
	for sig := uintptr(32); sig <= 33; sig++ {
		var now action
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(&now)), setSize, 0, 0)
		if errno != 0 || now.handler != ignore {
			continue
		}
		next := action{handler: defaultHandler}
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&next)), 0, setSize, 0, 0)
	}
}

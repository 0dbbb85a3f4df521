package embedded

import (
	"bufio"
	"bytes"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Trim gives back what the start alone needed: free pages of the heap, and the
// pages of the program itself, most of which only its initialization has touched.
// Those that are needed come back from the page cache one by one.
func Trim() {
	debug.FreeOSMemory()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return // nothing is lost by it
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		start, size, ok := program(s.Text(), self)
		if ok {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, start, size, unix.MADV_DONTNEED)
		}
	}
}

// program reads a line of /proc/self/maps: a part of the program's file that can't
// be written, so that the file has all of it.
func program(line, self string) (start, size uintptr, ok bool) {
	f := strings.Fields(line) // range, permissions, offset, device, inode, path
	if len(f) != 6 || f[5] != self || f[1] != "r-xp" && f[1] != "r--p" {
		return 0, 0, false
	}
	from, to, ok := strings.Cut(f[0], "-")
	a, errA := strconv.ParseUint(from, 16, 64)
	z, errZ := strconv.ParseUint(to, 16, 64)
	if !ok || errA != nil || errZ != nil || z <= a {
		return 0, 0, false
	}
	return uintptr(a), uintptr(z - a), true
}

package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mounts is the table of mounts: by mount point, the file system, what of it
// is mounted, options, propagation and the options of the file system.
func mounts() {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	seen := map[string]int{}
	for l := range strings.Lines(string(b)) {
		f := strings.Fields(l)
		dash := slices.Index(f, "-")
		if dash < 6 || len(f) < dash+4 {
			say("mount", "not understood: "+l)
			continue
		}
		at := f[4]
		if seen[at]++; seen[at] > 1 {
			at = fmt.Sprintf("%s#%d", at, seen[at])
		}
		say("mount."+at, fmt.Sprintf("%s of %s root=%s options=%s propagation=%s super=%s", f[dash+1], f[dash+2], f[3], f[5], strings.Join(f[6:dash], ","), f[dash+3]))
	}
	for _, p := range []string{"/", "/dev", "/dev/shm", "/dev/pts", "/proc", "/sys"} {
		var s unix.Statfs_t
		err := unix.Statfs(p, &s)
		say("statfs."+p, fmt.Sprintf("type=%#x flags=%#x %s", s.Type, s.Flags, why(err)))
		if p == "/dev" || p == "/dev/shm" {
			say("size."+p, s.Blocks*uint64(s.Bsize))
		}
	}
}

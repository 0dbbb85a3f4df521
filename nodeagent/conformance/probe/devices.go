package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// devices tells what is in /dev, and which devices can be made and opened.
func devices() {
	_ = filepath.WalkDir("/dev", func(p string, _ os.DirEntry, err error) error {
		if err != nil || strings.HasPrefix(p, "/dev/pts/") || strings.HasPrefix(p, "/dev/shm/") {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			say("dev."+p, why(err))
			return nil
		}
		what := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			to, _ := os.Readlink(p)
			what += " to " + to
		case unix.S_IFCHR, unix.S_IFBLK:
			what += fmt.Sprintf(" rdev=%d:%d open=%s", unix.Major(st.Rdev), unix.Minor(st.Rdev), try("rw", p))
		}
		say("dev."+p, what)
		return nil
	})
	// Device nodes of one's own, on the root file system, which is not nodev.
	kinds := map[string]uint32{"c": unix.S_IFCHR, "b": unix.S_IFBLK}
	list := []string{
		"c 1:1", "c 1:2", "c 1:3", "c 1:4", "c 1:5", "c 1:7", "c 1:8", "c 1:9", "c 1:11", "c 4:0", "c 4:1", "c 4:64", "c 5:0", "c 5:1", "c 5:2", "c 5:3",
		"c 10:1", "c 10:130", "c 10:144", "c 10:183", "c 10:200", "c 10:223", "c 10:229", "c 10:232", "c 10:237", "c 10:238", "c 10:239", "c 13:0", "c 21:0", "c 108:0", "c 116:1", "c 136:0", "c 136:7", "c 202:0", "c 203:0", "c 226:0", "c 235:0", "c 250:0",
		"b 1:0", "b 7:0", "b 8:0", "b 9:0", "b 11:0", "b 202:0", "b 252:0", "b 253:0", "b 254:0", "b 259:0",
	}
	if b, err := os.ReadFile("/proc/partitions"); err == nil { // the machine's real disks
		for l := range strings.Lines(string(b)) {
			if f := strings.Fields(l); len(f) == 4 && f[0] != "major" {
				list = append(list, "b "+f[0]+":"+f[1])
			}
		}
	}
	for _, at := range []string{"/probe-node", "/dev/probe-node", "/dev/shm/probe-node"} {
		for _, d := range list {
			var major, minor uint32
			var kind string
			if _, err := fmt.Sscanf(d, "%s %d:%d", &kind, &major, &minor); err != nil {
				say("mknod."+d, err)
				continue
			}
			err := unix.Mknod(at, kinds[kind]|0o600, int(unix.Mkdev(major, minor)))
			if err != nil {
				say("mknod."+at+"."+d, why(err))
				continue
			}
			say("mknod."+at+"."+d, fmt.Sprintf("made r=%s w=%s", try("r", at), try("w", at)))
			_ = unix.Unlink(at)
		}
	}
}

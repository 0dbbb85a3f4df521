package fast

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// untouched tells whether a root file system is as it was: what is written to it
// is in its upper directory. Folders that were only gone through on the way to
// something that is not there any more do not count, nor the mount point for
// /proc, which every start makes whose image lacks it.
func untouched(upper string, layers []string) bool {
	folders := 0
	return plain(upper, 0o755) && sameFolders(upper, "", layers, &folders)
}

// mostFolders is how many folders are looked at before a root file system is
// taken as used.
const mostFolders = 32

func sameFolders(upper, at string, layers []string, seen *int) bool {
	entries, err := os.ReadDir(filepath.Join(upper, at))
	if err != nil {
		return false
	}
	for _, e := range entries {
		name := filepath.Join(at, e.Name())
		if *seen++; *seen > mostFolders || !e.IsDir() {
			return false
		}
		mode := uint32(0o755)
		if name != "proc" {
			var st unix.Stat_t
			if !slices.ContainsFunc(layers, func(l string) bool { return unix.Lstat(filepath.Join(l, name), &st) == nil }) || st.Uid != 0 || st.Gid != 0 {
				return false
			}
			mode = st.Mode &^ unix.S_IFMT
		}
		if !plain(filepath.Join(upper, name), mode) || !sameFolders(upper, name, layers, seen) {
			return false
		}
	}
	return true
}

// plain tells a folder of root's with this mode and nothing else. Extended
// attributes are the overlay's own, or somebody's; an opaque folder hides what
// the image has there.
func plain(path string, mode uint32) bool {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil || st.Mode != unix.S_IFDIR|mode || st.Uid != 0 || st.Gid != 0 {
		return false
	}
	names := make([]byte, 1<<10)
	n, err := unix.Llistxattr(path, names)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return false
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:max(n, 0)]), "\x00"), "\x00") {
		if name != "" && (!strings.HasPrefix(name, overlayAttr) || name == overlayAttr+"opaque" || name == overlayAttr+"redirect") {
			return false
		}
	}
	return true
}

const overlayAttr = "trusted.overlay."

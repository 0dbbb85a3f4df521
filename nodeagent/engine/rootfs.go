package engine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/nodeagent/spec"
)

// layers are the directories of a snapshot, uppermost first. They are read
// where they lie, without a mount, and never outside of them: an image's
// symlinks do not lead to files of the host.
type layers []string

// layersOf finds the directories in the mounts of an overlay snapshot.
func layersOf(mounts []mount.Mount) (layers, error) {
	for _, m := range mounts {
		if m.Type == "bind" {
			return layers{m.Source}, nil
		}
		for _, o := range m.Options {
			if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
				return strings.Split(dirs, ":"), nil
			}
		}
	}
	return nil, errors.New("the snapshotter is not overlayfs")
}

// readEtc reads a small file of /etc, such as passwd. One that is not there is
// empty.
func (l layers) readEtc(name string) ([]byte, error) {
	const dir, limit = "etc", 4 << 20
	for _, root := range l {
		b, err := readIn(root, filepath.Join(dir, name), limit)
		if !errors.Is(err, fs.ErrNotExist) {
			return b, err
		}
		if hidden(filepath.Join(root, dir)) {
			break
		}
	}
	return nil, nil
}

func readIn(root, path string, limit int64) ([]byte, error) {
	f, err := os.OpenInRoot(root, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Mode()&fs.ModeCharDevice != 0 { // a whiteout: deleted in this layer
		return nil, nil
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("/%s of the image is not a regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("/%s of the image has more than %d bytes", path, limit)
	}
	return b, err
}

// hidden says whether a layer hides the directory in the layers below: it is
// marked opaque, or is something else than a directory.
func hidden(dir string) bool {
	st, err := os.Lstat(dir)
	if err != nil {
		return false
	}
	if !st.IsDir() {
		return true
	}
	buf := make([]byte, 1)
	n, err := unix.Lgetxattr(dir, "trusted.overlay.opaque", buf)
	return err == nil && n == 1 && buf[0] == 'y'
}

// check refuses an image whose mount points are symlinks: with them, runc has
// been led to mount outside of the root file system.
func (l layers) check() error {
	for _, name := range []string{"dev", "proc", "sys"} {
		for _, root := range l {
			st, err := os.Lstat(filepath.Join(root, name))
			if err != nil {
				continue
			}
			if st.Mode()&fs.ModeSymlink != 0 {
				return fmt.Errorf("the image's /%s is a symbolic link: it is not safe to run", name)
			}
			break
		}
	}
	return nil
}

func (l layers) accounts() (spec.Accounts, error) {
	passwd, err1 := l.readEtc("passwd")
	group, err2 := l.readEtc("group")
	return spec.Accounts{Passwd: passwd, Group: group}, errors.Join(err1, err2)
}

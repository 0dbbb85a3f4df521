package fast

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/podsnap/podsnap/nodeagent/confine"
)

// below is a directory with all that a container is mounted over, and its
// working directory: the lowest layer of its root file system. Images of
// functions lack most of it, and making and removing it for each container costs
// more than mounting. There is one for each set of such places; it is not
// changed once it is there.
func (r *Runtime) below(in *confine.Input) (string, error) {
	dirs, files := []string{in.Spec.Process.Cwd}, []string{}
	for _, m := range in.Spec.Mounts {
		at := filepath.Clean(m.Destination)
		if top := strings.SplitN(at, "/", 3); at == "/proc" || len(top) == 3 && slices.Contains([]string{"dev", "proc", "sys"}, top[1]) {
			// In a file system of the kernel's; /proc itself comes last, and a
			// volume that a link of the image sends there must not find it.
			continue
		}
		if m.Type == "bind" && in.Files[m.Source] {
			files = append(files, at)
		} else {
			dirs = append(dirs, at)
		}
	}
	slices.Sort(dirs)
	slices.Sort(files)
	sum := sha256.Sum256([]byte(strings.Join(dirs, "\x00") + "\x00\x00" + strings.Join(files, "\x00")))
	dir := filepath.Join(r.c.StateDir, "below", hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	tmp := dir + "." + newID()
	if err := makeBelow(tmp, dirs, files); err != nil {
		return "", errors.Join(fmt.Errorf("make mount points: %w", err), os.RemoveAll(tmp))
	}
	// Another start may have been as quick.
	if err := os.Rename(tmp, dir); err != nil {
		if !errors.Is(err, fs.ErrExist) {
			return "", errors.Join(fmt.Errorf("make mount points: %w", err), os.RemoveAll(tmp))
		}
		return dir, os.RemoveAll(tmp)
	}
	return dir, nil
}

func makeBelow(root string, dirs, files []string) error {
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	for _, f := range files {
		path := filepath.Join(root, f)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			return err
		}
	}
	// Whatever our umask is: the container's user has to get through.
	return filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chmod(path, 0o755)
	})
}

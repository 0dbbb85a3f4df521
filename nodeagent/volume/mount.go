package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// tmpfs mounts memory at target, once.
func (m *Manager) tmpfs(target, options string) error {
	if m.c.OnDisk {
		return nil
	}
	mounted, err := isMount(target)
	if err != nil || mounted {
		return err
	}
	if err := unix.Mount("tmpfs", target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount memory at %s: %w", target, err)
	}
	return nil
}

// isMount tells a mount point by the device, which differs from its parent's.
func isMount(path string) (bool, error) {
	here, err := device(path)
	if err != nil {
		return false, err
	}
	above, err := device(filepath.Dir(path))
	return here != above, err
}

func device(path string) (uint64, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	return fi.Sys().(*syscall.Stat_t).Dev, nil
}

// unmountBelow unmounts a pod's folders of memory. A folder that is still in
// use goes away with its last user.
func unmountBelow(dir string) error {
	paths := []string{filepath.Join(dir, "secrets")}
	entries, err := os.ReadDir(filepath.Join(dir, "volumes"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		paths = append(paths, filepath.Join(dir, "volumes", e.Name()))
	}
	for _, p := range paths {
		mounted, err := isMount(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && mounted {
			err = unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", p, err)
		}
	}
	return nil
}

package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// Size is how many bytes a volume of a pod takes on disk: what is in its own file
// system, each file once.
func (m *Manager) Size(ctx context.Context, p *corev1.Pod, v *corev1.Volume) (int64, error) {
	dir, err := m.dir(p.UID)
	if err != nil {
		return 0, err
	}
	root, err := os.OpenRoot(filepath.Join(dir, base(v), v.Name))
	if err != nil {
		return 0, err
	}
	defer root.Close()
	var sum int64
	var device uint64
	linked := map[uint64]bool{}
	err = fs.WalkDir(root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it has gone meanwhile
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // it has gone meanwhile
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		switch {
		case device == 0:
			device = st.Dev
		case st.Dev != device:
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !d.IsDir() && st.Nlink > 1:
			if linked[st.Ino] {
				return nil
			}
			linked[st.Ino] = true
		}
		sum += st.Blocks * 512
		return nil
	})
	return sum, err
}

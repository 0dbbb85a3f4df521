package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/api"
)

// claim leads to the folder of the volume that a claim is bound to.
func (m *Manager) claim(ctx context.Context, p *corev1.Pod, name, target string) error {
	obj, err := m.get(ctx, p, api.PersistentVolumeClaims, name)
	if err != nil {
		return err
	}
	c := obj.(*corev1.PersistentVolumeClaim)
	if c.Spec.VolumeName == "" {
		return configError("claim %q is not bound to a volume yet", name)
	}
	obj, err = m.get(ctx, p, api.PersistentVolumes, c.Spec.VolumeName)
	if err != nil {
		return err
	}
	v := obj.(*corev1.PersistentVolume)
	if r := v.Spec.ClaimRef; r == nil || r.UID != c.UID {
		return configError("volume %q is not, or not any more, the one of claim %q", v.Name, name)
	}
	folder, err := m.folder(p, v)
	if err != nil {
		return err
	}
	return point(target, folder)
}

// folder is where a volume is on this machine. One of the node's own disk is made when
// it is used for the first time; what people have made has to be there.
func (m *Manager) folder(p *corev1.Pod, v *corev1.PersistentVolume) (string, error) {
	s := &v.Spec.PersistentVolumeSource
	switch {
	case s.CSI != nil && api.IsDiskOf(v, m.c.Node):
		return m.own(p, v)
	case s.CSI != nil:
		return "", configError("volume %q is on node %q, not on this one", v.Name, api.NodeOfVolume(v))
	case s.Local != nil:
		return s.Local.Path, isFolder(s.Local.Path)
	case s.HostPath != nil:
		if t := s.HostPath.Type; t != nil && *t == corev1.HostPathDirectoryOrCreate {
			if err := os.MkdirAll(s.HostPath.Path, 0o755); err != nil {
				return "", err
			}
		}
		return s.HostPath.Path, isFolder(s.HostPath.Path)
	}
	return "", configError("volume %q is of a kind that is not supported", v.Name)
}

// own is the folder of a volume on the node's own disk. It is there with its mode or not
// at all.
func (m *Manager) own(p *corev1.Pod, v *corev1.PersistentVolume) (string, error) {
	name, err := api.FolderOfVolume(v)
	if err != nil {
		return "", &ConfigError{err}
	}
	folder := filepath.Join(m.c.Disks, name)
	if _, err := os.Lstat(folder); err == nil {
		if group(p) == nil {
			return folder, nil
		}
		return folder, openTo(p, folder)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	fresh := filepath.Join(m.c.Disks, ".new-"+name)
	if err := os.Mkdir(fresh, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	if err := openTo(p, fresh); err != nil {
		return "", err
	}
	return folder, os.Rename(fresh, folder)
}

func isFolder(path string) error {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return configError("there is no %s on this node", path)
	case err != nil:
		return err
	case !fi.IsDir():
		return configError("%s is no folder", path)
	}
	return nil
}

// point makes target a link to a folder.
func point(target, folder string) error {
	if was, err := os.Readlink(target); err == nil && was == folder {
		return nil
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(folder, target)
}

// writable tells whether containers may write to a volume at all.
func (m *Manager) writable(p *corev1.Pod, v *corev1.Volume) bool {
	if v.PersistentVolumeClaim == nil {
		return v.EmptyDir != nil || v.HostPath != nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.seen[p.UID][api.PersistentVolumeClaims.Plural+"/"+v.PersistentVolumeClaim.ClaimName].(*corev1.PersistentVolumeClaim)
	return !v.PersistentVolumeClaim.ReadOnly && ok &&
		slices.ContainsFunc(c.Spec.AccessModes, func(a corev1.PersistentVolumeAccessMode) bool { return a != corev1.ReadOnlyMany })
}

// Uses tells whether a pod that is here has a folder for a claim's volume.
func (m *Manager) Uses(folder string) (bool, error) {
	pods, err := m.List()
	if err != nil {
		return false, err
	}
	for _, uid := range pods {
		dir := filepath.Join(m.c.Root, string(uid), "volumes")
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		for _, e := range entries {
			if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && to == folder {
				return true, nil
			}
		}
	}
	return false, nil
}

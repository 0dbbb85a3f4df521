package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/api"
)

// file is one file of a volume.
type file struct {
	data []byte
	mode fs.FileMode
}

const (
	dataLink    = "..data"     // names the version that is shown
	dataLinkNew = "..data_tmp" // becomes dataLink
)

// payload is the content of a volume by relative path.
func (m *Manager) payload(ctx context.Context, p *corev1.Pod, v *corev1.Volume) (map[string]file, error) {
	out := map[string]file{}
	switch {
	case v.Secret != nil:
		s := v.Secret
		return out, m.secret(ctx, p, out, s.SecretName, s.Items, mode(s.DefaultMode), s.Optional)
	case v.ConfigMap != nil:
		c := v.ConfigMap
		return out, m.configMap(ctx, p, out, c.Name, c.Items, mode(c.DefaultMode), c.Optional)
	case v.DownwardAPI != nil:
		return out, m.downward(p, out, v.DownwardAPI.Items, mode(v.DownwardAPI.DefaultMode))
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if err := m.project(ctx, p, out, s, mode(v.Projected.DefaultMode)); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return nil, configError("volumes of its kind are not supported: use emptyDir, hostPath, secret, configMap, downwardAPI, projected or persistentVolumeClaim")
}

func (m *Manager) project(ctx context.Context, p *corev1.Pod, out map[string]file, s corev1.VolumeProjection, md fs.FileMode) error {
	switch {
	case s.Secret != nil:
		return m.secret(ctx, p, out, s.Secret.Name, s.Secret.Items, md, s.Secret.Optional)
	case s.ConfigMap != nil:
		return m.configMap(ctx, p, out, s.ConfigMap.Name, s.ConfigMap.Items, md, s.ConfigMap.Optional)
	case s.DownwardAPI != nil:
		return m.downward(p, out, s.DownwardAPI.Items, md)
	case s.ServiceAccountToken != nil:
		text, err := m.token(ctx, p, s.ServiceAccountToken)
		if err != nil {
			return err
		}
		return put(out, s.ServiceAccountToken.Path, file{[]byte(text), md})
	}
	return configError("a projected volume can hold secret, configMap, downwardAPI and serviceAccountToken only")
}

// Secret is one that a pod names, of which it may have to do with what it was when it
// was read last. One that is not there is a *ConfigError.
func (m *Manager) Secret(ctx context.Context, p *corev1.Pod, name string) (*corev1.Secret, error) {
	obj, err := m.get(ctx, p, api.Secrets, name)
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Secret), nil
}

func (m *Manager) secret(ctx context.Context, p *corev1.Pod, out map[string]file, name string, items []corev1.KeyToPath, md fs.FileMode, optional *bool) error {
	s, err := m.Secret(ctx, p, name)
	if err != nil {
		return unless(optional, err)
	}
	return pick(out, "secret", name, s.Data, items, md, optional)
}

func (m *Manager) configMap(ctx context.Context, p *corev1.Pod, out map[string]file, name string, items []corev1.KeyToPath, md fs.FileMode, optional *bool) error {
	obj, err := m.get(ctx, p, api.ConfigMaps, name)
	if err != nil {
		return unless(optional, err)
	}
	cm := obj.(*corev1.ConfigMap)
	data := maps.Clone(cm.BinaryData)
	if data == nil {
		data = map[string][]byte{}
	}
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	return pick(out, "configmap", name, data, items, md, optional)
}

// unless forgives an object that is missing where it is optional.
func unless(optional *bool, err error) error {
	var missing notFound
	if optional != nil && *optional && errors.As(err, &missing) {
		return nil
	}
	return err
}

func pick(out map[string]file, kind, name string, data map[string][]byte, items []corev1.KeyToPath, md fs.FileMode, optional *bool) error {
	if len(items) == 0 {
		for k, v := range data {
			if err := put(out, k, file{v, md}); err != nil {
				return err
			}
		}
		return nil
	}
	for _, it := range items {
		v, ok := data[it.Key]
		if !ok {
			if optional != nil && *optional {
				continue
			}
			return configError("%s %q has no key %q", kind, name, it.Key)
		}
		f := file{v, md}
		if it.Mode != nil {
			f.mode = fs.FileMode(*it.Mode) & fs.ModePerm
		}
		if err := put(out, it.Path, f); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) downward(p *corev1.Pod, out map[string]file, items []corev1.DownwardAPIVolumeFile, md fs.FileMode) error {
	for _, it := range items {
		var v string
		var err error
		switch {
		case it.FieldRef != nil:
			v, err = field(p, it.FieldRef.FieldPath, Addresses{})
		case it.ResourceFieldRef != nil:
			v, err = m.resourceField(p, nil, it.ResourceFieldRef)
		}
		if err != nil {
			return err
		}
		f := file{[]byte(v), md}
		if it.Mode != nil {
			f.mode = fs.FileMode(*it.Mode) & fs.ModePerm
		}
		if err := put(out, it.Path, f); err != nil {
			return err
		}
	}
	return nil
}

// put adds a file whose path stays within the volume and clear of the links
// that versions are switched by.
func put(out map[string]file, name string, f file) error {
	clean := path.Clean(name)
	if !filepath.IsLocal(name) || clean == "." || strings.HasPrefix(clean, "..") {
		return configError("the path %q leaves the volume", name)
	}
	out[clean] = f
	return nil
}

func mode(m *int32) fs.FileMode {
	if m == nil {
		return 0o644
	}
	return fs.FileMode(*m) & fs.ModePerm
}

// replace makes files the content of a folder, all at once: readers see the
// old version or the new one, never a mix. Each path is a link through
// ..data, which names the folder of the version.
func replace(target string, files map[string]file, gid *int64) error {
	root, err := os.OpenRoot(target)
	if err != nil {
		return err
	}
	defer root.Close()
	old, err := root.Readlink(dataLink)
	if err == nil && same(root, old, files) {
		return link(root, files)
	}
	version := time.Now().UTC().Format("..2006_01_02_15_04_05.000000000")
	if err := write(root, version, files, gid); err != nil {
		return errors.Join(err, root.RemoveAll(version))
	}
	if err := root.Remove(dataLinkNew); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := root.Symlink(version, dataLinkNew); err != nil {
		return err
	}
	if err := root.Rename(dataLinkNew, dataLink); err != nil {
		return err
	}
	if err := link(root, files); err != nil {
		return err
	}
	return sweep(root, version, files)
}

func write(root *os.Root, version string, files map[string]file, gid *int64) error {
	if err := root.Mkdir(version, 0o755); err != nil {
		return err
	}
	if err := root.Chmod(version, 0o755); err != nil {
		return err
	}
	for name, f := range files {
		full := path.Join(version, name)
		if err := root.MkdirAll(path.Dir(full), 0o755); err != nil {
			return err
		}
		if err := root.WriteFile(full, f.data, 0o600); err != nil {
			return err
		}
		if gid != nil {
			if err := root.Lchown(full, -1, int(*gid)); err != nil {
				return err
			}
			f.mode |= f.mode & 0o400 >> 3 // the group may read what the owner may
		}
		if err := root.Chmod(full, f.mode); err != nil {
			return err
		}
	}
	return nil
}

// link shows each first part of the paths in the volume's folder.
func link(root *os.Root, files map[string]file) error {
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		if _, err := root.Lstat(top); err == nil {
			continue
		}
		if err := root.Symlink(path.Join(dataLink, top), top); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// sweep removes other versions and links to what is not there any more.
func sweep(root *os.Root, version string, files map[string]file) error {
	keep := map[string]bool{version: true, dataLink: true}
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		keep[top] = true
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !keep[e.Name()] {
			if err := root.RemoveAll(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// same tells whether a version holds exactly files.
func same(root *os.Root, version string, files map[string]file) bool {
	var found []string
	err := fs.WalkDir(root.FS(), version, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel := strings.TrimPrefix(name, version+"/")
		data, err := root.ReadFile(name)
		if err != nil {
			return err
		}
		if f, ok := files[rel]; !ok || !bytes.Equal(f.data, data) {
			return fmt.Errorf("%s differs", rel)
		}
		found = append(found, rel)
		return nil
	})
	slices.Sort(found)
	return err == nil && slices.Equal(found, slices.Sorted(maps.Keys(files)))
}

package registry

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strings"
	"time"
)

func newID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

func sum(b []byte) digest {
	s := sha256.Sum256(b)
	return digest("sha256:" + hex.EncodeToString(s[:]))
}

// write puts a small file in its place, whole or not at all.
func (r *Registry) write(name string, content []byte) error {
	if err := r.root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	tmp := "uploads/" + newID() + ".tmp"
	f, err := r.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = r.place(tmp, name)
	}
	if err != nil {
		_ = r.root.Remove(tmp)
	}
	return err
}

// place renames a synced file to where it belongs, for good.
func (r *Registry) place(from, to string) error {
	if err := r.root.Rename(from, to); err != nil {
		return err
	}
	d, err := r.root.Open(path.Dir(to))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// stat finds a blob, and renews its grace: whoever asks is about to use it.
func (r *Registry) stat(d digest) error {
	info, err := r.root.Stat(d.blob())
	if err != nil {
		return faultf(http.StatusNotFound, "BLOB_UNKNOWN", "no blob %s", d)
	}
	if time.Since(info.ModTime()) > r.c.Grace/10 {
		now := time.Now()
		_ = r.root.Chtimes(d.blob(), now, now)
	}
	return nil
}

func (r *Registry) eachBlob(do func(digest, fs.FileInfo) error) error {
	dir, err := r.root.Open("blobs/sha256")
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		list, err := dir.ReadDir(1000)
		if len(list) == 0 {
			return ignoreEnd(err)
		}
		for _, e := range list {
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if err := do(digest("sha256:"+e.Name()), info); err != nil {
				return err
			}
		}
	}
}

// eachRepo walks the repositories in the order of their names.
func (r *Registry) eachRepo(do func(name string) error) error {
	return fs.WalkDir(r.root.FS(), "repos", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !e.IsDir() || !strings.HasPrefix(e.Name(), "_") {
			return nil
		}
		if e.Name() == "_manifests" {
			if err := do(strings.TrimPrefix(path.Dir(p), "repos/")); err != nil {
				return err
			}
		}
		return fs.SkipDir
	})
}

func manifestPath(name string, d digest) string { return "repos/" + name + "/_manifests/" + d.hex() }
func tagPath(name, tag string) string           { return "repos/" + name + "/_tags/" + tag }

// resolve finds the manifest that a tag or digest names in a repository.
func (r *Registry) resolve(name, ref string) (digest, error) {
	unknown := faultf(http.StatusNotFound, "MANIFEST_UNKNOWN", "%s has no %s", name, ref)
	d := digest(ref)
	if !digestForm.MatchString(ref) {
		if !tagForm.MatchString(ref) {
			return "", faultf(http.StatusBadRequest, "TAG_INVALID", "%q is neither a tag nor a digest", ref)
		}
		b, err := r.root.ReadFile(tagPath(name, ref))
		if err != nil || !digestForm.Match(b) {
			return "", unknown
		}
		d = digest(b)
	}
	if _, err := r.root.Stat(manifestPath(name, d)); err != nil {
		return "", unknown
	}
	return d, nil
}

// tagList is the sorted tags of a repository, and what each names.
func (r *Registry) tagList(name string) ([]string, map[string]digest, error) {
	list, err := fs.ReadDir(r.root.FS(), "repos/"+name+"/_tags")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	names, digests := make([]string, 0, len(list)), make(map[string]digest, len(list))
	for _, e := range list {
		b, err := r.root.ReadFile(tagPath(name, e.Name()))
		if err != nil {
			continue // deleted meanwhile
		}
		names = append(names, e.Name())
		digests[e.Name()] = digest(b)
	}
	return names, digests, nil
}

// manifests lists the manifests of a repository.
func (r *Registry) manifests(name string) ([]digest, error) {
	list, err := fs.ReadDir(r.root.FS(), "repos/"+name+"/_manifests")
	if err != nil {
		return nil, fmt.Errorf("repository %s: %w", name, err)
	}
	out := make([]digest, 0, len(list))
	for _, e := range list {
		out = append(out, digest("sha256:"+e.Name()))
	}
	return out, nil
}

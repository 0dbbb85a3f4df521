package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"time"
)

// Collected is what a collection removed.
type Collected struct {
	Uploads, Manifests, Blobs int
	Bytes                     int64
}

// Collect removes what is older than the grace time and needed by nobody:
// uploads without progress, manifests without a tag that are not in use, blobs
// that no manifest names. Reads go on meanwhile; the end of a push waits.
func (r *Registry) Collect(ctx context.Context) (Collected, error) {
	var c Collected
	before := time.Now().Add(-r.c.Grace)
	if err := r.collectUploads(before, &c); err != nil {
		return c, fmt.Errorf("collect uploads: %w", err)
	}
	r.gc.Lock()
	defer r.gc.Unlock()
	if r.c.InUse != nil {
		if err := r.collectManifests(ctx, before, &c); err != nil {
			return c, fmt.Errorf("collect manifests: %w", err)
		}
	}
	used, err := r.mark()
	if err != nil {
		return c, fmt.Errorf("collect blobs: %w", err)
	}
	err = r.eachBlob(func(d digest, info fs.FileInfo) error {
		if used[d] || info.ModTime().After(before) {
			return ctx.Err()
		}
		if err := r.root.Remove(d.blob()); err != nil {
			return err
		}
		r.stored.Add(-info.Size())
		c.Blobs++
		c.Bytes += info.Size()
		return ctx.Err()
	})
	if c != (Collected{}) {
		r.c.Log.LogAttrs(ctx, slog.LevelInfo, "registry collected", slog.Int("blobs", c.Blobs),
			slog.Int("manifests", c.Manifests), slog.Int("uploads", c.Uploads), slog.Int64("bytes", c.Bytes))
	}
	return c, err
}

func (r *Registry) collectUploads(before time.Time, c *Collected) error {
	list, err := fs.ReadDir(r.root.FS(), "uploads")
	if err != nil {
		return err
	}
	for _, e := range list {
		info, err := e.Info()
		if err != nil || info.ModTime().After(before) {
			continue
		}
		if id, tmp := strings.CutSuffix(e.Name(), ".tmp"); tmp || !uploadForm.MatchString(id) {
			err = r.root.Remove("uploads/" + e.Name())
		} else if u, ferr := r.find(id); ferr == nil && u.mu.TryLock() { // else it is making progress
			r.forget(u)
			u.mu.Unlock()
		} else {
			continue
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		c.Uploads++
	}
	return nil
}

// collectManifests removes manifests that no tag, index, subject or user names.
func (r *Registry) collectManifests(ctx context.Context, before time.Time, c *Collected) error {
	return r.eachRepo(func(name string) error {
		all, err := r.manifests(name)
		if err != nil {
			return err
		}
		_, tags, err := r.tagList(name)
		if err != nil {
			return err
		}
		named := map[digest]bool{}
		for _, d := range tags {
			named[d] = true
		}
		parsed := map[digest]*manifest{}
		for _, d := range all {
			m, err := r.load(d)
			if err != nil {
				return err
			}
			parsed[d] = m
			for _, child := range digestsOf(m.Manifests) {
				named[child] = true
			}
		}
		for d, m := range parsed {
			if named[d] || r.c.InUse(string(d)) || m.Subject != nil && parsed[m.Subject.Digest] != nil {
				continue
			}
			info, err := r.root.Stat(manifestPath(name, d))
			if err != nil || info.ModTime().After(before) {
				continue
			}
			if err := r.root.Remove(manifestPath(name, d)); err != nil {
				return err
			}
			r.changes.Add(1)
			c.Manifests++
		}
		return ctx.Err()
	})
}

func (r *Registry) load(d digest) (*manifest, error) {
	b, err := r.root.ReadFile(d.blob())
	if err != nil {
		return nil, err
	}
	m := &manifest{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d, err)
	}
	return m, nil
}

// mark lists every blob that a manifest needs, manifests included.
func (r *Registry) mark() (map[digest]bool, error) {
	used := map[digest]bool{}
	err := r.eachRepo(func(name string) error {
		all, err := r.manifests(name)
		if err != nil {
			return err
		}
		for _, d := range all {
			used[d] = true
			m, err := r.load(d)
			if err != nil {
				return err
			}
			for _, b := range m.blobs() {
				used[b] = true
			}
		}
		return nil
	})
	return used, err
}

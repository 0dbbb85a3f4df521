package registry

import (
	"encoding/json"
	"strings"
	"time"
)

// Collect removes what nothing refers to: blobs that no manifest of a
// repository needs, and uploads that have rested too long. Blobs that are
// younger than an upload may be stay: their manifest may be on the way.
func (g *Registry) Collect(now time.Time) (removed int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	needed := map[string]bool{}
	err = g.repositories(func(name string) error {
		all, err := g.names(manifestPath(name, ""))
		for _, h := range all {
			g.need(needed, h)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	for _, dir := range []string{"blobs/sha256", "uploads"} {
		all, err := g.names(dir)
		if err != nil {
			return removed, err
		}
		for _, h := range all {
			st, err := g.root.Stat(dir + "/" + h)
			if err != nil || needed[h] || now.Sub(st.ModTime()) < g.c.UploadAge {
				continue
			}
			if err := g.root.Remove(dir + "/" + h); err != nil {
				return removed, err
			}
			removed++
		}
	}
	return removed, nil
}

// need marks a manifest's blob and all that it refers to.
func (g *Registry) need(needed map[string]bool, hex string) {
	if needed[hex] {
		return
	}
	needed[hex] = true
	b, err := g.root.ReadFile("blobs/sha256/" + hex)
	if err != nil {
		return
	}
	var m content
	if json.Unmarshal(b, &m) != nil {
		return
	}
	for _, d := range m.blobs() {
		needed[strings.TrimPrefix(d, "sha256:")] = true
	}
	for _, d := range m.Manifests {
		g.need(needed, strings.TrimPrefix(d.Digest, "sha256:"))
	}
}

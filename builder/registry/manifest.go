package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// content is the part of a manifest or index that a registry looks at.
type content struct {
	MediaType string       `json:"mediaType"`
	Config    *descriptor  `json:"config"`
	Layers    []descriptor `json:"layers"`
	Manifests []descriptor `json:"manifests"`
	Subject   *descriptor  `json:"subject"`

	ArtifactType string            `json:"artifactType"`
	Annotations  map[string]string `json:"annotations"`
}

type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	URLs         []string          `json:"urls,omitempty"`
}

// blobs are the blobs that a manifest needs. Those with URLs are elsewhere.
func (c *content) blobs() []string {
	var out []string
	if c.Config != nil {
		out = append(out, c.Config.Digest)
	}
	for _, l := range c.Layers {
		if len(l.URLs) == 0 {
			out = append(out, l.Digest)
		}
	}
	return out
}

func (g *Registry) manifest(w http.ResponseWriter, r *http.Request, name, ref string) error {
	if !digestRE.MatchString(ref) && !tagRE.MatchString(ref) {
		return faultf(http.StatusBadRequest, "TAG_INVALID", "%q is neither a tag nor a digest", ref)
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return g.getManifest(w, r, name, ref)
	case http.MethodPut:
		return g.putManifest(w, r, name, ref)
	case http.MethodDelete:
		return g.deleteManifest(w, name, ref)
	}
	return only(r, nil, http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete)
}

// Resolve finds the digest that a tag of a repository has now; ok is false when
// there is none.
func (g *Registry) Resolve(name, tag string) (digest string, ok bool) {
	if !nameRE.MatchString(name) || !tagRE.MatchString(tag) {
		return "", false
	}
	d, err := g.resolve(name, tag)
	return d, err == nil
}

func (g *Registry) resolve(name, ref string) (digest string, err error) {
	if digestRE.MatchString(ref) {
		return ref, nil
	}
	b, err := g.root.ReadFile(tagPath(name, ref))
	if errors.Is(err, fs.ErrNotExist) {
		return "", faultf(http.StatusNotFound, "MANIFEST_UNKNOWN", "there is no %s:%s", name, ref)
	}
	return strings.TrimSpace(string(b)), err
}

func (g *Registry) getManifest(w http.ResponseWriter, r *http.Request, name, ref string) error {
	digest, err := g.resolve(name, ref)
	if err != nil {
		return err
	}
	mediaType, err := g.root.ReadFile(manifestPath(name, digest))
	if errors.Is(err, fs.ErrNotExist) {
		return faultf(http.StatusNotFound, "MANIFEST_UNKNOWN", "there is no %s@%s", name, digest)
	}
	if err != nil {
		return err
	}
	b, err := g.root.ReadFile(blobPath(digest))
	if err != nil {
		return unknownBlob(err, digest)
	}
	h := w.Header()
	h.Set("Content-Type", string(mediaType))
	h.Set("Docker-Content-Digest", digest)
	h.Set("ETag", `"`+digest+`"`)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(b) // the client is gone otherwise
	}
	return nil
}

func (g *Registry) putManifest(w http.ResponseWriter, r *http.Request, name, ref string) error {
	b, err := io.ReadAll(io.LimitReader(r.Body, g.c.MaxManifest+1))
	if err != nil {
		return faultf(http.StatusBadRequest, "MANIFEST_INVALID", "the manifest broke off: %v", err)
	}
	if int64(len(b)) > g.c.MaxManifest {
		return faultf(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "a manifest has at most %d bytes", g.c.MaxManifest)
	}
	var m content
	if err := json.Unmarshal(b, &m); err != nil {
		return faultf(http.StatusBadRequest, "MANIFEST_INVALID", "the manifest is not JSON: %v", err)
	}
	mediaType := r.Header.Get("Content-Type")
	switch {
	case m.MediaType != "" && mediaType != "" && m.MediaType != mediaType:
		return faultf(http.StatusBadRequest, "MANIFEST_INVALID", "the Content-Type is %s, the manifest says %s", mediaType, m.MediaType)
	case mediaType == "":
		mediaType = m.MediaType
	}
	if mediaType == "" || len(mediaType) > 255 {
		return faultf(http.StatusBadRequest, "MANIFEST_INVALID", "the manifest has no media type")
	}
	// One that is both could be read as the one by us and as the other by
	// somebody else.
	if (m.Config != nil || len(m.Layers) > 0) && len(m.Manifests) > 0 {
		return faultf(http.StatusBadRequest, "MANIFEST_INVALID", "a manifest has layers or manifests, not both")
	}
	sum := sha256.Sum256(b)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	if digestRE.MatchString(ref) && ref != digest {
		return faultf(http.StatusBadRequest, "DIGEST_INVALID", "the manifest's digest is %s, not %s", digest, ref)
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	for _, d := range m.blobs() {
		if err := checkDigest(d); err != nil {
			return err
		}
		if !g.has(d) {
			return faultf(http.StatusNotFound, "MANIFEST_BLOB_UNKNOWN", "push the blob %s first", d)
		}
	}
	if err := g.write(blobPath(digest), b); err != nil {
		return err
	}
	if err := g.write(manifestPath(name, digest), []byte(mediaType)); err != nil {
		return err
	}
	if ref != digest {
		if err := g.write(tagPath(name, ref), []byte(digest)); err != nil {
			return err
		}
	}
	if m.Subject != nil {
		w.Header().Set("OCI-Subject", m.Subject.Digest)
	}
	return created(w, "/v2/"+name+"/manifests/"+digest, digest)
}

func (g *Registry) deleteManifest(w http.ResponseWriter, name, ref string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	file := tagPath(name, ref)
	if digestRE.MatchString(ref) {
		file = manifestPath(name, ref)
		tags, err := g.tagList(name)
		if err != nil {
			return err
		}
		for _, t := range tags {
			if d, err := g.resolve(name, t); err == nil && d == ref {
				if err := g.root.Remove(tagPath(name, t)); err != nil {
					return err
				}
			}
		}
	}
	if err := g.root.Remove(file); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return faultf(http.StatusNotFound, "MANIFEST_UNKNOWN", "there is no %s %s", name, ref)
		}
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (g *Registry) tagList(name string) ([]string, error) { return g.names(tagPath(name, "")) }

func (g *Registry) names(dir string) ([]string, error) {
	list, err := fs.ReadDir(g.root.FS(), strings.TrimSuffix(dir, "/"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(list))
	for _, e := range list {
		out = append(out, e.Name())
	}
	slices.Sort(out)
	return out, nil
}

func (g *Registry) tags(w http.ResponseWriter, r *http.Request, name, _ string) error {
	if r.Method != http.MethodGet {
		return only(r, nil, http.MethodGet)
	}
	if _, err := g.root.Stat("repositories/" + name); err != nil {
		return faultf(http.StatusNotFound, "NAME_UNKNOWN", "there is no repository %s", name)
	}
	tags, err := g.tagList(name)
	if err != nil {
		return err
	}
	tags, err = page(w, r, tags)
	if err != nil {
		return err
	}
	return answer(w, "application/json", map[string]any{"name": name, "tags": tags})
}

func (g *Registry) catalog(w http.ResponseWriter, r *http.Request) error {
	var out []string
	err := g.repositories(func(name string) error { out = append(out, name); return nil })
	if err != nil {
		return err
	}
	slices.Sort(out)
	if out, err = page(w, r, out); err != nil {
		return err
	}
	return answer(w, "application/json", map[string]any{"repositories": out})
}

// repositories calls f with the name of each.
func (g *Registry) repositories(f func(name string) error) error {
	return fs.WalkDir(g.root.FS(), "repositories", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		switch d.Name() {
		case "_manifests":
			if err := f(strings.TrimPrefix(strings.TrimSuffix(p, "/_manifests"), "repositories/")); err != nil {
				return err
			}
			return fs.SkipDir
		case "_tags":
			return fs.SkipDir
		}
		return nil
	})
}

// page cuts a sorted list by ?n= and ?last= and links to the rest.
func page(w http.ResponseWriter, r *http.Request, list []string) ([]string, error) {
	q := r.URL.Query()
	if last := q.Get("last"); last != "" {
		i, found := slices.BinarySearch(list, last)
		if found {
			i++
		}
		list = list[i:]
	}
	if list == nil {
		list = []string{}
	}
	s := q.Get("n")
	if s == "" {
		return list, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return nil, faultf(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n=%q is not a number of 0 or more", s)
	}
	if n < len(list) {
		list = list[:n]
		if n > 0 {
			w.Header().Set("Link", "<"+r.URL.Path+"?n="+s+"&last="+list[n-1]+`>; rel="next"`)
		}
	}
	return list, nil
}

// referrers lists the manifests whose subject is digest.
func (g *Registry) referrers(w http.ResponseWriter, r *http.Request, name, digest string) error {
	if r.Method != http.MethodGet {
		return only(r, nil, http.MethodGet)
	}
	if err := checkDigest(digest); err != nil {
		return err
	}
	all, err := g.names(manifestPath(name, ""))
	if err != nil {
		return err
	}
	found := []descriptor{}
	for _, h := range all {
		b, err := g.root.ReadFile("blobs/sha256/" + h)
		if err != nil {
			continue // it is being removed
		}
		var m content
		if json.Unmarshal(b, &m) != nil || m.Subject == nil || m.Subject.Digest != digest {
			continue
		}
		d := descriptor{MediaType: m.MediaType, Digest: "sha256:" + h, Size: int64(len(b)), ArtifactType: m.ArtifactType, Annotations: m.Annotations}
		if d.ArtifactType == "" && m.Config != nil {
			d.ArtifactType = m.Config.MediaType
		}
		found = append(found, d)
	}
	const index = "application/vnd.oci.image.index.v1+json"
	return answer(w, index, map[string]any{"schemaVersion": 2, "mediaType": index, "manifests": found})
}

func answer(w http.ResponseWriter, mediaType string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", mediaType)
	_, _ = w.Write(b) // the client is gone otherwise
	return nil
}

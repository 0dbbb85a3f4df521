package registry

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// maxManifest is what other registries allow.
const maxManifest = 4 << 20

// manifest is what the registry reads of an image's or index's manifest.
type manifest struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType"`
	Annotations  map[string]string `json:"annotations"`
	Config       *descriptor       `json:"config"`
	Layers       []descriptor      `json:"layers"`
	Manifests    []descriptor      `json:"manifests"`
	Subject      *descriptor       `json:"subject"`
}

type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       digest            `json:"digest"`
	Size         int64             `json:"size"`
	URLs         []string          `json:"urls,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

// blobs lists the content a manifest needs; layers that live elsewhere are not
// ours to keep.
func (m *manifest) blobs() []digest {
	var out []digest
	if m.Config != nil {
		out = append(out, m.Config.Digest)
	}
	for _, l := range m.Layers {
		if len(l.URLs) == 0 {
			out = append(out, l.Digest)
		}
	}
	return out
}

func (r *Registry) getManifest(w http.ResponseWriter, q *http.Request, t target) error {
	d, err := r.resolve(t.name, t.ref)
	if err != nil {
		return err
	}
	mediaType, err := r.root.ReadFile(manifestPath(t.name, d))
	if err != nil {
		return err
	}
	b, err := r.root.ReadFile(d.blob())
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Docker-Content-Digest", string(d))
	h.Set("Etag", `"`+string(d)+`"`)
	if strings.Contains(q.Header.Get("If-None-Match"), string(d)) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", string(mediaType))
	h.Set("Content-Length", strconv.Itoa(len(b)))
	if q.Method == http.MethodGet {
		_, err = w.Write(b)
	}
	return err
}

func (r *Registry) putManifest(w http.ResponseWriter, q *http.Request, t target) error {
	b, err := io.ReadAll(http.MaxBytesReader(nil, q.Body, maxManifest))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return err
	}
	if err != nil {
		return faultf(http.StatusBadRequest, "MANIFEST_INVALID", "the request ended early: %v", err)
	}
	m, err := parseManifest(b, q.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	d := sum(b)
	if strings.Contains(t.ref, ":") {
		want, err := parseDigest(t.ref)
		if err != nil {
			return err
		}
		if want != d {
			return faultf(http.StatusBadRequest, "DIGEST_INVALID", "the content has the digest %s, not %s", d, want)
		}
	} else if !tagForm.MatchString(t.ref) {
		return faultf(http.StatusBadRequest, "TAG_INVALID", "%q is not a tag", t.ref)
	}
	r.gc.RLock()
	defer r.gc.RUnlock()
	if err := r.complete(t.name, m); err != nil {
		return err
	}
	if err := r.link(t, d, b, m.MediaType); err != nil {
		return err
	}
	if m.Subject != nil {
		w.Header().Set("OCI-Subject", string(m.Subject.Digest))
	}
	return created(w, t.name, "manifests", d)
}

func parseManifest(b []byte, contentType string) (*manifest, error) {
	m := &manifest{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, faultf(http.StatusBadRequest, "MANIFEST_INVALID", "not a manifest: %v", err)
	}
	contentType, _, _ = strings.Cut(contentType, ";")
	if m.MediaType == "" {
		m.MediaType = contentType
	}
	if m.MediaType == "" || contentType != "" && contentType != m.MediaType || strings.ContainsAny(m.MediaType, "\r\n") {
		return nil, faultf(http.StatusBadRequest, "MANIFEST_INVALID", "the manifest says %q, the Content-Type %q", m.MediaType, contentType)
	}
	if len(m.Manifests) > 0 && (m.Config != nil || len(m.Layers) > 0) {
		// We might read it as the one, somebody else as the other.
		return nil, faultf(http.StatusBadRequest, "MANIFEST_INVALID", "a manifest has layers or manifests, not both")
	}
	all := append(m.blobs(), digestsOf(m.Manifests)...)
	if m.Subject != nil {
		all = append(all, m.Subject.Digest)
	}
	for _, d := range all {
		if _, err := parseDigest(string(d)); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func digestsOf(list []descriptor) []digest {
	out := make([]digest, 0, len(list))
	for _, x := range list {
		out = append(out, x.Digest)
	}
	return out
}

// complete: an image must not be named before all of it is here. (A subject may
// come later.)
func (r *Registry) complete(name string, m *manifest) error {
	for _, d := range m.blobs() {
		if err := r.stat(d); err != nil {
			return faultf(http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "blob %s was not pushed", d)
		}
	}
	for _, d := range digestsOf(m.Manifests) {
		if _, err := r.root.Stat(manifestPath(name, d)); err != nil {
			return faultf(http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "manifest %s was not pushed to %s", d, name)
		}
	}
	return nil
}

// link stores a manifest, then what names it.
func (r *Registry) link(t target, d digest, b []byte, mediaType string) error {
	if err := r.stat(d); err != nil {
		if err := r.write(d.blob(), b); err != nil {
			return err
		}
		r.stored.Add(int64(len(b)))
	}
	defer r.changes.Add(1)
	if err := r.write(manifestPath(t.name, d), []byte(mediaType)); err != nil {
		return err
	}
	if strings.Contains(t.ref, ":") {
		return nil
	}
	return r.write(tagPath(t.name, t.ref), []byte(d))
}

// deleteManifest by a tag removes that tag, by a digest the manifest and every
// tag of it.
func (r *Registry) deleteManifest(w http.ResponseWriter, t target) error {
	r.gc.Lock()
	defer r.gc.Unlock()
	d, err := r.resolve(t.name, t.ref)
	if err != nil {
		return err
	}
	remove := []string{tagPath(t.name, t.ref)}
	if strings.Contains(t.ref, ":") {
		names, digests, err := r.tagList(t.name)
		if err != nil {
			return err
		}
		names = slices.DeleteFunc(names, func(n string) bool { return digests[n] != d })
		remove = remove[:0]
		for _, n := range names {
			remove = append(remove, tagPath(t.name, n))
		}
		remove = append(remove, manifestPath(t.name, d))
	}
	defer r.changes.Add(1)
	for _, p := range remove {
		if err := r.root.Remove(p); err != nil {
			return err
		}
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

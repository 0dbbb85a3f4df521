package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
)

// IndexPath is where a registry lists what it holds.
const IndexPath = "/index"

// index is everything that a registry holds, by repository.
type index map[string]repository

type repository struct {
	Manifests []digest          `json:"manifests"`
	Tags      map[string]digest `json:"tags"`
}

// ServeIndex serves IndexPath to whoever asks: see to who that is. Its ETag changes
// with what is listed.
func (r *Registry) ServeIndex(w http.ResponseWriter, q *http.Request) {
	tag := `"` + r.id + "-" + strconv.FormatInt(r.changes.Load(), 10) + `"`
	w.Header().Set("Etag", tag)
	if q.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	all := index{}
	err := r.eachRepo(func(name string) error {
		var one repository
		var err error
		if one.Manifests, err = r.manifests(name); err == nil {
			_, one.Tags, err = r.tagList(name)
		}
		all[name] = one
		return err
	})
	if err != nil {
		w.Header().Del("Etag")
		asFault(err).write(w, false)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(all) // who has gone can't be told
}

// Source is another registry, all of which is copied: what it serves is below URL.
type Source struct {
	URL    string
	Client *http.Client
	seen   string // the ETag of the index that was copied last
}

// Copy fetches what a source holds and this registry does not: an image's parts
// before the image, that before its tags, which become the source's. What only
// this registry holds stays. It reports how many
// manifests came.
func (r *Registry) Copy(ctx context.Context, from *Source) (manifests int, err error) {
	resp, err := from.get(ctx, IndexPath, from.seen)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified {
		return 0, nil
	}
	var all index
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		return 0, fmt.Errorf("the registry at %s: its index: %w", from.URL, err)
	}
	var errs []error
	for name, repo := range all {
		n, err := r.copyRepo(ctx, from, name, repo)
		manifests += n
		if err != nil { // the others can be had nevertheless
			errs = append(errs, fmt.Errorf("%s from the registry at %s: %w", name, from.URL, err))
		}
	}
	if len(errs) == 0 {
		from.seen = resp.Header.Get("Etag")
	}
	return manifests, errors.Join(errs...)
}

func (s *Source) get(ctx context.Context, path, unless string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	if unless != "" {
		req.Header.Set("If-None-Match", unless)
	}
	resp, err := s.Client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK && (unless == "" || resp.StatusCode != http.StatusNotModified) {
		resp.Body.Close()
		return nil, fmt.Errorf("%s answered %s", path, resp.Status)
	}
	return resp, nil
}

func (r *Registry) copyRepo(ctx context.Context, from *Source, name string, repo repository) (manifests int, err error) {
	if err := checkName(name); err != nil {
		return 0, err
	}
	for _, d := range repo.Manifests {
		n, err := r.copyManifest(ctx, from, name, d, 0)
		manifests += n
		if err != nil {
			return manifests, err
		}
	}
	for tag, d := range repo.Tags {
		if !tagForm.MatchString(tag) {
			return manifests, fmt.Errorf("%q is not a tag", tag)
		}
		if now, err := r.resolve(name, tag); err == nil && now == d {
			continue
		}
		if _, err := r.resolve(name, string(d)); err != nil {
			continue // deleted while it was copied
		}
		if err := r.write(tagPath(name, tag), []byte(d)); err != nil {
			return manifests, err
		}
		r.changes.Add(1)
	}
	return manifests, nil
}

// maxDepth bounds indexes of indexes.
const maxDepth = 4

// copyManifest fetches a manifest, after all that it names.
func (r *Registry) copyManifest(ctx context.Context, from *Source, name string, d digest, depth int) (n int, err error) {
	if _, err := parseDigest(string(d)); err != nil {
		return n, err
	}
	if _, err := r.resolve(name, string(d)); err == nil {
		return 0, nil
	}
	if depth > maxDepth {
		return n, fmt.Errorf("manifest %s is nested too deeply", d)
	}
	resp, err := from.get(ctx, "/v2/"+name+"/manifests/"+string(d), "")
	if err != nil {
		return n, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return n, err
	}
	if sum(b) != d {
		return n, fmt.Errorf("manifest %s came with the digest %s", d, sum(b))
	}
	m, err := parseManifest(b, resp.Header.Get("Content-Type"))
	if err != nil {
		return n, err
	}
	for _, part := range digestsOf(m.Manifests) {
		inner, err := r.copyManifest(ctx, from, name, part, depth+1)
		n += inner
		if err != nil {
			return n, err
		}
	}
	for _, part := range m.blobs() {
		if err := r.copyBlob(ctx, from, name, part); err != nil {
			return n, err
		}
	}
	r.gc.RLock()
	defer r.gc.RUnlock()
	if err := r.complete(name, m); err != nil {
		return n, err
	}
	return n + 1, r.link(target{name: name, ref: string(d)}, d, b, m.MediaType)
}

func (r *Registry) copyBlob(ctx context.Context, from *Source, name string, d digest) error {
	if r.stat(d) == nil {
		return nil
	}
	resp, err := from.get(ctx, "/v2/"+name+"/blobs/"+string(d), "")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	tmp := "uploads/" + newID() + ".tmp"
	f, err := r.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(resp.Body, r.c.MaxBlob+1))
	err = errors.Join(err, f.Sync(), f.Close())
	if got := digest("sha256:" + hex.EncodeToString(h.Sum(nil))); err == nil && got != d {
		err = fmt.Errorf("blob %s came with the digest %s", d, got)
	}
	if err == nil {
		err = r.place(tmp, d.blob())
	}
	if err != nil {
		_ = r.root.Remove(tmp)
		return err
	}
	r.stored.Add(n)
	return nil
}

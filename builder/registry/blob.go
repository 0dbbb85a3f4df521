package registry

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// blob serves, or removes, one blob.
func (g *Registry) blob(w http.ResponseWriter, r *http.Request, name, digest string) error {
	if err := checkDigest(digest); err != nil {
		return err
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodDelete:
		g.mu.Lock()
		defer g.mu.Unlock()
		if err := g.root.Remove(blobPath(digest)); err != nil {
			return unknownBlob(err, digest)
		}
		w.WriteHeader(http.StatusAccepted)
		return nil
	default:
		return only(r, nil, http.MethodGet, http.MethodHead, http.MethodDelete)
	}
	f, err := g.root.Open(blobPath(digest))
	if err != nil {
		return unknownBlob(err, digest)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Docker-Content-Digest", digest)
	h.Set("Content-Type", "application/octet-stream")
	h.Set("ETag", `"`+digest+`"`)
	http.ServeContent(w, r, "", st.ModTime(), f)
	return nil
}

func unknownBlob(err error, digest string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return faultf(http.StatusNotFound, "BLOB_UNKNOWN", "there is no blob %s", digest)
	}
	return err
}

func (g *Registry) has(digest string) bool {
	_, err := g.root.Stat(blobPath(digest))
	return err == nil
}

// startUpload begins an upload, or ends it at once when everything came with
// the request or is there already.
func (g *Registry) startUpload(w http.ResponseWriter, r *http.Request, name, _ string) error {
	if r.Method != http.MethodPost {
		return only(r, nil, http.MethodPost)
	}
	q := r.URL.Query()
	if d := q.Get("mount"); d != "" {
		if err := checkDigest(d); err != nil {
			return err
		}
		if g.has(d) {
			return created(w, "/v2/"+name+"/blobs/"+d, d)
		}
	}
	id := uploadID()
	f, err := g.root.OpenFile("uploads/"+id, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	if d := q.Get("digest"); d != "" {
		return g.finish(w, r, name, id, d)
	}
	return accepted(w, name, id, 0)
}

func uploadID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

func accepted(w http.ResponseWriter, name, id string, size int64) error {
	h := w.Header()
	h.Set("Location", "/v2/"+name+"/blobs/uploads/"+id)
	h.Set("Docker-Upload-UUID", id)
	h.Set("Range", fmt.Sprintf("0-%d", max(size-1, 0)))
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func created(w http.ResponseWriter, location, digest string) error {
	w.Header().Set("Location", location)
	w.Header().Set("Docker-Content-Digest", digest)
	w.WriteHeader(http.StatusCreated)
	return nil
}

var uploadRE = regexp.MustCompile(`^[a-f0-9]{32}$`)

// upload goes on with, ends, shows or drops an upload.
func (g *Registry) upload(w http.ResponseWriter, r *http.Request, name, id string) error {
	unknown := faultf(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "there is no upload %q", id)
	if !uploadRE.MatchString(id) {
		return unknown
	}
	st, err := g.root.Stat("uploads/" + id)
	if errors.Is(err, fs.ErrNotExist) {
		return unknown
	}
	if err != nil {
		return err
	}
	switch r.Method {
	case http.MethodGet:
		w.Header().Set("Range", fmt.Sprintf("0-%d", max(st.Size()-1, 0)))
		w.Header().Set("Location", "/v2/"+name+"/blobs/uploads/"+id)
		w.WriteHeader(http.StatusNoContent)
		return nil
	case http.MethodPatch:
		size, err := g.append(r, id, st.Size())
		if err != nil {
			return err
		}
		return accepted(w, name, id, size)
	case http.MethodPut:
		return g.finish(w, r, name, id, r.URL.Query().Get("digest"))
	case http.MethodDelete:
		if err := g.root.Remove("uploads/" + id); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return only(r, nil, http.MethodGet, http.MethodPatch, http.MethodPut, http.MethodDelete)
}

// append adds the request's body to an upload that has size bytes.
func (g *Registry) append(r *http.Request, id string, size int64) (int64, error) {
	if c := r.Header.Get("Content-Range"); c != "" {
		from, _, ok := strings.Cut(strings.TrimPrefix(c, "bytes "), "-")
		at, err := strconv.ParseInt(from, 10, 64)
		if !ok || err != nil || at != size {
			return 0, faultf(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "the part begins at %q, the upload has %d bytes", c, size)
		}
	}
	f, err := g.root.OpenFile("uploads/"+id, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(f, io.LimitReader(r.Body, g.c.MaxBlob-size+1))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if size += n; size > g.c.MaxBlob {
		_ = g.root.Remove("uploads/" + id) // Collect would, later
		return 0, faultf(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "a blob has at most %d bytes", g.c.MaxBlob)
	}
	if err != nil {
		return 0, faultf(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "the upload broke off: %v", err)
	}
	return size, nil
}

// finish makes a blob of an upload if it is what the client says it is.
func (g *Registry) finish(w http.ResponseWriter, r *http.Request, name, id, digest string) error {
	if err := checkDigest(digest); err != nil {
		return err
	}
	st, err := g.root.Stat("uploads/" + id)
	if err != nil {
		return err
	}
	if _, err := g.append(r, id, st.Size()); err != nil {
		return err
	}
	f, err := g.root.Open("uploads/" + id)
	if err != nil {
		return err
	}
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	if err == nil {
		err = f.Sync()
	}
	f.Close()
	if err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != digest {
		_ = g.root.Remove("uploads/" + id) // Collect would, later
		return faultf(http.StatusBadRequest, "DIGEST_INVALID", "the content's digest is %s, not %s", got, digest)
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	if err := g.root.Rename("uploads/"+id, blobPath(digest)); err != nil {
		return err
	}
	return created(w, "/v2/"+name+"/blobs/"+digest, digest)
}

// write puts a small file in its place at once.
func (g *Registry) write(file string, content []byte) error {
	if err := g.root.MkdirAll(path.Dir(file), 0o700); err != nil {
		return err
	}
	tmp := "uploads/" + uploadID()
	f, err := g.root.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return g.root.Rename(tmp, file)
}

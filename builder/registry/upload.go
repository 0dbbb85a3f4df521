package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
)

// upload is a blob being sent. Its file holds what came; the running hash saves
// reading it again.
type upload struct {
	mu   sync.Mutex // one request at a time
	id   string
	hash hash.Hash
	size int64
	done bool
}

func (u *upload) path() string { return "uploads/" + u.id }

func (r *Registry) beginUpload(w http.ResponseWriter, q *http.Request, t target) error {
	v := q.URL.Query()
	if mount := v.Get("mount"); mount != "" {
		if d, err := parseDigest(mount); err == nil {
			r.gc.RLock()
			defer r.gc.RUnlock()
			if err := r.stat(d); err == nil {
				return created(w, t.name, "blobs", d)
			}
		}
	}
	u := &upload{id: newID(), hash: sha256.New()}
	f, err := r.root.OpenFile(u.path(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	r.mu.Lock()
	r.uploads[u.id] = u
	r.mu.Unlock()
	if v.Has("digest") {
		err := r.finishUpload(w, q, t, u)
		if err != nil {
			r.forget(u)
		}
		return err
	}
	u.accepted(w, t.name)
	return nil
}

// accepted tells the client where to go on.
func (u *upload) accepted(w http.ResponseWriter, name string) {
	u.place(w, name)
	w.WriteHeader(http.StatusAccepted)
}

func (u *upload) place(w http.ResponseWriter, name string) {
	h := w.Header()
	h.Set("Location", "/v2/"+name+"/blobs/uploads/"+u.id)
	h.Set("Docker-Upload-UUID", u.id)
	h.Set("Range", fmt.Sprintf("0-%d", max(u.size-1, 0)))
	h.Set("Content-Length", "0")
}

func created(w http.ResponseWriter, name, kind string, d digest) error {
	w.Header().Set("Location", "/v2/"+name+"/"+kind+"/"+string(d))
	w.Header().Set("Docker-Content-Digest", string(d))
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (r *Registry) serveUpload(w http.ResponseWriter, q *http.Request, t target) error {
	u, err := r.find(t.ref)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.done {
		return noUpload(t.ref)
	}
	switch q.Method {
	case http.MethodGet:
		u.place(w, t.name)
		w.WriteHeader(http.StatusNoContent)
		return nil
	case http.MethodDelete:
		r.forget(u)
		w.WriteHeader(http.StatusNoContent)
		return nil
	case http.MethodPatch:
		if err := r.receive(q, u); err != nil {
			return err
		}
		u.accepted(w, t.name)
		return nil
	case http.MethodPut:
		return r.finishUpload(w, q, t, u)
	}
	return faultf(http.StatusMethodNotAllowed, "UNSUPPORTED", "%s is not possible here", q.Method)
}

func noUpload(id string) error {
	return faultf(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "no upload %q: begin it again", id)
}

// find is the upload, also one from before a restart.
func (r *Registry) find(id string) (*upload, error) {
	if !uploadForm.MatchString(id) {
		return nil, noUpload(id)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if u := r.uploads[id]; u != nil {
		return u, nil
	}
	u := &upload{id: id}
	if _, err := r.root.Stat(u.path()); err != nil {
		return nil, noUpload(id)
	}
	r.uploads[id] = u
	return u, nil
}

// forget ends an upload that came to nothing; its lock is held, or nobody else
// knows it.
func (r *Registry) forget(u *upload) {
	u.done = true
	_ = r.root.Remove(u.path())
	r.mu.Lock()
	delete(r.uploads, u.id)
	r.mu.Unlock()
}

// receive appends the request's body.
func (r *Registry) receive(q *http.Request, u *upload) (err error) {
	f, err := r.root.OpenFile(u.path(), os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return noUpload(u.id)
	} else if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if u.hash == nil { // after a restart, or a write that failed
		h := sha256.New()
		if u.size, err = io.Copy(h, f); err != nil {
			return err
		}
		u.hash = h
	}
	if err := checkRange(q, u.size); err != nil {
		return err
	}
	if _, err := f.Seek(u.size, io.SeekStart); err != nil {
		return err
	}
	n, err := io.Copy(io.MultiWriter(f, u.hash), http.MaxBytesReader(nil, q.Body, r.c.MaxBlob-u.size))
	u.size += n
	if err != nil {
		u.hash = nil // file and hash may differ by the last piece
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			r.forget(u)
			return faultf(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "a blob may have %d bytes", r.c.MaxBlob)
		}
		return faultf(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "the request ended early: %v", err)
	}
	return nil
}

// checkRange: a chunk must begin where the last one ended.
func checkRange(q *http.Request, size int64) error {
	v := q.Header.Get("Content-Range")
	if v == "" {
		return nil
	}
	from, to, ok := strings.Cut(strings.TrimPrefix(v, "bytes "), "-")
	to, _, _ = strings.Cut(to, "/")
	first, err1 := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	switch {
	case !ok || err1 != nil || err2 != nil || last < first-1:
		return faultf(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "Content-Range %q is not first-last", v)
	case first != size:
		return faultf(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "the chunk begins at %d, but %d bytes are here", first, size)
	case q.ContentLength >= 0 && q.ContentLength != last-first+1:
		return faultf(http.StatusBadRequest, "SIZE_INVALID", "Content-Range %q has another size than the body (%d bytes)", v, q.ContentLength)
	}
	return nil
}

// finishUpload takes the last bytes and makes a blob of them, if they are what
// the digest says.
func (r *Registry) finishUpload(w http.ResponseWriter, q *http.Request, t target, u *upload) error {
	want, err := parseDigest(q.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	if err := r.receive(q, u); err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(u.hash.Sum(nil)); got != string(want) {
		r.forget(u)
		return faultf(http.StatusBadRequest, "DIGEST_INVALID", "the content has the digest %s, not %s", got, want)
	}
	if err := r.commit(u, want); err != nil {
		return err
	}
	return created(w, t.name, "blobs", want)
}

func (r *Registry) commit(u *upload, d digest) error {
	r.gc.RLock()
	defer r.gc.RUnlock()
	if err := r.stat(d); err == nil { // already there: keep that one
		r.forget(u)
		return nil
	}
	f, err := r.root.OpenFile(u.path(), os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := r.place(u.path(), d.blob()); err != nil {
		return err
	}
	r.stored.Add(u.size)
	r.forget(u)
	return nil
}

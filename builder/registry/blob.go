package registry

import (
	"net/http"
	"time"
)

func (r *Registry) getBlob(w http.ResponseWriter, q *http.Request, t target) error {
	d, err := parseDigest(t.ref)
	if err != nil {
		return err
	}
	if q.Method == http.MethodHead { // a push asks: what it finds must outlive a collection
		r.gc.RLock()
		defer r.gc.RUnlock()
	}
	if err := r.stat(d); err != nil {
		return err
	}
	f, err := r.root.Open(d.blob())
	if err != nil {
		return faultf(http.StatusNotFound, "BLOB_UNKNOWN", "no blob %s", d)
	}
	defer f.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", string(d))
	h.Set("Etag", `"`+string(d)+`"`)
	h.Set("Cache-Control", "max-age=31536000, immutable")
	http.ServeContent(w, q, "", time.Time{}, f) // ranges, HEAD, If-None-Match
	return nil
}

func (r *Registry) deleteBlob(w http.ResponseWriter, t target) error {
	d, err := parseDigest(t.ref)
	if err != nil {
		return err
	}
	r.gc.Lock()
	defer r.gc.Unlock()
	info, err := r.root.Stat(d.blob())
	if err != nil {
		return faultf(http.StatusNotFound, "BLOB_UNKNOWN", "no blob %s", d)
	}
	used, err := r.mark()
	if err != nil {
		return err
	}
	if used[d] {
		return faultf(http.StatusMethodNotAllowed, "UNSUPPORTED", "blob %s belongs to a manifest: delete that first", d)
	}
	if err := r.root.Remove(d.blob()); err != nil {
		return err
	}
	r.stored.Add(-info.Size())
	w.WriteHeader(http.StatusAccepted)
	return nil
}

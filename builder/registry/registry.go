package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config says how a registry runs. Only Dir is required.
type Config struct {
	Dir     string // is made when it is not there
	MaxBlob int64  // bytes; 0 is 4 GiB

	// Auth decides whether a request may pass; nil lets all pass. A refused
	// one is asked for basic authentication.
	Auth func(*http.Request) bool

	// InUse tells whether a manifest without a tag is still wanted, say by a
	// function that runs it by digest. nil keeps all of them.
	InUse func(digest string) bool

	CollectEvery time.Duration // 0 is 1 h
	// Grace is the age from which uploads without progress, blobs that no
	// manifest names and manifests that nobody uses are collected; 0 is 1 h.
	Grace time.Duration

	Log     *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Registry is an http.Handler for /v2/.
type Registry struct {
	c    Config
	root *os.Root

	// Whoever makes a blob or manifest reachable holds it for reading, the
	// collector for writing: what a check saw is there until it is referred to.
	gc sync.RWMutex

	mu      sync.Mutex // guards uploads
	uploads map[string]*upload

	id       string       // of this process's registry
	changes  atomic.Int64 // of what is named, since it was opened
	stored   atomic.Int64 // bytes of all blobs
	requests *prometheus.CounterVec
}

var _ http.Handler = (*Registry)(nil)

// New opens or makes the registry in c.Dir. Close it.
func New(c Config) (*Registry, error) {
	if c.MaxBlob == 0 {
		c.MaxBlob = 4 << 30
	}
	if c.CollectEvery == 0 {
		c.CollectEvery = time.Hour
	}
	if c.Grace == 0 {
		c.Grace = time.Hour
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	root, err := os.OpenRoot(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	r := &Registry{c: c, root: root, id: newID(), uploads: map[string]*upload{}}
	if err := r.open(); err != nil {
		_ = root.Close()
		return nil, fmt.Errorf("registry in %s: %w", c.Dir, err)
	}
	return r, nil
}

func (r *Registry) open() error {
	for _, d := range []string{"blobs/sha256", "uploads", "repos"} {
		if err := r.root.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	err := r.eachBlob(func(_ digest, info fs.FileInfo) error {
		r.stored.Add(info.Size())
		return nil
	})
	if err != nil {
		return err
	}
	r.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "faas_registry_requests_total", Help: "Requests to the image registry.",
	}, []string{"operation", "code"})
	size := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "faas_registry_stored_bytes", Help: "Bytes of image content on disk.",
	}, func() float64 { return float64(r.stored.Load()) })
	if r.c.Metrics == nil {
		return nil
	}
	return errors.Join(r.c.Metrics.Register(r.requests), r.c.Metrics.Register(size))
}

// Close gives the folder back. No request may run any more.
func (r *Registry) Close() error { return r.root.Close() }

// Run collects what nobody needs, now and then, until ctx is done. The registry
// serves without it.
func (r *Registry) Run(ctx context.Context) error {
	t := time.NewTicker(r.c.CollectEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.C:
		}
		if _, err := r.Collect(ctx); err != nil && ctx.Err() == nil {
			r.c.Log.LogAttrs(ctx, slog.LevelWarn, "registry collection failed", slog.Any("error", err))
		}
	}
}

// Resolve is the digest that a repository's tag has now; ok is false when there
// is none.
func (r *Registry) Resolve(name, tag string) (digest string, ok bool) {
	if checkName(name) != nil {
		return "", false
	}
	d, err := r.resolve(name, tag)
	return string(d), err == nil
}

// ServeHTTP implements http.Handler.
func (r *Registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	a := &answer{ResponseWriter: w, code: http.StatusOK}
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	t, err := parse(q.URL.Path)
	if r.c.Auth != nil && !r.c.Auth(q) {
		w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
		err = faultf(http.StatusUnauthorized, "UNAUTHORIZED", "log in first")
	}
	if err == nil {
		err = r.serve(a, q, t)
	}
	if err != nil {
		f := asFault(err)
		if f.status >= 500 && q.Context().Err() == nil {
			r.c.Log.LogAttrs(q.Context(), slog.LevelError, "registry request failed",
				slog.String("method", q.Method), slog.String("path", q.URL.Path), slog.Any("error", err))
		}
		f.write(a, q.Method == http.MethodHead)
	}
	r.requests.WithLabelValues(operation(q.Method, t.kind), strconv.Itoa(a.code)).Inc()
}

// operation names a request in the metrics; any method is possible.
func operation(method, kind string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		method = "other"
	}
	if kind == "" {
		kind = "none"
	}
	return method + " " + kind
}

func (r *Registry) serve(w http.ResponseWriter, q *http.Request, t target) error {
	read := q.Method == http.MethodGet || q.Method == http.MethodHead
	switch {
	case t.kind == "base" && read:
		w.Header().Set("Content-Type", "application/json")
		_, err := w.Write([]byte("{}"))
		return err
	case t.kind == "catalog" && read:
		return r.catalog(w, q)
	case t.kind == "tags" && read:
		return r.tags(w, q, t.name)
	case t.kind == "referrers" && read:
		return r.referrers(w, q, t)
	case t.kind == "blob" && read:
		return r.getBlob(w, q, t)
	case t.kind == "blob" && q.Method == http.MethodDelete:
		return r.deleteBlob(w, t)
	case t.kind == "manifest" && read:
		return r.getManifest(w, q, t)
	case t.kind == "manifest" && q.Method == http.MethodPut:
		return r.putManifest(w, q, t)
	case t.kind == "manifest" && q.Method == http.MethodDelete:
		return r.deleteManifest(w, t)
	case t.kind == "uploads" && q.Method == http.MethodPost:
		return r.beginUpload(w, q, t)
	case t.kind == "upload":
		return r.serveUpload(w, q, t)
	}
	return faultf(http.StatusMethodNotAllowed, "UNSUPPORTED", "%s is not possible here", q.Method)
}

// answer notes the status.
type answer struct {
	http.ResponseWriter
	code int
}

func (a *answer) WriteHeader(code int) {
	a.code = code
	a.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController reach the server.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

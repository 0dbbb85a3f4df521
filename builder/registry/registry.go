// Package registry is an OCI distribution registry on a directory: the one that
// comes with the platform, so that a function can be deployed without any
// other.
//
// Layout below Dir: blobs/sha256/<hex>, repositories/<name>/_tags/<tag> and
// repositories/<name>/_manifests/<hex> (the media type), uploads/<id>.
// Every file is written beside its place and renamed, so that a reader or a
// crash never sees a part of one.
package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Config says where a registry keeps its content and what it accepts.
type Config struct {
	Dir         string                     // exists or is made
	MaxBlob     int64                      // bytes; 0 is 4 GiB
	MaxManifest int64                      // bytes; 0 is 4 MiB
	UploadAge   time.Duration              // an upload that rests longer is dropped; 0 is one hour
	Auth        func(r *http.Request) bool // nil: everybody may do everything
	Log         *slog.Logger               // nil discards
}

// Registry serves /v2/. It is safe for concurrent use.
type Registry struct {
	c    Config
	root *os.Root // nothing outside can be reached through it, whatever the names are

	mu sync.RWMutex // held for writing by Collect and deletions, for reading by pushes
}

// New opens or makes the registry's directory.
func New(c Config) (*Registry, error) {
	if c.MaxBlob == 0 {
		c.MaxBlob = 4 << 30
	}
	if c.MaxManifest == 0 {
		c.MaxManifest = 4 << 20
	}
	if c.UploadAge == 0 {
		c.UploadAge = time.Hour
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
	for _, d := range []string{"blobs/sha256", "repositories", "uploads"} {
		if err := root.MkdirAll(d, 0o700); err != nil {
			root.Close()
			return nil, fmt.Errorf("registry: %w", err)
		}
	}
	return &Registry{c: c, root: root}, nil
}

// Close lets go of the directory.
func (g *Registry) Close() error { return g.root.Close() }

// The grammar of names, by the distribution specification.
var (
	nameRE   = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagRE    = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	digestRE = regexp.MustCompile(`^sha256:[a-f0-9]{64}$`)
)

// fault is an error that the client is told.
type fault struct {
	status int
	code   string // of the specification
	text   string
}

func (f *fault) Error() string { return f.text }

func faultf(status int, code, format string, a ...any) error {
	return &fault{status, code, fmt.Sprintf(format, a...)}
}

// ServeHTTP implements http.Handler for /v2/ and what is below.
func (g *Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if g.c.Auth != nil && !g.c.Auth(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
		g.fail(w, r, faultf(http.StatusUnauthorized, "UNAUTHORIZED", "log in first"))
		return
	}
	if err := g.route(w, r); err != nil {
		g.fail(w, r, err)
	}
}

func (g *Registry) fail(w http.ResponseWriter, r *http.Request, err error) {
	f, ok := errors.AsType[*fault](err)
	if !ok {
		g.c.Log.Error("registry", slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Any("error", err))
		f = &fault{http.StatusInternalServerError, "UNKNOWN", "the registry failed; its log says why"}
	}
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(f.status)
	if r.Method != http.MethodHead {
		_ = json.NewEncoder(w).Encode(map[string][]item{"errors": {{f.code, f.text}}}) // the client is gone otherwise
	}
}

// route finds what a path below /v2/ means. Names have slashes, so the last
// elements decide.
func (g *Registry) route(w http.ResponseWriter, r *http.Request) error {
	p := strings.Trim(strings.TrimPrefix(r.URL.Path, "/v2"), "/")
	if p == "" {
		return only(r, func() error { w.WriteHeader(http.StatusOK); return nil }, http.MethodGet, http.MethodHead)
	}
	if p == "_catalog" {
		return only(r, func() error { return g.catalog(w, r) }, http.MethodGet)
	}
	e := strings.Split(p, "/")
	n := len(e)
	at := func(i int) string {
		if n+i < 0 {
			return ""
		}
		return e[n+i]
	}
	var name, last string
	var do func(http.ResponseWriter, *http.Request, string, string) error
	switch {
	case n >= 4 && at(-3) == "blobs" && at(-2) == "uploads":
		name, last, do = strings.Join(e[:n-3], "/"), at(-1), g.upload
	case n >= 3 && at(-2) == "blobs" && at(-1) == "uploads":
		name, do = strings.Join(e[:n-2], "/"), g.startUpload
	case n >= 3 && at(-2) == "blobs":
		name, last, do = strings.Join(e[:n-2], "/"), at(-1), g.blob
	case n >= 3 && at(-2) == "manifests":
		name, last, do = strings.Join(e[:n-2], "/"), at(-1), g.manifest
	case n >= 3 && at(-2) == "tags" && at(-1) == "list":
		name, do = strings.Join(e[:n-2], "/"), g.tags
	case n >= 3 && at(-2) == "referrers":
		name, last, do = strings.Join(e[:n-2], "/"), at(-1), g.referrers
	default:
		return faultf(http.StatusNotFound, "NAME_UNKNOWN", "%s is nothing that a registry has", r.URL.Path)
	}
	if len(name) > 255 || !nameRE.MatchString(name) {
		return faultf(http.StatusBadRequest, "NAME_INVALID", "%q is not a repository's name: lower-case letters, digits, and between them . _ - /", name)
	}
	return do(w, r, name, last)
}

func only(r *http.Request, f func() error, methods ...string) error {
	for _, m := range methods {
		if r.Method == m {
			return f()
		}
	}
	return faultf(http.StatusMethodNotAllowed, "UNSUPPORTED", "%s is not possible here: %s are", r.Method, strings.Join(methods, ", "))
}

func blobPath(digest string) string { return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:") }
func manifestPath(name, digest string) string {
	return "repositories/" + name + "/_manifests/" + strings.TrimPrefix(digest, "sha256:")
}
func tagPath(name, tag string) string { return "repositories/" + name + "/_tags/" + tag }

func checkDigest(d string) error {
	if !digestRE.MatchString(d) {
		return faultf(http.StatusBadRequest, "DIGEST_INVALID", "%q is not a digest: sha256: and 64 hexadecimal digits", d)
	}
	return nil
}

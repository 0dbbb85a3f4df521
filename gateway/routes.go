package gateway

import (
	_ "embed"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/gateway/auth"
	"github.com/podsnap/podsnap/gateway/dialect"
	"github.com/podsnap/podsnap/gateway/front"
	"github.com/podsnap/podsnap/gateway/invoke"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

//go:embed page.html
var page []byte

func errDeleted(k types.NamespacedName) error {
	return apierrors.NewNotFound(api.Functions.GR(), k.Name)
}

// routes mounts everything. Invocations do not go through the router: they are
// the many.
func (g *Gateway) routes(guard *auth.Auth) http.Handler {
	system := chi.NewRouter()
	system.Use(g.measure, guard.Wrap) // what is not found is not told to just anybody either
	g.dialect.Mount(system)
	system.Get("/ui", toPage)
	system.Get("/ui/*", ui)

	rest := chi.NewRouter()
	rest.Get("/healthz", ok)
	rest.Head("/healthz", ok)
	rest.Get("/", toPage)
	async := g.measure(http.HandlerFunc(g.dialect.Async))
	rest.Handle(dialect.AsyncPrefix+"*", async)
	for prefix, h := range g.c.Extra {
		rest.Handle(strings.TrimSuffix(prefix, "/")+"/*", h)
		rest.Handle(strings.TrimSuffix(prefix, "/"), h)
	}
	return front.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := r.URL.Path
		if strings.HasPrefix(p, invoke.Prefix) {
			g.invoker.ServeHTTP(w, r)
			return
		}
		if g.named(w, r) || g.ingress.Serve(w, r) {
			return
		}
		if p == dialect.LogsPath {
			ctx, done := g.front.UntilEnd(r.Context())
			defer done()
			r = r.WithContext(ctx)
		}
		if g.c.Manage != nil && p != "/healthz" {
			if other := g.c.Manage(); other != nil {
				other.ServeHTTP(w, r)
				return
			}
		}
		switch {
		case strings.HasPrefix(p, "/system/"), p == "/ui", strings.HasPrefix(p, "/ui/"):
			system.ServeHTTP(w, r)
		default:
			rest.ServeHTTP(w, r)
		}
	}))
}

// own are the paths that are the gateway's whatever an Ingress says that is for
// all hosts.
var own = []string{invoke.Prefix, dialect.AsyncPrefix, "/system/", "/ui/", "/v2/", "/healthz/"}

func reserved(path string) bool {
	return slices.ContainsFunc(own, func(p string) bool { return strings.HasPrefix(path, p) || path == strings.TrimSuffix(p, "/") })
}

// invokeService serves a request to a function's Service, if it is one's.
func (g *Gateway) invokeService(w http.ResponseWriter, r *http.Request, k types.NamespacedName) bool {
	if _, ok := g.functions.Get(k.Namespace, k.Name); !ok {
		return false
	}
	g.invoker.ServeHTTP(w, below(r, k))
	return true
}

// named serves a request to a function's own name, if it is one.
func (g *Gateway) named(w http.ResponseWriter, r *http.Request) bool {
	in, ok := g.byName(r)
	if ok {
		g.invoker.ServeHTTP(w, in)
	}
	return ok
}

func toPage(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, "/ui/", http.StatusTemporaryRedirect)
}

func ok(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }

func ui(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'")
	_, _ = w.Write(page)
}

// measure counts a request under its route's pattern.
func (g *Gateway) measure(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		s := &statusWriter{ResponseWriter: w}
		h.ServeHTTP(s, r)
		path := chi.RouteContext(r.Context()).RoutePattern()
		if path == "" {
			path = "other"
		}
		g.meter.Request(method(r.Method), strings.TrimSuffix(path, "/*"), max(s.status, 200), time.Since(start))
	})
}

// method keeps what clients make up out of the labels.
func method(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions:
		return m
	}
	return "other"
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (s *statusWriter) WriteHeader(status int) {
	if s.status == 0 {
		s.status = status
	}
	s.ResponseWriter.WriteHeader(status)
}

func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

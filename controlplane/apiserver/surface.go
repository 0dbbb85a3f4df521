package apiserver

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/custom"
	"github.com/podsnap/podsnap/controlplane/openapi"
)

// surface is what the server has to show while the custom kinds are the same: made
// when somebody asks after they have changed.
type surface struct {
	number uint64 // of the custom kinds
	docs   discovery
	open   *openapi.Documents
	mux    *chi.Mux // where custom kinds lie
}

// surface is the present one.
func (s *Server) surface() *surface {
	set := s.cfg.Kinds.Set()
	if now := s.current.Load(); now != nil && now.number == set.Number {
		return now
	}
	s.making.Lock()
	defer s.making.Unlock()
	set = s.cfg.Kinds.Set()
	if now := s.current.Load(); now != nil && now.number == set.Number {
		return now
	}
	next := s.makeSurface(set)
	s.current.Store(next)
	return next
}

func (s *Server) makeSurface(set *custom.Set) *surface {
	all := append(builtIn(), set.Served...)
	next := &surface{number: set.Number, docs: discover(all), open: s.builtIn, mux: chi.NewMux()}
	next.mux.NotFound(s.nothing())
	if len(set.Served) == 0 {
		return next
	}
	next.open = openapi.New(apiVersion, withParts(append(described(), set.Served...)))
	maps.Copy(next.open.V3, s.builtIn.V3) // those of built-in kinds are what they were
	next.mux.MethodNotAllowed(s.plain("", "", func(w http.ResponseWriter, r *http.Request) error {
		return notAllowed(next.mux, w, r)
	}))
	for path := range next.docs {
		if group, _, _ := strings.Cut(strings.TrimPrefix(path, "/apis/"), "/"); slices.ContainsFunc(set.Served, func(r *api.Resource) bool { return r.Group == group }) {
			s.mountDocument(next.mux, path)
		}
	}
	roots := map[string]bool{}
	for _, r := range set.Served {
		s.mountKind(next.mux, r)
		roots[rootOf(r)] = true
	}
	for root := range roots {
		next.mux.Get("/openapi/v3/"+root, s.open(func(w http.ResponseWriter, r *http.Request) error {
			return serveSchemas(w, r, next.open.V3[root](), "application/json")
		}))
	}
	return next
}

// elsewhere serves what is no path of the built-in kinds.
func (s *Server) elsewhere(w http.ResponseWriter, r *http.Request) {
	// Another mux finds its own way through the path.
	ctx := context.WithValue(r.Context(), chi.RouteCtxKey, (*chi.Context)(nil))
	s.surface().mux.ServeHTTP(w, r.WithContext(ctx))
}

func (s *Server) nothing() http.HandlerFunc {
	return s.plain("", "", func(_ http.ResponseWriter, r *http.Request) error { return notThere(r) })
}

// Package apiserver speaks the Kubernetes API over api.Objects: kubectl and
// client-go work with it unchanged. It keeps nothing itself; what an object
// may be is decided below the seam.
package apiserver

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/meter"
)

// Config says what is served and how much of it at once. The zero value of
// every field but Objects is a default.
type Config struct {
	Objects api.Objects

	// Agents finds the agent of a node, for logs, commands and ports. It answers NotFound or
	// ServiceUnavailable when the node is not there; nil means no node is.
	Agents func(ctx context.Context, node string) (api.Agent, error)

	// Token is the administrators', in the Authorization header; "" lets
	// everybody in. Who has a certificate that the connection's TLS has verified
	// is what that says.
	Token   string
	Version string // the platform's own, part of /version

	// Beside are handlers of other paths, by prefix, for who may ask there
	// according to package access; Open are those that see to that themselves.
	Beside, Open map[string]http.Handler

	// Ready says why the server should get no requests yet; nil is ready.
	Ready func(context.Context) error

	MaxBody     int64 // bytes of a request body, default 3 MiB
	MaxInFlight int   // requests at once that are no streams, default 400
	MaxStreams  int   // watches, logs, commands and forwarded ports at once, default 2000

	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Server is the API as an http.Handler. Streams end with their request's
// context: to stop, cancel the base context of the http.Server.
type Server struct {
	cfg     Config
	codec   *codec
	mux     *chi.Mux
	metrics *metrics
	calls   chan struct{}
	streams chan struct{}
	docs    discovery
	meter   *meter.Meter
}

// New checks the configuration and mounts the routes.
func New(cfg Config) (*Server, error) {
	if cfg.Objects == nil {
		return nil, errors.New("apiserver: Config.Objects is nil")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 3 << 20
	}
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = 400
	}
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = 2000
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	if cfg.Agents == nil {
		cfg.Agents = func(_ context.Context, node string) (api.Agent, error) {
			return nil, apierrors.NewServiceUnavailable("node " + node + " is not there")
		}
	}
	use, err := meter.New(meter.Config{Agents: cfg.Agents, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	s := &Server{
		meter: use, cfg: cfg, codec: newCodec(), mux: chi.NewMux(), metrics: m,
		calls:   make(chan struct{}, cfg.MaxInFlight),
		streams: make(chan struct{}, cfg.MaxStreams),
		docs:    discover(api.Resources),
	}
	s.mount()
	return s, nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// call is one request to one resource.
type call struct {
	w           http.ResponseWriter
	r           *http.Request
	resource    *api.Resource
	namespace   string // "" for the cluster or all namespaces
	name        string
	subresource string
	trim        func(api.Object) api.Object // what who asks sees of the objects; nil is all
}

func (c *call) ctx() context.Context { return c.r.Context() }

// mount lays out every route. A resource's collection lies at its version's
// root and, when it is namespaced, below each namespace; objects below that.
func (s *Server) mount() {
	s.mux.Use(s.recovered)
	s.mux.NotFound(s.plain("", "", func(_ http.ResponseWriter, r *http.Request) error {
		return notThere(r)
	}))
	s.mux.MethodNotAllowed(s.plain("", "", s.notAllowed))
	for _, p := range []string{"/healthz", "/livez"} {
		s.mux.Get(p, func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok") })
	}
	s.mux.Get("/readyz", s.ready)
	s.mux.Get("/version", s.open(s.version))
	for prefix, h := range s.cfg.Beside {
		s.mux.Handle(prefix+"*", s.beside(h))
	}
	for prefix, h := range s.cfg.Open {
		s.mux.Handle(prefix+"*", h)
	}
	s.mountDiscovery()
	s.mountOpenAPI()
	s.mountUsage()
	for _, r := range api.Resources {
		root := "/" + rootOf(r)
		collection := root + "/" + r.Plural
		if r.Namespaced {
			s.mux.Get(collection, s.handle("list", r, s.list))
			collection = root + "/namespaces/{namespace}/" + r.Plural
		}
		s.mountResource(r, collection)
	}
}

func (s *Server) mountResource(r *api.Resource, collection string) {
	s.mux.Get(collection, s.handle("list", r, s.list))
	s.mux.Post(collection, s.handle("create", r, s.create))
	s.mux.Delete(collection, s.handle("deletecollection", r, s.deleteCollection))
	object := collection + "/{name}"
	s.mux.Get(object, s.handle("get", r, s.get))
	s.mux.Put(object, s.handle("update", r, s.update))
	s.mux.Patch(object, s.handle("patch", r, s.patch))
	s.mux.Delete(object, s.handle("delete", r, s.delete))
	if r.Status {
		s.mux.Get(object+"/status", s.sub("get", r, "status", s.get))
		s.mux.Put(object+"/status", s.sub("update", r, "status", s.update))
		s.mux.Patch(object+"/status", s.sub("patch", r, "status", s.patch))
	}
	if r.Scale {
		s.mux.Get(object+"/scale", s.sub("get", r, "scale", s.getScale))
		s.mux.Put(object+"/scale", s.sub("update", r, "scale", s.updateScale))
		s.mux.Patch(object+"/scale", s.sub("patch", r, "scale", s.patchScale))
	}
	if r == api.Pods {
		s.mux.Get(object+"/log", s.sub("get", r, "log", s.podLog))
		s.mux.Post(object+"/binding", s.sub("create", r, "binding", s.bind))
		s.mux.Post(object+"/eviction", s.sub("create", r, "eviction", s.evict))
		s.mountConnections(object)
		s.mux.Get(object+"/ephemeralcontainers", s.sub("get", r, "ephemeralcontainers", s.get))
		s.mux.Put(object+"/ephemeralcontainers", s.sub("update", r, "ephemeralcontainers", s.update))
		s.mux.Patch(object+"/ephemeralcontainers", s.sub("patch", r, "ephemeralcontainers", s.patch))
	}
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Ready != nil {
		if err := s.cfg.Ready(r.Context()); err != nil {
			writeText(w, http.StatusServiceUnavailable, "not ready: "+err.Error())
			return
		}
	}
	writeText(w, http.StatusOK, "ok")
}

func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text)) // the client has gone: nobody is left to tell
}

func (s *Server) notAllowed(w http.ResponseWriter, r *http.Request) error {
	p := r.URL.RawPath
	if p == "" {
		p = r.URL.Path
	}
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if s.mux.Match(chi.NewRouteContext(), m, p) {
			w.Header().Add("Allow", m)
		}
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusMethodNotAllowed, Reason: metav1.StatusReasonMethodNotAllowed,
		Message: r.Method + " is not supported on " + r.URL.Path,
	}}
}

// notThere is what Kubernetes answers for a path that it does not serve.
func notThere(r *http.Request) error {
	return apierrors.NewGenericServerResponse(http.StatusNotFound, r.Method, schema.GroupResource{}, "", "", 0, true)
}

// retryAfter is what a client that meets a full server should wait.
const retryAfter = time.Second

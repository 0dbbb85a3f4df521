// Package apiserver speaks the Kubernetes API over api.Objects: kubectl and
// client-go work with it unchanged. It keeps nothing itself; what an object
// may be is decided below the seam.
package apiserver

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/controlplane/access"
	"github.com/podsnap/podsnap/controlplane/account"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/controlplane/custom"
	"github.com/podsnap/podsnap/controlplane/meter"
	"github.com/podsnap/podsnap/controlplane/openapi"
	"github.com/podsnap/podsnap/controlplane/vacant"
)

// Config says what is served and how much of it at once. The zero value of
// every field but Objects is a default.
type Config struct {
	Objects api.Objects

	// Kinds are the custom ones; nil is none.
	Kinds *custom.Kinds

	// Agents finds the agent of a node, for logs, commands and ports. It answers NotFound or
	// ServiceUnavailable when the node is not there; nil means no node is.
	Agents func(ctx context.Context, node string) (api.Agent, error)

	// Token is the administrators', in the Authorization header; "" lets
	// everybody in. Who has a certificate that the connection's TLS has verified
	// is what that says.
	Token   string
	Version string // the platform's own, part of /version

	// Gate says who may come in and do what; nil is administrators, by Token, and
	// nodes. With one Token is not looked at.
	Gate *access.Gate
	// Accounts makes tokens of service accounts; nil: there are none.
	Accounts *account.Desk

	// Beside are handlers of other paths, by prefix, for who may ask there
	// according to package access; Open are those that see to that themselves.
	Beside, Open map[string]http.Handler

	// Judge says what a write that is not stored would make, and whether it may be;
	// nil judges objects on their own.
	Judge rules.Admit

	// Ready says why the server should get no requests yet; nil is ready.
	Ready func(context.Context) error

	MaxBody     int64 // bytes of a request body, default 3 MiB
	MaxInFlight int   // requests at once that are no streams, default 400
	MaxStreams  int   // watches, logs, commands and forwarded ports at once, default 2000; each node has 200 beside

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
	streams *room
	texts   *texts
	meter   *meter.Meter

	builtIn *openapi.Documents // of the kinds that are always there
	current atomic.Pointer[surface]
	making  sync.Mutex // held while a surface is made
}

// New checks the configuration and mounts the routes.
func New(cfg Config) (*Server, error) {
	if cfg.Objects == nil {
		return nil, errors.New("apiserver: Config.Objects is nil")
	}
	if cfg.Judge == nil {
		cfg.Judge = admission.Admit
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Gate == nil {
		cfg.Gate = &access.Gate{Objects: cfg.Objects, Token: cfg.Token}
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
	cfg.Objects = vacant.Objects{Objects: cfg.Objects}
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
		streams: newRoom(cfg.MaxStreams), texts: newTexts(),
		builtIn: openapi.New(apiVersion, withParts(described())),
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
	version     *otherVersion // in which the client has it, if that is not the resource's own
	namespace   string        // "" for the cluster or all namespaces
	name        string
	subresource string
	view        *api.View // what who asks sees of the objects; nil is all
}

func (c *call) ctx() context.Context { return c.r.Context() }

// mount lays out every route. A resource's collection lies at its version's
// root and, when it is namespaced, below each namespace; objects below that.
func (s *Server) mount() {
	s.mux.Use(s.recovered)
	s.mux.NotFound(s.elsewhere)
	s.mux.MethodNotAllowed(s.plain("", "", func(w http.ResponseWriter, r *http.Request) error { return notAllowed(s.mux, w, r) }))
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
	s.mountReviews()
	s.mountIssuer()
	for _, r := range builtIn() {
		s.mountKind(s.mux, r)
	}
}

func (s *Server) mountKind(m *chi.Mux, r *api.Resource) {
	root := "/" + rootOf(r)
	collection := root + "/" + r.Plural
	if r.Namespaced {
		m.Get(collection, s.handle("list", r, s.list))
		collection = root + "/namespaces/{namespace}/" + r.Plural
	}
	s.mountResource(m, r, collection)
}

func (s *Server) mountResource(m *chi.Mux, r *api.Resource, collection string) {
	m.Get(collection, s.handle("list", r, s.list))
	if api.IsVacant(r) {
		m.Get(collection+"/{name}", s.handle("get", r, s.get))
		return
	}
	m.Post(collection, s.handle("create", r, s.create))
	m.Delete(collection, s.handle("deletecollection", r, s.deleteCollection))
	object := collection + "/{name}"
	m.Get(object, s.handle("get", r, s.get))
	m.Put(object, s.handle("update", r, s.update))
	m.Patch(object, s.handle("patch", r, s.patch))
	m.Delete(object, s.handle("delete", r, s.delete))
	if r.Status {
		m.Get(object+"/status", s.sub("get", r, "status", s.get))
		m.Put(object+"/status", s.sub("update", r, "status", s.update))
		m.Patch(object+"/status", s.sub("patch", r, "status", s.patch))
	}
	if r.Scale {
		m.Get(object+"/scale", s.sub("get", r, "scale", s.getScale))
		m.Put(object+"/scale", s.sub("update", r, "scale", s.updateScale))
		m.Patch(object+"/scale", s.sub("patch", r, "scale", s.patchScale))
	}
	if r == api.Namespaces {
		m.Put(object+"/finalize", s.sub("update", r, "finalize", s.update))
	}
	if r == api.CertificateSigningRequests {
		m.Get(object+"/approval", s.sub("get", r, api.Approval, s.get))
		m.Put(object+"/approval", s.sub("update", r, api.Approval, s.update))
		m.Patch(object+"/approval", s.sub("patch", r, api.Approval, s.patch))
	}
	if r == api.ServiceAccounts {
		s.mux.Post(object+"/token", s.sub("create", r, "token", s.issueToken))
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

func notAllowed(mux *chi.Mux, w http.ResponseWriter, r *http.Request) error {
	p := r.URL.RawPath
	if p == "" {
		p = r.URL.Path
	}
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if mux.Match(chi.NewRouteContext(), m, p) {
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

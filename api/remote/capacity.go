package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/go-chi/chi/v5"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
)

// The Capacity's routes:
//
//	POST /capacity/{gateway}/report      {"demand": [Demand, …]}
//	POST /capacity/{gateway}/drained     {"pods": [uid, …]}
//	POST /capacity/{gateway}/leave       {"leaves": [Leave, …]}
//	GET  /capacity/{gateway}/endpoints   a line {"event": EndpointEvent} each,
//	                                     the last one {"error": Status} on a fault
//	GET  /decisions/{namespace}/{name}   {"decisions": [ScaleDecision, …]}
const (
	capacityRoot  = "/capacity"
	decisionsRoot = "/decisions"
)

type demandList struct {
	Demand []api.Demand `json:"demand"`
}

type uidList struct {
	Pods []types.UID `json:"pods"`
}

type leaveList struct {
	Leaves []api.Leave `json:"leaves"`
}

type decisionList struct {
	Decisions []api.ScaleDecision `json:"decisions"`
}

// endpointLine is one line of the stream of endpoints.
type endpointLine struct {
	Event *api.EndpointEvent `json:"event,omitempty"`
	Error *metav1.Status     `json:"error,omitempty"`
}

// Capacity is an api.Capacity that asks another process. It holds no state but
// idle connections.
type Capacity struct{ c *client }

var _ api.Capacity = (*Capacity)(nil)

// NewCapacity makes a client of the handler that ServeCapacity made, at
// cfg.URL.
func NewCapacity(cfg Config) *Capacity { return &Capacity{newClient(cfg)} }

func gatewayPath(gateway, verb string) string {
	return capacityRoot + "/" + url.PathEscape(gateway) + "/" + verb
}

// Report implements api.Capacity.
func (c *Capacity) Report(ctx context.Context, gateway string, demand []api.Demand) error {
	_, err := c.c.call(ctx, request{method: http.MethodPost, path: gatewayPath(gateway, "report")}, demandList{demand})
	return err
}

// Drained implements api.Capacity.
func (c *Capacity) Drained(ctx context.Context, gateway string, pods []types.UID) error {
	_, err := c.c.call(ctx, request{method: http.MethodPost, path: gatewayPath(gateway, "drained")}, uidList{pods})
	return err
}

// GiveLeave implements api.Capacity.
func (c *Capacity) GiveLeave(ctx context.Context, gateway string, leaves []api.Leave) error {
	_, err := c.c.call(ctx, request{method: http.MethodPost, path: gatewayPath(gateway, "leave")}, leaveList{leaves})
	return err
}

// Decisions implements api.Capacity.
func (c *Capacity) Decisions(ctx context.Context, f types.NamespacedName) ([]api.ScaleDecision, error) {
	path := decisionsRoot + "/" + url.PathEscape(f.Namespace) + "/" + url.PathEscape(f.Name)
	b, err := c.c.call(ctx, request{method: http.MethodGet, path: path}, nil)
	if err != nil {
		return nil, err
	}
	var l decisionList
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, fmt.Errorf("decode the decisions on %s: %w", f, err)
	}
	return l.Decisions, nil
}

// Endpoints implements api.Capacity.
func (c *Capacity) Endpoints(ctx context.Context, gateway string) (api.EndpointStream, error) {
	open := func(ctx context.Context) (*http.Response, error) {
		return c.c.send(ctx, request{method: http.MethodGet, path: gatewayPath(gateway, "endpoints")})
	}
	s, err := newStream(ctx, open, func(line []byte) (api.EndpointEvent, error) {
		var l endpointLine
		switch err := json.Unmarshal(line, &l); {
		case err != nil:
			return api.EndpointEvent{}, fmt.Errorf("decode an endpoint: %w", err)
		case l.Error != nil:
			return api.EndpointEvent{}, &apierrors.StatusError{ErrStatus: *l.Error}
		case l.Event == nil:
			return api.EndpointEvent{}, fmt.Errorf("an endpoint's line has no event: %q", line)
		}
		return *l.Event, nil
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// ServeCapacity serves a Capacity to NewCapacity's clients. Streams end with
// their request. It lets everybody in: wrap it with RequireToken.
func ServeCapacity(c api.Capacity) http.Handler {
	m := chi.NewMux()
	m.NotFound(noRoute)
	m.Route(capacityRoot+"/{gateway}", func(m chi.Router) {
		m.Post("/report", func(w http.ResponseWriter, r *http.Request) {
			var l demandList
			if read(w, r, &l) {
				accepted(w, c.Report(r.Context(), gatewayOf(r), l.Demand))
			}
		})
		m.Post("/drained", func(w http.ResponseWriter, r *http.Request) {
			var l uidList
			if read(w, r, &l) {
				accepted(w, c.Drained(r.Context(), gatewayOf(r), l.Pods))
			}
		})
		m.Post("/leave", func(w http.ResponseWriter, r *http.Request) {
			var l leaveList
			if read(w, r, &l) {
				accepted(w, c.GiveLeave(r.Context(), gatewayOf(r), l.Leaves))
			}
		})
		m.Get("/endpoints", func(w http.ResponseWriter, r *http.Request) { serveEndpoints(c, w, r) })
	})
	m.Get(decisionsRoot+"/{namespace}/{name}", func(w http.ResponseWriter, r *http.Request) {
		ds, err := c.Decisions(r.Context(), types.NamespacedName{Namespace: param(r, "namespace"), Name: param(r, "name")})
		if err != nil {
			fail(w, err)
			return
		}
		writeJSON(w, http.StatusOK, decisionList{ds})
	})
	return m
}

func gatewayOf(r *http.Request) string { return param(r, "gateway") }

func param(r *http.Request, name string) string {
	raw := chi.URLParam(r, name)
	if v, err := url.PathUnescape(raw); err == nil {
		return v
	}
	return raw
}

func serveEndpoints(c api.Capacity, w http.ResponseWriter, r *http.Request) {
	s, err := c.Endpoints(r.Context(), gatewayOf(r))
	if err != nil {
		fail(w, err)
		return
	}
	defer s.Stop()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	conn := http.NewResponseController(w)
	_ = conn.Flush() // the stream has begun, even if nothing comes yet
	send := func(l endpointLine) bool {
		b, err := json.Marshal(l)
		return err == nil && push(w, conn, append(b, '\n'))
	}
	for ev := range s.Events() {
		if !send(endpointLine{Event: &ev}) {
			return
		}
	}
	if err := s.Err(); err != nil && r.Context().Err() == nil {
		send(endpointLine{Error: statusOf(err)})
	}
}

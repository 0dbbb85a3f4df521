package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
)

// The Agent's routes:
//
//	POST /agent/pods                  {"pods": [Pod, …]}          start
//	GET  /agent/pods                  {"pods": [PodState, …]}     list
//	GET  /agent/observe               a PodState a line, for ever
//	POST /agent/pods/{uid}/stop       ?grace=30s
//	GET  /agent/pods/{uid}/log        the text, as it comes
//	POST /agent/pods/{uid}/frozen     ?round=1&frozen=true
//	POST /agent/pods/{uid}/exec       frames in, frames out: see exec.go
//	POST /agent/pods/{uid}/attach     likewise
//	POST /agent/pods/{uid}/forward    ?port=80, bytes in, bytes out
//	GET  /agent/stats                 NodeStats
const agentRoot = "/agent"

// podList is the body of a start.
type podList struct {
	Pods []*corev1.Pod `json:"pods"`
}

// stateList is the answer to a list.
type stateList struct {
	Pods []api.PodState `json:"pods"`
}

// Agent is an api.Agent that asks another process. It holds no state but idle
// connections.
type Agent struct{ c *client }

var _ api.Agent = (*Agent)(nil)

// NewAgent makes a client of the handler that ServeAgent made, at cfg.URL.
func NewAgent(cfg Config) *Agent { return &Agent{newClient(cfg)} }

func podPath(uid types.UID, verb string) string {
	return agentRoot + "/pods/" + url.PathEscape(string(uid)) + "/" + verb
}

// Start implements api.Agent.
func (a *Agent) Start(ctx context.Context, pods []*corev1.Pod) error {
	_, err := a.c.call(ctx, request{method: http.MethodPost, path: agentRoot + "/pods"}, podList{pods})
	return err
}

// Stop implements api.Agent.
func (a *Agent) Stop(ctx context.Context, pod types.UID, grace time.Duration) error {
	_, err := a.c.call(ctx, request{
		method: http.MethodPost, path: podPath(pod, "stop"), query: url.Values{"grace": {grace.String()}},
	}, nil)
	return err
}

// SetFrozen implements api.Agent.
func (a *Agent) SetFrozen(ctx context.Context, pod types.UID, round uint64, frozen bool) error {
	_, err := a.c.call(ctx, request{
		method: http.MethodPost, path: podPath(pod, "frozen"),
		query: url.Values{"round": {strconv.FormatUint(round, 10)}, "frozen": {strconv.FormatBool(frozen)}},
	}, nil)
	return err
}

// List implements api.Agent.
func (a *Agent) List(ctx context.Context) ([]api.PodState, error) {
	var l stateList
	err := a.get(ctx, agentRoot+"/pods", &l)
	return l.Pods, err
}

// Stats implements api.Agent.
func (a *Agent) Stats(ctx context.Context) (api.NodeStats, error) {
	var s api.NodeStats
	err := a.get(ctx, agentRoot+"/stats", &s)
	return s, err
}

func (a *Agent) get(ctx context.Context, path string, into any) error {
	b, err := a.c.call(ctx, request{method: http.MethodGet, path: path}, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("decode %s: %w", path, err)
	}
	return nil
}

// Observe implements api.Agent. The channel is closed too when the other
// process ends the stream or is gone.
func (a *Agent) Observe(ctx context.Context) (<-chan api.PodState, error) {
	open := func(ctx context.Context) (*http.Response, error) {
		return a.c.send(ctx, request{method: http.MethodGet, path: agentRoot + "/observe"})
	}
	s, err := newStream(ctx, open, func(line []byte) (api.PodState, error) {
		var st api.PodState
		err := json.Unmarshal(line, &st)
		return st, err
	})
	if err != nil {
		return nil, err
	}
	return s.Events(), nil
}

// Logs implements api.Agent.
func (a *Agent) Logs(ctx context.Context, pod types.UID, o api.LogOptions) (io.ReadCloser, error) {
	q := url.Values{
		"container": {o.Container}, "tail": {strconv.Itoa(o.Tail)},
		"follow": {strconv.FormatBool(o.Follow)}, "previous": {strconv.FormatBool(o.Previous)}, "timestamps": {strconv.FormatBool(o.Timestamps)},
	}
	if !o.Since.IsZero() {
		q.Set("since", o.Since.Format(time.RFC3339Nano))
	}
	// The body's end must stop the agent's side: closing it does.
	resp, err := a.c.send(ctx, request{method: http.MethodGet, path: podPath(pod, "log"), query: q}) //nolint:bodyclose // the caller closes it
	if err != nil {
		return nil, err
	}
	return newLines(resp.Body), nil
}

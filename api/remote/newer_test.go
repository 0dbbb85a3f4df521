package remote_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/api/remote"
	"github.com/podsnap/podsnap/api/seamtest"
	"github.com/podsnap/podsnap/controlplane/apiserver"
	"k8s.io/apimachinery/pkg/types"
)

// newer is a wire between parts of which the other is always a version ahead: all
// that is said over it, in both directions, has fields and headers more.
type newer struct {
	next  http.RoundTripper
	added *atomic.Int64
}

func (n newer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Podsnap-Of-The-Next-Version", "1")
	if r.Body != nil && r.Header.Get("Content-Type") == "application/json" {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		r.Body.Close()
		b = n.add(b)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	}
	resp, err := n.next.RoundTrip(r)
	if err != nil || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		return resp, err
	}
	resp.Header.Set("Podsnap-Of-The-Next-Version", "1")
	resp.Header.Del("Content-Length")
	resp.ContentLength = -1
	from, out := resp.Body, newPipe(resp.Body)
	resp.Body = out
	go func() {
		in := bufio.NewReader(from)
		for {
			line, err := in.ReadBytes('\n')
			if len(line) > 0 {
				if _, err := out.w.Write(n.add(line)); err != nil {
					return
				}
			}
			if err != nil {
				out.w.CloseWithError(err)
				return
			}
		}
	}()
	return resp, nil
}

// pipe is a body whose end is that of the one behind it.
type pipe struct {
	*io.PipeReader
	w    *io.PipeWriter
	body io.Closer
}

func newPipe(body io.Closer) *pipe {
	r, w := io.Pipe()
	return &pipe{r, w, body}
}

func (p *pipe) Close() error {
	p.PipeReader.Close()
	return p.body.Close()
}

// add puts fields into the objects of a message whose form is the platform's own or
// Kubernetes': maps, of which any key is known, are left alone.
func (n newer) add(b []byte) []byte {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return b
	}
	n.into(v)
	out, err := json.Marshal(v)
	if err != nil {
		return b
	}
	return append(out, '\n')
}

func (n newer) into(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			n.into(e)
		}
	case map[string]any:
		for _, k := range []string{"metadata", "spec", "status", "object", "items", "event", "error", "demand", "leaves", "decisions", "template", "containers", "pods", "details"} {
			if _, isMap := v[k].(map[string]any); isMap || v[k] != nil {
				n.into(v[k])
			}
		}
		v["ofTheNextVersion"] = map[string]any{"some": []any{1, "thing"}}
		n.added.Add(1)
	}
}

// TestNewerPeer runs the conformance suites of all seams over a wire on which
// everything says more than this version knows.
func TestNewerPeer(t *testing.T) {
	var added atomic.Int64
	through := func(srv *httptest.Server) *http.Client {
		c := srv.Client()
		c.Transport = newer{c.Transport, &added}
		return c
	}
	t.Run("objects", func(t *testing.T) {
		seamtest.Objects(t, func(t *testing.T) api.Objects {
			t.Helper()
			s, err := apiserver.New(apiserver.Config{Objects: memory.New(memory.Config{History: 512}), Token: "secret"})
			if err != nil {
				t.Fatal(err)
			}
			srv := httptest.NewServer(s)
			t.Cleanup(srv.Close)
			return remote.NewObjects(remote.Config{URL: srv.URL, Token: "secret", Client: through(srv)})
		})
	})
	t.Run("agent", func(t *testing.T) {
		seamtest.Agent(t, func(t *testing.T) api.Agent {
			t.Helper()
			srv := httptest.NewServer(remote.ServeAgent(memory.NewAgent()))
			t.Cleanup(srv.Close)
			return remote.NewAgent(remote.Config{URL: srv.URL, Client: through(srv)})
		})
	})
	t.Run("capacity", func(t *testing.T) {
		seamtest.Capacity(t, func(t *testing.T) seamtest.CapacityRig {
			c := memory.NewCapacity()
			srv := httptest.NewServer(remote.ServeCapacity(c))
			t.Cleanup(srv.Close)
			f := types.NamespacedName{Namespace: "seam", Name: "resize"}
			return seamtest.CapacityRig{
				Capacity: remote.NewCapacity(remote.Config{URL: srv.URL, Client: through(srv)}), Function: f,
				Ready: func(pod string) api.Endpoint {
					e := api.Endpoint{Pod: types.UID("uid-" + pod), Name: pod, Address: "127.0.0.1:8080", Concurrency: 2, Timeout: time.Second}
					c.Ready(f, e)
					return e
				},
				Delete:  func(pod string) { c.Delete(types.UID("uid-" + pod)) },
				Lose:    func(pod string) { c.Lose(types.UID("uid-" + pod)) },
				Fail:    func(reason string) { c.Fail(f, reason) },
				Wanted:  func() int { return c.Wanted(f) },
				Drained: func(pod string) bool { return !c.Has(types.UID("uid-" + pod)) },
			}
		})
	})
	if n := added.Load(); n < 1000 {
		t.Errorf("fields were added to %d objects only: the test shows nothing", n)
	}
}

package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/gateway"
	"github.com/podsnap/podsnap/gateway/auth"
	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// replicas is a control plane that has one replica, the same server, for every
// function that is asked for.
type replicas struct {
	address string
	events  chan api.EndpointEvent
	decided map[types.NamespacedName][]api.ScaleDecision

	mu    sync.Mutex
	given map[types.NamespacedName]bool
}

func (r *replicas) Report(_ context.Context, _ string, ds []api.Demand) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range ds {
		if d.Queued > 0 && !r.given[d.Function] {
			r.given[d.Function] = true
			name := d.Function.Name + "-1"
			r.events <- api.EndpointEvent{Type: api.EndpointReady, Function: d.Function, Endpoint: api.Endpoint{
				Pod: types.UID(d.Function.String()), Name: name, Address: r.address,
			}}
		}
	}
	return nil
}

func (r *replicas) Endpoints(ctx context.Context, _ string) (api.EndpointStream, error) {
	r.events <- api.EndpointEvent{Type: api.EndpointsSynced}
	return &events{ctx: ctx, in: r.events, out: make(chan api.EndpointEvent)}, nil
}

func (r *replicas) Decisions(_ context.Context, f types.NamespacedName) ([]api.ScaleDecision, error) {
	return r.decided[f], nil
}

func (r *replicas) Drained(context.Context, string, []types.UID) error { return nil }

func (r *replicas) GiveLeave(context.Context, string, []api.Leave) error { return nil }

type events struct {
	ctx  context.Context
	in   chan api.EndpointEvent
	out  chan api.EndpointEvent
	once sync.Once
}

func (e *events) Events() <-chan api.EndpointEvent {
	e.once.Do(func() {
		go func() {
			defer close(e.out)
			for {
				select {
				case <-e.ctx.Done():
					return
				case x := <-e.in:
					select {
					case e.out <- x:
					case <-e.ctx.Done():
						return
					}
				}
			}
		}()
	})
	return e.out
}
func (e *events) Err() error { return nil }
func (e *events) Stop()      {}

// rig is a whole gateway over objects in memory.
type rig struct {
	t       *testing.T
	g       *gateway.Gateway
	objects *memory.Objects
	metrics *prometheus.Registry
	url     string
	client  *openfaas.Client
}

// function is what every replica answers.
func function(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RequestURI(), b)
}

func newRig(t *testing.T, change func(*gateway.Config)) *rig {
	t.Helper()
	f := httptest.NewServer(http.HandlerFunc(function))
	r := &rig{t: t, objects: memory.New(memory.Config{Namespaces: true}), metrics: prometheus.NewRegistry()}
	c := gateway.Config{
		Objects: r.objects, Name: "test", Metrics: r.metrics,
		Capacity: &replicas{address: strings.TrimPrefix(f.URL, "http://"), events: make(chan api.EndpointEvent, 1000), given: map[types.NamespacedName]bool{}},
		Auth:     auth.Config{User: "admin", Password: "secret"},
		Version:  openfaas.Version{Release: "1.2.3", SHA: "abc"},
		MaxBody:  1 << 20,
		Drain:    time.Second,
	}
	if change != nil {
		change(&c)
	}
	g, err := gateway.New(c)
	if err != nil {
		t.Fatal(err)
	}
	r.g = g
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := g.Front()
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	tr := &http.Transport{}
	r.url = "http://" + l.Addr().String()
	r.client = &openfaas.Client{URL: r.url, User: "admin", Password: "secret", HTTP: &http.Client{Transport: tr}}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		srv.Close()
		<-served
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		f.Close()
	})
	r.awaitNamespace()
	return r
}

// awaitNamespace waits for what Run makes first.
func (r *rig) awaitNamespace() {
	r.t.Helper()
	w, err := r.objects.Watch(r.t.Context(), api.Namespaces, api.WatchOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.Events() {
		if n, ok := e.Object.(*corev1.Namespace); ok && n.Name == api.FunctionNamespace {
			return
		}
	}
	r.t.Fatal("the functions' namespace never came")
}

// call sends a request as an administrator and answers with status and body.
func (r *rig) call(method, path, body string) (int, string, http.Header) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.SetBasicAuth("admin", "secret")
	return r.do(req)
}

func (r *rig) do(req *http.Request) (int, string, http.Header) {
	r.t.Helper()
	c := *r.client.HTTP
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := c.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

// pod puts a replica into the store.
func (r *rig) pod(name, function, node string) *corev1.Pod {
	r.t.Helper()
	p, err := api.Create(r.t.Context(), r.objects, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: api.FunctionNamespace, Labels: map[string]string{api.LabelFunction: function}},
		Spec:       corev1.PodSpec{NodeName: node},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

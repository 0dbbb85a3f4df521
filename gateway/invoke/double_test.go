package invoke_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/gateway/front"
	"github.com/podsnap/podsnap/gateway/invoke"
	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/types"
)

// own is which half of the front serves the tests: all of them run with both.
var own bool

func TestMain(m *testing.M) {
	flag.Parse()
	code := 0
	halves := []bool{false, true}
	if os.Getenv("PODSNAP_OWN") != "" {
		halves = halves[1:] // a profile is of one run
	}
	for _, own = range halves {
		code = max(code, m.Run())
		if err := goleak.Find(goleak.IgnoreTopFunction("runtime/pprof.readProfile")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// serve opens a front of which the own loop or net/http serves invocations.
func serve(t testing.TB, v *invoke.Invoker) (*front.Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := front.Config{Handler: front.Wrap(v)}
	if own {
		c.Invoker = v
	}
	srv := front.New(c)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return srv, "http://" + l.Addr().String()
}

// capacity is a control plane that does what the test says.
type capacity struct {
	mu       sync.Mutex
	streams  map[*stream]bool
	now      []api.EndpointEvent // what a new stream begins with
	reports  []api.Demand
	drained  []types.UID
	leaves   []api.Leave
	onReport func([]api.Demand)
	fault    error
	changed  chan struct{} // closed and replaced at every report and drained
}

func newCapacity() *capacity {
	return &capacity{streams: map[*stream]bool{}, changed: make(chan struct{})}
}

type stream struct {
	c    *capacity
	ch   chan api.EndpointEvent
	once sync.Once
	err  error
}

func (s *stream) Events() <-chan api.EndpointEvent { return s.ch }
func (s *stream) Err() error                       { return s.err }
func (s *stream) Stop()                            { s.c.cut(s, nil) }

func (c *capacity) cut(s *stream, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.once.Do(func() {
		s.err = err
		delete(c.streams, s)
		close(s.ch)
	})
}

func (c *capacity) notify() { // c.mu is held
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *capacity) Report(_ context.Context, _ string, d []api.Demand) error {
	c.mu.Lock()
	if c.fault != nil {
		defer c.mu.Unlock()
		return c.fault
	}
	c.reports = append(c.reports, d...)
	f := c.onReport
	c.notify()
	c.mu.Unlock()
	if f != nil {
		f(d)
	}
	return nil
}

func (c *capacity) Endpoints(ctx context.Context, _ string) (api.EndpointStream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &stream{c: c, ch: make(chan api.EndpointEvent, 1000)}
	for _, e := range c.now {
		s.ch <- e
	}
	s.ch <- api.EndpointEvent{Type: api.EndpointsSynced}
	c.streams[s] = true
	context.AfterFunc(ctx, s.Stop)
	return s, nil
}

func (c *capacity) Decisions(context.Context, types.NamespacedName) ([]api.ScaleDecision, error) {
	return nil, nil
}

func (c *capacity) Drained(_ context.Context, _ string, pods []types.UID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drained = append(c.drained, pods...)
	c.notify()
	return nil
}

func (c *capacity) GiveLeave(_ context.Context, _ string, leaves []api.Leave) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaves = append(c.leaves, leaves...)
	c.notify()
	return nil
}

func (c *capacity) send(e api.EndpointEvent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch e.Type {
	case api.EndpointReady:
		c.now = append(c.now, e)
	case api.EndpointGone:
		for i, n := range c.now {
			if n.Endpoint.Pod == e.Endpoint.Pod {
				c.now = append(c.now[:i:i], c.now[i+1:]...)
				break
			}
		}
	case api.EndpointDrain, api.EndpointsSynced, api.EndpointsFailing: // not part of what there is
	}
	for s := range c.streams {
		s.ch <- e
	}
}

// until waits until cond holds; it looks again at every report and drained.
func (c *capacity) until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		c.mu.Lock()
		ok, changed := cond(), c.changed
		c.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("never came: %s", what)
		}
	}
}

var resize = types.NamespacedName{Namespace: "openfaas-fn", Name: "resize"}

// rig is a gateway's invocation path with one function, deployed and with no
// replica.
type rig struct {
	t      testing.TB
	c      *capacity
	v      *invoke.Invoker
	url    string // of the function
	client *http.Client
	stop   func() // ends Run and waits for it
}

func newRig(t testing.TB, cfg invoke.Config) *rig {
	t.Helper()
	c := newCapacity()
	cfg.Capacity, cfg.Gateway = c, "test"
	if cfg.Report == 0 {
		cfg.Report = 20 * time.Millisecond
	}
	if cfg.Drain == 0 {
		cfg.Drain = 5 * time.Second
	}
	v := invoke.New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := v.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	srv, url := serve(t, v)
	client := &http.Client{Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 300}}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	r := &rig{t: t, c: c, v: v, url: url + "/function/resize", client: client}
	r.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(func() {
		client.CloseIdleConnections()
		srv.Close()
		r.stop()
	})
	v.SetFunction(resize, invoke.Spec{Generation: 1})
	return r
}

// replica serves h as a replica of the function; nothing knows of it yet.
func (r *rig) replica(name string, h http.HandlerFunc) (*httptest.Server, api.Endpoint) {
	srv := httptest.NewServer(h)
	r.t.Cleanup(srv.Close)
	return srv, api.Endpoint{Pod: types.UID(name), Name: name, Address: strings.TrimPrefix(srv.URL, "http://")}
}

func (r *rig) ready(e api.Endpoint) {
	r.c.send(api.EndpointEvent{Type: api.EndpointReady, Function: resize, Endpoint: e})
}

func (r *rig) event(t api.EndpointEventType, e api.Endpoint) {
	r.c.send(api.EndpointEvent{Type: t, Function: resize, Endpoint: e})
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (r *rig) do(method, path, body string, header ...string) (answer, error) {
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header[header[i]] = append(req.Header[header[i]], header[i+1])
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b)}, err
}

func (r *rig) must(method, path, body string, header ...string) answer {
	r.t.Helper()
	a, err := r.do(method, path, body, header...)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

var errDown = errors.New("the control plane is down")

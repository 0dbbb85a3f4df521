package async

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/podsnap/podsnap/internal/pause"
	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/types"
)

func TestMain(m *testing.M) {
	const nats = "github.com/nats-io/nats-server/v2/server"
	goleak.VerifyTestMain(
		m, goleak.IgnoreTopFunction(nats+".(*logtrace).run"),
		// The server does not wait at its end for a stream that it is just making.
		goleak.IgnoreTopFunction(nats+".(*fileStore).flushStreamStateLoop"), goleak.IgnoreTopFunction(nats+"/ats.Register.func1"),
	)
}

// server is a NATS that can be stopped and started on the same disk and port.
type server struct {
	t   *testing.T
	dir string
	max int64 // bytes that it may store; 0 is what the disk has
	s   *natsserver.Server
	url string
}

func newServer(t *testing.T) *server {
	s := &server{t: t, dir: t.TempDir()}
	s.start(-1)
	t.Cleanup(s.stop)
	return s
}

func (s *server) start(port int) {
	s.t.Helper()
	n, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: s.dir, SyncAlways: true, NoSigs: true, NoLog: true, MaxPayload: 8 << 20,
		JetStreamMaxStore: s.max,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	n.Start()
	if !n.ReadyForConnections(10 * time.Second) {
		s.t.Fatal("NATS does not start")
	}
	s.s, s.url = n, n.ClientURL()
}

func (s *server) stop() { s.s.Shutdown(); s.s.WaitForShutdown() }

func (s *server) port() int {
	var port int
	if _, err := fmt.Sscanf(s.url, "nats://127.0.0.1:%d", &port); err != nil {
		s.t.Fatal(err)
	}
	return port
}

// run starts a queue's workers; the returned function ends them.
func run(t *testing.T, c Config) (*Queue, func()) {
	t.Helper()
	q, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- q.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return q, stop
}

// functions serves calls and counts them by call id.
type functions struct {
	mu      sync.Mutex
	calls   map[string]int
	changed chan struct{}
	serve   func(w http.ResponseWriter, r *http.Request, n int)
}

func newFunctions(serve func(w http.ResponseWriter, r *http.Request, n int)) *functions {
	return &functions{calls: map[string]int{}, changed: make(chan struct{}), serve: serve}
}

func (f *functions) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	id := r.Header.Get("X-Call-Id")
	f.calls[id]++
	n := f.calls[id]
	f.mu.Unlock()
	if f.serve != nil {
		f.serve(w, r, n)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *functions) until(t *testing.T, what string, cond func(calls map[string]int) bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		f.mu.Lock()
		ok, changed := cond(f.calls), f.changed
		f.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("never came: %s", what)
		}
	}
}

func call(i int, function string) Call {
	return Call{
		ID: fmt.Sprintf("call-%d", i), Function: types.NamespacedName{Namespace: "openfaas-fn", Name: function},
		Method: "POST", Path: "/a/b", Query: "x=1", Header: http.Header{"X-Mine": {"yes"}}, Body: []byte(fmt.Sprint("body ", i)), Start: time.Now(),
	}
}

func enqueue(t *testing.T, q *Queue, c Call) {
	t.Helper()
	if err := q.Enqueue(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func empty(t *testing.T, q *Queue) {
	t.Helper()
	limit := time.After(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		got, err := q.Pending(t.Context())
		if err == nil && len(got) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("the queue does not become empty: %v %v", got, err)
		}
	}
}

func TestCallAndCallback(t *testing.T) {
	s := newServer(t)
	var seen http.Header
	var body, url string
	f := newFunctions(func(w http.ResponseWriter, r *http.Request, _ int) {
		b, _ := io.ReadAll(r.Body)
		seen, body, url = r.Header.Clone(), string(b), r.URL.String()
		w.Header().Set("X-Answer", "yes")
		w.WriteHeader(201)
		fmt.Fprint(w, "done")
	})
	got := make(chan *http.Request, 1)
	text := make(chan string, 1)
	back := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- r
		text <- string(b)
	}))
	defer back.Close()
	q, stop := run(t, Config{URL: s.url, Handler: f})
	c := call(1, "later")
	c.Callback = back.URL
	enqueue(t, q, c)
	r := <-got
	if r.Header.Get("X-Function-Status") != "201" || r.Header.Get("X-Call-Id") != "call-1" || r.Header.Get("X-Function-Name") != "later.openfaas-fn" || r.Header.Get("X-Answer") != "yes" || <-text != "done" {
		t.Errorf("the callback had %v", r.Header)
	}
	empty(t, q)
	stop()
	if url != "http://gateway/function/later.openfaas-fn/a/b?x=1" || body != "body 1" || seen.Get("X-Mine") != "yes" || seen.Get("X-Attempt") != "1" {
		t.Errorf("the function saw %s %q %v", url, body, seen)
	}
}

// What was accepted before NATS ended is called after it is back; what comes
// while it is away waits.
func TestServerRestart(t *testing.T) {
	s := newServer(t)
	gate := make(chan struct{})
	f := newFunctions(func(http.ResponseWriter, *http.Request, int) { <-gate })
	q, _ := run(t, Config{URL: s.url, Handler: f, Concurrency: 4, AckWait: time.Second})
	for i := range 20 {
		enqueue(t, q, call(i, "later"))
	}
	s.stop()
	waiting := make(chan error, 1)
	go func() { waiting <- q.Enqueue(t.Context(), call(100, "later")) }()
	close(gate)
	s.start(s.port())
	if err := <-waiting; err != nil {
		t.Fatalf("a call during the restart: %v", err)
	}
	f.until(t, "all calls", func(calls map[string]int) bool { return len(calls) == 21 })
	empty(t, q)
}

// A queue that rests has made what it has begun, and stores calls that the next
// one makes.
func TestRest(t *testing.T) {
	s := newServer(t)
	begun, gate := make(chan struct{}, 1), make(chan struct{})
	f := newFunctions(func(http.ResponseWriter, *http.Request, int) {
		select {
		case begun <- struct{}{}:
		default: // another one that has begun before the rest
		}
		<-gate
	})
	q, stop := run(t, Config{URL: s.url, Handler: f})
	enqueue(t, q, call(1, "now"))
	<-begun
	rested := make(chan struct{})
	go func() {
		defer close(rested)
		q.Rest()
	}()
	enqueue(t, q, call(2, "later"))
	select {
	case <-rested:
		t.Error("it rests while a call is in flight")
	default:
	}
	close(gate)
	<-rested
	enqueue(t, q, call(3, "later"))
	stop()
	if f.calls["call-1"] != 1 || f.calls["call-3"] != 0 {
		t.Errorf("it made %v", f.calls)
	}
	next := newFunctions(nil)
	q, _ = run(t, Config{URL: s.url, Handler: next})
	next.until(t, "what was stored", func(calls map[string]int) bool {
		return f.calls["call-2"]+calls["call-2"] == 1 && calls["call-3"] == 1
	})
	empty(t, q)
}

// A queue that can't be made as safe as it should be is used as it is, and that
// is said once.
func TestLacking(t *testing.T) {
	s := newServer(t)
	gate := make(chan struct{})
	q, stop := run(t, Config{URL: s.url, Handler: newFunctions(func(http.ResponseWriter, *http.Request, int) { <-gate }), AckWait: time.Second, Drain: time.Millisecond})
	enqueue(t, q, call(1, "later"))
	close(gate)
	stop()
	var said strings.Builder // read after the end
	f := newFunctions(nil)
	q, stop = run(t, Config{URL: s.url, Handler: f, Replicas: 3, Log: slog.New(slog.NewTextHandler(&said, nil))}) // of one server
	enqueue(t, q, call(2, "later"))
	f.until(t, "a call that is stored once", func(calls map[string]int) bool { return calls["call-2"] == 1 })
	empty(t, q)
	enqueue(t, q, call(3, "later"))
	f.until(t, "the next one", func(calls map[string]int) bool { return calls["call-3"] == 1 })
	stop()
	if n := strings.Count(said.String(), "not as safe as it should be"); n != 1 || !strings.Contains(said.String(), "replicas > 1") {
		t.Errorf("it said that %d times: %s", n, said.String())
	}
}

// What keeps a queue from being made is said, as calls are refused meanwhile.
func TestNoQueue(t *testing.T) {
	s := newServer(t)
	said := make(chan string, 10)
	_, stop := run(t, Config{URL: s.url, Handler: newFunctions(nil), Replicas: 3, Log: slog.New(slog.NewTextHandler(lines(said), nil))}) // of one server
	select {
	case line := <-said:
		if !strings.Contains(line, "not taken yet") || !strings.Contains(line, "copies=3") || !strings.Contains(line, "replicas > 1") {
			t.Errorf("it said %s", line)
		}
	case <-time.After(time.Minute):
		t.Error("it said nothing")
	}
	stop()
}

// lines gets what a logger writes.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	select {
	case l <- string(b):
	default:
	}
	return len(b), nil
}

func TestEnqueueGivesUp(t *testing.T) {
	s := newServer(t)
	ready, _ := run(t, Config{URL: s.url, Handler: newFunctions(nil)})
	enqueue(t, ready, call(1, "later")) // waits as long as the stream takes to be made
	q, _ := run(t, Config{URL: s.url, Handler: newFunctions(nil), Hold: 300 * time.Millisecond})
	s.stop()
	if err := q.Enqueue(t.Context(), call(2, "later")); err == nil || !strings.Contains(err.Error(), "did not take the call") {
		t.Errorf("without NATS: %v", err)
	}
}

// A worker that ends without a word: another one makes its call.
func TestWorkerDies(t *testing.T) {
	s := newServer(t)
	hang := make(chan struct{})
	started := make(chan struct{})
	first := newFunctions(func(http.ResponseWriter, *http.Request, int) { close(started); <-hang })
	q1, stop1 := run(t, Config{URL: s.url, Handler: first, AckWait: 500 * time.Millisecond, Drain: time.Millisecond})
	enqueue(t, q1, call(1, "later"))
	<-started
	q1.conn.Close() // as a kill does it: nothing is said any more
	second := newFunctions(nil)
	q2, _ := run(t, Config{URL: s.url, Handler: second, AckWait: 500 * time.Millisecond})
	second.until(t, "the call on the other worker", func(calls map[string]int) bool { return calls["call-1"] == 1 })
	empty(t, q2)
	close(hang)
	stop1()
}

func TestRetryAndDeadLetter(t *testing.T) {
	s := newServer(t)
	f := newFunctions(func(w http.ResponseWriter, r *http.Request, n int) {
		switch {
		case strings.Contains(r.URL.Path, "poison"):
			w.WriteHeader(500)
		case strings.Contains(r.URL.Path, "flaky") && n < 3:
			if r.Header.Get("X-Attempt") != fmt.Sprint(n) {
				w.WriteHeader(400)
				return
			}
			w.WriteHeader(503)
		}
	})
	q, _ := run(t, Config{URL: s.url, Handler: f, Retry: func(types.NamespacedName) Retry {
		return Retry{Attempts: 3, Min: 10 * time.Millisecond}
	}})
	enqueue(t, q, call(1, "flaky"))
	enqueue(t, q, call(2, "poison"))
	m, err := (&Call{ID: "x", Function: types.NamespacedName{Namespace: "openfaas-fn", Name: "broken"}}).message()
	if err != nil {
		t.Fatal(err)
	}
	m.Header.Set(headerCall, "{no json")
	if err := q.store(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	for i := 10; i < 30; i++ {
		enqueue(t, q, call(i, "neighbour"))
	}
	empty(t, q)
	f.until(t, "three calls of flaky and of poison, one of each neighbour", func(calls map[string]int) bool {
		return calls["call-1"] == 3 && calls["call-2"] == 3 && len(calls) == 22
	})
	dead, err := q.js.Stream(t.Context(), deadStream)
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]string{}
	for _, subject := range []string{"poison", "broken"} {
		msg, err := dead.GetLastMsgForSubject(t.Context(), deadPrefix+"openfaas-fn."+subject)
		if err != nil {
			t.Fatal(subject, err)
		}
		reasons[subject] = msg.Header.Get(headerReason)
	}
	if !strings.Contains(reasons["poison"], "500") || !strings.Contains(reasons["broken"], "can't be read") {
		t.Errorf("the reasons are %v", reasons)
	}
}

// A function that hangs with a backlog does not hold up another one.
func TestNeighbours(t *testing.T) {
	s := newServer(t)
	gate := make(chan struct{})
	f := newFunctions(func(_ http.ResponseWriter, r *http.Request, _ int) {
		if strings.Contains(r.URL.Path, "slow") {
			<-gate
		}
	})
	q, _ := run(t, Config{URL: s.url, Handler: f, Concurrency: 8, PerFunction: 2})
	for i := range 40 {
		enqueue(t, q, call(i, "slow"))
	}
	for i := 100; i < 110; i++ {
		enqueue(t, q, call(i, "quick"))
	}
	f.until(t, "the quick calls while the slow ones hang", func(calls map[string]int) bool {
		n := 0
		for id := range calls {
			if len(id) == len("call-100") {
				n++
			}
		}
		return n == 10
	})
	close(gate)
	empty(t, q)
}

// A call that is stored again, as its first answer was lost, is made once; calls
// to which a caller has given one id are all made.
func TestSameCallOnce(t *testing.T) {
	s := newServer(t)
	f := newFunctions(nil)
	q, _ := run(t, Config{URL: s.url, Handler: f})
	for range 3 {
		c := call(1, "later")
		c.Key = "k"
		enqueue(t, q, c)
	}
	for range 3 {
		enqueue(t, q, call(2, "later"))
	}
	f.until(t, "all calls", func(calls map[string]int) bool { return calls["call-2"] == 3 && calls["call-1"] == 1 })
	empty(t, q)
	f.until(t, "no more", func(calls map[string]int) bool { return calls["call-2"] == 3 && calls["call-1"] == 1 })
}

func TestFull(t *testing.T) {
	s := newServer(t)
	gate := make(chan struct{})
	q, _ := run(t, Config{URL: s.url, Handler: newFunctions(func(http.ResponseWriter, *http.Request, int) { <-gate }), MaxBytes: 100_000, Hold: 2 * time.Second})
	defer close(gate)
	c := call(1, "later")
	c.Body = make([]byte, 30_000)
	var err error
	for i := range 5 {
		c.ID = fmt.Sprint("c", i)
		if err = q.Enqueue(t.Context(), c); err != nil {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), ErrFull.Error()) {
		t.Errorf("a queue over its limit: %v", err)
	}
}

// Where there is little room the queue is a smaller one, and one that was made when
// there was more goes on.
func TestLittleRoom(t *testing.T) {
	s := newServer(t)
	s.stop()
	s.max = 200 << 20
	s.start(s.port())
	f := newFunctions(nil)
	q, end := run(t, Config{URL: s.url, Handler: f})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	enqueue := func(id string) {
		t.Helper()
		c := call(1, "echo")
		c.ID = id
		if err := q.Enqueue(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	enqueue("first")
	bounds := func() (sum int64) {
		for _, name := range []string{stream, deadStream} {
			st, err := q.js.Stream(ctx, name)
			for errors.Is(err, jetstream.ErrStreamNotFound) && pause.For(ctx, 5*time.Millisecond) { // calls are accepted before there is one for dead ones
				st, err = q.js.Stream(ctx, name)
			}
			if err != nil {
				t.Fatal(err)
			}
			sum += st.CachedInfo().Config.MaxBytes
		}
		return sum
	}
	if n := bounds(); n > s.max || n < s.max/4 {
		t.Errorf("the queues may hold %d bytes, want no more than %d and a good part of it", n, s.max)
	}
	end()
	s.stop()
	s.max = 50 << 20
	s.start(s.port())
	q, _ = run(t, Config{URL: s.url, Handler: f})
	enqueue("second")
	if _, lacking, err := q.open(ctx, 10*time.Second); lacking != nil || err != nil {
		t.Errorf("the queue lacks %v, %v", lacking, err)
	}
}

// Who asks for dead letters before there is a place for any is told that there are
// none.
func TestNoDeadLettersYet(t *testing.T) {
	s := newServer(t)
	q, _ := run(t, Config{URL: s.url, Handler: newFunctions(nil)})
	enqueue(t, q, call(1, "echo"))
	empty(t, q)
	if _, _, err := q.open(t.Context(), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := q.js.DeleteStream(t.Context(), deadStream); err != nil {
		t.Fatal(err)
	}
	if got, err := q.DeadLetters(t.Context(), types.NamespacedName{}, 0, 10); err != nil || got == nil || len(got) > 0 {
		t.Errorf("got %v, %v", got, err)
	}
	if err := q.Redrive(t.Context(), 1); !errors.Is(err, ErrNoDeadLetter) {
		t.Errorf("got %v, want %v", err, ErrNoDeadLetter)
	}
}

func TestJudge(t *testing.T) {
	internal := http.Header{"X-Openfaas-Internal": {"gateway"}}
	for _, c := range []struct {
		name    string
		r       Retry
		attempt int
		status  int
		header  http.Header
		random  float64
		want    verdict
	}{
		{"answered", Retry{}, 0, 200, nil, 0, verdict{done: true}},
		{"the function's own 404", Retry{}, 0, 404, nil, 0, verdict{done: true}},
		{"no such function", Retry{}, 0, 404, internal, 0, verdict{dead: "there is no such function any more"}},
		{"a component's 413", Retry{}, 0, 413, internal, 0, verdict{after: 500 * time.Millisecond}},
		{"first fault", Retry{}, 0, 500, nil, 1, verdict{after: time.Second}},
		{"third fault", Retry{}, 2, 503, nil, 0, verdict{after: 2 * time.Second}},
		{"at most", Retry{}, 8, 503, nil, 1, verdict{after: 2 * time.Minute}},
		{"Retry-After", Retry{}, 0, 429, http.Header{"Retry-After": {"7"}}, 0, verdict{after: 7 * time.Second}},
		{"Retry-After for a year", Retry{}, 0, 429, http.Header{"Retry-After": {"31536000"}}, 0, verdict{after: 2 * time.Minute}},
		{"own codes", Retry{Codes: []int{418}}, 0, 500, nil, 0, verdict{done: true}},
		{"the last", Retry{Attempts: 3}, 2, 500, nil, 0, verdict{dead: "the last of 3 attempts was answered with 500"}},
	} {
		if got := c.r.judge(c.attempt, c.status, c.header, c.random); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

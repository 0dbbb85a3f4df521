package invoke_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/gateway/invoke"
	"github.com/podsnap/podsnap/internal/openfaas"
)

func TestForward(t *testing.T) {
	r := newRig(t, invoke.Config{})
	var got *http.Request
	var body string
	_, e := r.replica("a", func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		got, body = req, string(b)
		w.Header().Add("X-Twice", "1")
		w.Header().Add("X-Twice", "2")
		w.Header().Set("Connection", "X-Drop")
		w.Header().Set("X-Own", "yes")
		w.Header()["Content-Type"] = nil
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, "<html>short and stout")
	})
	r.ready(e)
	a := r.must("PUT", "/pot/a%2Fb?x=1&y=%20", "tea",
		"X-Call-Id", "mine", "Accept-Encoding", "zstd", "X_user", "evil", "Connection", "X-Keep, Gone, Authorization",
		"X-Keep", "kept", "Gone", "gone", "Authorization", "token", "Upgrade", "h2c", "Http2-Settings", "AAA", "Te", "trailers")
	if a.status != http.StatusTeapot || a.body != "<html>short and stout" {
		t.Errorf("answer %d %q", a.status, a.body)
	}
	if v := a.header.Values("X-Twice"); len(v) != 2 {
		t.Errorf("X-Twice came as %q", v)
	}
	if ct, ok := a.header["Content-Type"]; ok {
		t.Errorf("the gateway made up a Content-Type: %q", ct)
	}
	if a.header.Get("X-Call-Id") != "mine" {
		t.Errorf("call id %q", a.header.Get("X-Call-Id"))
	}
	if _, err := strconv.ParseFloat(a.header.Get("X-Duration-Seconds"), 64); err != nil {
		t.Errorf("X-Duration-Seconds: %v", err)
	}
	if got.Method != "PUT" || got.RequestURI != "/pot/a%2Fb?x=1&y=%20" || body != "tea" {
		t.Errorf("the function got %s %s %q", got.Method, got.RequestURI, body)
	}
	for k, want := range map[string]string{
		"X-Call-Id": "mine", "X-Start-Time": a.header.Get("X-Start-Time"), "Accept-Encoding": "zstd", "X-Keep": "kept", "Authorization": "token",
		"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": strings.Split(r.url, "/")[2],
		"X_user": "", "Gone": "", "Upgrade": "", "Http2-Settings": "", "Te": "",
	} {
		if g := strings.Join(got.Header[k], ","); g != want {
			t.Errorf("the function got %s: %q, want %q", k, g, want)
		}
	}
	if _, err := strconv.ParseInt(got.Header.Get("X-Start-Time"), 10, 64); err != nil {
		t.Errorf("X-Start-Time: %v", err)
	}
}

func TestRedirectPassesThrough(t *testing.T) {
	r := newRig(t, invoke.Config{})
	_, e := r.replica("a", func(w http.ResponseWriter, req *http.Request) { http.Redirect(w, req, "/elsewhere", http.StatusFound) })
	r.ready(e)
	if a := r.must("GET", "", ""); a.status != http.StatusFound || a.header.Get("Location") != "/elsewhere" {
		t.Errorf("answer %d to %q", a.status, a.header.Get("Location"))
	}
}

func TestRefusals(t *testing.T) {
	r := newRig(t, invoke.Config{MaxBody: 10})
	base := strings.TrimSuffix(r.url, "/function/resize")
	for _, tt := range []struct {
		method, url, body string
		status            int
		text              string
	}{
		{"GET", "/function/nope", "", 404, "error finding function nope.openfaas-fn"},
		{"GET", "/function/resize.dev", "", 404, "error finding function resize.dev"},
		{"GET", "/function/.openfaas-fn", "", 404, "names no function"},
		{"GET", "/function/", "", 404, "names no function"},
		{"GET", "/function/a%2fb", "", 400, "name"},
		{"GET", "/function/x/%2e%2e/y", "", 400, "segment"},
		{"TRACE", "/function/resize", "", 405, "TRACE"},
		{"BREW", "/function/resize", "", 405, "BREW"},
		{"POST", "/function/resize", "12345678901", 413, "larger than 10 bytes"},
	} {
		r.url = base
		a := r.must(tt.method, tt.url, tt.body)
		if a.status != tt.status || !strings.Contains(a.body, tt.text) {
			t.Errorf("%s %s: %d %q, want %d with %q", tt.method, tt.url, a.status, a.body, tt.status, tt.text)
		}
		if a.header.Get("X-OpenFaaS-Internal") != "gateway" || a.header.Get("X-Call-Id") == "" || a.header.Get("X-Start-Time") == "" {
			t.Errorf("%s %s: headers %v", tt.method, tt.url, a.header)
		}
	}
}

// TestFromZero: a crowd at a function without replicas makes a request for
// capacity and gets answers.
func TestFromZero(t *testing.T) {
	r := newRig(t, invoke.Config{})
	_, e := r.replica("a", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	asked := make(chan struct{})
	once := sync.OnceFunc(func() { close(asked) })
	r.c.onReport = func(ds []api.Demand) {
		for _, d := range ds {
			if d.Queued == 200 {
				once()
			}
		}
	}
	results := make(chan error, 200)
	begin := time.Now()
	for range 200 {
		go func() {
			a, err := r.do("POST", "", "x")
			if err == nil && (a.status != 200 || a.body != "ok") {
				err = fmt.Errorf("answer %d %q", a.status, a.body)
			}
			results <- err
		}()
	}
	<-asked
	r.ready(e)
	for range 200 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	r.c.until(t, "a last report of zeros", func() bool {
		d := r.c.reports[len(r.c.reports)-1]
		return d.Queued == 0 && d.InFlight == 0 && d.Arrived == 200
	})
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	// One that takes seconds to arrive is reported as it grows, at most every 10 ms.
	if n, most := len(r.c.reports), max(100, int(time.Since(begin)/(10*time.Millisecond))); n > most {
		t.Errorf("%d reports for one crowd, want %d at most", n, most)
	}
}

func TestConcurrencyLimit(t *testing.T) {
	const requests, replicas, limit = 50, 2, 2
	r := newRig(t, invoke.Config{})
	entered, release := make(chan struct{}, requests), make(chan struct{})
	for _, name := range []string{"a", "b"} {
		var mine atomic.Int32
		_, e := r.replica(name, func(http.ResponseWriter, *http.Request) {
			if mine.Add(1) > limit {
				t.Errorf("more than %d requests at replica %s", limit, name)
			}
			entered <- struct{}{}
			<-release
			mine.Add(-1)
		})
		e.Concurrency = limit
		r.ready(e)
	}
	var wg sync.WaitGroup
	for range requests {
		wg.Go(func() {
			if a, err := r.do("GET", "", ""); err != nil || a.status != 200 {
				t.Errorf("%v %v", a, err)
			}
		})
	}
	for range replicas * limit {
		<-entered
	}
	for range requests - replicas*limit {
		release <- struct{}{} // one leaves, the next comes
		<-entered
	}
	for range replicas * limit {
		release <- struct{}{}
	}
	wg.Wait()
}

func TestQueueFull(t *testing.T) {
	r := newRig(t, invoke.Config{MaxQueue: 1})
	first := make(chan answer, 1)
	go func() {
		a, _ := r.do("GET", "", "")
		first <- a
	}()
	r.c.until(t, "the first request in the queue", func() bool {
		return len(r.c.reports) > 0 && r.c.reports[len(r.c.reports)-1].Queued == 1
	})
	a := r.must("GET", "", "")
	if a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") == "" || !strings.Contains(a.body, "1 requests are waiting") {
		t.Errorf("answer %d %v %q", a.status, a.header, a.body)
	}
	_, e := r.replica("a", func(http.ResponseWriter, *http.Request) {})
	r.ready(e)
	if a := <-first; a.status != 200 {
		t.Errorf("who was in the queue got %d", a.status)
	}
}

func TestDeadline(t *testing.T) {
	r := newRig(t, invoke.Config{ColdStart: 30 * time.Millisecond, Timeout: 30 * time.Millisecond})
	a := r.must("GET", "", "")
	if a.status != 503 || a.header.Get("Retry-After") == "" || !strings.Contains(a.body, "no replica became ready") {
		t.Errorf("answer %d %q", a.status, a.body)
	}
	_, e := r.replica("a", func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() })
	e.Concurrency, e.Timeout = 1, 10*time.Second
	r.ready(e)
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", r.url, nil)
	done := make(chan struct{})
	go func() { defer close(done); _, _ = r.client.Do(req) }()
	r.c.until(t, "the replica to be busy", func() bool {
		return len(r.c.reports) > 0 && r.c.reports[len(r.c.reports)-1].InFlight == 1
	})
	if a := r.must("GET", "", ""); a.status != 503 || !strings.Contains(a.body, "all 1 replicas were busy") {
		t.Errorf("answer %d %q", a.status, a.body)
	}
	cancel()
	<-done
}

func TestFailFast(t *testing.T) {
	r := newRig(t, invoke.Config{FailFast: 10 * time.Millisecond})
	fail := func([]api.Demand) {
		r.c.send(api.EndpointEvent{Type: api.EndpointsFailing, Function: resize, Reason: "CrashLoopBackOff: exit code 1"})
	}
	r.c.onReport = fail
	for range 2 { // while it waits, and known before
		start := time.Now()
		a := r.must("GET", "", "")
		if a.status != 503 || !strings.Contains(a.body, "CrashLoopBackOff: exit code 1") {
			t.Errorf("answer %d %q", a.status, a.body)
		}
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("took %s", d)
		}
		r.c.mu.Lock()
		r.c.onReport = nil
		r.c.mu.Unlock()
	}
	_, e := r.replica("a", func(http.ResponseWriter, *http.Request) {})
	r.ready(e)
	if a := r.must("GET", "", ""); a.status != 200 {
		t.Errorf("when it works again: %d %q", a.status, a.body)
	}
}

func TestDeletedWhileWaiting(t *testing.T) {
	r := newRig(t, invoke.Config{})
	r.c.onReport = func([]api.Demand) { r.v.DeleteFunction(resize, "") }
	if a := r.must("GET", "", ""); a.status != 404 {
		t.Errorf("answer %d %q", a.status, a.body)
	}
}

// TestDeployedAnew: what ran before a deletion serves no request afterwards.
func TestDeployedAnew(t *testing.T) {
	r := newRig(t, invoke.Config{})
	_, old := r.replica("old", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "old") })
	r.ready(old)
	if a := r.must("GET", "", ""); a.body != "old" {
		t.Fatalf("%q", a.body)
	}
	r.v.DeleteFunction(resize, "another")
	if a := r.must("GET", "", ""); a.body != "old" {
		t.Fatalf("the deletion of an earlier one of this name: %d %q", a.status, a.body)
	}
	r.v.DeleteFunction(resize, "")
	if a := r.must("GET", "", ""); a.status != 404 {
		t.Fatalf("after the deletion: %d %q", a.status, a.body)
	}
	_, now := r.replica("now", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "now") })
	r.c.mu.Lock()
	r.c.onReport = func([]api.Demand) { r.ready(now) }
	r.c.mu.Unlock()
	r.v.SetFunction(resize, invoke.Spec{UID: "2"})
	if a := r.must("GET", "", ""); a.body != "now" {
		t.Errorf("got %q", a.body)
	}
}

// TestNotListeningYet: a replica that is announced before it listens, and one
// that is dead, cost no error.
func TestNotListeningYet(t *testing.T) {
	r := newRig(t, invoke.Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	r.ready(api.Endpoint{Pod: "slow", Name: "slow", Address: addr})
	type result struct {
		a   answer
		err error
	}
	got := make(chan result, 20)
	for range cap(got) {
		go func() {
			a, err := r.do("POST", "", "body")
			got <- result{a, err}
		}()
	}
	r.c.until(t, "requests in the queue", func() bool {
		return len(r.c.reports) > 0 && r.c.reports[len(r.c.reports)-1].Queued > 0
	})
	l, err = net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("the port was taken by somebody else: %v", err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { io.Copy(w, req.Body) })}
	go srv.Serve(l)
	defer srv.Close()
	for range cap(got) {
		if g := <-got; g.err != nil || g.a.status != 200 || g.a.body != "body" {
			t.Errorf("answer %d %q, %v", g.a.status, g.a.body, g.err)
		}
	}
}

func TestDeadReplicaBesideLive(t *testing.T) {
	r := newRig(t, invoke.Config{})
	dead, e := r.replica("dead", nil)
	dead.Close()
	r.ready(e)
	_, e = r.replica("live", func(w http.ResponseWriter, req *http.Request) { io.Copy(w, req.Body) })
	r.ready(e)
	for i := range 20 {
		if a := r.must("POST", "", "x"); a.status != 200 || a.body != "x" {
			t.Fatalf("request %d: %d %q", i, a.status, a.body)
		}
	}
}

func TestDiesMidRequest(t *testing.T) {
	r := newRig(t, invoke.Config{})
	_, e := r.replica("resize-abc", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	r.ready(e)
	a := r.must("POST", "", "x")
	if a.status != 502 || !strings.Contains(a.body, "resize-abc") {
		t.Errorf("answer %d %q", a.status, a.body)
	}
	r.event(api.EndpointGone, e)
	_, e = r.replica("b", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	r.ready(e)
	for {
		a, err := r.do("GET", "", "")
		if err == nil && strings.Contains(a.body, "resize-abc") {
			continue // the gateway has not heard yet that it is gone
		}
		if err == nil {
			t.Errorf("a broken answer looks whole: %d %q", a.status, a.body)
		}
		return
	}
}

func TestTimeout(t *testing.T) {
	r := newRig(t, invoke.Config{})
	cut := make(chan struct{})
	_, e := r.replica("a", func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done(); close(cut) })
	e.Timeout = 30 * time.Millisecond
	r.ready(e)
	a := r.must("GET", "", "")
	if a.status != 504 || a.header.Get("X-OpenFaaS-Internal") != "gateway" || !strings.Contains(a.body, "30ms") {
		t.Errorf("answer %d %q", a.status, a.body)
	}
	<-cut // the function is told
}

func TestCancel(t *testing.T) {
	r := newRig(t, invoke.Config{})
	began, cut := make(chan struct{}), make(chan struct{})
	_, e := r.replica("a", func(_ http.ResponseWriter, req *http.Request) { close(began); <-req.Context().Done(); close(cut) })
	r.ready(e)
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", r.url, nil)
	done := make(chan struct{})
	go func() { defer close(done); _, _ = r.client.Do(req) }()
	<-began
	cancel()
	<-cut
	<-done
	r.c.until(t, "the slot to be free", func() bool {
		d := r.c.reports[len(r.c.reports)-1]
		return d.InFlight == 0 && d.Arrived == 1
	})
}

func TestCancelWhileWaiting(t *testing.T) {
	for name, body := range map[string]string{"no body": "", "a body": "which nobody has read"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, invoke.Config{})
			ctx, cancel := context.WithCancel(t.Context())
			req, _ := http.NewRequestWithContext(ctx, "POST", r.url, strings.NewReader(body))
			done := make(chan struct{})
			go func() { defer close(done); _, _ = r.client.Do(req) }()
			r.c.until(t, "the request in the queue", func() bool {
				return len(r.c.reports) > 0 && r.c.reports[len(r.c.reports)-1].Queued == 1
			})
			cancel()
			<-done
			r.c.until(t, "the queue to be empty", func() bool { return r.c.reports[len(r.c.reports)-1].Queued == 0 })
		})
	}
}

func TestDrain(t *testing.T) {
	r := newRig(t, invoke.Config{})
	began, end := make(chan struct{}), make(chan struct{})
	_, a := r.replica("a", func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-end
		io.WriteString(w, "a")
	})
	r.ready(a)
	got := make(chan answer, 1)
	go func() {
		x, _ := r.do("GET", "", "")
		got <- x
	}()
	<-began
	r.event(api.EndpointDrain, a)
	_, b := r.replica("b", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "b") })
	r.ready(b)
	for range 5 {
		if x := r.must("GET", "", ""); x.body != "b" {
			t.Errorf("a draining replica got a request: %q", x.body)
		}
	}
	r.c.mu.Lock()
	if len(r.c.drained) != 0 {
		t.Errorf("drained too early: %v", r.c.drained)
	}
	r.c.mu.Unlock()
	close(end)
	if x := <-got; x.body != "a" {
		t.Errorf("the request in flight got %q", x.body)
	}
	r.c.until(t, "a to be drained", func() bool { return len(r.c.drained) == 1 && r.c.drained[0] == "a" })
	r.event(api.EndpointDrain, b) // nothing in flight
	r.event(api.EndpointDrain, api.Endpoint{Pod: "unknown"})
	r.c.until(t, "the others too", func() bool { return len(r.c.drained) == 3 })
}

// TestStreamBreaks: without the control plane calls go on; when it is back what
// went meanwhile is forgotten.
func TestStreamBreaks(t *testing.T) {
	r := newRig(t, invoke.Config{})
	_, a := r.replica("a", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "a") })
	_, b := r.replica("b", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "b") })
	r.ready(a)
	if x := r.must("GET", "", ""); x.body != "a" {
		t.Fatalf("%q", x.body)
	}
	r.c.mu.Lock()
	r.c.fault = errDown
	r.c.now = []api.EndpointEvent{{Type: api.EndpointReady, Function: resize, Endpoint: b}}
	var cut []*stream
	for s := range r.c.streams {
		cut = append(cut, s)
	}
	r.c.mu.Unlock()
	for _, s := range cut {
		r.c.cut(s, errDown)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		x := r.must("GET", "", "")
		if x.status != 200 {
			t.Fatalf("answer %d %q", x.status, x.body)
		}
		if x.body == "b" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the new state never came")
		}
	}
	for range 4 {
		if x := r.must("GET", "", ""); x.body != "b" {
			t.Errorf("a replica that is gone answered: %q", x.body)
		}
	}
}

func TestShutdownWaits(t *testing.T) {
	r := newRig(t, invoke.Config{})
	began, end := make(chan struct{}), make(chan struct{})
	_, e := r.replica("a", func(w http.ResponseWriter, _ *http.Request) { close(began); <-end; io.WriteString(w, "whole") })
	r.ready(e)
	got := make(chan answer, 1)
	go func() {
		a, _ := r.do("GET", "", "")
		got <- a
	}()
	<-began
	stopped := make(chan struct{})
	go func() { r.stop(); close(stopped) }()
	select {
	case <-stopped:
		t.Fatal("Run ended with a request in flight")
	case <-time.After(20 * time.Millisecond):
	}
	close(end)
	<-stopped
	if a := <-got; a.body != "whole" {
		t.Errorf("got %q", a.body)
	}
}

// TestRemembered: what a cold call says about itself, its replica's start
// included, and which calls are worth remembering.
func TestRemembered(t *testing.T) {
	kept := make(chan openfaas.Call, 10)
	r := newRig(t, invoke.Config{Remember: func(c openfaas.Call) { kept <- c }})
	_, e := r.replica("a", func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/broken" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	first := make(chan answer, 1)
	go func() {
		a, _ := r.do("POST", "", "x", "X-Call-Id", "one")
		first <- a
	}()
	r.c.until(t, "the call in the queue", func() bool {
		return len(r.c.reports) > 0 && r.c.reports[len(r.c.reports)-1].Queued == 1
	})
	e.Start.Created = time.Now()
	e.Start.Placed, e.Start.Ready = e.Start.Created, time.Now()
	r.ready(e)
	if a := <-first; !strings.Contains(a.header.Get("Server-Timing"), "start;dur=") {
		t.Errorf("Server-Timing %q", a.header.Get("Server-Timing"))
	}
	names := ""
	k := <-kept
	for _, s := range k.Stages {
		names += s.Name + " "
	}
	if k.ID != "one" || names != "queued created placed ready granted connected first_byte " || k.Replica != "a" {
		t.Errorf("the cold one: %+v", k)
	}
	r.must("GET", "", "") // warm
	r.must("GET", "/broken", "", "X-Call-Id", "two")
	if k := <-kept; k.ID != "two" || k.Status != 500 || len(k.Kept) != 1 || k.Kept[0] != openfaas.CallFailed || k.Text != "" {
		t.Errorf("the failed one: %+v", k)
	}
}

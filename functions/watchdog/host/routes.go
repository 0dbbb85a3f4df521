package host

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// Headers of the contract.
const (
	headerInternal = "X-OpenFaaS-Internal"
	headerDuration = "X-Duration-Seconds"
	headerTimeout  = "X-Timeout"
	headerCallID   = "X-Call-Id"

	fromLimiter  = "faas-middleware"
	fromWatchdog = "of-watchdog"
)

// routes puts the health endpoints beside the function.
func (w *watchdog) routes(function http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/_/health":
			w.health(rw, r)
		case "/_/ready":
			w.readiness(rw, r)
		default:
			w.invoke(rw, r, function)
		}
	})
}

func (w *watchdog) health(rw http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodGet:
		rw.WriteHeader(http.StatusMethodNotAllowed)
	case !w.alive():
		rw.WriteHeader(http.StatusServiceUnavailable)
	default:
		_, _ = io.WriteString(rw, "OK")
	}
}

// alive: who removes the lock file says that the function is not.
func (w *watchdog) alive() bool {
	return w.healthy.Load() && (!w.locked || exists(w.c.lock))
}

func (w *watchdog) readiness(rw http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodGet:
		rw.WriteHeader(http.StatusMethodNotAllowed)
	case !w.alive():
		rw.WriteHeader(http.StatusServiceUnavailable)
	case w.c.maxInflight > 0 && w.inflight.Load() >= int64(w.c.maxInflight):
		refuse(rw, w.c.maxInflight)
	case w.c.mode == upstream && w.c.readyPath != "":
		r = r.Clone(r.Context())
		r.URL.Path, r.URL.RawPath = w.c.readyPath, ""
		w.proxy().ServeHTTP(rw, r)
	case w.c.mode == upstream && !w.upstreamAccepts(r.Context()):
		http.Error(rw, "the function does not accept connections", http.StatusServiceUnavailable)
	default:
		_, _ = io.WriteString(rw, "OK")
	}
}

func refuse(rw http.ResponseWriter, limit int) {
	rw.Header().Set(headerInternal, fromLimiter)
	http.Error(rw, fmt.Sprintf("this replica already serves %d requests, its max_inflight: try again", limit), http.StatusTooManyRequests)
}

// invoke limits, times, counts and logs a call of the function.
func (w *watchdog) invoke(rw http.ResponseWriter, r *http.Request, function http.Handler) {
	start := time.Now()
	n := w.inflight.Add(1)
	defer w.inflight.Add(-1)
	a := &answer{ResponseWriter: rw, start: start}
	defer func() {
		took := time.Since(start)
		w.metrics.observe(r.Method, a.status(), took)
		if w.c.mode != classic && w.c.mode != serializing {
			w.access(r, a, took)
		}
	}()
	if w.c.maxInflight > 0 && n > int64(w.c.maxInflight) {
		refuse(a, w.c.maxInflight)
		return
	}
	limit := w.c.limit()
	if d, err := time.ParseDuration(r.Header.Get(headerTimeout)); err == nil && d > 0 {
		limit = min(limit, d)
	}
	ctx, cancel := context.WithTimeout(r.Context(), limit)
	defer cancel()
	r = r.WithContext(ctx)
	if r.ContentLength != 0 {
		r.Body = w.timed(rw, r, a)
	}
	function.ServeHTTP(a, r)
}

func (w *watchdog) access(r *http.Request, a *answer, took time.Duration) {
	id := ""
	if w.c.callID {
		id = " [" + r.Header.Get(headerCallID) + "]"
	}
	code := a.status()
	w.calls.Printf("%s %s - %d %s - ContentLength: %dB (%.4fs)%s", r.Method, r.URL.RequestURI(), code, http.StatusText(code), a.bytes, took.Seconds(), id)
}

// timed bounds how long the client may take to send the body. (The server's own
// ReadTimeout would also end requests that work for longer than that.) An answer
// may begin before the body has ended.
func (w *watchdog) timed(rw http.ResponseWriter, r *http.Request, a *answer) io.ReadCloser {
	b := &timedBody{ReadCloser: r.Body, rc: http.NewResponseController(rw)}
	if w.c.readTimeout > 0 {
		_ = b.rc.SetReadDeadline(time.Now().Add(w.c.readTimeout))
	}
	if w.c.mode != inproc { // a Go function asks for it itself
		_ = b.rc.EnableFullDuplex()
		a.body = b
	}
	return b
}

type timedBody struct {
	io.ReadCloser
	rc    *http.ResponseController
	ended atomic.Bool
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.ended.Store(true)
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// answer notes what was answered, and stamps the duration on it.
type answer struct {
	http.ResponseWriter
	start time.Time
	body  *timedBody // of the request, if the answer may begin before its end
	code  int
	bytes int64
}

func (a *answer) status() int {
	if a.code == 0 {
		return http.StatusOK
	}
	return a.code
}

func (a *answer) WriteHeader(code int) {
	if a.code == 0 && (code >= 200 || code == http.StatusSwitchingProtocols) {
		a.code = code
		if a.body != nil && !a.body.ended.Load() {
			// The server may have to close the connection then: without this the
			// client would send its next request into that.
			a.Header().Set("Connection", "close")
		}
		a.Header().Set(headerDuration, strconv.FormatFloat(time.Since(a.start).Seconds(), 'f', 6, 64))
	}
	a.ResponseWriter.WriteHeader(code)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.code == 0 {
		a.WriteHeader(http.StatusOK)
	}
	n, err := a.ResponseWriter.Write(p)
	a.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach flushing and hijacking.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// Flush and Hijack are there for functions that ask for the interfaces by name
// and not through http.ResponseController.
func (a *answer) Flush() { _ = http.NewResponseController(a.ResponseWriter).Flush() }

func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(a.ResponseWriter).Hijack()
}

func (w *watchdog) upstreamAccepts(ctx context.Context) bool {
	d := net.Dialer{Timeout: time.Second}
	c, err := d.DialContext(ctx, "tcp", w.c.upstream.Host)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

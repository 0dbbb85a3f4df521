package host

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"sync"
	"time"
)

// proxy hands requests to the function's own server: all of the request, all of
// the answer, streamed both ways, redirects and upgrades included.
func (w *watchdog) proxy() http.Handler { return w.once.Do(w.newProxy) }

// once holds the one proxy: its transport keeps connections.
type once struct {
	sync.Once
	h http.Handler
}

func (o *once) Do(build func() http.Handler) http.Handler {
	o.Once.Do(func() { o.h = build() })
	return o.h
}

func (w *watchdog) newProxy() http.Handler {
	p := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = w.c.upstream.Scheme, w.c.upstream.Host
			p.Out.URL.RawQuery = p.In.URL.RawQuery
			p.Out.Host = p.In.Host
			for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if v, ok := p.In.Header[h]; ok {
					p.Out.Header[h] = v
				}
			}
		},
		Transport: &http.Transport{
			DisableCompression:  true,
			MaxIdleConnsPerHost: 1024,
			// Shorter than any common server's keep-alive (2 s and up), so that
			// no request meets a connection that is just being closed.
			IdleConnTimeout: time.Second,
		},
		FlushInterval: -1,
		BufferPool:    &buffers{},
		ErrorLog:      w.log,
		ErrorHandler:  w.upstreamFault,
	}
	if !w.c.bufferBody {
		return p
	}
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(rw, "read the request: "+err.Error(), http.StatusBadRequest)
			return
		}
		r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
		p.ServeHTTP(rw, r)
	})
}

func (w *watchdog) upstreamFault(rw http.ResponseWriter, r *http.Request, err error) {
	rw.Header().Set(headerInternal, fromWatchdog)
	switch {
	case errors.Is(context.Cause(r.Context()), context.DeadlineExceeded):
		w.log.Printf("%s %s was cut off after exec_timeout", r.Method, r.URL.Path)
		http.Error(rw, "the function took longer than its exec_timeout", http.StatusGatewayTimeout)
	case r.Context().Err() != nil:
		panic(http.ErrAbortHandler) // the client is gone
	default:
		w.log.Printf("%s %s did not reach the function: %v", r.Method, r.URL.Path, err)
		http.Error(rw, "the function did not answer: "+err.Error(), http.StatusInternalServerError)
	}
}

// buffers are shared among copies.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }

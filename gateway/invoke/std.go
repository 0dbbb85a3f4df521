package invoke

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/podsnap/podsnap/gateway/route"
	"github.com/podsnap/podsnap/gateway/wire"
)

var _ http.Handler = (*Invoker)(nil)

// ServeHTTP is Invoke for a request that net/http has read. When an answer
// breaks off after it has begun, or the client is gone, it panics with
// http.ErrAbortHandler, so that the client notices; who calls it in process must
// recover that.
func (v *Invoker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.enter()
	defer v.leave()
	c := v.newCall(standardRequest(r), &standard{w: w, r: r})
	defer c.free()
	t, err := route.Parse(r.URL, Prefix)
	broken := false
	if err != nil {
		broken = c.refuse(pathError(err), false)
	} else {
		u := url.URL{Path: t.Path, RawPath: t.RawPath, RawQuery: r.URL.RawQuery, ForceQuery: r.URL.ForceQuery}
		c.target = []byte(u.RequestURI())
		broken = c.run(t.Function) //nolint:contextcheck // it goes by the request's
	}
	if broken {
		panic(http.ErrAbortHandler)
	}
}

// standardRequest is the request as the own loop would have read it.
func standardRequest(r *http.Request) *Request {
	q := &Request{TLS: r.TLS, Request: &wire.Request{
		Method: []byte(r.Method), Host: []byte(r.Host), Minor: 1, Length: r.ContentLength,
		Fields: make([]wire.Field, 0, len(r.Header)+1),
	}}
	for k, vs := range r.Header {
		for _, v := range vs {
			q.Fields = append(q.Fields, wire.Field{Name: []byte(k), Value: []byte(v)})
		}
	}
	if len(r.Trailer) > 0 {
		var announced []string
		for k := range r.Trailer {
			announced = append(announced, k)
		}
		slices.Sort(announced)
		q.Fields = append(q.Fields, wire.Field{Name: names.trailer, Value: []byte(strings.Join(announced, ", "))})
	}
	if e := r.Header["Expect"]; len(e) > 0 {
		q.Expect = []byte(e[0])
	}
	for _, v := range r.Header["Connection"] {
		q.Connection = true
		q.Upgrade = q.Upgrade || wire.Lists([]byte(v), "upgrade")
	}
	u := r.Header["Upgrade"]
	q.WebSocket = q.Upgrade && len(u) > 0 && strings.EqualFold(u[0], "websocket")
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	q.Remote = []byte(host)
	return q
}

// standard is an Asker on net/http.
type standard struct {
	w http.ResponseWriter
	r *http.Request
}

var (
	_ Asker = (*standard)(nil)
	_ Body  = (*standardBody)(nil)
)

// Context implements Asker.
func (s *standard) Context() context.Context { return s.r.Context() }

// Body implements Asker.
func (s *standard) Body() Body {
	if s.r.Body == nil || s.r.Body == http.NoBody {
		return nil
	}
	// The function may answer while it reads. Where that can't be had, in
	// process, there is no need for it.
	_ = http.NewResponseController(s.w).EnableFullDuplex()
	return &standardBody{s, s.r.Body}
}

// Begin implements Asker.
func (s *standard) Begin(h *Head) error {
	to := s.w.Header()
	for _, f := range h.Fields {
		k := http.CanonicalHeaderKey(string(f.Name))
		to[k] = append(to[k], string(f.Value))
	}
	if h.Length >= 0 && h.Status != http.StatusNoContent {
		to["Content-Length"] = []string{strconv.FormatInt(h.Length, 10)}
	}
	if h.Close {
		to["Connection"] = []string{"close"}
	}
	if _, ok := to["Content-Type"]; !ok {
		to["Content-Type"] = nil // or the server would guess one
	}
	s.w.WriteHeader(h.Status)
	return nil
}

// Write implements Asker.
func (s *standard) Write(p []byte) (int, error) { return s.w.Write(p) }

// Flush implements Asker.
func (s *standard) Flush() error {
	if f, ok := s.w.(http.Flusher); ok {
		f.Flush()
	}
	return nil
}

// Finish implements Asker.
func (s *standard) Finish(trailers []wire.Field) error {
	h := s.w.Header()
	announced := strings.Join(h["Trailer"], ",")
	for _, f := range trailers {
		k := http.CanonicalHeaderKey(string(f.Name))
		if !wire.Lists([]byte(announced), k) {
			k = http.TrailerPrefix + k
		}
		h[k] = append(h[k], string(f.Value))
	}
	return nil
}

// standardBody is the body of a request of net/http.
type standardBody struct {
	s *standard
	io.Reader
}

// Trailers implements Body.
func (b *standardBody) Trailers(fs []wire.Field) []wire.Field {
	for k, vs := range b.s.r.Trailer {
		for _, v := range vs {
			fs = append(fs, wire.Field{Name: []byte(k), Value: []byte(v)})
		}
	}
	return fs
}

// Deadline implements Body. In process there is none, and no need.
func (b *standardBody) Deadline(t time.Time) {
	_ = http.NewResponseController(b.s.w).SetReadDeadline(t)
}

// Interrupt implements Body.
func (b *standardBody) Interrupt() { b.Deadline(time.Unix(1, 0)) }

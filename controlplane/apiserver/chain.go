package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/controlplane/access"
)

// handle turns f into an http.Handler: authentication, limits, metrics, and
// errors as Status.
func (s *Server) handle(verb string, r *api.Resource, f func(*call) error) http.HandlerFunc {
	return s.sub(verb, r, "", f)
}

func (s *Server) sub(verb string, r *api.Resource, subresource string, f func(*call) error) http.HandlerFunc {
	name := r.Plural
	if r.Definition != nil {
		name = r.GR().String()
	}
	if subresource != "" {
		name += "/" + subresource
	}
	return func(w http.ResponseWriter, req *http.Request) {
		v := verb
		if subresource == "" && (verb == "list" || verb == "get") && flag(req.URL.Query(), "watch") {
			v = "watch"
		}
		s.plain(v, name, func(w http.ResponseWriter, req *http.Request) error {
			c := newCall(r)
			c.w, c.r, c.subresource = w, req, subresource
			if err := c.locate(); err != nil {
				return err
			}
			if err := s.allow(req.Context(), c, v); err != nil {
				return err
			}
			return f(c)
		})(w, req)
	}
}

// locate reads namespace and name from the path. chi routes by the escaped
// path, so a %2F cannot reach another route, but it can be in a name.
func (c *call) locate() error {
	for _, p := range []struct {
		key string
		to  *string
	}{{"namespace", &c.namespace}, {"name", &c.name}} {
		raw := chi.URLParam(c.r, p.key)
		v, err := url.PathUnescape(raw)
		if err != nil {
			v = raw
		}
		if msgs := content.IsPathSegmentName(v); len(msgs) > 0 {
			return apierrors.NewBadRequest(fmt.Sprintf("the %s %q in the URL %s", p.key, v, strings.Join(msgs, ", ")))
		}
		*p.to = v
	}
	return nil
}

// allow answers with an error when who asks may not.
func (s *Server) allow(ctx context.Context, c *call, verb string) error {
	q := access.Request{Verb: verb, Resource: c.wire(), Subresource: c.subresource, Namespace: c.namespace, Name: c.name}
	if by, err := fields.ParseSelector(c.r.URL.Query().Get("fieldSelector")); err == nil {
		q.Fields = by
	}
	u := access.Of(ctx)
	c.view = access.View(u, q)
	if verb != "connect" {
		return s.cfg.Gate.Allow(ctx, u, q)
	}
	q.Verb = "create" // by whatever method: what is made is a connection
	return s.cfg.Gate.Allow(ctx, u, q)
}

// beside serves what is no part of the Kubernetes API to who may ask for it. Its
// streams and bodies are its own affair.
func (s *Server) beside(h http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w}
		u, err := s.cfg.Gate.Who(r)
		if err == nil {
			err = s.cfg.Gate.Allow(r.Context(), u, access.Request{Verb: strings.ToLower(r.Method), Path: r.URL.Path})
		}
		if err != nil {
			s.fail(rec, r, err)
			return
		}
		h.ServeHTTP(w, r.WithContext(access.With(r.Context(), u)))
	}
}

// open is plain for what is no object and is only read: the path says what is asked for.
func (s *Server) open(f func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return s.plain("get", "", func(w http.ResponseWriter, r *http.Request) error {
		if err := s.cfg.Gate.Allow(r.Context(), access.Of(r.Context()), access.Request{Verb: strings.ToLower(r.Method), Path: r.URL.Path}); err != nil {
			return err
		}
		return f(w, r)
	})
}

// plain is handle for what is not a resource, for everybody who is known.
func (s *Server) plain(verb, resource string, f func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		rec := &recorder{ResponseWriter: w}
		err := s.admit(rec, r, verb, func(r *http.Request) error { return f(rec, r) })
		if err != nil {
			s.fail(rec, r, err)
		}
		s.metrics.observe(verb, resource, rec.status(), time.Since(begin))
	}
}

// admit lets a request in, when it may come in and there is room.
func (s *Server) admit(w http.ResponseWriter, r *http.Request, verb string, f func(*http.Request) error) error {
	who, err := s.cfg.Gate.Who(r)
	if err != nil {
		if apierrors.IsUnauthorized(err) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="podsnap"`)
		}
		return err
	}
	leave, gauge, ok := func() {}, s.metrics.calls, true
	if verb == "watch" || verb == "connect" || flag(r.URL.Query(), "follow") {
		gauge = s.metrics.streams
		leave, ok = s.streams.enter(who)
	} else {
		select {
		case s.calls <- struct{}{}:
			leave = func() { <-s.calls }
		default:
			ok = false
		}
	}
	if !ok {
		return apierrors.NewTooManyRequests("too many requests at once, please try again later", int(retryAfter/time.Second))
	}
	gauge.Inc()
	defer func() {
		gauge.Dec()
		leave()
	}()
	ctx := rules.Warned(access.With(r.Context(), who), func(text string) { addWarning(w, text) })
	r = r.WithContext(ctx)
	r.Body = http.MaxBytesReader(w, r.Body, s.cfg.MaxBody)
	return f(r)
}

// fail answers with the error as a Status, unless the answer has begun: then
// the connection is cut, so that the client does not take it for whole.
func (s *Server) fail(w *recorder, r *http.Request, err error) {
	if r.Context().Err() != nil && w.code != 0 {
		return
	}
	st := statusOf(err)
	if st.Code >= http.StatusInternalServerError {
		s.cfg.Log.WarnContext(r.Context(), "request failed", slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Int("code", int(st.Code)), slog.Any("error", err))
	}
	if w.code != 0 {
		panic(http.ErrAbortHandler)
	}
	if st.Details != nil && st.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(st.Details.RetryAfterSeconds)))
	}
	writeJSON(w, int(st.Code), st)
}

// recovered turns a panic into an answer: one broken request is not the
// platform's end.
func (s *Server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w}
		defer s.caught(rec, r)
		next.ServeHTTP(rec, r)
	})
}

// caught is to be deferred: it recovers.
func (s *Server) caught(w *recorder, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p)
	}
	s.cfg.Log.ErrorContext(r.Context(), "request panicked", slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
	if w.code != 0 {
		panic(http.ErrAbortHandler)
	}
	st := statusOf(apierrors.NewInternalError(errors.New("the request could not be handled because of a fault in the server; its log has the details")))
	writeJSON(w, int(st.Code), st)
	s.metrics.observe("", "", w.code, 0)
}

// recorder remembers the status code of the answer; 0 before it begins.
type recorder struct {
	http.ResponseWriter
	code int
}

func (r *recorder) WriteHeader(code int) {
	if r.code == 0 {
		r.code = code
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.code == 0 {
		r.code = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

func (r *recorder) status() int {
	if r.code == 0 {
		return http.StatusOK
	}
	return r.code
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// flag reads a boolean query parameter, as Kubernetes does.
func flag(q url.Values, name string) bool {
	v, ok := q[name]
	if !ok || len(v) == 0 {
		return false
	}
	switch strings.ToLower(v[0]) {
	case "false", "0":
		return false
	}
	return true
}

package remote

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
)

// maxRequest bounds a request's body, in bytes: a hundred of the largest pods.
const maxRequest = 64 << 20

// writeTimeout is how long the reader of a stream may take to read what was
// written, before it is cut off.
const writeTimeout = time.Minute

// ServeAgent serves an Agent to NewAgent's clients. Streams end with their
// request. It lets everybody in: wrap it with RequireToken.
func ServeAgent(a api.Agent) http.Handler {
	m := chi.NewMux()
	m.NotFound(noRoute)
	m.Route(agentRoot, func(m chi.Router) {
		m.Post("/pods", func(w http.ResponseWriter, r *http.Request) {
			var l podList
			if !read(w, r, &l) {
				return
			}
			accepted(w, a.Start(r.Context(), l.Pods))
		})
		m.Get("/pods", func(w http.ResponseWriter, r *http.Request) {
			pods, err := a.List(r.Context())
			answer(w, stateList{pods}, err)
		})
		m.Get("/stats", func(w http.ResponseWriter, r *http.Request) {
			s, err := a.Stats(r.Context())
			answer(w, s, err)
		})
		m.Get("/observe", func(w http.ResponseWriter, r *http.Request) {
			states, err := a.Observe(r.Context())
			if err != nil {
				fail(w, err)
				return
			}
			writeLines(w, states)
		})
		m.Post("/pods/{uid}/stop", func(w http.ResponseWriter, r *http.Request) {
			grace, err := time.ParseDuration(r.URL.Query().Get("grace"))
			if err != nil {
				fail(w, apierrors.NewBadRequest("grace: "+err.Error()))
				return
			}
			accepted(w, a.Stop(r.Context(), uid(r), grace))
		})
		m.Post("/pods/{uid}/frozen", func(w http.ResponseWriter, r *http.Request) {
			q := r.URL.Query()
			round, err := strconv.ParseUint(q.Get("round"), 10, 64)
			if err != nil {
				fail(w, apierrors.NewBadRequest("round: "+err.Error()))
				return
			}
			accepted(w, a.SetFrozen(r.Context(), uid(r), round, q.Get("frozen") == "true"))
		})
		m.Get("/pods/{uid}/log", func(w http.ResponseWriter, r *http.Request) { serveLog(a, w, r) })
		m.Post("/pods/{uid}/exec", func(w http.ResponseWriter, r *http.Request) { serveExec(a, uid(r), w, r) })
		m.Post("/pods/{uid}/attach", func(w http.ResponseWriter, r *http.Request) { serveAttach(a, uid(r), w, r) })
		m.Post("/pods/{uid}/forward", func(w http.ResponseWriter, r *http.Request) { serveForward(a, uid(r), w, r) })
	})
	return m
}

// RequireToken lets only requests with the bearer token through to next; with
// an empty token everyone.
func RequireToken(token string, next http.Handler) http.Handler {
	if token == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, got, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare([]byte(got), []byte(token)) != 1 {
			fail(w, apierrors.NewUnauthorized("Unauthorized"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func uid(r *http.Request) types.UID {
	raw := chi.URLParam(r, "uid")
	v, err := url.PathUnescape(raw)
	if err != nil {
		v = raw
	}
	return types.UID(v)
}

func serveLog(a api.Agent, w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	o := api.LogOptions{
		Container: q.Get("container"), Tail: -1,
		Follow: q.Get("follow") == "true", Previous: q.Get("previous") == "true", Timestamps: q.Get("timestamps") == "true",
	}
	var err error
	if v := q.Get("tail"); v != "" {
		if o.Tail, err = strconv.Atoi(v); err != nil {
			fail(w, apierrors.NewBadRequest("tail: "+err.Error()))
			return
		}
	}
	if v := q.Get("since"); v != "" {
		if o.Since, err = time.Parse(time.RFC3339Nano, v); err != nil {
			fail(w, apierrors.NewBadRequest("since: "+err.Error()))
			return
		}
	}
	log, err := a.Logs(r.Context(), uid(r), o)
	if err != nil {
		fail(w, err)
		return
	}
	defer log.Close()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	conn := http.NewResponseController(w)
	_ = conn.Flush() // an empty log has begun too
	buf := make([]byte, 64<<10)
	for {
		n, err := log.Read(buf)
		if n > 0 && !push(w, conn, buf[:n]) {
			return
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler) // so that the reader does not take the log for whole
		}
	}
}

// push writes b and flushes; false when the reader has gone or does not read.
func push(w io.Writer, conn *http.ResponseController, b []byte) bool {
	_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // not every writer has deadlines
	if _, err := w.Write(b); err != nil {
		return false
	}
	if err := conn.Flush(); err != nil {
		return false
	}
	// Over HTTP/2 a deadline that passes ends the stream, even when everything
	// has been read and nothing is new.
	_ = conn.SetWriteDeadline(time.Time{})
	return true
}

// writeLines writes what comes, a JSON value a line, until the channel is
// closed or the reader has gone.
func writeLines[T any](w http.ResponseWriter, values <-chan T) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	conn := http.NewResponseController(w)
	_ = conn.Flush() // the stream has begun, even if nothing comes yet
	for v := range values {
		b, err := json.Marshal(v)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if !push(w, conn, append(b, '\n')) {
			return
		}
	}
}

// read decodes a request's body; it answers itself when it can't.
func read(w http.ResponseWriter, r *http.Request, into any) bool {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(into)
	if err != nil {
		fail(w, apierrors.NewBadRequest(fmt.Sprintf("the body cannot be read: %v", err)))
	}
	return err == nil
}

func answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	writeJSON(w, http.StatusOK, v)
}

func accepted(w http.ResponseWriter, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

func noRoute(w http.ResponseWriter, r *http.Request) {
	fail(w, apierrors.NewGenericServerResponse(http.StatusNotFound, r.Method, schema.GroupResource{}, "", "no such route: "+r.URL.Path, 0, true))
}

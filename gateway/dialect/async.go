package dialect

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/podsnap/podsnap/gateway/route"
	"github.com/podsnap/podsnap/internal/openfaas"
	"k8s.io/apimachinery/pkg/types"
)

// AsyncPrefix is where asynchronous calls are mounted.
const AsyncPrefix = "/async-function/"

// AsyncCall is an invocation to be done later.
type AsyncCall struct {
	ID          string
	Function    types.NamespacedName
	Method      string
	Path        string // below the function, escaped; starts with a slash
	Query       string // raw
	Header      http.Header
	Body        []byte
	CallbackURL string // "" is none
	Start       time.Time
}

const maxCallID = 256

// Async serves AsyncPrefix.
func (d *Dialect) Async(w http.ResponseWriter, r *http.Request) { d.on(d.async)(w, r) }

func (d *Dialect) async(w http.ResponseWriter, r *http.Request) error {
	now := d.c.Now()
	id := r.Header.Get(openfaas.HeaderCallID)
	if id == "" || len(id) > maxCallID {
		id = uuid.NewString()
	}
	h := w.Header()
	h.Set(openfaas.HeaderCallID, id)
	h.Set(openfaas.HeaderStartTime, strconv.FormatInt(now.UnixNano(), 10))
	t, err := route.Parse(r.URL, AsyncPrefix)
	if err != nil {
		return &httpError{status: PathStatus(err), text: err.Error()}
	}
	if r.Method != http.MethodPost {
		h.Set("Allow", http.MethodPost)
		return fault(http.StatusMethodNotAllowed, "asynchronous calls are made with POST, not %s", r.Method)
	}
	if d.c.Enqueue == nil {
		return errNoQueue
	}
	callback := r.Header.Get(openfaas.HeaderCallbackURL)
	if err := checkCallback(callback); err != nil {
		return badRequest("%s: %v", openfaas.HeaderCallbackURL, err)
	}
	if err := d.c.Known(r.Context(), t.Function); err != nil {
		return err
	}
	body, err := d.asyncBody(r)
	if err != nil {
		return err
	}
	path := (&url.URL{Path: t.Path, RawPath: t.RawPath}).EscapedPath()
	header := r.Header.Clone()
	header.Set(openfaas.HeaderCallID, id)
	header.Set(openfaas.HeaderStartTime, h.Get(openfaas.HeaderStartTime))
	header.Del(openfaas.HeaderCallbackURL)
	setForwarded(header, r)
	err = d.c.Enqueue(r.Context(), AsyncCall{
		ID: id, Function: t.Function, Method: r.Method, Path: path, Query: r.URL.RawQuery,
		Header: header, Body: body, CallbackURL: callback, Start: now,
	})
	if err != nil {
		d.c.Log.Error("enqueue", slog.String("call_id", id), slog.String("function", t.Function.String()), slog.Any("error", err))
		return &httpError{status: http.StatusServiceUnavailable, text: fmt.Sprintf("the call is not queued, send it again: %v", err), retryAfter: time.Second}
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (d *Dialect) asyncBody(r *http.Request) ([]byte, error) {
	tooLarge := fault(http.StatusRequestEntityTooLarge, "the body of an asynchronous call is at most %d bytes: store what is larger and send a reference", d.c.MaxAsyncBody)
	if r.ContentLength > d.c.MaxAsyncBody {
		return nil, tooLarge
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, d.c.MaxAsyncBody+1))
	if err != nil {
		return nil, badRequest("the request's body can't be read: %v", err)
	}
	if int64(len(b)) > d.c.MaxAsyncBody {
		return nil, tooLarge
	}
	return b, nil
}

// setForwarded keeps who asked: the worker that calls later can't know.
func setForwarded(h http.Header, r *http.Request) {
	if h.Get("X-Forwarded-Host") == "" && r.Host != "" {
		h.Set("X-Forwarded-Host", r.Host)
	}
	if h.Get("X-Forwarded-For") == "" {
		if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
			h.Set("X-Forwarded-For", host)
		}
	}
}

// PathStatus is the status for an error of route.Parse.
func PathStatus(err error) int {
	if errors.Is(err, route.ErrNoName) {
		return http.StatusNotFound
	}
	return http.StatusBadRequest
}

// checkCallback refuses what can't be a callback. Whether its host may be
// called is for whoever calls it: names resolve differently later.
func checkCallback(s string) error {
	if s == "" {
		return nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return fmt.Errorf("%q is not a URL", short(s))
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("%q is not an http or https URL", short(s))
	case u.Hostname() == "":
		return fmt.Errorf("%q names no host", short(s))
	case u.User != nil:
		return fmt.Errorf("it must not hold a user or password")
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && (ip.IsLinkLocalUnicast() || ip.IsUnspecified() || ip.IsMulticast()) {
		return fmt.Errorf("%s can't be called", ip)
	}
	return nil
}

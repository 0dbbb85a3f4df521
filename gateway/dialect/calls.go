package dialect

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/go-chi/chi/v5"
	"github.com/podsnap/podsnap/internal/openfaas"
)

// Calls looks into the invocations that are remembered. What is nil is answered
// with 501.
type Calls struct {
	Get    func(id string) (openfaas.Call, bool)
	Recent func(limit int, keep func(*openfaas.Call) bool) []openfaas.Call
}

const (
	callsLimit    = 20
	maxCallsLimit = 1000
)

var errNoCalls = fault(http.StatusNotImplemented, "this gateway remembers no calls")

func (d *Dialect) mountCalls(r chi.Router) {
	r.Get("/system/calls", d.on(d.listCalls))
	r.Get("/system/calls/{id}", d.on(d.getCall))
}

func (d *Dialect) getCall(w http.ResponseWriter, r *http.Request) error {
	if d.c.Calls.Get == nil {
		return errNoCalls
	}
	id := chi.URLParam(r, "id")
	if r.URL.RawPath != "" { // then the router has gone by that
		var err error
		if id, err = url.PathUnescape(id); err != nil {
			return badRequest("%q is not a call's id", short(id))
		}
	}
	c, ok := d.c.Calls.Get(id)
	if !ok {
		return fault(http.StatusNotFound, "this call is not remembered: it was neither cold, slow nor failed, or it is too long ago")
	}
	return write(w, c)
}

func (d *Dialect) listCalls(w http.ResponseWriter, r *http.Request) error {
	if d.c.Calls.Recent == nil {
		return errNoCalls
	}
	f, err := queueScope(r)
	if err != nil {
		return err
	}
	limit := callsLimit
	if s := r.URL.Query().Get("limit"); s != "" {
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 {
			return badRequest("limit: %q is not a whole number from 1 on", short(s))
		}
		limit = min(limit, maxCallsLimit)
	}
	return write(w, d.c.Calls.Recent(limit, func(c *openfaas.Call) bool {
		return (f.Name == "" || c.Name == f.Name) && (f.Namespace == "" || c.Namespace == f.Namespace)
	}))
}

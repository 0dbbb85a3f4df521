package dialect

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strconv"

	"github.com/go-chi/chi/v5"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/openfaas"
	"k8s.io/apimachinery/pkg/types"
)

// Queue looks into the queue of asynchronous calls. What is nil is answered
// with 501.
type Queue struct {
	// Pending counts the calls that are not done, of all functions.
	Pending func(context.Context) ([]openfaas.PendingCalls, error)
	// DeadLetters lists calls that were given up, oldest first: from a sequence
	// number on, of one function, of a namespace when it has no name, or of all
	// when it is empty; at most limit.
	DeadLetters func(ctx context.Context, f types.NamespacedName, from uint64, limit int) ([]openfaas.DeadLetter, error)
	// Redrive puts one back. It is a NotFound StatusError when there is no such
	// dead letter, and a Conflict when it can't be called.
	Redrive func(ctx context.Context, seq uint64) error
}

// How many dead letters an answer has.
const (
	deadLimit    = 100
	maxDeadLimit = 1000
)

var errNoQueue = fault(http.StatusNotImplemented, "this gateway has no queue for asynchronous calls")

func (d *Dialect) mountQueue(r chi.Router) {
	r.Get("/system/async/pending", d.on(d.listPending))
	r.Get("/system/async/dead-letters", d.on(d.listDead))
	r.Post("/system/async/dead-letters/{seq}/redrive", d.on(d.redrive))
}

func (d *Dialect) listPending(w http.ResponseWriter, r *http.Request) error {
	f, err := queueScope(r)
	if err != nil {
		return err
	}
	if d.c.Queue.Pending == nil {
		return errNoQueue
	}
	all, err := d.c.Queue.Pending(r.Context())
	if err != nil {
		return err
	}
	out := []openfaas.PendingCalls{}
	for _, p := range all {
		if (f.Namespace == "" || f.Namespace == p.Namespace) && (f.Name == "" || f.Name == p.Name) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b openfaas.PendingCalls) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return write(w, out)
}

func (d *Dialect) listDead(w http.ResponseWriter, r *http.Request) error {
	f, err := queueScope(r)
	if err != nil {
		return err
	}
	limit, from := deadLimit, uint64(0)
	if s := r.URL.Query().Get("limit"); s != "" {
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 {
			return badRequest("limit: %q is not a whole number from 1 on", short(s))
		}
		limit = min(limit, maxDeadLimit)
	}
	if s := r.URL.Query().Get("from"); s != "" {
		if from, err = strconv.ParseUint(s, 10, 64); err != nil {
			return badRequest("from: %q is not the number of a dead letter", short(s))
		}
	}
	if d.c.Queue.DeadLetters == nil {
		return errNoQueue
	}
	out, err := d.c.Queue.DeadLetters(r.Context(), f, from, limit)
	if err != nil {
		return err
	}
	if out == nil {
		out = []openfaas.DeadLetter{}
	}
	return write(w, out)
}

func (d *Dialect) redrive(w http.ResponseWriter, r *http.Request) error {
	s := chi.URLParam(r, "seq")
	seq, err := strconv.ParseUint(s, 10, 64)
	if err != nil || seq == 0 {
		return badRequest("%q is not the number of a dead letter", short(s))
	}
	if d.c.Queue.Redrive == nil {
		return errNoQueue
	}
	if err := d.c.Queue.Redrive(r.Context(), seq); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// queueScope is whose calls a request is about. Neither the function nor its
// namespace need to exist: calls may outlive them.
func queueScope(r *http.Request) (f types.NamespacedName, err error) {
	v := r.URL.Query()
	if f.Name = v.Get("name"); f.Name != "" {
		if err := functionName(f.Name); err != nil {
			return f, err
		}
		f.Namespace = api.FunctionNamespace
	}
	if v.Get("namespace") != "" {
		f.Namespace, err = namespaceOf(r, "")
	}
	return f, err
}

package invoke

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/podsnap/podsnap/gateway/route"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// Prefix is where invocations are mounted.
const Prefix = "/function/"

const allowed = "GET, POST, PUT, PATCH, DELETE, OPTIONS, HEAD"

var _ http.Handler = (*Invoker)(nil)

// ServeHTTP serves `/function/<name>[.<namespace>][/path][?query]`. When an
// answer breaks off after it has begun, or the client is gone, it panics with http.ErrAbortHandler, so
// that the client notices; who calls it in process must recover that.
func (v *Invoker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.enter()
	defer v.leave()
	now := time.Now()
	id, start := identify(w, r, now)
	t, err := route.Parse(r.URL, Prefix)
	if err != nil {
		v.refuse(w, pathError(err))
		return
	}
	if !methodAllowed(r.Method) {
		w.Header().Set("Allow", allowed)
		v.refuse(w, &refusal{status: http.StatusMethodNotAllowed, reason: "method", text: "functions are called with " + allowed + ", not " + r.Method})
		return
	}
	f, err := v.find(r.Context(), t.Function)
	if err != nil {
		v.refuse(w, err)
		return
	}
	c := &call{v: v, f: f, w: w, r: r, target: t, id: id, start: start, began: now}
	c.serve() //nolint:contextcheck // it goes by the request's
}

// Known is nil when the function is deployed; otherwise the error has a method
// HTTPStatus.
func (v *Invoker) Known(ctx context.Context, key types.NamespacedName) error {
	_, err := v.find(ctx, key)
	return err
}

func (v *Invoker) refuse(w http.ResponseWriter, err error) {
	var r *refusal
	if !errors.As(err, &r) {
		r = &refusal{status: http.StatusServiceUnavailable, reason: "fault", text: err.Error(), retryAfter: time.Second}
	}
	v.c.Meter.Refused(r.reason)
	r.write(w)
}

func pathError(err error) *refusal {
	if errors.Is(err, route.ErrNoName) {
		return &refusal{status: http.StatusNotFound, reason: "not_found", text: err.Error()}
	}
	return badPath(err)
}

func methodAllowed(m string) bool {
	switch m {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodHead:
		return true
	}
	return false
}

// find looks the function up, in the table and then where the table comes
// from.
func (v *Invoker) find(ctx context.Context, key types.NamespacedName) (*function, error) {
	known := func() *function {
		if f, ok := v.table.Get(key); ok && f.spec.Load() != nil {
			return f
		}
		return nil
	}
	if f := known(); f != nil {
		return f, nil
	}
	if err := v.awaitSync(ctx); err != nil {
		return nil, err
	}
	if f := known(); f != nil {
		return f, nil
	}
	if v.c.Lookup == nil {
		return nil, notFound(key)
	}
	select {
	case v.lookup <- struct{}{}:
		defer func() { <-v.lookup }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s, err := v.c.Lookup(ctx, key)
	switch {
	case apierrors.IsNotFound(err):
		return nil, notFound(key)
	case err != nil:
		return nil, unavailable(key, "it is not known whether it exists: "+err.Error())
	}
	v.SetFunction(key, s)
	if f := known(); f != nil {
		return f, nil
	}
	return nil, notFound(key)
}

func (v *Invoker) awaitSync(ctx context.Context) error {
	if v.c.Synced == nil {
		return nil
	}
	select {
	case <-v.c.Synced:
		return nil
	default:
	}
	timer := time.NewTimer(v.c.ColdStart)
	defer timer.Stop()
	select {
	case <-v.c.Synced:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return &refusal{status: http.StatusServiceUnavailable, reason: "starting", retryAfter: time.Second, text: "the gateway starts and does not know the functions yet"}
	}
}

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

// Invoke serves `/function/<name>[.<namespace>][/path][?query]`. broken says
// that the answer broke off after it had begun, or that nobody is left to
// answer: the client's connection has to end so that the client notices.
func (v *Invoker) Invoke(q *Request, t route.Plain, a Asker) (broken bool) {
	v.enter()
	defer v.leave()
	c := v.newCall(q, a)
	defer c.free()
	c.target = t.Target
	return c.run(t.Function)
}

// run serves the call of a function by its name.
func (c *call) run(key types.NamespacedName) (broken bool) {
	if !methodAllowed(c.q.Method) {
		return c.refuse(badMethod(c.q.Method), false)
	}
	f := c.v.known(key)
	if f == nil {
		var err error
		if f, err = c.v.find(c.context(), key); err != nil {
			return c.refuse(err, false)
		}
	}
	c.f = f
	return c.serve()
}

// Known is nil when the function is deployed; otherwise the error has a method
// HTTPStatus.
func (v *Invoker) Known(ctx context.Context, key types.NamespacedName) error {
	_, err := v.find(ctx, key)
	return err
}

func pathError(err error) *refusal {
	if errors.Is(err, route.ErrNoName) {
		return &refusal{status: http.StatusNotFound, reason: "not_found", text: err.Error()}
	}
	return badPath(err)
}

func methodAllowed(m []byte) bool {
	switch string(m) {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodHead:
		return true
	}
	return false
}

// known looks the function up in the table.
func (v *Invoker) known(key types.NamespacedName) *function {
	if f, ok := v.table.Get(key); ok && f.spec.Load() != nil {
		return f
	}
	return nil
}

// find looks the function up, in the table and then where the table comes
// from.
func (v *Invoker) find(ctx context.Context, key types.NamespacedName) (*function, error) {
	if f := v.known(key); f != nil {
		return f, nil
	}
	if err := v.awaitSync(ctx); err != nil {
		return nil, err
	}
	if f := v.known(key); f != nil {
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
	if f := v.known(key); f != nil {
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

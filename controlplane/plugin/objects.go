package plugin

import (
	"context"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/api"
)

// Objects is an api.Objects before the one whose writes the plugins judge: what was
// counted for a write that came to nothing is taken back at once.
func (p *Plugins) Objects(next api.Objects) api.Objects { return &objects{Objects: next, p: p} }

type objects struct {
	api.Objects
	p *Plugins
}

var _ api.Objects = (*objects)(nil)

// attempt is one write: what is to be done if it fails.
type attempt struct {
	mu   sync.Mutex
	undo []func()
}

type attemptKey struct{}

func attemptOf(ctx context.Context) *attempt {
	a, _ := ctx.Value(attemptKey{}).(*attempt)
	return a
}

func (a *attempt) add(undo func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.undo = append(a.undo, undo)
}

// end takes back what was counted, the last first, unless the write took place.
func (a *attempt) end(err error) {
	if err == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range slices.Backward(a.undo) {
		f()
	}
}

// begin answers with nil where nothing is counted.
func (o *objects) begin(ctx context.Context, namespace string) (context.Context, *attempt) {
	if namespace == "" {
		namespace = corev1.NamespaceDefault
	}
	if o.p.book(namespace) == nil {
		return ctx, nil
	}
	a := &attempt{}
	return context.WithValue(ctx, attemptKey{}, a), a
}

// Create implements api.Objects.
func (o *objects) Create(ctx context.Context, obj api.Object) (api.Object, error) {
	ctx, a := o.begin(ctx, obj.GetNamespace())
	if a == nil {
		return o.Objects.Create(ctx, obj)
	}
	out, err := o.Objects.Create(ctx, obj)
	a.end(err)
	return out, err
}

// Update implements api.Objects.
func (o *objects) Update(ctx context.Context, obj api.Object, opts api.UpdateOptions) (api.Object, error) {
	if opts.Subresource != "" {
		return o.Objects.Update(ctx, obj, opts)
	}
	ctx, a := o.begin(ctx, obj.GetNamespace())
	if a == nil {
		return o.Objects.Update(ctx, obj, opts)
	}
	out, err := o.Objects.Update(ctx, obj, opts)
	a.end(err)
	return out, err
}

// Patch implements api.Objects.
func (o *objects) Patch(ctx context.Context, r *api.Resource, namespace, name string, patch api.Patch) (api.Object, error) {
	if patch.Subresource != "" {
		return o.Objects.Patch(ctx, r, namespace, name, patch)
	}
	ctx, a := o.begin(ctx, namespace)
	if a == nil {
		return o.Objects.Patch(ctx, r, namespace, name, patch)
	}
	out, err := o.Objects.Patch(ctx, r, namespace, name, patch)
	a.end(err)
	return out, err
}

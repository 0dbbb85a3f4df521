package view

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/custom"
	"github.com/podsnap/podsnap/internal/mirror"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// customs are the mirrors of custom kinds, one for each definition that there is.
type customs struct {
	kinds   *custom.Kinds
	objects api.Objects
	opts    mirror.Options
	attach  []func(Kind)
	changed chan struct{} // holds one when a definition has come or gone

	mu      sync.Mutex
	running map[schema.GroupResource]*customKind
}

// customKind is a mirror with its own end.
type customKind struct {
	kind[*api.CustomObject]
	kinds *custom.Kinds
	stop  context.CancelFunc
	done  chan struct{}
}

// Resource is the kind as its objects are stored now: by another state of its
// definition they would be written as that one had them.
func (k *customKind) Resource() *api.Resource {
	if r := storedAs(k.kinds, k.r.GR()); r != nil {
		return r
	}
	return k.r
}

func storedAs(kinds *custom.Kinds, gr schema.GroupResource) *api.Resource {
	for _, r := range kinds.Set().Stored {
		if r.GR() == gr {
			return r
		}
	}
	return nil
}

func newCustoms(kinds *custom.Kinds, o api.Objects, opts mirror.Options, definitions *mirror.Mirror[*apiextensionsv1.CustomResourceDefinition]) *customs {
	c := &customs{kinds: kinds, objects: o, opts: opts, changed: make(chan struct{}, 1), running: map[schema.GroupResource]*customKind{}}
	definitions.OnChange(func(api.EventType, *apiextensionsv1.CustomResourceDefinition, *apiextensionsv1.CustomResourceDefinition) {
		select {
		case c.changed <- struct{}{}:
		default:
		}
	})
	return c
}

// run has a mirror for each kind that there is, until ctx is done.
func (c *customs) run(ctx context.Context) error {
	for {
		c.follow(ctx)
		select {
		case <-ctx.Done():
			for _, k := range c.all() {
				<-k.done
			}
			return nil
		case <-c.changed:
		}
	}
}

func (c *customs) follow(ctx context.Context) {
	wanted := map[schema.GroupResource]*api.Resource{}
	for _, r := range c.kinds.Set().Stored {
		wanted[r.GR()] = r
	}
	for _, k := range c.all() {
		gr := k.r.GR()
		if r := wanted[gr]; r != nil && r.Namespaced == k.r.Namespaced {
			delete(wanted, gr)
			continue
		}
		k.stop()
		<-k.done
		c.mu.Lock()
		delete(c.running, gr)
		c.mu.Unlock()
	}
	for gr, r := range wanted {
		k := &customKind{kind: kindOf(r, mirror.New[*api.CustomObject](c.objects, r, c.opts)), kinds: c.kinds, done: make(chan struct{})}
		for _, f := range c.attach {
			f(k)
		}
		var own context.Context
		own, k.stop = context.WithCancel(ctx)
		c.mu.Lock()
		c.running[gr] = k
		c.mu.Unlock()
		go func() {
			defer close(k.done)
			_ = k.Run(own) // nil when it is done
		}()
	}
}

func (c *customs) all() []*customKind {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.running))
}

// Each calls f with every kind's mirror: at once with those of built-in kinds, and
// with those of custom ones before they run. To be called before Run.
func (v *View) Each(f func(Kind)) {
	for _, k := range v.Kinds {
		f(k)
	}
	v.customs.attach = append(v.customs.attach, f)
}

// All are the mirrors that there are now.
func (v *View) All() []Kind {
	out := slices.Clone(v.Kinds)
	for _, k := range v.customs.all() {
		out = append(out, k)
	}
	return out
}

// Resources are all kinds that there are now, custom ones first: what works on them
// may need the others to end.
func (v *View) Resources() []*api.Resource {
	return append(slices.Clone(v.customs.kinds.Set().Stored), api.Resources...)
}

// ResourceFor finds a kind by its name on the wire; nil when there is none.
func (v *View) ResourceFor(gvk schema.GroupVersionKind) *api.Resource {
	if r := api.ResourceForKind(gvk); r != nil {
		return r
	}
	if r := v.customs.kinds.For(gvk); r != nil {
		return storedAs(v.customs.kinds, r.GR())
	}
	return nil
}

// Package mirror keeps a local copy of all objects of one kind, by a list and
// a watch that resumes where it was cut; and serves those that are followed at many
// places of a process from one such copy.
package mirror

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/podsnap/podsnap/api"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Options select what is mirrored.
type Options struct {
	Namespace string
	Labels    labels.Selector
	Fields    fields.Selector
	Log       *slog.Logger // nil discards
}

// Mirror is the copy. Objects in it are immutable. Reads are safe for
// concurrent use at any time.
type Mirror[T api.Object] struct {
	objects  api.Objects
	resource *api.Resource
	o        Options
	synced   chan struct{}
	handlers []func(t api.EventType, old, now T)
	indexers map[string]func(T) []string

	mu      sync.RWMutex
	items   map[types.NamespacedName]T
	indexes map[string]map[string]*bucket[T]

	seen map[types.NamespacedName]bool // of the present state, while it comes; Run's own
}

// New makes an empty mirror; Run fills it.
func New[T api.Object](o api.Objects, r *api.Resource, opts Options) *Mirror[T] {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Mirror[T]{
		objects: o, resource: r, o: opts,
		synced:   make(chan struct{}),
		items:    map[types.NamespacedName]T{},
		indexers: map[string]func(T) []string{},
		indexes:  map[string]map[string]*bucket[T]{},
	}
}

// OnChange has f called for every change, in order, one at a time, after the
// mirror has taken it in. now is the zero T for Deleted, old for Added; a
// Modified has both. To be called before Run.
func (m *Mirror[T]) OnChange(f func(t api.EventType, old, now T)) {
	m.handlers = append(m.handlers, f)
}

// Index makes By(name, key) answer with the objects for which keys(obj)
// contains key. To be called before Run.
func (m *Mirror[T]) Index(name string, keys func(T) []string) {
	m.indexers[name] = keys
	m.indexes[name] = map[string]*bucket[T]{}
}

// Synced is closed when the mirror first holds everything.
func (m *Mirror[T]) Synced() <-chan struct{} { return m.synced }

// Get looks an object up.
func (m *Mirror[T]) Get(namespace, name string) (T, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	o, ok := m.items[types.NamespacedName{Namespace: namespace, Name: name}]
	return o, ok
}

// List answers with all objects, in no order.
func (m *Mirror[T]) List() []T {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]T, 0, len(m.items))
	for _, o := range m.items {
		out = append(out, o)
	}
	return out
}

// By answers with the objects under key in the index called name, in no order.
func (m *Mirror[T]) By(name, key string) []T {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.indexes[name][key].all()
}

// Len is the number of objects.
func (m *Mirror[T]) Len() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.items)
}

// Run follows the objects until ctx is done and returns nil then. A watch that
// breaks is resumed; one that can't be resumed begins again, and what changed
// meanwhile is told to the handlers as changes.
func (m *Mirror[T]) Run(ctx context.Context) error {
	f := follower{objects: m.objects, resource: m.resource, o: m.o, to: (*intake[T])(m)}
	f.run(ctx)
	return nil
}

// intake is what a mirror is told.
type intake[T api.Object] Mirror[T]

func (i *intake[T]) begin() { i.seen = map[types.NamespacedName]bool{} }

func (i *intake[T]) take(t api.EventType, o api.Object) error {
	obj, ok := o.(T)
	if !ok {
		return errors.New("mirror: an object of another kind in the watch")
	}
	if i.seen != nil {
		i.seen[nameOf(obj)] = true
	}
	(*Mirror[T])(i).take(t, obj)
	return nil
}

func (i *intake[T]) complete(string) {
	(*Mirror[T])(i).prune(i.seen)
	i.seen = nil
	select {
	case <-i.synced:
	default:
		close(i.synced)
	}
}

func (i *intake[T]) passed(string) {}

// prune drops what was not part of a new initial state.
func (m *Mirror[T]) prune(seen map[types.NamespacedName]bool) {
	for _, o := range m.List() {
		if !seen[nameOf(o)] {
			m.take(api.Deleted, o)
		}
	}
}

func (m *Mirror[T]) take(t api.EventType, obj T) {
	var none T
	k := nameOf(obj)
	m.mu.Lock()
	old, had := m.items[k]
	now := obj
	switch {
	case t == api.Deleted && !had:
		m.mu.Unlock()
		return
	case t == api.Deleted:
		delete(m.items, k)
		now = none
	case had && old.GetResourceVersion() == obj.GetResourceVersion():
		m.mu.Unlock()
		return
	default:
		m.items[k] = obj
		t = api.Added
		if had {
			t = api.Modified
		}
	}
	for name, keys := range m.indexers {
		idx := m.indexes[name]
		if had {
			for _, key := range keys(old) {
				if b := idx[key]; b != nil && !b.drop(k) {
					delete(idx, key)
				}
			}
		}
		if t != api.Deleted {
			for _, key := range keys(now) {
				if idx[key] == nil {
					idx[key] = &bucket[T]{}
				}
				idx[key].put(now)
			}
		}
	}
	m.mu.Unlock()
	if t == api.Deleted {
		old = obj // the last state
	}
	for _, h := range m.handlers {
		h(t, old, now)
	}
}

func nameOf(o api.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

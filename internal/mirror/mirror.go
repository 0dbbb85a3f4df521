// Package mirror keeps a local copy of all objects of one kind, by a list and
// a watch that resumes where it was cut.
package mirror

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

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
	rv      string
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
	wait := 10 * time.Millisecond
	for {
		before := m.rv
		err := m.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if m.rv != before {
			wait = 10 * time.Millisecond
		}
		if err != nil {
			m.o.Log.Debug("watch ended", slog.String("resource", m.resource.String()), slog.Any("error", err))
		}
		if err != nil && before == m.rv {
			m.rv = "" // it may be too old: begin again
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(wait*2, 2*time.Second)
	}
}

func (m *Mirror[T]) follow(ctx context.Context) error {
	w, err := m.objects.Watch(ctx, m.resource, api.WatchOptions{
		Namespace: m.o.Namespace, Labels: m.o.Labels, Fields: m.o.Fields, ResourceVersion: m.rv,
	})
	if err != nil {
		return err
	}
	defer w.Stop()
	initial := m.rv == ""
	seen := map[types.NamespacedName]bool{}
	for e := range w.Events() {
		if e.Type == api.Bookmark {
			if initial && e.InitialEventsEnd {
				initial = false
				m.prune(seen)
				select {
				case <-m.synced:
				default:
					close(m.synced)
				}
			}
			if !initial {
				m.rv = e.Object.GetResourceVersion()
			}
			continue
		}
		obj, ok := e.Object.(T)
		if !ok {
			return errors.New("mirror: an object of another kind in the watch")
		}
		if initial {
			seen[nameOf(obj)] = true
		}
		m.take(e.Type, obj)
		if !initial {
			m.rv = obj.GetResourceVersion()
		}
	}
	return w.Err()
}

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

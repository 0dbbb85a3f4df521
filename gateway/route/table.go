// Package route finds the function that a request is for: Parse reads its name
// out of the path, Table looks it up.
package route

import (
	"hash/maphash"
	"iter"
	"maps"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/types"
)

// shards is how many parts a Table has: a change copies one of them.
const shards = 256

// Table maps functions to values. A lookup takes no lock: every part is an
// immutable map behind an atomic pointer, and a change replaces one part.
type Table[V any] struct {
	mu    sync.Mutex // of writers
	seed  maphash.Seed
	parts [shards]atomic.Pointer[map[types.NamespacedName]V]
}

// NewTable makes an empty table.
func NewTable[V any]() *Table[V] { return &Table[V]{seed: maphash.MakeSeed()} }

func (t *Table[V]) part(k types.NamespacedName) *atomic.Pointer[map[types.NamespacedName]V] {
	return &t.parts[maphash.Comparable(t.seed, k)%shards]
}

// Get looks a function up.
func (t *Table[V]) Get(k types.NamespacedName) (V, bool) {
	m := t.part(k).Load()
	if m == nil {
		var none V
		return none, false
	}
	v, ok := (*m)[k]
	return v, ok
}

// GetOrAdd looks a function up and adds what create answers if it is not there.
func (t *Table[V]) GetOrAdd(k types.NamespacedName, create func() V) V {
	if v, ok := t.Get(k); ok {
		return v
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if v, ok := t.Get(k); ok {
		return v
	}
	v := create()
	t.replace(k, func(m map[types.NamespacedName]V) { m[k] = v })
	return v
}

// Delete forgets a function.
func (t *Table[V]) Delete(k types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.replace(k, func(m map[types.NamespacedName]V) { delete(m, k) })
}

func (t *Table[V]) replace(k types.NamespacedName, change func(map[types.NamespacedName]V)) {
	p := t.part(k)
	next := map[types.NamespacedName]V{}
	if m := p.Load(); m != nil {
		next = maps.Clone(*m)
	}
	change(next)
	p.Store(&next)
}

// All yields every entry, in no order.
func (t *Table[V]) All() iter.Seq2[types.NamespacedName, V] {
	return func(yield func(types.NamespacedName, V) bool) {
		for i := range t.parts {
			m := t.parts[i].Load()
			if m == nil {
				continue
			}
			for k, v := range *m {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}

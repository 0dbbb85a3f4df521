// Package history keeps the last invocations that are worth a question: those
// that were cold, slow or failed. Its memory is bounded; the oldest go first.
package history

import (
	"sync"

	"github.com/podsnap/podsnap/internal/openfaas"
)

// Size is how many calls are kept: about 1 MB.
const Size = 2048

// Ring keeps calls. Its methods are safe for concurrent use.
type Ring struct {
	mu   sync.Mutex
	all  []openfaas.Call
	next int            // where the next one goes, once all is full
	byID map[string]int // the newest of that id
}

// New makes a ring of at most size calls.
func New(size int) *Ring {
	return &Ring{all: make([]openfaas.Call, 0, size), byID: map[string]int{}}
}

// Add keeps a call, in place of the oldest if there is no room.
func (r *Ring) Add(c openfaas.Call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.all) < cap(r.all) {
		r.byID[c.ID] = len(r.all)
		r.all = append(r.all, c)
		return
	}
	i := r.next
	if old := r.all[i].ID; r.byID[old] == i {
		delete(r.byID, old)
	}
	r.all[i], r.byID[c.ID] = c, i
	r.next = (i + 1) % len(r.all)
}

// Get is the newest call of that id.
func (r *Ring) Get(id string) (openfaas.Call, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, ok := r.byID[id]
	if !ok {
		return openfaas.Call{}, false
	}
	return r.all[i], true
}

// Recent are the calls that are kept, the newest first, at most limit. keep may
// be nil.
func (r *Ring) Recent(limit int, keep func(*openfaas.Call) bool) []openfaas.Call {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := []openfaas.Call{}
	for k := range r.all {
		i := (r.next - 1 - k + 2*len(r.all)) % len(r.all)
		if len(r.all) < cap(r.all) {
			i = len(r.all) - 1 - k
		}
		if len(out) == limit {
			break
		}
		if keep == nil || keep(&r.all[i]) {
			out = append(out, r.all[i])
		}
	}
	return out
}

package replicas

import (
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// A creation whose pod has not been seen for so long never will be: it came
// and went while the watch was cut.
const forgetAfter = time.Minute

// ledger holds what was written and is not seen in the mirror yet, so that a
// mirror that is behind never makes a set create or delete too much.
//
// An entry is made before the write. The mirror's handler takes it out, so a
// reader that asks the ledger first and the mirror second counts a pod twice
// at worst, and never not at all.
type ledger struct {
	mu   sync.Mutex
	sets map[types.UID]*entry
}

type entry struct {
	creating map[string]time.Time // pod names
	deleting map[types.UID]bool
	retry    []string                // names of creations of which is not known whether they took place
	ends     map[types.UID]time.Time // of pods that ended by themselves, the lately deleted ones included
}

// known is what the ledger knows of a set.
type known struct {
	creating int                // pods that were created and that the mirror does not show
	deleting map[types.UID]bool // pods that were deleted and look alive in the mirror
	ends     []time.Time        // when pods ended by themselves, of late
}

func newLedger() *ledger { return &ledger{sets: map[types.UID]*entry{}} }

func (l *ledger) entry(set types.UID) *entry {
	e := l.sets[set]
	if e == nil {
		e = &entry{creating: map[string]time.Time{}, deleting: map[types.UID]bool{}, ends: map[types.UID]time.Time{}}
		l.sets[set] = e
	}
	return e
}

// open answers with what the ledger knows. there tells whether the mirror still
// has a pod at all.
func (l *ledger) open(set types.UID, now time.Time, there func(types.UID) bool) known {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.sets[set]
	if e == nil {
		return known{}
	}
	for name, since := range e.creating {
		if now.Sub(since) > forgetAfter {
			delete(e.creating, name)
		}
	}
	for uid := range e.deleting {
		if !there(uid) {
			delete(e.deleting, uid)
		}
	}
	k := known{creating: len(e.creating), deleting: maps.Clone(e.deleting)}
	for uid, at := range e.ends {
		if now.Sub(at) >= failureMemory {
			delete(e.ends, uid)
			continue
		}
		k.ends = append(k.ends, at)
	}
	return k
}

// ended notes that a pod ended by itself.
func (l *ledger) ended(set, pod types.UID, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entry(set).ends[pod] = at
}

// name reserves a pod name: one of an earlier try, or what fresh makes up.
func (l *ledger) name(set types.UID, now time.Time, fresh func() string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entry(set)
	var name string
	if n := len(e.retry); n > 0 {
		name, e.retry = e.retry[n-1], e.retry[:n-1]
	} else {
		name = fresh()
	}
	e.creating[name] = now
	return name
}

// notCreated takes a creation back; unknown keeps its name for the next try, so
// that a write that did take place is found and not repeated.
func (l *ledger) notCreated(set types.UID, name string, unknown bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entry(set)
	delete(e.creating, name)
	if unknown {
		e.retry = append(e.retry, name)
	}
}

func (l *ledger) delete(set, pod types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entry(set).deleting[pod] = true
}

func (l *ledger) notDeleted(set, pod types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.entry(set).deleting, pod)
}

// seen takes in what the mirror shows of a pod.
func (l *ledger) seen(set types.UID, name string, pod types.UID, gone bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.sets[set]
	if e == nil {
		return
	}
	delete(e.creating, name)
	e.retry = slices.DeleteFunc(e.retry, func(n string) bool { return n == name })
	if gone {
		delete(e.deleting, pod)
	}
}

func (l *ledger) forget(set types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sets, set)
}

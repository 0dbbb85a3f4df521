package store

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
)

// waits are those who wait for the caches to reach a revision.
type waits struct {
	mu   sync.Mutex
	list []waiter
}

type waiter struct {
	rev  int64
	done chan struct{}
}

// reach returns when the caches hold revision rev.
func (s *Store) reach(ctx context.Context, rev int64) error {
	if s.rev.Load() >= rev {
		return nil
	}
	w := s.waits.add(rev)
	if s.rev.Load() >= rev { // it may have come between
		s.reached()
	}
	select {
	case <-w.done:
		return nil
	case <-s.ended:
		return errStopped()
	case <-ctx.Done():
		s.waits.drop(w)
		return context.Cause(ctx)
	}
}

func (w *waits) add(rev int64) waiter {
	x := waiter{rev, make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, x)
	return x
}

// reached wakes those whose revision is there.
func (s *Store) reached() {
	rev := s.rev.Load()
	s.waits.mu.Lock()
	defer s.waits.mu.Unlock()
	kept := s.waits.list[:0]
	for _, w := range s.waits.list {
		if w.rev <= rev {
			close(w.done)
		} else {
			kept = append(kept, w)
		}
	}
	clear(s.waits.list[len(kept):])
	s.waits.list = kept
}

// drop forgets one that waits no longer.
func (w *waits) drop(gone waiter) {
	select {
	case <-gone.done: // it is forgotten already
		return
	default:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, x := range w.list {
		if x.done == gone.done {
			w.list = append(w.list[:i], w.list[i+1:]...)
			return
		}
	}
}

// own are the writes of this process that the watch has not yet brought back.
// When it does, the object need not be decoded: it is taken from here; and a
// write of unknown fate is known to have been carried out.
type own struct {
	process string // random; with count it makes every write's mark unique
	count   atomic.Uint64

	mu   sync.Mutex
	list map[string][]*written
}

type written struct {
	value []byte     // marked, so that no other write has the same
	obj   api.Object // belongs to the feed once taken
	rev   int64      // at which the feed has seen it; 0 is not yet. Guarded by own.mu
}

// mark makes an object's encoding unlike that of every other write.
func (o *own) mark(value []byte) []byte {
	return rules.Mark(value, o.process+"-"+strconv.FormatUint(o.count.Add(1), 36))
}

func (o *own) add(key string, w *written) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.list == nil {
		o.list = map[string][]*written{}
	}
	o.list[key] = append(o.list[key], w)
}

// take answers with the object whose encoding value is, as of rev, and notes that
// it is there; nil when value is not one of this process's running writes. Who
// removes the write after this is given the object whole: its revision is set here.
func (o *own) take(key, value []byte, rev int64) api.Object {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, w := range o.list[string(key)] {
		if w.rev == 0 && bytes.Equal(w.value, value) {
			w.rev = rev
			w.obj.SetResourceVersion(strconv.FormatInt(rev, 10))
			return w.obj
		}
	}
	return nil
}

// seen is the revision at which the feed has taken w's object, 0 when it has not.
func (o *own) seen(w *written) int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return w.rev
}

// remove forgets w and answers with the revision at which the feed has taken
// its object, 0 when it has not.
func (o *own) remove(key string, w *written) int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := slices.DeleteFunc(o.list[key], func(x *written) bool { return x == w })
	if len(list) == 0 {
		delete(o.list, key)
	} else {
		o.list[key] = list
	}
	return w.rev
}

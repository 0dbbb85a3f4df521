package store

import (
	"bytes"
	"context"
	"sync"

	"github.com/podsnap/podsnap/api"
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
	w := waiter{rev, make(chan struct{})}
	s.waits.mu.Lock()
	s.waits.list = append(s.waits.list, w)
	s.waits.mu.Unlock()
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

func (w *waits) drop(gone waiter) {
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
// When it does the object need not be decoded: it is taken from here.
type own struct {
	mu   sync.Mutex
	list map[string][]*written
}

type written struct {
	value []byte
	obj   api.Object // belongs to the feed once taken
	taken bool       // guarded by own.mu
}

func (o *own) add(key string, w *written) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.list == nil {
		o.list = map[string][]*written{}
	}
	o.list[key] = append(o.list[key], w)
}

// take answers with the object whose encoding value is, at most once.
func (o *own) take(key, value []byte) api.Object {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, w := range o.list[string(key)] {
		if !w.taken && bytes.Equal(w.value, value) {
			w.taken = true
			return w.obj
		}
	}
	return nil
}

// remove forgets w and says whether the feed has taken its object.
func (o *own) remove(key string, w *written) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := o.list[key]
	for i, x := range list {
		if x == w {
			list[i] = list[len(list)-1]
			list[len(list)-1] = nil
			list = list[:len(list)-1]
		}
	}
	if len(list) == 0 {
		delete(o.list, key)
	} else {
		o.list[key] = list
	}
	return w.taken
}

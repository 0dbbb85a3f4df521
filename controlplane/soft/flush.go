package soft

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api/rules"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Waits after a write that failed.
const (
	firstWait = 50 * time.Millisecond
	lastWait  = 2 * time.Second
)

// flush stores what is behind until ctx is done. A write waits for Config.Delay
// for others to go with it.
func (s *Store) flush(ctx context.Context) {
	wait := s.c.Delay
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		if !pause(ctx, wait) {
			return
		}
		failed := s.round(ctx)
		switch {
		case failed == 0:
			wait = s.c.Delay
		case wait < firstWait:
			wait = firstWait
		default:
			wait = min(2*wait, lastWait)
		}
	}
}

// round stores everything that is queued now and answers with how many writes
// failed; those are queued again.
func (s *Store) round(ctx context.Context) (failed int) {
	s.mu.Lock()
	all := make([]id, 0, len(s.queue))
	for i := range s.queue {
		all = append(all, i)
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	var mu sync.Mutex
	work := make(chan id)
	for range min(s.c.Writers, len(all)) {
		wg.Go(func() {
			for i := range work {
				if err := s.one(ctx, i); err != nil {
					mu.Lock()
					failed++
					mu.Unlock()
					s.c.Log.Debug("store behind", slog.String("object", i.String()), slog.Any("error", err))
				}
			}
		})
	}
	for _, i := range all {
		work <- i
	}
	close(work)
	wg.Wait()
	if failed > 0 {
		s.c.Log.Warn("objects could not be stored; they are tried again", slog.Int("objects", failed))
	}
	return failed
}

// one stores an object as it is now.
func (s *Store) one(ctx context.Context, i id) error {
	s.mu.Lock()
	sl := s.slots[i]
	if !s.queue[i] || sl == nil || sl.busy != nil { // its writer queues it again if need be
		s.mu.Unlock()
		return nil
	}
	delete(s.queue, i)
	obj, there := s.kinds[i.r].cache.Get(i.namespace, i.name)
	if !there {
		obj = sl.last
	}
	if !there && !sl.there { // it came and went
		s.tidy(i)
		s.mu.Unlock()
		s.m.skipped.Inc()
		return nil
	}
	end := s.begin(sl, false)
	expect := sl.expected()
	s.mu.Unlock()
	rev, err := s.c.Durable.Persist(ctx, rules.WithRevision(obj, ""), expect, !there)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer end(i)
	switch {
	case err == nil:
		s.m.stored.Inc()
		sl.stored(rev, !there)
		if sl.last == obj { // else there is a newer removal
			sl.last = nil
		}
		return nil
	case apierrors.IsConflict(err):
		// Somebody else wrote it: the durable watch shows what, and that wins.
		s.m.conflicts.Inc()
		s.c.Log.Warn("a stored object was changed by somebody else; what was not stored yet is dropped", slog.String("object", i.String()))
		return nil
	}
	s.store(i)
	return err
}

// last stores what is left, within Config.Closing.
func (s *Store) last(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.c.Closing)
	defer cancel()
	for wait := firstWait; s.behind() > 0 && s.round(ctx) > 0; wait = min(2*wait, lastWait) {
		if !pause(ctx, wait) {
			s.c.Log.Warn("soft state is lost: the store did not answer", slog.Int("objects", s.behind()))
			return
		}
	}
}

// pause waits; false when ctx is done first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

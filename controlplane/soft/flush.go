package soft

import (
	"context"
	"log/slog"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/cache"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/internal/pause"
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
	age := time.NewTicker(cache.Fresh)
	defer age.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-age.C:
			for _, k := range s.kinds {
				k.cache.Age()
			}
			continue
		case <-s.wake:
		}
		if !pause.For(ctx, wait) {
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

// batch is how many objects are stored at a time. Those of a batch cannot be
// written otherwise until it is done, so it is no more than one transaction.
const batch = 100

// round stores everything that is queued now and answers with how many writes
// of a batch failed; those are queued again, and what comes after it waits.
func (s *Store) round(ctx context.Context) (failed int) {
	for failed == 0 {
		due := s.due()
		if len(due) == 0 {
			return 0
		}
		writes := make([]api.Write, len(due))
		for n, d := range due {
			writes[n] = d.write
		}
		for n, done := range s.c.Durable.Persist(ctx, writes...) {
			if !s.settled(due[n], done) {
				failed++
			}
		}
	}
	s.c.Log.Warn("objects could not be stored; they are tried again", slog.Int("objects", failed))
	return failed
}

// debt is a write that is under way.
type debt struct {
	id    id
	slot  *slot
	state api.Object // what is stored or, for a removal, what the object was last
	write api.Write
	end   func(id)
}

// due takes a batch of what can be stored now from the queue, each as it is now.
func (s *Store) due() []debt {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []debt
	for i := range s.queue {
		if len(out) == batch {
			break
		}
		sl := s.slots[i]
		if sl != nil && sl.busy != nil { // its writer takes the object's changes along, or queues it again
			continue
		}
		delete(s.queue, i)
		if sl == nil {
			continue
		}
		obj, there := s.kinds[i.r].cache.Get(i.namespace, i.name)
		if !there {
			obj = sl.last
		}
		if !there && !sl.there { // it came and went
			s.tidy(i)
			s.m.skipped.Inc()
			continue
		}
		w := api.Write{Object: rules.WithRevision(obj, ""), Expect: sl.expected(), Remove: !there}
		out = append(out, debt{i, sl, obj, w, s.begin(sl, false)})
	}
	return out
}

// settled notes what became of a write; false when it has to be tried again.
func (s *Store) settled(d debt, done api.Written) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer d.end(d.id)
	switch {
	case done.Err == nil:
		s.m.stored.Inc()
		d.slot.stored(done.Revision, d.write.Remove)
		if d.slot.last == d.state { // else there is a newer removal
			d.slot.last = nil
		}
		return true
	case apierrors.IsConflict(done.Err):
		// Somebody else wrote it: the durable watch shows what, and that wins.
		s.m.conflicts.Inc()
		s.c.Log.Warn("a stored object was changed by somebody else; what was not stored yet is dropped", slog.String("object", d.id.String()))
		return true
	}
	s.c.Log.Debug("store behind", slog.String("object", d.id.String()), slog.Any("error", done.Err))
	s.store(d.id)
	return false
}

// last stores what is left, within Config.Closing.
func (s *Store) last(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.c.Closing)
	defer cancel()
	for wait := firstWait; s.behind() > 0 && s.round(ctx) > 0; wait = min(2*wait, lastWait) {
		if !pause.For(ctx, wait) {
			s.c.Log.Warn("soft state is lost: the store did not answer", slog.Int("objects", s.behind()))
			return
		}
	}
}

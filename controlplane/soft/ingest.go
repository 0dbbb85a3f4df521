package soft

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/internal/pause"
)

// Run fills memory from the durable store, follows that and stores behind,
// until ctx is done. Then it stores what is left and returns nil; all watches
// of the kinds have ended by that time. It may be called once.
func (s *Store) Run(ctx context.Context) error {
	defer func() {
		close(s.ended)
		for _, k := range s.kinds {
			k.cache.End(errStopped())
		}
	}()
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		err := s.load(ctx)
		if err == nil {
			break
		}
		s.c.Log.Debug("load", slog.Any("error", err))
		if !pause.For(ctx, wait) {
			return nil
		}
	}
	close(s.ready)
	var wg sync.WaitGroup
	for _, k := range s.kinds {
		wg.Go(func() { s.follow(ctx, k) })
	}
	s.flush(ctx)
	wg.Wait()
	s.last(ctx)
	return nil
}

// load fills the caches.
func (s *Store) load(ctx context.Context) error {
	version := strconv.FormatInt(s.base, 10)
	for _, k := range s.kinds {
		l, err := s.Objects.List(ctx, k.r, api.ListOptions{})
		if err != nil {
			return err
		}
		k.from = l.ResourceVersion
		objs := make([]api.Object, len(l.Items))
		s.mu.Lock()
		for n, o := range l.Items {
			objs[n] = rules.WithRevision(o, version)
			s.slots[idOf(o)] = &slot{there: true, rev: revOf(o)}
		}
		s.mu.Unlock()
		k.cache.Load(objs, s.base)
	}
	s.shown.Store(s.base)
	return nil
}

// follow takes in what others write to the durable store, until ctx is done.
func (s *Store) follow(ctx context.Context, k *kind) {
	for wait := firstWait; ctx.Err() == nil; wait = min(2*wait, lastWait) {
		begin := time.Now()
		err := s.watch(ctx, k)
		if ctx.Err() != nil {
			return
		}
		s.c.Log.Debug("durable watch ended", slog.String("resource", k.r.String()), slog.Any("error", err))
		if time.Since(begin) > lastWait {
			wait = firstWait
		}
		pause.For(ctx, wait)
	}
}

// watch follows one watch to its end. One that cannot be resumed begins with
// everything that is there, so that what is not seen in it is gone.
func (s *Store) watch(ctx context.Context, k *kind) error {
	w, err := s.Objects.Watch(ctx, k.r, api.WatchOptions{ResourceVersion: k.from})
	if err != nil {
		k.from = ""
		return err
	}
	defer w.Stop()
	var seen map[id]bool
	rev := "" // of the last event: there may be more of it
	if k.from == "" {
		seen = map[id]bool{}
	}
	for e := range w.Events() {
		if e.Type == api.Bookmark {
			if e.InitialEventsEnd && seen != nil {
				s.prune(k, seen, revOf(e.Object))
				seen = nil
			}
			if seen == nil {
				k.from = e.Object.GetResourceVersion()
			}
			continue
		}
		i := idOf(e.Object)
		s.mu.Lock()
		s.takeIn(i, e)
		s.mu.Unlock()
		if seen != nil {
			seen[i] = true
		} else if now := e.Object.GetResourceVersion(); now != rev {
			if rev != "" {
				k.from = rev
			}
			rev = now
		}
	}
	if seen != nil {
		k.from = ""
	}
	return w.Err()
}

// takeIn deals with what the durable watch shows of an object: mostly what this
// store wrote itself. Called with s.mu held.
func (s *Store) takeIn(i id, e api.Event) {
	sl, rev := s.slots[i], revOf(e.Object)
	if sl != nil && sl.busy != nil {
		sl.early = append(sl.early, e)
		return
	}
	if e.Type == api.Deleted {
		if sl == nil {
			return
		}
		if sl.gone != 0 && rev >= sl.gone {
			sl.gone = 0
		}
		if sl.there && rev > sl.rev {
			s.drop(i, sl)
		}
		s.tidy(i)
		return
	}
	if sl != nil && (sl.there && rev <= sl.rev || rev <= sl.gone) {
		return // our own
	}
	sl = s.slot(i)
	sl.there, sl.rev, sl.gone, sl.last = true, rev, 0, nil
	delete(s.queue, i)
	s.put(i, rules.WithRevision(e.Object, ""), false)
	s.m.foreign.Inc()
}

// drop removes what somebody else has removed from the durable store. Called
// with s.mu held.
func (s *Store) drop(i id, sl *slot) {
	sl.there, sl.last = false, nil
	delete(s.queue, i)
	s.m.foreign.Inc()
	if obj, ok := s.kinds[i.r].cache.Get(i.namespace, i.name); ok {
		s.put(i, rules.WithRevision(obj, ""), true)
	}
}

// prune drops what a new look at the durable store at revision rev has not
// shown.
func (s *Store) prune(k *kind, seen map[id]bool, rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, sl := range s.slots {
		if i.r != k.r || seen[i] || sl.busy != nil {
			continue
		}
		if sl.gone != 0 && sl.gone <= rev {
			sl.gone = 0
		}
		if sl.there && sl.rev <= rev {
			s.drop(i, sl)
		}
		s.tidy(i)
	}
}

// revOf is the revision of an object of the durable store.
func revOf(obj api.Object) int64 {
	rev, _ := strconv.ParseInt(obj.GetResourceVersion(), 10, 64) // the store itself wrote it
	return rev
}

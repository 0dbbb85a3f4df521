package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/cache"
	"github.com/podsnap/podsnap/internal/pause"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
)

// Why a watch of etcd has to be replaced.
var (
	errBroken  = errors.New("the watch of etcd broke off")
	errStalled = errors.New("the watch of etcd is silent though it was asked for its progress")
	errBehind  = errors.New("etcd is at an older revision than the caches")
)

// feed fills the caches and keeps them up to date until ctx is done.
func (s *Store) feed(ctx context.Context) {
	for wait := firstWait; ; wait = min(wait*2, lastWait) {
		err := s.load(ctx)
		if err == nil {
			break
		}
		if !pause.For(ctx, wait) {
			return
		}
		s.c.Log.Debug("load", slog.Any("error", err))
	}
	close(s.ready)
	s.c.Log.Info("store loaded", slog.Int64("revision", s.rev.Load()))
	for wait := firstWait; ctx.Err() == nil; wait = min(wait*2, lastWait) {
		before := s.rev.Load()
		err := s.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if s.rev.Load() != before {
			wait = firstWait
		}
		s.c.Log.Warn("store watch ended", slog.Any("error", err), slog.Int64("revision", s.rev.Load()))
		if errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, errBehind) {
			if err := s.resync(ctx); err != nil && ctx.Err() == nil {
				s.c.Log.Warn("store resync", slog.Any("error", err))
			}
		}
		pause.For(ctx, wait)
	}
}

// state is an object as etcd has it.
type state struct {
	id      id
	obj     api.Object
	created int64 // revision at which the key appeared
	rev     int64
}

// load reads everything for the first time: as it was a little ago, and what has
// happened since.
func (s *Store) load(ctx context.Context) error {
	head, err := s.head(ctx)
	if err != nil {
		return err
	}
	events, before := s.past(ctx, head)
	all, err := s.all(ctx, before)
	if err != nil {
		return err
	}
	s.reset(all, before)
	if err := s.take(clientv3.WatchResponse{Events: events}); err != nil {
		return err
	}
	s.rev.Store(max(head, s.rev.Load()))
	s.reached()
	return nil
}

// reset makes the caches hold all, as of rev, and nothing else.
func (s *Store) reset(all []state, rev int64) {
	byKind := map[*api.Resource][]api.Object{}
	for _, st := range all {
		byKind[st.id.r] = append(byKind[st.id.r], st.obj)
	}
	s.rev.Store(rev)
	for r, c := range s.kinds() {
		c.Load(byKind[r], rev)
	}
	s.reached()
}

// all reads every object from etcd as of a revision. Decoding is the larger part: it
// goes on beside the reading, on all cores.
func (s *Store) all(ctx context.Context, at int64) ([]state, error) {
	prefix := s.c.Prefix + "/"
	if err := s.definitions(ctx, at); err != nil {
		return nil, fmt.Errorf("read what kinds there are: %w", err)
	}
	var parts []*[]state
	var wg sync.WaitGroup
	free := make(chan struct{}, runtime.GOMAXPROCS(0))
	err := s.scan(ctx, prefix, clientv3.GetPrefixRangeEnd(prefix), at, func(kvs []*mvccpb.KeyValue) {
		out := make([]state, 0, len(kvs))
		parts = append(parts, &out)
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			for _, kv := range kvs {
				if st, ok := s.read(kv); ok {
					out = append(out, st)
				}
			}
		})
	})
	wg.Wait()
	if err != nil {
		return nil, fmt.Errorf("read all objects: %w", err)
	}
	n := 0
	for _, p := range parts {
		n += len(*p)
	}
	all := make([]state, 0, n)
	for _, p := range parts {
		all = append(all, *p...)
	}
	return all, nil
}

// read decodes what the feed was given. What can't be decoded is left out: it
// must not take the others with it.
func (s *Store) read(kv *mvccpb.KeyValue) (state, bool) {
	i, ok := parse(s.c.Prefix, string(kv.Key), s.custom.resource)
	if !ok {
		s.c.Log.Debug("store ignores a key", slog.String("key", string(kv.Key)))
		return state{}, false
	}
	obj := s.own.take(kv.Key, kv.Value, kv.ModRevision)
	if obj == nil {
		var err error
		if obj, err = s.decode(i, kv); err != nil {
			s.m.undecodable.Inc()
			s.c.Log.Error("store can't decode an object", slog.String("key", string(kv.Key)), slog.Any("error", err))
			return state{}, false
		}
	}
	return state{i, obj, kv.CreateRevision, kv.ModRevision}, true
}

// ownStream is a context whose watches share no stream with those of others on the
// same client, such as elections: etcd tells the progress of a stream as a whole, and
// tells none while one watch on it begins in the future, until somebody writes.
func ownStream(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(clientv3.WithRequireLeader(ctx), "podsnap-stream", "store")
}

// follow takes in changes after the caches' revision until the watch ends, and
// says why it did.
func (s *Store) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ownStream(ctx))
	defer cancel()
	// From the revision that is there, not the next: etcd says nothing of the
	// progress of a watch that begins in the future, so that one would seem
	// stalled until somebody writes. What comes again is no change.
	ch := s.etcd.Watch(ctx, s.c.Prefix+"/", clientv3.WithPrefix(), clientv3.WithRev(s.rev.Load()),
		clientv3.WithCreatedNotify(), clientv3.WithFragment())
	probe := time.NewTicker(s.c.ProbeEvery)
	defer probe.Stop()
	silent := 0 // probes without an answer
	for {
		select {
		case resp, ok := <-ch:
			if !ok {
				return errBroken
			}
			silent = 0
			if err := s.take(resp); err != nil {
				return err
			}
		case <-probe.C:
			if silent++; silent > 3 {
				return errStalled
			}
			if silent > 1 {
				ask, stop := context.WithTimeout(ctx, s.c.ProbeEvery)
				if err := s.etcd.RequestProgress(ask); err != nil {
					s.c.Log.Debug("store probe", slog.Any("error", err))
				}
				stop()
			}
		}
	}
}

// take brings one message of the watch into the caches.
func (s *Store) take(resp clientv3.WatchResponse) error {
	if err := resp.Err(); err != nil {
		return err
	}
	if (resp.Created || resp.IsProgressNotify()) && resp.Header.Revision < s.rev.Load() {
		return errBehind
	}
	for all := resp.Events; len(all) > 0; {
		rev, n := all[0].Kv.ModRevision, 1
		for n < len(all) && all[n].Kv.ModRevision == rev {
			n++
		}
		if rev > s.rev.Load() { // else it was taken in before the watch began anew
			s.step(rev, all[:n])
		}
		all = all[n:]
	}
	if resp.IsProgressNotify() && resp.Header.Revision > s.rev.Load() {
		s.rev.Store(resp.Header.Revision)
	}
	s.reached()
	return nil
}

// step takes in all events of one revision. (The client does not hand out parts
// of one.)
func (s *Store) step(rev int64, events []*clientv3.Event) {
	if len(events) == 1 {
		if r, ch, ok := s.seen(events[0]); ok {
			s.apply1(r, rev, ch)
		}
		s.rev.Store(rev)
		return
	}
	byKind := map[*api.Resource][]cache.Change{}
	for _, ev := range events {
		if r, ch, ok := s.seen(ev); ok {
			byKind[r] = append(byKind[r], ch)
		}
	}
	s.apply(rev, byKind)
}

// apply brings everything that changed at one revision into the caches.
func (s *Store) apply(rev int64, byKind map[*api.Resource][]cache.Change) {
	for r, all := range byKind {
		s.apply1(r, rev, all...)
	}
	s.rev.Store(rev)
}

// apply1 brings what changed of one kind into its cache, unless there is none any more.
func (s *Store) apply1(r *api.Resource, rev int64, changes ...cache.Change) {
	if c, err := s.cache(r); err == nil {
		c.Apply(rev, changes...)
	}
}

// seen is what an event means for the cache of its kind, if anything.
func (s *Store) seen(ev *clientv3.Event) (*api.Resource, cache.Change, bool) {
	var i id
	var obj api.Object
	switch ev.Type {
	case clientv3.EventTypeDelete:
		var ok bool
		if i, ok = parse(s.c.Prefix, string(ev.Kv.Key), s.custom.resource); !ok {
			return nil, cache.Change{}, false
		}
	case clientv3.EventTypePut:
		st, ok := s.read(ev.Kv)
		if !ok {
			return nil, cache.Change{}, false
		}
		i, obj = st.id, st.obj
	}
	s.m.events.WithLabelValues(label(i.r)).Inc()
	if i.r == api.CustomResourceDefinitions {
		s.define(i.name, obj)
	}
	return i.r, cache.Change{Namespace: i.namespace, Name: i.name, Object: obj}, true
}

// resync reads everything anew and turns the difference into events, so that
// watches go on. If that can't be done without doubt they end with Expired.
func (s *Store) resync(ctx context.Context) error {
	rev, err := s.head(ctx)
	if err != nil {
		return err
	}
	all, err := s.all(ctx, rev)
	if err != nil {
		return err
	}
	var have []state
	for r, c := range s.kinds() {
		l, err := c.List(api.ListOptions{})
		if err != nil {
			return err
		}
		for _, obj := range l.Items {
			have = append(have, state{id: idOf(r, obj), obj: obj, rev: revOf(obj)})
		}
	}
	s.gaps.Add(1)
	from := s.rev.Load()
	steps, ok := diff(have, all, from, rev)
	if !ok {
		s.m.resyncs.WithLabelValues("reset").Inc()
		s.c.Log.Warn("store starts anew", slog.Int64("from", from), slog.Int64("to", rev))
		s.reset(all, rev)
		return nil
	}
	s.m.resyncs.WithLabelValues("diff").Inc()
	changes := len(steps)
	for len(steps) > 0 {
		now, n := steps[0].rev, 1
		for n < len(steps) && steps[n].rev == now {
			n++
		}
		byKind := map[*api.Resource][]cache.Change{}
		for _, st := range steps[:n] {
			byKind[st.id.r] = append(byKind[st.id.r], cache.Change{Namespace: st.id.namespace, Name: st.id.name, Object: st.obj})
		}
		s.apply(now, byKind)
		steps = steps[n:]
	}
	s.rev.Store(rev)
	s.reached()
	s.c.Log.Info("store resynced", slog.Int64("from", from), slog.Int64("to", rev), slog.Int("changes", changes))
	return nil
}

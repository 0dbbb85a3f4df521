package store

import (
	"context"
	"errors"
	"log/slog"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// memory is how many of the changes that came before its start a store knows, at
// most. They are decoded before it serves, each in some 0.1 ms.
const memory = 1000

// worth is how long a start waits for its past. It has it after a tenth of a second,
// unless the last revisions are of very many keys each.
const worth = 2 * time.Second

// head is etcd's revision.
func (s *Store) head(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.patience())
	defer cancel()
	resp, err := s.etcd.Get(ctx, s.c.Prefix, clientv3.WithCountOnly())
	if err != nil {
		return 0, err
	}
	return resp.Header.Revision, nil
}

// past is what happened last, up to the revision head, as far as etcd still has it,
// and the revision before that. With it a watch from before the start of this
// process goes on, and is told each single change; without it would have to list
// again, and see what came between as one. So nothing is wrong if there is none.
func (s *Store) past(ctx context.Context, head int64) ([]*clientv3.Event, int64) {
	from := max(head-memory, 1) // the revision of an empty etcd is 1
	ctx, cancel := context.WithTimeout(ctx, min(s.c.Timeout, worth))
	defer cancel()
	for from < head {
		events, before, err := s.recall(ctx, from, head)
		var gone compactedError
		switch {
		case err == nil:
			return events, before
		case errors.As(err, &gone) && gone.rev > from:
			from = gone.rev
		default:
			s.c.Log.Debug("store has no past", slog.Any("error", err))
			return nil, head
		}
	}
	return nil, head
}

// compactedError says that etcd has no history before rev.
type compactedError struct{ rev int64 }

func (e compactedError) Error() string { return "etcd has dropped the history" }

// recall reads the changes after the revision from, up to head and perhaps beyond;
// of more than memory the newest, in whole revisions. It answers with the revision
// before them, too.
func (s *Store) recall(ctx context.Context, from, head int64) ([]*clientv3.Event, int64, error) {
	ctx, cancel := context.WithCancel(ownStream(ctx))
	defer cancel()
	ch := s.etcd.Watch(ctx, s.c.Prefix+"/", clientv3.WithPrefix(), clientv3.WithRev(from+1),
		clientv3.WithCreatedNotify(), clientv3.WithFragment())
	// The newest revision may be one of a key that is not watched, so etcd is asked
	// how far it has come. It does not answer while it is not there yet.
	ask := time.NewTicker(firstWait)
	defer ask.Stop()
	var events []*clientv3.Event
	for {
		select {
		case resp, ok := <-ch:
			if !ok {
				return nil, 0, errors.Join(context.Cause(ctx), errBroken)
			}
			if resp.CompactRevision > 0 {
				return nil, 0, compactedError{resp.CompactRevision}
			}
			if err := resp.Err(); err != nil {
				return nil, 0, err
			}
			events, from = newest(append(events, resp.Events...), memory, from)
			if n := len(events); resp.IsProgressNotify() && resp.Header.Revision >= head || n > 0 && events[n-1].Kv.ModRevision >= head {
				return events, from, nil
			}
			if resp.Created {
				if err := s.etcd.RequestProgress(ctx); err != nil {
					return nil, 0, err
				}
			}
		case <-ask.C:
			if err := s.etcd.RequestProgress(ctx); err != nil {
				return nil, 0, err
			}
		}
	}
}

// newest is the end of events, which follow the revision from: whole revisions with
// at most n events together. It answers with the revision before them, too.
func newest(events []*clientv3.Event, n int, from int64) ([]*clientv3.Event, int64) {
	if len(events) <= n {
		return events, from
	}
	cut := len(events) - n
	from = events[cut-1].Kv.ModRevision
	for cut < len(events) && events[cut].Kv.ModRevision == from {
		cut++
	}
	return events[cut:], from
}

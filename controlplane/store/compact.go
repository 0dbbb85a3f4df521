package store

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/podsnap/podsnap/api/cache"
)

// compact drops etcd's old revisions every Config.CompactEvery, in turn with the
// other processes on the same etcd, and its own caches' when they are not fresh.
func (s *Store) compact(ctx context.Context) {
	t := time.NewTicker(s.c.CompactEvery)
	defer t.Stop()
	age := time.NewTicker(min(cache.Fresh, s.c.CompactEvery))
	defer age.Stop()
	var turn turn
	for {
		select {
		case <-ctx.Done():
			return
		case <-age.C:
			for _, c := range s.kinds() {
				c.Age()
			}
		case <-t.C:
			bounded, cancel := context.WithTimeout(ctx, s.c.CompactEvery)
			next, err := s.compactOnce(bounded, turn)
			cancel()
			if err != nil && ctx.Err() == nil {
				s.c.Log.Warn("store compaction", slog.Any("error", err))
				continue
			}
			turn = next
		}
	}
}

// turn is what a process knows about the last compaction.
type turn struct {
	version int64 // of the compactor's key, which each turn moves on by one
	rev     int64 // etcd's revision then: the next turn drops what is older
}

// compactOnce takes a turn, if nobody else did since the last one, and
// compacts to the revision of the turn before.
func (s *Store) compactOnce(ctx context.Context, last turn) (turn, error) {
	key := s.c.Prefix + ".compact"
	resp, err := s.etcd.Txn(ctx).
		If(clientv3.Compare(clientv3.Version(key), "=", last.version)).
		Then(clientv3.OpPut(key, strconv.FormatInt(last.rev, 10))).
		Else(clientv3.OpGet(key)).
		Commit()
	if err != nil {
		return last, err
	}
	next := turn{version: last.version + 1, rev: resp.Header.Revision}
	if !resp.Succeeded {
		next.version = 0
		if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
			next.version = kvs[0].Version
		}
		return next, nil
	}
	if last.rev == 0 {
		return next, nil
	}
	if _, err := s.etcd.Compact(ctx, last.rev); err != nil {
		return next, err
	}
	s.c.Log.Debug("store compacted", slog.Int64("revision", last.rev))
	return next, nil
}

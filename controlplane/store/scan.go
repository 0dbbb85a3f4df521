package store

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// page is how many keys are read at a time from an etcd that does not stream.
const page = 1000

// scan hands all keys from..end as of a revision to take, in order and in parts.
//
// They come as one stream. etcd before 3.7 has pages alone, and counts for each of
// them what there is in the rest of the range: with 600,000 keys that takes several
// times as long as all else.
func (s *Store) scan(ctx context.Context, from, end string, rev int64, take func([]*mvccpb.KeyValue)) error {
	err := s.stream(ctx, from, end, rev, take)
	if status.Code(err) == codes.Unimplemented {
		return s.pages(ctx, from, end, rev, take)
	}
	return err
}

// patience is how long a part of a scan is waited for.
func (s *Store) patience() time.Duration { return max(s.c.Timeout, 30*time.Second) }

func (s *Store) stream(ctx context.Context, from, end string, rev int64, take func([]*mvccpb.KeyValue)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	parts, err := s.etcd.GetStream(ctx, from, clientv3.WithRange(end), clientv3.WithRev(rev))
	if err != nil {
		cancel(nil)
		return err
	}
	defer func() {
		cancel(nil)
		for range parts { // what fills it waits for a reader
		}
	}()
	whole := false // the last part alone has a header
	for {
		limit := time.AfterFunc(s.patience(), func() { cancel(errSilent) })
		part, ok := <-parts
		limit.Stop()
		switch {
		case !ok && !whole:
			return errors.Join(context.Cause(ctx), errors.New("the stream of etcd ended before all was there"))
		case !ok:
			return nil
		case part.RangeResponse == nil && ctx.Err() != nil:
			return context.Cause(ctx)
		case part.RangeResponse == nil:
			return part.Err()
		}
		whole = whole || part.Header != nil
		if len(part.Kvs) > 0 {
			take(part.Kvs)
		}
	}
}

func (s *Store) pages(ctx context.Context, from, end string, rev int64, take func([]*mvccpb.KeyValue)) error {
	for {
		part, cancel := context.WithTimeout(ctx, s.patience())
		resp, err := s.etcd.Get(part, from, clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithRev(rev))
		cancel()
		if err != nil {
			return err
		}
		if len(resp.Kvs) > 0 {
			take(resp.Kvs)
		}
		if !resp.More {
			return nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

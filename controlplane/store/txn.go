package store

import (
	"bytes"
	"context"
	"strconv"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// txn is one write of one key.
type txn struct {
	id     id
	key    string
	expect int64      // the mod revision that the key must have; 0: it must not be there
	value  []byte     // nil deletes
	obj    api.Object // whose encoding value is, or the last state; private until done

	guard    string // another key that must be at guardRev; "" is none
	guardRev int64
}

// outcome is how a txn went: done at rev, or not done because the key is at
// now (nil: is not there).
type outcome struct {
	done  bool
	rev   int64
	vague bool       // rev is not the write's own but a later one
	obj   api.Object // with its revision, if done
	now   *mvccpb.KeyValue
}

// Waits between two attempts to reach etcd.
const (
	firstWait = 20 * time.Millisecond
	lastWait  = 250 * time.Millisecond
)

// commit runs x. While etcd is away it waits for its return; an attempt whose
// fate is unknown is repeated, and is recognised by its value if it had been
// successful.
func (s *Store) commit(ctx context.Context, x txn) (outcome, error) {
	put, err := s.put(ctx, x)
	if err != nil {
		return outcome{}, err
	}
	w := &written{value: x.value, obj: x.obj}
	if x.value != nil {
		s.own.add(x.key, w)
	}
	out, err := s.try(ctx, x, put)
	if err == nil && out.done {
		err = s.await(ctx, out, x)
	}
	taken := x.value != nil && s.own.remove(x.key, w)
	if err != nil || !out.done {
		return out, err
	}
	rv := strconv.FormatInt(out.rev, 10)
	switch {
	case !taken:
		x.obj.SetResourceVersion(rv)
		out.obj = x.obj
	case x.obj.GetResourceVersion() == rv:
		out.obj = x.obj
	default: // somebody else wrote the very same before
		out.obj = rules.WithRevision(x.obj, rv)
	}
	return out, nil
}

// put is the operation; for an Event with a lease.
func (s *Store) put(ctx context.Context, x txn) (clientv3.Op, error) {
	switch {
	case x.value == nil:
		return clientv3.OpDelete(x.key), nil
	case x.id.r != api.Events:
		return clientv3.OpPut(x.key, string(x.value)), nil
	}
	for wait := firstWait; ; wait = min(wait*2, lastWait) {
		lease, err := s.etcd.Grant(ctx, int64(s.c.EventTTL/time.Second))
		if err == nil {
			return clientv3.OpPut(x.key, string(x.value), clientv3.WithLease(lease.ID)), nil
		}
		if !unavailable(err) || !pause(ctx, wait) {
			return clientv3.Op{}, s.fault(ctx, "write "+x.id.r.String()+" "+x.id.name, err)
		}
	}
}

func (s *Store) try(ctx context.Context, x txn, op clientv3.Op) (outcome, error) {
	conds := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(x.key), "=", x.expect)}
	if x.guard != "" {
		conds = append(conds, clientv3.Compare(clientv3.ModRevision(x.guard), "=", x.guardRev))
	}
	unknown := false // whether an earlier attempt may have been carried out
	for wait := firstWait; ; wait = min(wait*2, lastWait) {
		resp, err := s.etcd.Txn(ctx).If(conds...).Then(op).Else(clientv3.OpGet(x.key)).Commit()
		if err == nil {
			return judge(x, resp, unknown), nil
		}
		unknown = true
		if !unavailable(err) || !pause(ctx, wait) {
			return outcome{}, s.fault(ctx, "write "+x.id.r.String()+" "+x.id.name, err)
		}
	}
}

// judge says what resp means. With unknown an earlier attempt may have been
// successful: then the key shows it.
func judge(x txn, resp *clientv3.TxnResponse, unknown bool) outcome {
	if resp.Succeeded {
		return outcome{done: true, rev: resp.Header.Revision}
	}
	var now *mvccpb.KeyValue
	if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		now = kvs[0]
	}
	switch {
	case !unknown:
	case x.value != nil && now != nil && bytes.Equal(now.Value, x.value):
		return outcome{done: true, rev: now.ModRevision}
	case x.value == nil && (now == nil || now.CreateRevision > x.expect):
		return outcome{done: true, rev: resp.Header.Revision, vague: true}
	}
	return outcome{now: now}
}

// await returns when the caches hold what x wrote. When they do not in
// time the write is there nevertheless, but a read would not show it.
func (s *Store) await(ctx context.Context, out outcome, x txn) error {
	if out.vague {
		s.settle(ctx, out.rev)
		return nil
	}
	if err := s.reach(ctx, out.rev); err != nil {
		return s.fault(ctx, "see the write of "+x.id.r.String()+" "+x.id.name, err)
	}
	return nil
}

// settle lets the caches reach a revision that the client is about to learn of,
// for a short time: what it reads next should not be older. Nothing is wrong
// if they do not.
func (s *Store) settle(ctx context.Context, rev int64) {
	if s.rev.Load() >= rev {
		return
	}
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	s.catchUp(short, rev)
}

// catchUp waits until the caches hold revision rev, which may be one of a key
// that is not watched: so etcd is asked for the watch's progress.
func (s *Store) catchUp(ctx context.Context, rev int64) {
	for s.rev.Load() < rev && ctx.Err() == nil {
		if err := s.etcd.RequestProgress(clientv3.WithRequireLeader(ctx)); err != nil {
			return
		}
		once, cancel := context.WithTimeout(ctx, lastWait)
		err := s.reach(once, rev)
		cancel()
		if err == nil {
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

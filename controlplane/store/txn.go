package store

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/pause"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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

// commit runs x. While etcd is away it waits for its return, and finds out
// what became of an attempt that was cut off.
func (s *Store) commit(ctx context.Context, x txn) (outcome, error) {
	p, err := s.propose(ctx, x)
	if err != nil {
		return outcome{}, err
	}
	out, err := s.try(ctx, p, false)
	return s.conclude(ctx, p, out, err)
}

// commitAll runs writes of different keys in one transaction, and each by
// itself when that can't be carried out as a whole. The answers are in their
// order.
func (s *Store) commitAll(ctx context.Context, xs []txn) ([]outcome, []error) {
	outs, errs := make([]outcome, len(xs)), make([]error, len(xs))
	ps := make([]proposal, len(xs))
	var conds []clientv3.Cmp
	var ops []clientv3.Op
	for n, x := range xs {
		if ps[n], errs[n] = s.propose(ctx, x); errs[n] == nil {
			conds, ops = append(conds, ps[n].conds()...), append(ops, ps[n].op)
		}
	}
	conds = append(conds, s.c.Fence.conds()...)
	resp, err := s.carry(ctx, conds, ops, nil)
	whole := err == nil && resp.Succeeded
	var wg sync.WaitGroup
	for n, p := range ps {
		if errs[n] != nil {
			continue
		}
		if whole {
			outs[n], errs[n] = s.conclude(ctx, p, outcome{done: true, rev: resp.Header.Revision}, nil)
			continue
		}
		wg.Go(func() {
			out, e := s.try(ctx, p, err != nil)
			outs[n], errs[n] = s.conclude(ctx, p, out, e)
		})
	}
	wg.Wait()
	return outs, errs
}

// proposal is a txn that is ready to be sent.
type proposal struct {
	txn
	op clientv3.Op
	w  *written // of a put; in Store.own until the end
}

func (s *Store) propose(ctx context.Context, x txn) (proposal, error) {
	if x.value == nil {
		return proposal{txn: x, op: clientv3.OpDelete(x.key)}, nil
	}
	x.value = s.own.mark(x.value)
	op, err := s.put(ctx, x)
	if err != nil {
		return proposal{}, err
	}
	p := proposal{x, op, &written{value: x.value, obj: x.obj}}
	s.own.add(x.key, p.w)
	return p, nil
}

func (p proposal) conds() []clientv3.Cmp {
	conds := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(p.key), "=", p.expect)}
	if p.guard != "" {
		conds = append(conds, clientv3.Compare(clientv3.ModRevision(p.guard), "=", p.guardRev))
	}
	return conds
}

// conds are those that a fence makes of every write.
func (f Fence) conds() []clientv3.Cmp {
	if f.Key == "" {
		return nil
	}
	return []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(f.Key), "=", f.Revision)}
}

// seen tells by what a failed transaction has read last whether the fence is as it
// should be.
func (f Fence) seen(resp *clientv3.TxnResponse) bool {
	if f.Key == "" {
		return true
	}
	kvs := resp.Responses[len(resp.Responses)-1].GetResponseRange().Kvs
	return len(kvs) > 0 && kvs[0].CreateRevision == f.Revision
}

// conclude waits until the caches hold what was done, and puts the object's
// revision in it.
func (s *Store) conclude(ctx context.Context, p proposal, out outcome, err error) (outcome, error) {
	if err == nil && out.done {
		err = s.await(ctx, out, p.txn)
	}
	if p.w == nil {
		if out.done {
			p.obj.SetResourceVersion(strconv.FormatInt(out.rev, 10))
			out.obj = p.obj
		}
		return out, err
	}
	switch rev := s.own.remove(p.key, p.w); {
	case rev != 0: // it is there, whatever the answer was
		return outcome{done: true, rev: rev, obj: p.obj}, nil
	case err != nil || !out.done:
		return out, err
	}
	p.obj.SetResourceVersion(strconv.FormatInt(out.rev, 10))
	out.obj = p.obj
	return out, nil
}

// put is the operation that stores x, an Event with a lease.
func (s *Store) put(ctx context.Context, x txn) (clientv3.Op, error) {
	if x.id.r != api.Events {
		return clientv3.OpPut(x.key, string(x.value)), nil
	}
	for wait := firstWait; ; wait = min(wait*2, lastWait) {
		lease, err := s.lease(ctx)
		if err == nil {
			return clientv3.OpPut(x.key, string(x.value), clientv3.WithLease(lease)), nil
		}
		if !unavailable(err) || !pause.For(ctx, wait) {
			return clientv3.Op{}, s.fault(ctx, "write "+x.id.r.String()+" "+x.id.name, err)
		}
	}
}

// leases are what the Events of a short time share, so that not each has one of
// its own.
type leases struct {
	mu      sync.Mutex
	id      clientv3.LeaseID
	granted time.Time
}

// lease is one for an Event that is written now. Events live for Config.EventTTL,
// or a little shorter.
func (s *Store) lease(ctx context.Context) (clientv3.LeaseID, error) {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	if time.Since(s.leases.granted) < s.c.EventTTL/60 {
		return s.leases.id, nil
	}
	begun := time.Now()
	l, err := s.etcd.Grant(ctx, int64(s.c.EventTTL/time.Second))
	if err != nil {
		return 0, err
	}
	s.leases.id, s.leases.granted = l.ID, begun
	return l.ID, nil
}

// atOnce is how many transactions are under way at a time. etcd is not faster with
// more of them; but thousands at once, as when all nodes of a large cluster
// register, would all be so late that their senders give up and send again. Those
// that wait here are in nobody's way.
const atOnce = 64

// carry has etcd carry out a transaction when it is its turn.
func (s *Store) carry(ctx context.Context, conds []clientv3.Cmp, then, other []clientv3.Op) (*clientv3.TxnResponse, error) {
	select {
	case s.turns <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.turns }()
	return s.etcd.Txn(ctx).If(conds...).Then(then...).Else(other...).Commit()
}

// try sends p until there is an answer. unknown says whether an earlier attempt
// may have been carried out.
func (s *Store) try(ctx context.Context, p proposal, unknown bool) (outcome, error) {
	x, conds := p.txn, append(p.conds(), s.c.Fence.conds()...)
	look := []clientv3.Op{clientv3.OpGet(x.key)}
	if s.c.Fence.Key != "" {
		look = append(look, clientv3.OpGet(s.c.Fence.Key))
	}
	gaps := s.gaps.Load()
	for wait := firstWait; ; wait = min(wait*2, lastWait) {
		resp, err := s.carry(ctx, conds, []clientv3.Op{p.op}, look)
		if err == nil && !resp.Succeeded && !s.c.Fence.seen(resp) {
			return outcome{}, errDeposed(unknown)
		}
		if err == nil {
			out := judge(x, resp, unknown)
			if unknown && !out.done {
				err = s.certain(ctx, resp.Header.Revision, gaps)
			}
			return out, err
		}
		unknown = true
		if !unavailable(err) || !pause.For(ctx, wait) {
			return outcome{}, s.fault(ctx, "write "+x.id.r.String()+" "+x.id.name, err)
		}
	}
}

// judge says what resp means. A deletion of unknown fate has taken place if the
// object is not there any more, or another one of its name is.
func judge(x txn, resp *clientv3.TxnResponse, unknown bool) outcome {
	if resp.Succeeded {
		return outcome{done: true, rev: resp.Header.Revision}
	}
	var now *mvccpb.KeyValue
	if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		now = kvs[0]
	}
	if unknown && x.value == nil && (now == nil || now.CreateRevision > x.expect) {
		return outcome{done: true, rev: resp.Header.Revision, vague: true}
	}
	return outcome{now: now}
}

// certain returns when the feed has seen everything up to rev: then it has
// also seen this process's own write if that was carried out. An error means
// that it can't be known.
func (s *Store) certain(ctx context.Context, rev, gaps int64) error {
	for s.rev.Load() < rev {
		if ctx.Err() != nil {
			return s.fault(ctx, "learn the fate of a write", ctx.Err())
		}
		s.catchUp(ctx, rev)
		if s.rev.Load() < rev && !pause.For(ctx, firstWait) {
			return s.fault(ctx, "learn the fate of a write", ctx.Err())
		}
	}
	if s.gaps.Load() != gaps {
		return apierrors.NewServiceUnavailable("etcd was away and has dropped its history, it is unknown whether the write took place")
	}
	return nil
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
// that is not watched: so etcd is asked for the watch's progress. One asks for
// all: the questions of thousands on the one stream of the watch would hold up its
// answers, until neither end of it reads any more.
func (s *Store) catchUp(ctx context.Context, rev int64) {
	w := s.waits.add(rev)
	defer s.waits.drop(w)
	if s.rev.Load() >= rev {
		return
	}
	for {
		select {
		case <-w.done:
			return
		case <-s.ended:
			return
		case <-ctx.Done():
			return
		case s.asking <- struct{}{}:
		}
		going := s.ask(ctx, w)
		<-s.asking
		if !going {
			return
		}
	}
}

// ask asks etcd for the watch's progress, and gives it some time to answer; false
// when there is nothing more to wait for.
func (s *Store) ask(ctx context.Context, w waiter) bool {
	if err := s.etcd.RequestProgress(clientv3.WithRequireLeader(ctx)); err != nil {
		return false
	}
	t := time.NewTimer(lastWait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-w.done:
	case <-s.ended:
	case <-ctx.Done():
	}
	return false
}

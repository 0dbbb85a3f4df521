package store

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/pause"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
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

	guards []guard // what else must be as it was
}

// guard is a key that must be at a revision.
type guard struct {
	key string
	rev int64
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
	for _, g := range p.guards {
		conds = append(conds, clientv3.Compare(clientv3.ModRevision(g.key), "=", g.rev))
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
		// The feed may be about to put it into the caches: the time that was given for
		// the write may be over, but who is told of it shall read it.
		short, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), time.Second, errSilent)
		defer cancel()
		if err := s.await(short, outcome{rev: rev}, p.txn); err != nil {
			return outcome{}, err
		}
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
		if unknown && p.w != nil && x.expect == 0 {
			rev, err := s.created(ctx, p, gaps)
			if err != nil || rev != 0 {
				return outcome{done: rev != 0, rev: rev}, err
			}
		}
		resp, err := s.carry(ctx, conds, []clientv3.Op{p.op}, look)
		if err == nil && !resp.Succeeded && !s.c.Fence.seen(resp) {
			return outcome{}, errDeposed(unknown)
		}
		if err == nil && unknown && !resp.Succeeded {
			return s.fate(ctx, x, resp, gaps)
		}
		if err == nil {
			return judge(resp), nil
		}
		unknown = true
		if !unavailable(err) || !pause.For(ctx, wait) {
			return outcome{}, s.fault(ctx, "write "+x.id.r.String()+" "+x.id.name, err)
		}
	}
}

// judge says what resp means.
func judge(resp *clientv3.TxnResponse) outcome {
	if resp.Succeeded {
		return outcome{done: true, rev: resp.Header.Revision}
	}
	if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		return outcome{now: kvs[0]}
	}
	return outcome{}
}

// created is the revision at which an attempt to create that was cut off has taken
// place, 0 when it has not. A second attempt without this look could succeed too,
// when somebody has deleted what the first one made: it would be there again.
func (s *Store) created(ctx context.Context, p proposal, gaps int64) (int64, error) {
	for wait := firstWait; ; wait = min(wait*2, lastWait) {
		resp, err := s.etcd.Get(ctx, p.key, clientv3.WithKeysOnly())
		if err == nil {
			if err := s.certain(ctx, resp.Header.Revision, gaps); err != nil {
				return 0, err
			}
			return s.own.seen(p.w), nil
		}
		if !unavailable(err) || !pause.For(ctx, wait) {
			return 0, s.fault(ctx, "write "+p.id.r.String()+" "+p.id.name, err)
		}
	}
}

// fate says what resp, which refuses x, means when an earlier attempt may have been
// carried out. That of a put is known when the feed has seen all up to there. A
// deletion has taken place if it was the next that happened to the object, whoever
// did it.
func (s *Store) fate(ctx context.Context, x txn, resp *clientv3.TxnResponse, gaps int64) (outcome, error) {
	out := judge(resp)
	if x.value == nil && (out.now == nil || out.now.CreateRevision > x.expect) {
		next, err := s.next(ctx, x.key, x.expect)
		switch {
		case errors.Is(err, rpctypes.ErrCompacted): // it is gone, by somebody
			return outcome{done: true, rev: resp.Header.Revision, vague: true}, nil
		case err != nil:
			return outcome{}, s.fault(ctx, "learn the fate of a write", err)
		case next.Type == clientv3.EventTypeDelete:
			return outcome{done: true, rev: next.Kv.ModRevision}, nil
		}
	}
	return out, s.certain(ctx, resp.Header.Revision, gaps)
}

// next is the first change of a key after a revision; there has to be one.
func (s *Store) next(ctx context.Context, key string, rev int64) (*clientv3.Event, error) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for r := range s.etcd.Watch(ctx, key, clientv3.WithRev(rev+1)) {
		if err := r.Err(); err != nil {
			return nil, err
		}
		if len(r.Events) > 0 {
			return r.Events[0], nil
		}
	}
	return nil, ctx.Err()
}

// certain returns when the feed has seen everything up to rev: then it has
// also seen this process's own write if that was carried out. An error means
// that it can't be known.
func (s *Store) certain(ctx context.Context, rev, gaps int64) error {
	if err := s.follows(ctx, rev); err != nil {
		return s.fault(ctx, "learn the fate of a write", err)
	}
	if s.gaps.Load() != gaps {
		return apierrors.NewServiceUnavailable("etcd was away and has dropped its history, it is unknown whether the write took place")
	}
	return nil
}

// await returns when the caches hold what x wrote. When they do not in
// time the write is there nevertheless, but a read would not show it.
func (s *Store) await(ctx context.Context, out outcome, x txn) error {
	wait := s.reach
	if out.vague {
		wait = s.follows
	}
	if err := wait(ctx, out.rev); err != nil {
		return s.fault(ctx, "see the write of "+x.id.r.String()+" "+x.id.name, err)
	}
	return nil
}

// show returns when the caches hold the revision of which the client is about to be
// told that it is why nothing was written: what it reads next must not be older. When
// they do not in time it is told that instead.
func (s *Store) show(ctx context.Context, rev int64) error {
	err := s.follows(ctx, rev)
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		return apierrors.NewTimeoutError("etcd did not tell in time what has changed, nothing was written; please try again", 1)
	}
	return err
}

// follows returns when the caches hold revision rev, which need not be one of a key
// that is watched.
func (s *Store) follows(ctx context.Context, rev int64) error {
	for s.rev.Load() < rev {
		select {
		case <-s.ended:
			return errStopped()
		default:
		}
		s.catchUp(ctx, rev)
		if s.rev.Load() < rev && !pause.For(ctx, firstWait) {
			return context.Cause(ctx)
		}
	}
	return nil
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
	if err := s.etcd.RequestProgress(ownStream(ctx)); err != nil {
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

// Package leader elects one of several servers by a key in etcd, and says by
// what its writes are known to be the leader's.
//
// The key lies under a lease. Who holds it renews the lease three times in its
// life, and takes itself for deposed when a life is over, by its own clock,
// since the last renewal that was answered was sent; etcd ends the lease no
// sooner. That bounds how long two may believe that they lead; that only one of
// them writes is for Term.Revision to ensure, as a condition of each write.
package leader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/podsnap/podsnap/internal/pause"
)

// Server is who may lead, and where it is reached.
type Server struct {
	ID   string `json:"id"`   // of its state directory: no two have the same
	Name string `json:"name"` // of its node
	URL  string `json:"url"`  // of its API

	Version string `json:"version,omitempty"` // its release; "" is of a time when servers did not say
}

// Term is a time of leadership.
type Term struct {
	Key      string // in etcd
	Revision int64  // at which the key was made: while it is that, the term lasts
	Base     int64  // the first number of the term; see Config.Span
}

// Config says who is elected. Client, Key and Self have to be set.
type Config struct {
	Client *clientv3.Client
	Key    string
	Self   Server
	TTL    time.Duration // life of the key after its holder's last sign, whole seconds; 0 is 2 s, the shortest that etcd knows
	// Look tells what is known of the server that leads by asking its machine, so
	// that nobody has to wait for the end of its lease; nil is nothing. It is asked
	// every Config.Probe. A wrong answer costs a term, and nothing else: its writes
	// are fenced.
	Look  func(context.Context, Server) Sight
	Probe time.Duration // 0 is 250 ms
	// Clock answers with the number with which a term would begin were it the
	// first one. A term's Base is that, but at least Span more than the term's
	// before it, so that the numbers from there are its own.
	Clock func() int64
	Span  int64
	Log   *slog.Logger // nil discards
}

// Sight is what a look at a server's machine tells of it.
type Sight int

// What there is to tell.
const (
	Alive  Sight = iota // as far as is known
	Dead                // its process has ended
	Silent              // the machine does not answer
)

// Election is one server's part in it.
type Election struct {
	c Config

	mu      sync.Mutex
	now     Server        // who leads, as far as is known; zero is nobody
	changed chan struct{} // closed when now changes
}

// ErrLost is why a term's context ends before the election's does.
var ErrLost = errors.New("another server may lead from now on")

// Waits between two attempts.
const (
	firstWait = 50 * time.Millisecond
	lastWait  = time.Second
)

// New makes one.
func New(c Config) *Election {
	if c.TTL == 0 {
		c.TTL = 2 * time.Second
	}
	if c.Probe == 0 {
		c.Probe = 250 * time.Millisecond
	}
	if c.Clock == nil {
		c.Clock = func() int64 { return 0 }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Election{c: c, changed: make(chan struct{})}
}

// Leader is who leads as far as is known, zero when nobody does, and a channel
// that is closed when that changes.
func (e *Election) Leader() (Server, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.now, e.changed
}

func (e *Election) saw(s Server) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.now == s {
		return
	}
	e.now = s
	close(e.changed)
	e.changed = make(chan struct{})
}

// Run stands for election until ctx is done, and calls lead for each term; lead
// returns soon after its context has ended. A lead that returns before that has
// given up the term, and Run returns its error.
func (e *Election) Run(ctx context.Context, lead func(context.Context, Term) error) error {
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		began := time.Now()
		err := e.stand(ctx, lead)
		if ctx.Err() != nil {
			return nil
		}
		if gave, ok := errors.AsType[*gaveUp](err); ok {
			return gave.error
		}
		e.saw(Server{})
		e.c.Log.Debug("the election goes on", slog.Any("reason", err))
		if time.Since(began) > lastWait {
			wait = firstWait
		}
		if !pause.For(ctx, wait) {
			return nil
		}
	}
}

// gaveUp is a lead's own error.
type gaveUp struct{ error }

// stand takes part once: it ends when a term has, or by an error.
func (e *Election) stand(ctx context.Context, lead func(context.Context, Term) error) error {
	if err := e.free(ctx); err != nil {
		return err
	}
	sent := time.Now()
	short, cancel := context.WithTimeout(ctx, e.c.TTL)
	defer cancel()
	lease, err := e.c.Client.Grant(short, int64((e.c.TTL+time.Second-1)/time.Second))
	if err != nil {
		return fmt.Errorf("lease: %w", err)
	}
	defer e.revoke(ctx, lease.ID)
	t, err := e.take(short, lease.ID)
	if err != nil {
		return err
	}
	return e.serve(ctx, t, lease.ID, sent, lead)
}

// serve is a term.
func (e *Election) serve(ctx context.Context, t Term, lease clientv3.LeaseID, sent time.Time, lead func(context.Context, Term) error) error {
	e.c.Log.Info("this server leads", slog.Int64("term", t.Revision))
	e.saw(e.c.Self)
	term, lose := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer lose(ErrLost)
	wg.Go(func() { lose(e.renew(term, lease, sent)) })
	wg.Go(func() {
		if err := e.gone(term, t.Revision+1); err == nil {
			lose(fmt.Errorf("%w: its key was taken away", ErrLost))
		} // else it is known by the lease alone
	})
	err := lead(term, t)
	if term.Err() == nil {
		return &gaveUp{err}
	}
	if ctx.Err() == nil {
		e.c.Log.Warn("this server does not lead any more", slog.Any("reason", context.Cause(term)))
	}
	return ErrLost
}

// free returns when nobody holds the key. Meanwhile it follows who leads. A key
// of this server's own is of a process that is dead.
func (e *Election) free(ctx context.Context) error {
	for {
		short, cancel := context.WithTimeout(ctx, e.c.TTL)
		resp, err := e.c.Client.Get(short, e.c.Key)
		cancel()
		if err != nil {
			return err
		}
		if len(resp.Kvs) == 0 {
			return nil
		}
		kv := resp.Kvs[0]
		var holder Server
		if err := json.Unmarshal(kv.Value, &holder); err != nil {
			return fmt.Errorf("%s holds something else than a leader: %w", e.c.Key, err)
		}
		if holder.ID == e.c.Self.ID {
			if err := e.remove(ctx, kv.ModRevision); err != nil {
				return err
			}
			continue
		}
		e.saw(holder)
		if err := e.outlive(ctx, holder, kv, resp.Header.Revision+1); err != nil {
			return err
		}
		e.saw(Server{})
	}
}

// outlive returns when the key kv is gone, which holder had, as seen from rev on. It
// removes the key of a holder that is dead.
func (e *Election) outlive(ctx context.Context, holder Server, kv *mvccpb.KeyValue, rev int64) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	if e.c.Look != nil {
		wg.Go(func() { e.watch(ctx, holder, kv) })
	}
	return e.gone(ctx, rev)
}

// watch looks at the holder of a key until it has removed the key, or ctx is done.
//
// An etcd that has just elected a leader of its own gives every lease its whole life
// and a second more, and goes through those that have ended twice a second. So the
// key of a machine that was lost together with etcd's leader is taken away when the
// machine has been silent for the life of a lease, and the lease has not been renewed
// since either. A process that stands still does not get there: its kernel answers.
// Nor does a server that is cut off from this one alone: it renews.
func (e *Election) watch(ctx context.Context, holder Server, kv *mvccpb.KeyValue) {
	var since time.Time // that it has been silent
	for begun := time.Now(); pause.For(ctx, e.c.Probe-time.Since(begun)); {
		begun = time.Now()
		sight := e.c.Look(ctx, holder)
		switch {
		case ctx.Err() != nil:
			return
		case sight == Alive:
			since = time.Time{}
			continue
		case sight == Silent && since.IsZero():
			since = begun
			continue
		case sight == Silent && (time.Since(since) < e.c.TTL || !e.ending(ctx, clientv3.LeaseID(kv.Lease))):
			continue
		}
		if err := e.remove(ctx, kv.ModRevision); err == nil {
			e.c.Log.Info("the server that led is dead", slog.String("server", holder.Name), slog.Bool("silent", sight == Silent))
			return
		}
	}
}

// ending tells whether a lease is known to end within a second: it was renewed as
// long ago as that leaves of its life, or not at all under the present leader of
// etcd. Whole seconds is all that etcd tells of it.
func (e *Election) ending(ctx context.Context, lease clientv3.LeaseID) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	left, err := e.c.Client.TimeToLive(ctx, lease)
	return err == nil && left.TTL < 1
}

// gone returns when the key is deleted at rev or later.
func (e *Election) gone(ctx context.Context, rev int64) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for resp := range e.c.Client.Watch(ctx, e.c.Key, clientv3.WithRev(rev)) {
		if err := resp.Err(); err != nil {
			return err
		}
		for _, ev := range resp.Events {
			if ev.Type == clientv3.EventTypeDelete {
				return nil
			}
		}
	}
	return context.Cause(ctx)
}

func (e *Election) remove(ctx context.Context, mod int64) error {
	ctx, cancel := context.WithTimeout(ctx, e.c.TTL)
	defer cancel()
	_, err := e.c.Client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(e.c.Key), "=", mod)).Then(clientv3.OpDelete(e.c.Key)).Commit()
	return err
}

// take makes the key, which was not there a moment ago.
func (e *Election) take(ctx context.Context, lease clientv3.LeaseID) (Term, error) {
	baseKey := e.c.Key + "-base"
	resp, err := e.c.Client.Get(ctx, baseKey)
	if err != nil {
		return Term{}, err
	}
	base, was := e.c.Clock(), int64(0)
	if len(resp.Kvs) > 0 {
		was = resp.Kvs[0].ModRevision
		last, err := strconv.ParseInt(string(resp.Kvs[0].Value), 10, 64)
		if err != nil {
			return Term{}, fmt.Errorf("%s: %w", baseKey, err)
		}
		base = max(base, last+e.c.Span)
	}
	value, err := json.Marshal(e.c.Self)
	if err != nil {
		return Term{}, err
	}
	done, err := e.c.Client.Txn(ctx).If(
		clientv3.Compare(clientv3.CreateRevision(e.c.Key), "=", 0),
		clientv3.Compare(clientv3.ModRevision(baseKey), "=", was),
	).Then(
		clientv3.OpPut(e.c.Key, string(value), clientv3.WithLease(lease)),
		clientv3.OpPut(baseKey, strconv.FormatInt(base, 10)),
	).Commit()
	if err != nil {
		return Term{}, err
	}
	if !done.Succeeded {
		return Term{}, errors.New("another server was faster")
	}
	return Term{Key: e.c.Key, Revision: done.Header.Revision, Base: base}, nil
}

// renew keeps the lease until ctx is done or that fails for too long.
func (e *Election) renew(ctx context.Context, lease clientv3.LeaseID, sent time.Time) error {
	for {
		until := sent.Add(e.c.TTL)
		if !pause.For(ctx, min(e.c.TTL/3, time.Until(until))) {
			return context.Cause(ctx)
		}
		next := time.Now()
		short, cancel := context.WithDeadline(ctx, until)
		_, err := e.c.Client.KeepAliveOnce(short, lease)
		cancel()
		switch {
		case err == nil:
			sent = next
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			return fmt.Errorf("%w: the lease has ended", ErrLost)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !time.Now().Before(until):
			return fmt.Errorf("%w: etcd has not answered for %v: %w", ErrLost, e.c.TTL, err)
		}
		if err != nil && !pause.For(ctx, min(firstWait, time.Until(until))) {
			return context.Cause(ctx)
		}
	}
}

// revoke gives the key back, so that nobody has to wait for its end.
func (e *Election) revoke(ctx context.Context, lease clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if _, err := e.c.Client.Revoke(ctx, lease); err != nil {
		e.c.Log.Debug("the lease ends by itself", slog.Any("error", err))
	}
}

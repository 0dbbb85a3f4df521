package invoke

import (
	"context"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/gateway/balance"
	"github.com/podsnap/podsnap/gateway/upstream"
	"k8s.io/apimachinery/pkg/types"
)

// How long a replica that took no connection is left alone: the first time, and
// at most. A fresh one may not listen yet; one on a lost node never will again.
const (
	probationMin = 20 * time.Millisecond
	probationMax = time.Second
)

const (
	connectTimeout = time.Second
	// idleTimeout is below the keep-alive time of the usual HTTP servers
	// (Node's 5 s is the least), so that it is the gateway that closes.
	idleTimeout = 4 * time.Second
)

// endpoint is one replica. Its fields but the pool, and what of Endpoint does not
// change, are guarded by the function's lock.
type endpoint struct {
	api.Endpoint
	replica   *balance.Replica[*endpoint]
	pool      *upstream.Pool // of its own: addresses are used again by other pods
	draining  bool
	former    bool    // of a function that was deleted
	refused   int     // connections in a row
	probation func()  // ends it; nil: there is none
	thawed    uint64  // the last round that was ended; see Endpoint.Frozen
	flight    *flight // a thaw under way
}

func (e *endpoint) close() {
	if e.probation != nil {
		e.probation()
	}
	e.pool.Close()
}

// ready adds a replica, or takes one back that was drained or refused.
func (f *function) ready(ep api.Endpoint) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed = ""
	e := f.byPod[ep.Pod]
	if e != nil && e.Address != ep.Address {
		f.remove(e)
		e = nil
	}
	if e == nil {
		e = &endpoint{Endpoint: ep, pool: upstream.New(ep.Address, upstream.Config{Connect: connectTimeout, Idle: idleTimeout})}
		e.replica = f.replicas.Add(e, ep.Concurrency)
		f.byPod[ep.Pod] = e
	} else {
		// Who reads the old value of the other fields does so under the lock,
		// so that a new endpoint is not needed.
		e.Concurrency, e.Timeout = ep.Concurrency, ep.Timeout
		e.draining, e.former, e.refused = false, false, 0
		f.replicas.SetLimit(e.replica, ep.Concurrency)
		f.replicas.SetOpen(e.replica, true)
	}
	f.mark(e, ep.Frozen)
	f.wake()
}

// drain closes a replica for new requests and reports whether nothing is in
// flight on it.
func (f *function) drain(pod types.UID) (drained bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.byPod[pod]
	if e == nil {
		return true
	}
	e.draining = true
	f.replicas.SetOpen(e.replica, false)
	return e.replica.InFlight() == 0
}

// gone forgets a replica. What is in flight on it ends as it may.
func (f *function) gone(pod types.UID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.byPod[pod]; e != nil {
		f.remove(e)
	}
}

// remove is to be called with f.mu held.
func (f *function) remove(e *endpoint) {
	delete(f.byPod, e.Pod)
	f.replicas.Remove(e.replica)
	e.close()
}

// pods lists what the function has.
func (f *function) pods() []types.UID {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]types.UID, 0, len(f.byPod))
	for pod := range f.byPod {
		out = append(out, pod)
	}
	return out
}

// refuse gives the slot of a replica that took no connection back and leaves
// the replica alone until it takes one again. Then one request at a time tries
// it, until one gets through.
func (f *function) refuse(s slot) {
	f.mu.Lock()
	e := s.e
	if f.byPod[e.Pod] == e && e.replica.Open() && !f.closed {
		f.replicas.SetOpen(e.replica, false)
		f.replicas.SetLimit(e.replica, 1)
		f.suspect(e)
	} else {
		e.refused++
	}
	f.mu.Unlock()
	f.release(s)
}

// suspect has a replica that is not open looked at later. To be called with f.mu
// held.
func (f *function) suspect(e *endpoint) {
	e.refused++
	wait := min(probationMin<<min(e.refused-1, 10), probationMax)
	ctx, cancel := context.WithCancel(context.Background()) //nolint:forbidigo // it ends with the endpoint
	t := time.AfterFunc(wait, func() {
		defer cancel()
		f.tried(e, e.pool.Probe(ctx)) //nolint:contextcheck // what follows has a context of its own, of the next try
	})
	e.probation = func() { t.Stop(); cancel() }
}

// tried is told whether a replica that had refused takes a connection: no request
// finds that out, for on a machine that is gone it would wait in vain.
func (f *function) tried(e *endpoint, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.byPod[e.Pod] != e || e.draining || e.former || f.closed || e.replica.Open():
	case err != nil:
		f.suspect(e)
	default:
		f.replicas.SetOpen(e.replica, true)
		f.wake()
	}
}

// proved is told that a replica which had refused took a connection.
func (f *function) proved(e *endpoint) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e.refused = 0
	if f.byPod[e.Pod] == e {
		f.replicas.SetLimit(e.replica, e.Concurrency)
		f.wake()
	}
}

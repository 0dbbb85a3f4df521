package invoke

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/gateway/balance"
	"github.com/podsnap/podsnap/gateway/meter"
	"k8s.io/apimachinery/pkg/types"
)

// function is one function's replicas and the requests that wait for them.
type function struct {
	v     *Invoker
	key   types.NamespacedName
	meter *meter.Function
	spec  atomic.Pointer[Spec] // nil: not deployed

	arrived atomic.Uint64
	active  atomic.Bool // known to the reporter

	mu       sync.Mutex
	replicas balance.Set[*endpoint]
	byPod    map[types.UID]*endpoint
	waiters  queue
	pace     pace
	inFlight int
	told     int       // requests in flight at the last report
	toldAt   time.Time // of the last report
	rising   bool      // a report is on its way because the load has grown
	settling bool      // settle looks again
	failed   string    // why the last start failed; "" since a replica became ready
	closed   bool
}

func newFunction(v *Invoker, key types.NamespacedName) *function {
	return &function{v: v, key: key, meter: v.c.Meter.Function(key.Name + "." + key.Namespace), byPod: map[types.UID]*endpoint{}}
}

// slot is a right to send one request to a replica; give it back once.
type slot struct {
	e       *endpoint
	timeout time.Duration // what the replica says; 0 is nothing
	waited  time.Duration
	cold    bool // there was no replica when the wait began
	trial   bool // the replica had refused a connection before
	frozen  bool // the replica has to be thawed first
	granted time.Time
	ahead   int       // calls that waited already when the wait began
	start   api.Start // of the replica
}

func (f *function) String() string { return f.key.Name + "." + f.key.Namespace }

// tryAcquire takes a slot if nobody has to wait.
func (f *function) tryAcquire() (slot, bool) {
	f.mu.Lock()
	if f.waiters.n > 0 || f.spec.Load() == nil {
		f.mu.Unlock()
		return slot{}, false
	}
	s, ok := f.take()
	// Load that has grown much since it was last reported is not left to the
	// clock.
	rise := !f.rising && f.inFlight > f.told+f.told/4
	f.rising = f.rising || rise
	toldAt := f.toldAt
	f.mu.Unlock()
	if rise {
		wait := riseGap - time.Since(toldAt)
		time.AfterFunc(wait, func() { // at once if it is not positive
			f.v.demand.urgent(f)
			f.settle(0)
		})
	}
	return s, ok
}

// settle looks a few times, at longer and longer intervals, whether the load has
// grown since it was told: the last few requests of a crowd are less than what
// tryAcquire calls much.
func (f *function) settle(looked int) {
	f.mu.Lock()
	if looked == 0 && f.settling {
		f.mu.Unlock()
		return // it is about to look anyway
	}
	more := !f.rising && f.inFlight > f.told
	again := !f.closed && looked < settleLooks
	f.settling = again
	f.mu.Unlock()
	if more {
		f.v.demand.urgent(f)
	}
	if again {
		time.AfterFunc(riseGap<<looked, func() { f.settle(looked + 1) })
	}
}

// acquire takes a slot. It waits for one until ctx is over, or the time limit
// since the request began; first puts a request that was turned away by a
// replica before all others. An error that is not ctx's is a *refusal.
func (f *function) acquire(ctx context.Context, began time.Time, limit time.Duration, first bool) (slot, error) {
	f.mu.Lock()
	if f.spec.Load() == nil {
		f.mu.Unlock()
		return slot{}, notFound(f.key)
	}
	if f.waiters.n == 0 {
		if s, ok := f.take(); ok {
			f.mu.Unlock()
			return s, nil
		}
	}
	now := time.Now()
	if most := f.limits().MaxQueue; f.waiters.n >= most {
		again := f.pace.retry(f.waiters.n, now)
		f.mu.Unlock()
		return slot{}, queueFull(f.key, most, again)
	}
	if d, is := f.pace.hopeless(f.waiters.n, limit-now.Sub(began), now); is && !first && f.replicas.Open() > 0 {
		again := f.pace.retry(f.waiters.n, now)
		f.mu.Unlock()
		return slot{}, hopeless(f.key, d, again)
	}
	w := &waiter{got: make(chan grant, 1), since: now}
	f.pace.begun(now)
	ahead := f.waiters.n
	limit -= w.since.Sub(began)
	if first {
		f.waiters.pushFront(w)
	} else {
		f.waiters.pushBack(w)
	}
	cold := f.replicas.Open() == 0
	if cold && f.failed != "" {
		limit = min(limit, f.v.c.FailFast)
	}
	f.mu.Unlock()
	f.v.demand.urgent(f)

	timer := time.NewTimer(limit)
	defer timer.Stop()
	var err error
	select {
	case g := <-w.got:
		f.waitEnded()
		return f.granted(g, w, cold, ahead)
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-timer.C:
	}
	f.mu.Lock()
	left := f.waiters.remove(w)
	if left && err == nil {
		err = f.waitOver(time.Since(began))
	}
	f.calm()
	f.mu.Unlock()
	f.waitEnded()
	if left {
		return slot{}, err
	}
	g := <-w.got // it was given something in the meantime
	if err != nil && g.err == nil {
		f.release(g.slot)
		return slot{}, err
	}
	return f.granted(g, w, cold, ahead)
}

// waitEnded has it reported at once that nobody waits any more: demand that is
// over must not undo a scale to zero.
func (f *function) waitEnded() {
	f.mu.Lock()
	nobody := f.waiters.n == 0
	f.mu.Unlock()
	if nobody {
		f.v.demand.urgent(f)
	}
}

func (f *function) granted(g grant, w *waiter, cold bool, ahead int) (slot, error) {
	g.slot.granted = time.Now()
	g.slot.waited = g.slot.granted.Sub(w.since)
	g.slot.cold, g.slot.ahead = cold, ahead
	if g.slot.e != nil {
		g.slot.start = g.slot.e.Start
	}
	f.v.c.Meter.Waited(g.slot.waited)
	return g.slot, g.err
}

// take is to be called with f.mu held.
func (f *function) take() (slot, bool) {
	r := f.replicas.Acquire(random)
	if r == nil {
		return slot{}, false
	}
	f.inFlight++
	return slot{e: r.Value, timeout: r.Value.Timeout, trial: r.Value.refused > 0, frozen: r.Value.frozen()}, true
}

// wake gives free slots to the oldest waiters. It is to be called with f.mu
// held.
func (f *function) wake() {
	for f.waiters.n > 0 {
		s, ok := f.take()
		if !ok {
			return
		}
		f.pace.granted(time.Now())
		f.waiters.pop().got <- grant{slot: s}
		f.calm()
	}
}

// fail ends all waits. It is to be called with f.mu held.
func (f *function) fail(err error) {
	for w := f.waiters.pop(); w != nil; w = f.waiters.pop() {
		w.got <- grant{err: err}
	}
	f.calm()
}

// calm forgets the pace of a queue that is empty. It is to be called with f.mu
// held.
func (f *function) calm() {
	if f.waiters.n == 0 {
		f.pace.empty()
	}
}

// release gives a slot back.
func (f *function) release(s slot) {
	f.mu.Lock()
	f.inFlight--
	f.replicas.Release(s.e.replica)
	drained := s.e.draining && s.e.replica.InFlight() == 0
	f.wake()
	f.mu.Unlock()
	if drained {
		f.v.drains.add(s.e.Pod)
	}
}

// waitOver says why a wait was in vain. It is to be called with f.mu held.
func (f *function) waitOver(waited time.Duration) error {
	n, open := len(f.replicas.All()), f.replicas.Open()
	why := fmt.Sprintf("no replica became ready within %s", waited.Round(time.Millisecond))
	switch {
	case open > 0:
		why = fmt.Sprintf("all %d replicas were busy for %s", open, waited.Round(time.Millisecond))
	case f.failed != "":
		why = "no replica can start: " + f.failed
	case n > 0:
		why = fmt.Sprintf("none of %d replicas took a connection within %s", n, waited.Round(time.Millisecond))
	}
	r := unavailable(f.key, why)
	r.retryAfter = f.pace.retry(f.waiters.n, time.Now())
	return r
}

// deploy takes in what the deployment says. It is called with v.change held.
func (f *function) deploy(s Spec) {
	old := f.spec.Swap(&s)
	if old == nil || old.UID != s.UID || old.Generation != s.Generation {
		f.mu.Lock()
		f.failed = ""
		f.mu.Unlock()
	}
}

// undeploy ends all waits. The replicas there are get no request any more, not
// even if the function is deployed anew before they are gone: they run what was
// deleted.
func (f *function) undeploy() {
	f.spec.Store(nil)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed = ""
	for _, e := range f.byPod {
		e.former = true
		f.replicas.SetOpen(e.replica, false)
	}
	f.fail(notFound(f.key))
}

// startFailed is told that no replica can be had.
func (f *function) startFailed(reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed = reason
	if f.failed == "" {
		f.failed = "the control plane gave no reason"
	}
	if f.replicas.Open() == 0 {
		f.fail(unavailable(f.key, "no replica can start: "+f.failed))
	}
}

func (f *function) snapshot() api.Demand {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.demand()
}

// report is the demand as it is told to the control plane.
func (f *function) report() api.Demand {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told, f.toldAt, f.rising = f.inFlight, time.Now(), false
	return f.demand()
}

// demand is to be called with f.mu held.
func (f *function) demand() api.Demand {
	return api.Demand{Function: f.key, Queued: f.waiters.n, InFlight: f.inFlight, Arrived: f.arrived.Load()}
}

func (f *function) hasEndpoints() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.byPod) > 0
}

// close ends timers and idle connections.
func (f *function) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, e := range f.byPod {
		e.close()
	}
}

// limits is the function's spec with the gateway's own values where it says
// nothing.
func (f *function) limits() Spec {
	var s Spec
	if p := f.spec.Load(); p != nil {
		s = *p
	}
	if s.Timeout <= 0 {
		s.Timeout = f.v.c.Timeout
	}
	if s.MaxBody <= 0 {
		s.MaxBody = f.v.c.MaxBody
	}
	if s.MaxQueue <= 0 || s.MaxQueue > f.v.c.MaxQueue {
		s.MaxQueue = f.v.c.MaxQueue
	}
	if s.Wait <= 0 {
		s.Wait = max(s.Timeout, f.v.c.ColdStart)
	}
	return s
}

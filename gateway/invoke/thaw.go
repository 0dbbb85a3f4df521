package invoke

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/podsnap/podsnap/api"
)

// thawLimit is how long a node's agent may take. A replica that is not thawed
// then counts as one that takes no connection.
const thawLimit = 2 * time.Second

// flight is a thaw under way, for all calls that wait for it.
type flight struct {
	done chan struct{}
	err  error // when done is closed
}

// frozen reports whether the replica may be sent to only after a thaw: it was
// told to be frozen in a round that this gateway has not ended. It is to be
// called with f.mu held.
func (e *endpoint) frozen() bool { return e.Frozen > e.thawed }

// mark takes in the round of an endpoint. With nothing in flight the replica is
// the control plane's to freeze; else the round is ended at once, so that what
// is in flight goes on. It is to be called with f.mu held.
func (f *function) mark(e *endpoint, round uint64) {
	e.Frozen = max(e.Frozen, round)
	switch {
	case !e.frozen():
	case e.replica.InFlight() == 0:
		f.v.drains.giveLeave(api.Leave{Pod: e.Pod, Round: e.Frozen})
	default:
		f.v.drains.end(func(ctx context.Context) {
			if err := f.thaw(ctx, e); err != nil {
				f.v.c.Log.WarnContext(ctx, "thaw a replica in use", slog.String("pod", e.Name), slog.Any("error", err))
			}
		})
	}
}

// thaw returns nil when the replica runs and every round that it was told of is
// over. Calls that come meanwhile wait for the same answer.
func (f *function) thaw(ctx context.Context, e *endpoint) error {
	for {
		f.mu.Lock()
		if !e.frozen() {
			f.mu.Unlock()
			return nil
		}
		fl := e.flight
		if fl == nil {
			fl = &flight{done: make(chan struct{})}
			e.flight = fl
			round := e.Frozen
			f.v.thaws.Go(func() { f.fly(context.WithoutCancel(ctx), e, fl, round) })
		}
		f.mu.Unlock()
		select {
		case <-fl.done:
			if fl.err != nil {
				return fl.err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fly asks the agent. It goes on when the call that began it is over: others
// may wait.
func (f *function) fly(ctx context.Context, e *endpoint, fl *flight, round uint64) {
	ctx, cancel := context.WithTimeoutCause(ctx, thawLimit, errors.New("the node's agent does not answer"))
	defer cancel()
	if f.v.c.Thaw != nil {
		fl.err = f.v.c.Thaw(ctx, e.Node, e.Pod, round)
	}
	f.mu.Lock()
	e.flight = nil
	if fl.err == nil {
		e.thawed = max(e.thawed, round)
	}
	f.mu.Unlock()
	close(fl.done)
}

// thaw has the call's replica run. When that fails the slot is given back; retry
// says that another replica is to be tried, since nothing was sent.
func (c *call) thaw() (retry bool, err error) {
	begin := time.Now()
	err = c.f.thaw(c.context(), c.slot.e)
	switch {
	case err == nil:
		c.thawed = time.Now()
		c.thawing += c.thawed.Sub(begin)
		c.v.c.Meter.Thawed(c.thawed.Sub(begin))
		return false, nil
	case c.gone(err):
		c.f.release(c.slot)
		return false, errGone
	}
	c.v.c.Log.Warn("thaw", slog.String("pod", c.slot.e.Name), slog.Any("error", err))
	c.f.refuse(c.slot)
	return true, nil
}

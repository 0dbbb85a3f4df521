package fast

import (
	"context"
	goruntime "runtime"
	"sync"
	"time"
)

// gate bounds how many containers start at a time: a start is work for a
// processor, and many at once only take it from each other, and from those that
// serve. A start counts until its program listens, has ended or has had its
// while: who waits for something else than a processor holds nobody up for long.
type gate chan struct{}

// headway is the longest that a start holds its place.
const headway = 100 * time.Millisecond

func newGate() gate { return make(gate, 4*goruntime.NumCPU()) }

// enter waits for a place. leave gives it back; it may be called more than once.
func (g gate) enter(ctx context.Context) (leave func(), err error) {
	select {
	case g <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return sync.OnceFunc(func() { <-g }), nil
}

// Package exits tells readers of containers' exits, each in its own time.
package exits

import (
	"context"
	"sync"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// Feed passes exits on to its readers. The zero value has none.
type Feed struct {
	mu      sync.Mutex
	readers map[*reader]struct{}
	closed  chan struct{}
	work    sync.WaitGroup
	over    bool
}

// reader has a queue of its own. It is bounded by the number of containers
// that end, which is bounded by those that were started.
type reader struct {
	mu    sync.Mutex
	queue []runtime.Exit
	wake  chan struct{}
}

// Emit tells all readers; it does not wait for them.
func (f *Feed) Emit(x runtime.Exit) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for r := range f.readers {
		r.put(x)
	}
}

// Read makes a reader, which first hears of what is given here. Its channel is
// closed when ctx is done or the feed is closed.
func (f *Feed) Read(ctx context.Context, first []runtime.Exit) <-chan runtime.Exit {
	out := make(chan runtime.Exit)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		close(out)
		return out
	}
	if f.readers == nil {
		f.readers, f.closed = map[*reader]struct{}{}, make(chan struct{})
	}
	r := &reader{wake: make(chan struct{}, 1)}
	r.put(first...)
	f.readers[r] = struct{}{}
	f.work.Go(func() {
		defer close(out)
		r.run(ctx, f.closed, out)
		f.mu.Lock()
		delete(f.readers, r)
		f.mu.Unlock()
	})
	return out
}

// Close ends all readers and waits for them.
func (f *Feed) Close() {
	f.mu.Lock()
	if !f.over && f.closed != nil {
		close(f.closed)
	}
	f.over = true
	f.mu.Unlock()
	f.work.Wait()
}

func (r *reader) put(x ...runtime.Exit) {
	r.mu.Lock()
	r.queue = append(r.queue, x...)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *reader) run(ctx context.Context, closed <-chan struct{}, out chan<- runtime.Exit) {
	for {
		r.mu.Lock()
		batch := r.queue
		r.queue = nil
		r.mu.Unlock()
		for _, x := range batch {
			select {
			case out <- x:
			case <-ctx.Done():
				return
			case <-closed:
				return
			}
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return
		case <-closed:
			return
		}
	}
}

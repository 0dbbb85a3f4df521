package fast

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/nodeagent/network"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

var _ runtime.Listener = (*Runtime)(nil)

// Listening implements runtime.Listener. It asks the kernel about the port,
// inside of the pod's namespace and without a packet, first every 200 µs and
// then in steps of a tenth of the time that has passed.
func (r *Runtime) Listening(ctx context.Context, id string, port int32) error {
	c := r.container(id)
	if c == nil {
		return notFound("containers", id)
	}
	r.mu.Lock()
	sl, running := c.sandbox.slot, c.info.State == runtime.Running
	r.mu.Unlock()
	if sl == nil || !running {
		return fmt.Errorf("container %s has ended", id)
	}
	ports, err := network.NewPorts(sl.ns)
	if err != nil {
		return err
	}
	defer ports.Close()
	w := &waiter{ports: ports, port: uint16(port), since: c.info.StartedAt, done: make(chan error, 1)}
	if err := r.watcher.add(w); err != nil {
		return err
	}
	select {
	case err := <-w.done:
		if err == nil && c.settled != nil {
			c.settled()
		}
		return err
	case <-ctx.Done():
		r.watcher.remove(w)
		return context.Cause(ctx)
	}
}

// Steps between two questions about a port.
const (
	quickest = 200 * time.Microsecond
	slowest  = 5 * time.Millisecond
)

// waiter is a port that is waited for.
type waiter struct {
	ports *network.Ports
	port  uint16
	since time.Time
	next  time.Time
	done  chan error // has room
}

// step is how long until the next question.
func (w *waiter) step(now time.Time) time.Duration {
	return min(max(now.Sub(w.since)/10, quickest), slowest)
}

// watcher asks about all ports that are waited for, on one thread: the timers
// of Go are rounded to a millisecond when nothing else goes on.
type watcher struct {
	mu      sync.Mutex
	waiting map[*waiter]struct{}
	wake    chan struct{}
	over    bool
}

func newWatcher() *watcher {
	return &watcher{waiting: map[*waiter]struct{}{}, wake: make(chan struct{}, 1)}
}

var errWatchEnded = errors.New("the fast runtime is shutting down")

func (w *watcher) add(x *waiter) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return errWatchEnded
	}
	w.waiting[x] = struct{}{}
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return nil
}

// remove takes a waiter back. Nothing is asked for it after that.
func (w *watcher) remove(x *waiter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.waiting, x)
}

// run asks until ctx is done.
func (w *watcher) run(ctx context.Context) {
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.over = true
		for x := range w.waiting {
			x.done <- errWatchEnded
		}
		w.waiting = nil
	}()
	for {
		if next, some := w.ask(time.Now()); some {
			if ctx.Err() != nil {
				return
			}
			nap(max(time.Until(next), quickest/2))
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
	}
}

// ask deals with all that are due and says when the next one is.
func (w *watcher) ask(now time.Time) (next time.Time, some bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for x := range w.waiting {
		if !now.Before(x.next) {
			ok, err := x.ports.Listening(x.port)
			if ok || err != nil {
				x.done <- err
				delete(w.waiting, x)
				continue
			}
			x.next = now.Add(x.step(now))
		}
		if !some || x.next.Before(next) {
			next, some = x.next, true
		}
	}
	return next, some
}

// nap sleeps with the kernel's precision.
func nap(d time.Duration) {
	t := unix.NsecToTimespec(d.Nanoseconds())
	_ = unix.Nanosleep(&t, nil) // woken early is as well
}

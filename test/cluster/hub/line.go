package hub

import (
	"sync"
	"time"
)

// longest is how many frames can be on the way in one direction; more are lost.
const longest = 4096

// line is one direction between two hosts: what is sent first arrives first. It
// holds the frames that are on the way.
type line struct {
	deliver func([]byte)
	wake    chan struct{}

	mu    sync.Mutex
	queue []*frame // by due
	last  time.Time
}

type frame struct {
	due time.Time
	n   int
	b   [maxFrame]byte
}

var frames = sync.Pool{New: func() any { return new(frame) }}

// pass has a frame arrive after a delay, at once when there is none and nothing
// before it is on the way. It tells whether there was room.
func (l *line) pass(b []byte, delay time.Duration) bool {
	l.mu.Lock()
	if delay <= 0 && len(l.queue) == 0 {
		// Under the lock: nobody can come in between.
		defer l.mu.Unlock()
		l.deliver(b)
		return true
	}
	defer l.mu.Unlock()
	if len(l.queue) >= longest || len(b) > maxFrame {
		return false
	}
	f := frames.Get().(*frame) //nolint:errcheck,forcetypeassert // the pool has nothing else
	f.n = copy(f.b[:], b)
	f.due = time.Now().Add(delay)
	if f.due.Before(l.last) { // the delay has become less meanwhile
		f.due = l.last
	}
	l.last = f.due
	l.queue = append(l.queue, f)
	if len(l.queue) == 1 {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// run delivers what is due until end is closed.
func (l *line) run(end <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := time.Hour
		l.mu.Lock()
		for len(l.queue) > 0 {
			if wait = time.Until(l.queue[0].due); wait > 0 {
				break
			}
			wait = time.Hour
			f := l.queue[0]
			l.queue[0] = nil
			l.queue = l.queue[1:]
			l.deliver(f.b[:f.n])
			frames.Put(f)
		}
		if len(l.queue) == 0 {
			l.queue = nil
		}
		l.mu.Unlock()
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-l.wake:
		case <-end:
			return
		}
	}
}

package front

import (
	"context"
	"maps"
	"net"
	"net/http"
	"slices"
	"time"
)

// A connection that the server would close between two requests may carry one
// already, of which its client will never know whether it was served. So those
// connections are left to whoever serves next, with what lies unread in them, by
// Config.Leave. Each is left by the goroutine that reads from it, and only when
// that has read nothing: endIdle calls it away from its wait, and what came first
// is served here.

// longAgo is a deadline that ends a read now.
var longAgo = time.Unix(1, 0)

// lastCall is how long a connection that cannot be left, because it is encrypted,
// may still send a request, which is answered with Connection: close.
const lastCall = 500 * time.Millisecond

// goodbye is how long an HTTP/2 connection that rests has for its GOAWAY, before
// which net/http would close it.
const goodbye = 1500 * time.Millisecond

// leave gives a connection away on which nothing was read; whatever it answers, the
// caller closes it then.
func (s *Server) leave(c *counted) bool {
	return s.c.Leave != nil && !s.closing.Load() && s.c.Leave(c.Conn)
}

// Adopt serves a connection that another server has left.
func (s *Server) Adopt(c net.Conn) { s.take(c) }

// UntilEnd is for requests that last until their client leaves: its context ends when
// the server is told to end too, which would wait for them else.
func (s *Server) UntilEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.told, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// endIdle calls the session away, if it waits for a request. It is to be called
// with s.mu held.
func (x *session) endIdle() {
	if x.state.CompareAndSwap(stateIdle, stateCalled) {
		_ = x.nc.SetReadDeadline(longAgo)
	}
}

// recall goes on with a session that was called away when a request was there.
func (x *session) recall() {
	x.s.mu.Lock() // endIdle is done with the deadline then
	x.state.Store(stateBusy)
	x.s.mu.Unlock()
	x.deadline(time.Now().Add(headTimeout))
}

// depart ends a session on which nothing was read. more says that a request has
// come after all.
func (x *session) depart() (more bool) {
	if x.s.closing.Load() || x.s.leave(x.nc) || x.s.c.Leave == nil {
		return false
	}
	x.recall()
	x.deadline(time.Now().Add(lastCall))
	x.in.Room()
	return x.in.Fill() == nil
}

// Where a connection is that net/http has.
const (
	away    int32 = iota // with net/http, or in the midst of a request
	waiting              // for a request, with nothing read of it
	called               // away from that
)

// rests tells whether all requests that were handed on are answered, and nothing
// of another one was read.
func (c *conn) rests() bool {
	return c.now == inHead && len(c.in) == 0 && len(c.out) == 0 && c.heads == c.answered
}

// wait is before a read from the connection; false when it is to end here, because
// the server does.
func (c *conn) wait() bool {
	switch {
	case c.s == nil || !c.rests():
		return true
	case c.gone: // it was left by state
		return false
	}
	c.place.Store(waiting)
	if !c.s.ending.Load() { // or endIdle sees the above
		return true
	}
	if !c.place.CompareAndSwap(waiting, away) {
		c.s.heard(c)
	}
	if c.depart() || c.s.c.Leave == nil || c.last {
		return false
	}
	c.last = true
	_ = c.SetReadDeadline(time.Now().Add(lastCall))
	return true
}

// woke is after that read. again says that it ended because the server ends.
func (c *conn) woke(got int) (again bool) {
	if c.s == nil || c.place.CompareAndSwap(waiting, away) || c.place.Load() == away {
		return false
	}
	c.s.heard(c)
	if got == 0 {
		return true
	}
	_ = c.SetReadDeadline(time.Now().Add(headTimeout)) // net/http lifts it when it has the head
	return false
}

// depart leaves the connection, if it can be.
func (c *conn) depart() bool {
	if k, ok := c.Conn.(*counted); ok && !c.gone {
		c.gone = c.s.leave(k)
	}
	return c.gone
}

// heard is a connection's answer to being called.
func (s *Server) heard(c *conn) {
	s.mu.Lock() // endIdle is done with the deadline then
	c.place.Store(away)
	s.mu.Unlock()
}

// endIdle calls the connection away, if it waits for a request. It is to be called
// with s.mu held.
func (c *conn) endIdle() {
	if c.place.CompareAndSwap(waiting, called) {
		_ = c.SetReadDeadline(longAgo)
	}
}

// departed waits until all connections of net/http on which HTTP/1 is spoken have
// ended, each at its next rest. Afterwards net/http finds none that it would close.
func (s *Server) departed(ctx context.Context) error {
	s.mu.Lock()
	all := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, c := range all {
		select {
		case <-c.tunnelled:
		case <-c.over:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// state follows net/http's connections. It is called by the goroutine that reads
// from them.
func (s *Server) state(nc net.Conn, st http.ConnState) {
	c, ok := nc.(*conn)
	if !ok || st != http.StateIdle {
		return
	}
	if c.answered++; s.ending.Load() && c.rests() {
		c.depart()
	}
}

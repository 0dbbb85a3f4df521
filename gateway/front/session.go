package front

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podsnap/podsnap/gateway/invoke"
	"github.com/podsnap/podsnap/gateway/route"
	"github.com/podsnap/podsnap/gateway/wire"
)

// session is one connection in the own loop.
type session struct {
	s      *Server
	nc     *counted
	in     *wire.Buffer
	remote []byte

	head    []byte // of the request at hand; what is buffered may move
	q       invoke.Request
	request wire.Request
	target  []byte // room for one
	first   bool   // no request was served yet
	state   atomic.Int32
	armed   time.Time // when the idle time was set as the deadline of reads; zero: another one is
	writeBy time.Time // the deadline of writes

	body   wire.Body
	answer answer
	watch  watch
}

// States of a session: who calls it away when it is idle does so by taking it from
// stateIdle to stateCalled.
const (
	stateIdle int32 = iota
	stateBusy
	stateCalled
)

var (
	_ invoke.Asker = (*session)(nil)
	_ invoke.Body  = (*requestBody)(nil)
)

func newSession(s *Server, c *counted) *session {
	x := &session{s: s, nc: c, first: true, remote: []byte(c.addr.String())}
	if !c.addr.IsValid() {
		x.remote = nil
	}
	x.in = wire.NewBuffer(c)
	x.q = invoke.Request{Request: &x.request, Remote: x.remote}
	return x
}

// run serves the connection until it ends or is handed over.
func (x *session) run() {
	defer x.s.left(x)
	_ = x.nc.SetReadDeadline(time.Now().Add(headTimeout))
	for {
		n, more := x.awaitHead()
		if !more {
			x.nc.Close()
			return
		}
		p, ok := x.parse(n)
		if !ok {
			x.handOver()
			return
		}
		if !x.serve(p) {
			x.nc.Close()
			return
		}
	}
}

// awaitHead waits for the next request. n is the length of its head; 0 when the
// head is not whole but no good already.
func (x *session) awaitHead() (n int, more bool) {
	if !x.first && x.in.Len() == 0 {
		if now := time.Now(); now.Sub(x.armed) > time.Second {
			_ = x.nc.SetReadDeadline(now.Add(idleTimeout))
			x.armed = now
		}
	}
	// endIdle came before the deadline above, or finds the session waiting.
	if x.s.ending.Load() && x.in.Len() == 0 && !x.depart() {
		return 0, false
	}
	seen := 0
	for {
		b := x.in.Bytes()
		if len(b) > 0 && seen == 0 && !x.state.CompareAndSwap(stateIdle, stateBusy) && x.state.Load() == stateCalled {
			x.recall()
		}
		n, ok := wire.HeadEnd(b, seen)
		switch {
		case ok && n <= wire.MaxHeaderBytes:
			return n, true
		case len(b) > 0 && wire.CheckBegun(b).Status != 0:
			return 0, true
		case len(b) > 0 && seen == 0 && !x.first:
			x.deadline(time.Now().Add(headTimeout))
		}
		seen = len(b)
		x.in.Room()
		if x.in.Fill() != nil && (seen > 0 || !x.s.ending.Load() || !x.depart()) {
			return 0, false
		}
	}
}

// deadline sets when a read ends that is not done.
func (x *session) deadline(t time.Time) {
	x.armed = time.Time{}
	_ = x.nc.SetReadDeadline(t)
}

// parse reads the head, of n bytes. ok is false when net/http has to see to it.
func (x *session) parse(n int) (p route.Plain, ok bool) {
	if n == 0 {
		return p, false
	}
	x.head = append(x.head[:0], x.in.Bytes()[:n]...)
	q := &x.request
	if wire.ParseRequest(x.head, q).Status != 0 || q.Minor == 0 || q.Upgrade || q.Expect != nil && !wire.Equal(q.Expect, "100-continue") {
		return p, false
	}
	p, ok = route.ParsePlain(q.Target, invoke.Prefix, x.target)
	if !ok || !served(q.Method) {
		return p, false
	}
	x.in.Skip(n)
	return p, true
}

func served(m []byte) bool {
	switch string(m) {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodHead:
		return true
	}
	return false
}

// serve has one request answered. more says that another may come.
func (x *session) serve(p route.Plain) (more bool) {
	q := &x.request
	x.body.Reset(x.in, q.Length)
	x.watch.reset(q.Length == 0)
	x.begin()
	broken := x.s.c.Invoker.Invoke(&x.q, p, x)
	x.stopWatching()
	x.end()
	x.first = false
	switch {
	case broken:
		return false
	case !x.body.Ended() && !x.skipBody():
		x.linger()
		return false
	case x.answer.close:
		return false
	}
	if cap(x.head) > 2*wire.BufferSize {
		x.head = nil
	}
	x.in.Settle()
	if x.in.Len() == 0 { // or the next request is here: still busy
		x.state.Store(stateIdle)
	}
	return true
}

// skipBody passes over a body that nobody read, if it is here already.
func (x *session) skipBody() bool {
	if x.request.Length < 0 || x.request.Expect != nil || int64(x.in.Len()) < x.body.Left() {
		return false
	}
	x.in.Skip(int(x.body.Left()))
	return true
}

// linger lets the client read the answer before what it still sends makes the
// kernel reset the connection.
func (x *session) linger() {
	_ = x.nc.CloseWrite()
	x.deadline(time.Now().Add(lingerTime))
	buf := x.s.pool.Get().(*scratch)
	defer x.s.pool.Put(buf)
	for n := 0; n < lingerBytes; {
		k, err := x.nc.Read(buf[:])
		if n += k; err != nil {
			return
		}
	}
}

// handOver gives the connection to net/http, with what was read.
func (x *session) handOver() {
	c := &conn{Conn: x.nc, s: x.s, pool: x.s.pool, in: bytes.Clone(x.in.Bytes()), fresh: x.first}
	_ = x.nc.SetDeadline(time.Time{})
	x.s.give(c)
}

// watch is for noticing that the client leaves while its request is served.
type watch struct {
	mu     sync.Mutex
	ctx    context.Context //nolint:containedctx // of the request; nil until it is asked for
	cancel context.CancelCauseFunc
	free   bool          // nobody else reads from the connection
	done   chan struct{} // of the goroutine that watches; nil: there is none
}

var errGone = errors.New("the client has closed the connection")

func (w *watch) reset(free bool) {
	w.ctx, w.cancel, w.done, w.free = nil, nil, nil, free
}

// Context implements invoke.Asker.
func (x *session) Context() context.Context {
	w := &x.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx == nil {
		w.ctx, w.cancel = context.WithCancelCause(x.s.base)
		x.startWatching()
	}
	return w.ctx
}

// bodyEnded is told when the body has been read.
func (x *session) bodyEnded() {
	w := &x.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	w.free = true
	x.startWatching()
}

// startWatching reads ahead, once it may. It is to be called with watch.mu held.
func (x *session) startWatching() {
	w := &x.watch
	if w.ctx == nil || !w.free || w.done != nil {
		return
	}
	x.deadline(time.Time{})
	done := make(chan struct{})
	w.done = done
	cancel := w.cancel
	go func() {
		defer close(done)
		x.in.Room()
		if err := x.in.Fill(); err != nil {
			cancel(errGone) // stopWatching does not mind
		}
	}()
}

// stopWatching ends it, when the request is served.
func (x *session) stopWatching() {
	w := &x.watch
	if w.ctx == nil {
		return
	}
	if w.done != nil {
		x.deadline(time.Unix(1, 0))
		<-w.done
	}
	w.cancel(nil)
	w.ctx = nil
}

// Body implements invoke.Asker.
func (x *session) Body() invoke.Body {
	if x.request.Length == 0 {
		return nil
	}
	return (*requestBody)(x)
}

// requestBody is the body of a session's request.
type requestBody session

// Read implements invoke.Body.
func (b *requestBody) Read(p []byte) (int, error) {
	x := (*session)(b)
	if x.request.Expect != nil {
		x.proceed()
	}
	was := x.body.Ended()
	n, err := x.body.Read(p)
	if !was && x.body.Ended() {
		x.bodyEnded()
	}
	return n, err
}

// Trailers implements invoke.Body.
func (b *requestBody) Trailers(fs []wire.Field) []wire.Field { return b.body.Trailers(fs) }

// Deadline implements invoke.Body.
func (b *requestBody) Deadline(t time.Time) {
	x := (*session)(b)
	x.watch.mu.Lock()
	defer x.watch.mu.Unlock()
	if x.watch.free || x.request.Length > 0 && int64(x.in.Len()) >= x.body.Left() && x.request.Expect == nil {
		return // all of it is here, or was read: no read waits
	}
	x.deadline(t)
}

// Interrupt implements invoke.Body.
func (b *requestBody) Interrupt() {
	x := (*session)(b)
	x.watch.mu.Lock()
	defer x.watch.mu.Unlock()
	if !x.watch.free {
		x.deadline(time.Unix(1, 0))
	}
}

func appendInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }

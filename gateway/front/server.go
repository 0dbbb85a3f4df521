package front

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podsnap/podsnap/gateway/invoke"
	"github.com/podsnap/podsnap/gateway/route"
	"github.com/prometheus/client_golang/prometheus"
)

// Config says what stands behind the front. Handler is required.
type Config struct {
	// Handler serves what Invoker does not; it is to be made by Wrap.
	Handler http.Handler
	// Invoker serves the plain ones among the invocations, on the goroutine of
	// the connection. nil: Handler serves them too.
	Invoker Invoker

	MaxConns        int // open at a time; 0 is 16,384
	MaxConnsAddress int // from one address; 0 is 8,192

	// Leave takes a copy of a connection that rests when the server ends, for
	// whoever serves next; false when that can't be. nil: such connections are
	// closed.
	Leave func(net.Conn) bool

	Log     *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Invoker serves invocations.
type Invoker interface {
	Invoke(*invoke.Request, route.Plain, invoke.Asker) (broken bool)
}

var _ Invoker = (*invoke.Invoker)(nil)

// How long a client may take.
const (
	headTimeout  = 5 * time.Second   // for a head, from its first byte
	idleTimeout  = 120 * time.Second // between requests
	writeTimeout = 60 * time.Second  // to take at most 64 KiB of an answer
	lingerTime   = 500 * time.Millisecond
	lingerBytes  = 256 << 10
)

// Server reads what clients send. Invocations in plain HTTP/1.1 it serves in
// a loop of its own, one goroutine for each connection. At the first request that
// is anything else it hands the connection, for good, to net/http, which sees
// requests only when they have been read strictly.
type Server struct {
	c     Config
	std   *http.Server
	hand  *handed
	gate  *gate
	pool  *sync.Pool      // of *scratch
	outs  sync.Pool       // of *[]byte
	base  context.Context //nolint:containedctx // of all that is served, until Close
	abort context.CancelFunc
	told  context.Context //nolint:containedctx // ends when the server is told to end
	tell  context.CancelFunc

	ending  atomic.Bool // set with mu held
	closing atomic.Bool // nothing is waited for any more

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	sessions  map[*session]struct{}
	conns     map[*conn]struct{} // net/http's
	empty     chan struct{}      // closed when ending and there is no session

	partings sync.WaitGroup // connections of HTTP/2 whose clients are told
}

// New makes a server; end it with Shutdown or Close.
func New(c Config) *Server {
	if c.MaxConns == 0 {
		c.MaxConns = 16 << 10
	}
	if c.MaxConnsAddress == 0 {
		c.MaxConnsAddress = 8 << 10
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		c: c, hand: newHanded(), gate: newGate(c.MaxConns, c.MaxConnsAddress, c.Metrics),
		pool:      &sync.Pool{New: func() any { return new(scratch) }},
		listeners: map[net.Listener]struct{}{}, sessions: map[*session]struct{}{}, conns: map[*conn]struct{}{}, empty: make(chan struct{}),
	}
	s.base, s.abort = context.WithCancel(context.Background()) //nolint:forbidigo // no request's: it outlives them all
	s.told, s.tell = context.WithCancel(s.base)
	s.std = standardServer(c.Handler)
	s.std.BaseContext = func(net.Listener) context.Context { return s.base }
	s.std.ConnState = s.state
	s.std.ErrorLog = slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug)
	return s
}

// standardServer has the limits that a front door needs. There is no limit for
// a whole request or answer: they are streams, and the functions' own time
// limits end them.
func standardServer(h http.Handler) *http.Server {
	p := &http.Protocols{}
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: h, ConnContext: withConn, Protocols: p,
		ReadHeaderTimeout: headTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: MaxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 250, MaxReceiveBufferPerConnection: 1 << 20, MaxReceiveBufferPerStream: 256 << 10,
			SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second, WriteByteTimeout: writeTimeout,
		},
	}
}

// Serve takes connections from l until the server ends; then it returns
// http.ErrServerClosed.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.ending.Load() {
		s.mu.Unlock()
		l.Close()
		return http.ErrServerClosed
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	standard := make(chan error, 1)
	go func() { standard <- s.std.Serve(s.hand) }()
	err := s.accept(l)
	if !errors.Is(err, http.ErrServerClosed) {
		s.Close()
	}
	<-standard
	return err
}

func (s *Server) accept(l net.Listener) error {
	wait := time.Duration(0)
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			wait = 0
			s.take(c)
			continue
		case s.ending.Load():
			return http.ErrServerClosed
		}
		if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Temporary() { //nolint:staticcheck // net/http knows no better for EMFILE
			return err
		}
		wait = min(max(2*wait, 5*time.Millisecond), time.Second)
		s.c.Log.Warn("accept a connection", slog.Any("error", err), slog.Duration("again_in", wait))
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-s.base.Done():
			t.Stop()
		}
	}
}

const tooMany = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nX-OpenFaaS-Internal: gateway\r\n" +
	"Retry-After: 1\r\nConnection: close\r\nContent-Length: 43\r\n\r\ntoo many connections, try again in a while\n"

func (s *Server) take(nc net.Conn) {
	addr := addrOf(nc)
	if over := s.gate.enter(addr); over != "" {
		// The socket is new: the few bytes fit in its buffer, and nothing waits. A
		// short deadline would pass before the write begins where all processors are
		// busy, which is when there are too many.
		_ = nc.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = nc.Write([]byte(tooMany))
		nc.Close()
		return
	}
	c := &counted{Conn: nc, addr: addr, g: s.gate}
	if s.c.Invoker == nil && !s.ending.Load() {
		s.give(&conn{Conn: c, s: s, pool: s.pool, fresh: true})
		return
	}
	x := newSession(s, c)
	s.mu.Lock()
	if s.ending.Load() {
		s.mu.Unlock()
		s.leave(c)
		c.Close()
		return
	}
	s.sessions[x] = struct{}{}
	s.mu.Unlock()
	go x.run()
}

// give hands a connection to net/http.
func (s *Server) give(c *conn) {
	c.tunnelled, c.over = make(chan struct{}), make(chan struct{})
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	s.hand.give(c)
}

// left is told by a session that it is over.
func (s *Server) left(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, x)
	s.tellEmpty()
}

// tellEmpty is to be called with s.mu held.
func (s *Server) tellEmpty() {
	if s.ending.Load() && len(s.sessions) == 0 {
		select {
		case <-s.empty:
		default:
			close(s.empty)
		}
	}
}

// end stops taking connections and leaves those that wait for a request.
func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending.Swap(true) {
		return
	}
	s.tell()
	for l := range s.listeners {
		l.Close()
	}
	for x := range s.sessions {
		x.endIdle()
	}
	for c := range s.conns {
		c.endIdle()
	}
	s.tellEmpty()
}

// Shutdown lets what is in flight end; ctx bounds the wait, and its error is
// returned then.
func (s *Server) Shutdown(ctx context.Context) error {
	s.end()
	select {
	case <-s.empty: // first ours: they may still hand on
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := s.departed(ctx); err != nil {
		return err
	}
	if err := s.std.Shutdown(ctx); err != nil {
		return err
	}
	told := make(chan struct{})
	go func() {
		defer close(told)
		s.partings.Wait()
	}()
	select {
	case <-told:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.abort()
	return nil
}

// Close ends everything now, and waits for the server's own goroutines.
func (s *Server) Close() error {
	s.closing.Store(true)
	s.end()
	s.abort()
	s.mu.Lock()
	for x := range s.sessions {
		x.nc.Close()
	}
	rest := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	err := s.std.Close()
	for _, c := range rest {
		c.part() // those that net/http has given up
	}
	<-s.empty
	return err
}

// handed is the listener through which net/http gets connections.
type handed struct {
	ch   chan net.Conn
	done chan struct{}
	once sync.Once
}

func newHanded() *handed { return &handed{ch: make(chan net.Conn), done: make(chan struct{})} }

func (h *handed) give(c net.Conn) {
	select {
	case h.ch <- c:
	case <-h.done:
		c.Close()
	}
}

// Accept implements net.Listener.
func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.ch:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handed) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements net.Listener.
func (h *handed) Addr() net.Addr { return &net.TCPAddr{} }

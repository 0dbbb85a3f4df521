// Package upstream sends requests to one replica over HTTP/1.1.
//
// A request without a body, or with a small one, is written and its answer read
// on the goroutine of the caller: handing them to goroutines of their own costs
// more on a warm path than the function does. A longer body, or one of unknown
// length, is sent by a second goroutine while the answer is read.
package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/podsnap/podsnap/gateway/wire"
	"golang.org/x/sys/unix"
)

const (
	// maxInline is the longest body that is sent with its head.
	maxInline = 32 << 10
	maxIdle   = 512
)

// Config says how a replica is reached. The zero value is usable.
type Config struct {
	Connect time.Duration // longest time to connect; 0 is 1 s
	Idle    time.Duration // a connection that rests longer is closed; 0 is 4 s
	// Unheard is the longest time in which nothing of what was sent is
	// acknowledged by the replica's machine; 0 is 1.5 s, which is the fourth
	// transmission on a usual network.
	Unheard time.Duration
}

// ErrUnheard is a connection whose other machine acknowledges nothing any more.
// The others to it were closed, too, as far as they rested.
var ErrUnheard = errors.New("the replica's machine does not answer")

// Pool has the connections to one address. It is safe for concurrent use.
type Pool struct {
	c       Config
	address string
	dialer  net.Dialer

	mu     sync.Mutex
	idle   []*conn // the one used last is last
	reaper *time.Timer
	closed bool
}

// New makes a pool for host:port.
func New(address string, c Config) *Pool {
	if c.Connect == 0 {
		c.Connect = time.Second
	}
	if c.Idle == 0 {
		c.Idle = 4 * time.Second
	}
	if c.Unheard == 0 {
		c.Unheard = 1500 * time.Millisecond
	}
	p := &Pool{c: c, address: address, dialer: net.Dialer{Timeout: c.Connect, KeepAlive: 30 * time.Second}}
	p.dialer.Control = func(_, _ string, raw syscall.RawConn) error {
		var err error
		fault := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(c.Unheard/time.Millisecond))
		})
		return errors.Join(fault, err)
	}
	return p
}

// Probe tells whether the replica takes a connection, and sends nothing.
func (p *Pool) Probe(ctx context.Context) error {
	c, err := p.dialer.DialContext(ctx, "tcp", p.address)
	if err != nil {
		return err
	}
	return c.Close()
}

// Request is what is sent. Its slices are not kept.
type Request struct {
	Method []byte
	Target []byte // path and query
	Host   []byte
	Fields []wire.Field // all but Host, Content-Length and Transfer-Encoding
	Body   Body         // nil: none
	Length int64        // of the body; wire.Chunked
	// Upgrade: Fields asks for another protocol, and the answer may be 101.
	Upgrade bool

	// Limit is when the exchange ends with ErrLimit, reading of the answer's
	// body included; zero is never.
	Limit time.Time
	// Context is done when nobody wants the answer any more. It is asked for
	// when a connection has to be made, or the answer takes its time.
	Context func() context.Context
}

// Body is a request's body. It may be read by another goroutine than the one
// that called Do; Answer.End waits for that.
type Body interface {
	io.Reader
	// Trailers appends the fields that came after a body of unknown length,
	// when it has ended.
	Trailers([]wire.Field) []wire.Field
	// Stop makes a Read that waits return soon. It is called while Read runs.
	Stop()
}

// Answer is what came back. It is valid until End.
type Answer struct {
	wire.Response           // its fields until the first Read
	Connected     time.Time // when a connection had to be made: when there was one

	c    *conn
	body wire.Body
}

// Do sends the request and reads the head of the answer, on which End has to be
// called. A failure to connect is a net.OpError whose Op is "dial": then
// nothing was sent and nothing of the body was read.
func (p *Pool) Do(r *Request) (*Answer, error) {
	for {
		c, reused, err := p.get(r)
		if err != nil {
			return nil, err
		}
		c.answer.Connected = time.Time{}
		if !reused {
			c.answer.Connected = time.Now()
		}
		err = c.exchange(r)
		if err == nil {
			return &c.answer, nil
		}
		gone := c.ctx != nil && c.ctx.Err() != nil
		answered := c.answered
		c.end(false)
		if errors.Is(err, ErrUnheard) {
			p.drop()
			return nil, err
		}
		// The replica may have closed the connection while it rested. A request
		// that changes nothing may be sent again.
		if !reused || answered || gone || !harmless(r) || errors.Is(err, ErrLimit) {
			return nil, err
		}
	}
}

// Read reads the answer's body.
func (a *Answer) Read(p []byte) (int, error) { return a.body.Read(p) }

// Ended reports whether the body has been read to its end.
func (a *Answer) Ended() bool { return a.body.Ended() }

// Buffered reports whether Read has something at once.
func (a *Answer) Buffered() bool { return a.c.in.Len() > 0 }

// Trailers appends the fields that came after the body; they are valid until
// End.
func (a *Answer) Trailers(fs []wire.Field) []wire.Field { return a.body.Trailers(fs) }

// End is the end of the exchange. A request's body that is still being sent is
// stopped. The connection is used again if everything was read.
func (a *Answer) End() { a.c.end(a.body.Ended() && a.Status != 101) }

// Switch takes over the connection of a 101, in place of End.
func (a *Answer) Switch() (io.ReadWriteCloser, error) {
	c := a.c
	if c.release != nil && !c.release() {
		c.nc.Close()
		return nil, context.Cause(c.ctx)
	}
	c.release = nil
	if err := c.nc.SetDeadline(time.Time{}); err != nil {
		c.nc.Close()
		return nil, err
	}
	return &tunnel{c.nc, c}, nil
}

// tunnel is a connection that speaks HTTP no more.
type tunnel struct {
	net.Conn
	c *conn
}

// Read implements io.Reader: what came with the head is first.
func (t *tunnel) Read(p []byte) (int, error) {
	if t.c.in.Len() > 0 {
		return t.c.in.Read(p)
	}
	return t.Conn.Read(p)
}

// harmless reports whether a request may be sent twice.
func harmless(r *Request) bool { return r.Body == nil && Safe(r.Method) }

// Safe reports whether a method's requests change nothing, so that one may be
// sent again though a replica may have got it.
func Safe(method []byte) bool {
	switch string(method) {
	case "GET", "HEAD", "OPTIONS":
		return true
	}
	return false
}

// get takes the connection that was used last, if it still stands, or makes
// one.
func (p *Pool) get(r *Request) (c *conn, reused bool, err error) {
	for {
		p.mu.Lock()
		n := len(p.idle) - 1
		if n < 0 {
			p.mu.Unlock()
			break
		}
		c := p.idle[n]
		p.idle[n] = nil
		p.idle = p.idle[:n]
		p.mu.Unlock()
		if time.Since(c.rested) < p.c.Idle && c.stands() {
			return c, true, nil
		}
		c.nc.Close()
	}
	ctx := r.Context()
	if !r.Limit.IsZero() {
		limited, cancel := context.WithDeadlineCause(ctx, r.Limit, ErrLimit)
		defer cancel()
		ctx = limited
	}
	nc, err := p.dialer.DialContext(ctx, "tcp", p.address)
	if err != nil {
		switch {
		case ctx.Err() != nil:
			err = context.Cause(ctx)
		case !r.Limit.IsZero() && !time.Now().Before(r.Limit): // the dialer has a clock of its own
			err = ErrLimit
		}
		return nil, false, err
	}
	return newConn(p, nc), false, nil
}

// put gives a connection back that may be used again.
func (p *Pool) put(c *conn) {
	c.rested = time.Now()
	p.mu.Lock()
	if p.closed || len(p.idle) >= maxIdle {
		p.mu.Unlock()
		c.nc.Close()
		return
	}
	p.idle = append(p.idle, c)
	if p.reaper == nil {
		p.reaper = time.AfterFunc(p.c.Idle, p.reap)
	}
	p.mu.Unlock()
}

// reap closes what has rested too long.
func (p *Pool) reap() {
	p.mu.Lock()
	n := 0
	for n < len(p.idle) && time.Since(p.idle[n].rested) >= p.c.Idle {
		n++
	}
	old := p.idle[:n:n]
	p.idle = append([]*conn(nil), p.idle[n:]...)
	p.reaper = nil
	if len(p.idle) > 0 && !p.closed {
		p.reaper = time.AfterFunc(p.c.Idle, p.reap)
	}
	p.mu.Unlock()
	for _, c := range old {
		c.nc.Close()
	}
}

// Close closes the connections that rest; those in use are closed when they are
// not needed any more.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.drop()
}

// drop closes the connections that rest.
func (p *Pool) drop() {
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	if p.reaper != nil {
		p.reaper.Stop()
		p.reaper = nil
	}
	p.mu.Unlock()
	for _, c := range idle {
		c.nc.Close()
	}
}

package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/podsnap/podsnap/gateway/wire"
)

// Why an exchange fails, besides the faults of wire and of the network.
var (
	// ErrLimit: Request.Limit is over.
	ErrLimit = errors.New("the time limit is over")

	errSwitched = errors.New("it switched protocols without being asked")
	errInterim  = errors.New("it sent too many interim answers")
	errLonger   = errors.New("the body is longer than was said")
)

// patience is how long an answer may take at least before anybody looks whether it
// is still wanted: most come sooner, and need no context and no watcher. Nobody
// waits for longer than mostPatience. Between the two the deadline of a connection
// stays for several exchanges: to move it may wake another thread of this process.
const (
	patience     = 5 * time.Millisecond
	mostPatience = 4 * patience
)

// maxInterim is how many 1xx answers may come before the one that counts.
const maxInterim = 32

func past() time.Time { return time.Unix(1, 0) }

// conn is one connection, used by one exchange at a time.
type conn struct {
	nc     net.Conn
	pool   *Pool
	in     *wire.Buffer
	out    []byte
	rested time.Time
	soon   time.Time       // the deadline, which is one of patience; zero: it is another one
	raw    syscall.RawConn // nil: it can't be asked whether it stands
	peek   func(fd uintptr)
	byte1  [1]byte
	open   bool // what peek found

	// of the exchange at hand
	r        *Request
	answer   Answer
	answered bool            // something was read
	ctx      context.Context //nolint:containedctx // of the exchange; nil until it takes long
	release  func() bool     // of ctx
	pump     *pump           // nil: the body went out with the head
}

func newConn(p *Pool, nc net.Conn) *conn {
	c := &conn{nc: nc, pool: p}
	c.in = wire.NewBuffer(reader{c})
	c.answer.c = c
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			c.raw = raw
		}
	}
	c.peek = func(fd uintptr) {
		_, _, err := syscall.Recvfrom(int(fd), c.byte1[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		c.open = err == syscall.EAGAIN
	}
	return c
}

// stands reports whether the other side has neither closed the connection nor
// said something unasked.
func (c *conn) stands() bool {
	if c.raw == nil || c.in.Len() > 0 {
		return false
	}
	c.open = false
	return c.raw.Control(c.peek) == nil && c.open // Read would mind the deadline of the last exchange
}

// reader reads from the connection as long as the exchange may take.
type reader struct{ c *conn }

// Read implements io.Reader.
func (r reader) Read(p []byte) (int, error) {
	c := r.c
	for {
		n, err := c.nc.Read(p)
		if n > 0 {
			c.answered = true
			return n, nil
		}
		if err == nil {
			return 0, io.ErrNoProgress
		}
		if err = c.stalled(err); err != nil {
			return 0, err
		}
	}
}

// write sends p as long as the exchange may take.
func (c *conn) write(p []byte) error {
	for {
		n, err := c.nc.Write(p)
		if err == nil {
			return nil
		}
		p = p[n:]
		if err = c.stalled(err); err != nil {
			return err
		}
	}
}

// stalled is told of an error. The first time-out is only patience that is over:
// then nil says that one may go on.
func (c *conn) stalled(err error) error {
	if c.pump != nil {
		if fault := c.pump.fault.Load(); fault != nil {
			return *fault
		}
	}
	if errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, syscall.EHOSTUNREACH) {
		return fmt.Errorf("%w: %w", ErrUnheard, err)
	}
	if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Timeout() {
		return err
	}
	if c.ctx == nil {
		return c.watch()
	}
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	return ErrLimit
}

// watch makes the exchange end when its context does, or its limit.
func (c *conn) watch() error {
	ctx := c.r.Context()
	c.ctx = ctx
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !c.r.Limit.IsZero() && !time.Now().Before(c.r.Limit) {
		return ErrLimit
	}
	if err := c.nc.SetDeadline(c.r.Limit); err != nil {
		return err
	}
	c.release = context.AfterFunc(ctx, func() { _ = c.nc.SetDeadline(past()) })
	return nil
}

// exchange sends the request and reads the head of its answer.
func (c *conn) exchange(r *Request) error {
	if c.ctx != nil || c.pump != nil { // of the last exchange, which moved the deadline
		c.soon = time.Time{}
	}
	c.r, c.answered, c.ctx, c.release, c.pump = r, false, nil, nil, nil
	if err := c.arm(time.Now(), r.Limit); err != nil {
		return err
	}
	if err := c.send(r); err != nil {
		return err
	}
	return c.head(r)
}

// arm has the connection wait with patience, and no longer than limit; zero is none.
func (c *conn) arm(now, limit time.Time) error {
	short := !limit.IsZero() && limit.Before(now.Add(mostPatience))
	if !short && c.soon.Sub(now) >= patience {
		return nil
	}
	c.soon = now.Add(mostPatience)
	if short {
		c.soon = limit
	}
	return c.nc.SetDeadline(c.soon)
}

// send writes the head, and the body with it if it is small. A longer one, or
// one of unknown length, is sent beside reading the answer.
func (c *conn) send(r *Request) error {
	c.out = appendHead(c.out[:0], r)
	switch {
	case r.Body == nil:
		return c.write(c.out)
	case r.Length > 0 && r.Length <= maxInline:
		if err := c.inline(r); err != nil {
			return err
		}
		return c.write(c.out)
	}
	if err := c.watch(); err != nil {
		return err
	}
	if err := c.write(c.out); err != nil {
		return err
	}
	c.pump = &pump{done: make(chan struct{})}
	go c.pump.run(c, r)
	return nil
}

// inline puts the body behind the head. Its end is read too, so that it is
// known to have ended.
func (c *conn) inline(r *Request) error {
	n := len(c.out)
	c.out = append(c.out, make([]byte, int(r.Length)+1)...)
	end := n + int(r.Length)
	if _, err := io.ReadFull(r.Body, c.out[n:end]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return &bodyError{err}
	}
	if n, err := r.Body.Read(c.out[end:]); n > 0 {
		return &bodyError{errLonger}
	} else if err != nil && !errors.Is(err, io.EOF) {
		return &bodyError{err}
	}
	c.out = c.out[:end]
	return nil
}

// bodyError is the fault of who sends the body.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "the request's body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

func appendHead(b []byte, r *Request) []byte {
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, r.Target...)
	b = append(b, " HTTP/1.1\r\n"...)
	b = wire.AppendField(b, host(), r.Host)
	for _, f := range r.Fields {
		b = wire.AppendField(b, f.Name, f.Value)
	}
	switch {
	case r.Body != nil && r.Length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case r.Body != nil || wants(r.Method):
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, max(r.Length, 0), 10)
		b = append(b, "\r\n"...)
	}
	return append(b, "\r\n"...)
}

func host() []byte { return []byte("Host") } // does not escape: no allocation

// wants reports whether servers expect a body of that method, so that its
// absence has to be said.
func wants(method []byte) bool {
	switch string(method) {
	case "POST", "PUT", "PATCH":
		return true
	}
	return false
}

// head reads the head of the answer.
func (c *conn) head(r *Request) error {
	for range maxInterim {
		n, err := c.wholeHead()
		if err != nil {
			return err
		}
		a := &c.answer
		if err := wire.ParseResponse(c.in.Bytes()[:n], &a.Response); err != nil {
			return err
		}
		c.in.Skip(n)
		switch {
		case a.Status == 101 && r.Upgrade:
			return nil
		case a.Status == 101:
			return errSwitched
		case a.Status < 200:
			continue // it is the hop's own affair
		}
		length := a.Length
		if wire.NoBody(r.Method, a.Status) {
			length = 0
		}
		a.body.Reset(c.in, length)
		return nil
	}
	return errInterim
}

func (c *conn) wholeHead() (int, error) {
	seen := 0
	for {
		b := c.in.Bytes()
		if n, ok := wire.HeadEnd(b, seen); ok && n <= wire.MaxReply {
			return n, nil
		}
		if seen = len(b); seen > wire.MaxReply {
			return 0, wire.ErrReplyHead
		}
		c.in.Room()
		if err := c.in.Fill(); err != nil {
			if errors.Is(err, io.EOF) && c.answered {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
	}
}

// end gives the connection back, or closes it.
func (c *conn) end(whole bool) {
	reusable := whole && !c.answer.Close && c.in.Len() == 0
	if p := c.pump; p != nil {
		if !reusable || !p.over() {
			reusable = false
			c.nc.Close()
			p.stop(c.r)
		}
		reusable = reusable && p.sent.Load()
	}
	if c.release != nil && !c.release() {
		reusable = false
	}
	c.r, c.ctx, c.release, c.pump = nil, nil, nil, nil
	if !reusable {
		c.nc.Close()
		return
	}
	c.in.Settle()
	if cap(c.out) > 2*maxInline {
		c.out = nil
	}
	c.pool.put(c)
}

// pump sends a body while the answer is read.
type pump struct {
	done  chan struct{}
	read  atomic.Bool           // the body has been read to its end
	sent  atomic.Bool           // and sent
	fault atomic.Pointer[error] // of the body
}

func (p *pump) run(c *conn, r *Request) {
	defer close(p.done)
	fail := func(err error) {
		err = &bodyError{err}
		p.fault.Store(&err)
		_ = c.nc.SetDeadline(past()) // who reads the answer learns of it
	}
	const room = 18 // for the size of a chunk
	buf := make([]byte, maxInline)
	left := r.Length
	for {
		n, err := r.Body.Read(buf[room : len(buf)-2])
		if left >= 0 {
			if left -= int64(n); left < 0 {
				fail(errLonger)
				return
			}
		}
		if n > 0 && c.write(frame(buf, room, n, r.Length < 0)) != nil {
			return // the answer may have come early
		}
		switch {
		case errors.Is(err, io.EOF) && left > 0:
			fail(io.ErrUnexpectedEOF)
			return
		case errors.Is(err, io.EOF):
			p.read.Store(true)
			p.sent.Store(r.Length >= 0 || c.write(lastChunk(r)) == nil)
			return
		case err != nil:
			fail(err)
			return
		}
	}
}

// frame makes n bytes at buf[room:] a chunk, if that is asked for.
func frame(buf []byte, room, n int, chunked bool) []byte {
	if !chunked {
		return buf[room : room+n]
	}
	var size [16]byte
	s := append(strconv.AppendInt(size[:0], int64(n), 16), "\r\n"...)
	from := room - len(s)
	copy(buf[from:], s)
	copy(buf[room+n:], "\r\n")
	return buf[from : room+n+2]
}

func lastChunk(r *Request) []byte {
	b := []byte("0\r\n")
	for _, f := range r.Body.Trailers(nil) {
		b = wire.AppendField(b, f.Name, f.Value)
	}
	return append(b, "\r\n"...)
}

// over reports whether the pump has done its work, or is about to.
func (p *pump) over() bool {
	select {
	case <-p.done:
		return p.sent.Load()
	default:
	}
	if !p.read.Load() {
		return false
	}
	<-p.done // one write is left, which ends with the exchange's limit
	return p.sent.Load()
}

// stop ends it; its connection is closed already.
func (p *pump) stop(r *Request) {
	select {
	case <-p.done:
	default:
		r.Body.Stop()
		<-p.done
	}
}

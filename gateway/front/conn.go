package front

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podsnap/podsnap/gateway/wire"
)

// conn is a connection whose requests are read strictly before net/http
// sees them: it forgives things (both Content-Length and Transfer-Encoding, an
// absolute target for another host, bare line feeds, …) that other servers read
// differently. It hands on only what was looked at: a head when it is complete and good,
// a body as it comes. In place of a bad head comes a request that Wrap answers
// with the verdict, so that answers stay in order when requests are pipelined.
type conn struct {
	net.Conn
	s     *Server // nil in tests of the reader alone
	pool  *sync.Pool
	in    []byte // read and not looked at
	out   []byte // good and not handed on
	seen  int    // how much of in was searched for the end of a head
	fault error  // of the connection, to be told when out is empty
	now   phase
	fresh bool  // no request was read yet: HTTP/2 may begin
	left  int64 // of a body of known length
	chunk wire.Chunks
	head  wire.Request
	heads int64 // that were good

	answered int64 // of them
	place    atomic.Int32
	gone     bool // left to another server
	last     bool // it may send one more request, soon
	h2       atomic.Bool
	parting  atomic.Bool // net/http has closed it

	tunnelled chan struct{} // closed when something else than HTTP/1 begins
	over      chan struct{} // closed at the real end
	once      sync.Once

	verdict atomic.Pointer[wire.Refusal]
}

// phase is what comes next on a connection.
type phase int

const (
	inHead phase = iota
	inBody
	inChunks
	inTunnel // upgraded: no HTTP any more
	atEnd    // after a bad head nothing is read
)

const (
	refusedTarget = "/?refused"
	refusedHead   = "GET " + refusedTarget + " HTTP/1.1\r\nHost: refused\r\nConnection: close\r\n\r\n"
)

// scratch is for reads whose own buffer is too small: net/http waits for the
// next request with one byte.
type scratch = [4 << 10]byte

const smallRead = 512

// preface is what a connection begins with whose client knows that HTTP/2 is
// spoken here.
const preface = "PRI * HTTP/2.0\r\n\r\n"

// Read implements net.Conn. Like any Read it is for one caller at a time.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if len(c.out) > 0 {
			n := copy(p, c.out)
			if c.out = c.out[n:]; len(c.out) == 0 {
				c.out = nil
			}
			return n, nil
		}
		if c.now == atEnd {
			return 0, io.EOF
		}
		if len(c.in) > 0 {
			k := c.vet(c.in)
			c.out = append(c.out, c.in[:k]...)
			if c.in = c.in[k:]; len(c.in) == 0 {
				c.in = nil
			}
			if len(c.out) > 0 {
				continue
			}
		}
		if c.fault != nil {
			return 0, c.fault
		}
		if !c.wait() {
			return 0, io.EOF
		}
		n, err := c.fill(p)
		if again := c.woke(n + len(c.in) + len(c.out)); again && errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// fill reads once. What is good of it and has room goes into p directly: n of
// it. Only an error after which one may read again is returned; any other
// becomes c.fault.
func (c *conn) fill(p []byte) (n int, err error) {
	buf := p
	if len(p) < smallRead {
		s := c.pool.Get().(*scratch)
		defer c.pool.Put(s)
		buf = s[:]
	}
	got, err := c.Conn.Read(buf)
	if err != nil {
		if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() && got == 0 {
			return 0, err
		}
		c.fault = err
	}
	b := buf[:got]
	k := 0
	if len(c.in) == 0 {
		k = c.vet(b)
		if len(c.out) > 0 { // a verdict: what follows is not read
			return 0, nil
		}
	}
	n = copy(p, b[:k])
	c.out = append(c.out, b[n:k]...)
	c.in = append(c.in, b[k:]...)
	return n, nil
}

// vet says how many bytes at the start of b may be handed on. A head that is
// bad, and begins b, sets c.out to the request that stands for it.
func (c *conn) vet(b []byte) (good int) {
	for good < len(b) && !errors.Is(c.fault, wire.ErrChunk) {
		rest := b[good:]
		switch c.now {
		case inTunnel:
			return len(b)
		case inBody:
			n := min(int64(len(rest)), c.left)
			good += int(n)
			if c.left -= n; c.left == 0 {
				c.now = inHead
			}
		case inChunks:
			n, end, err := c.chunk.Next(rest)
			good += n
			if err != nil {
				c.fault = err
			}
			if end {
				c.now = inHead
			}
		case inHead:
			n, ok := wire.HeadEnd(rest, c.seen)
			if ok && c.fresh && string(rest[:n]) == preface {
				c.h2.Store(true)
				c.tunnel() // net/http reads the rest of it
				return len(b)
			}
			v := wire.Refusal{}
			if ok {
				v = wire.ParseRequest(rest[:n], &c.head)
			} else {
				c.seen = len(rest)
				v = wire.CheckBegun(rest)
			}
			switch {
			case v.Status == 0 && !ok:
				return good // the rest of the head is still to come
			case v.Status != 0 && good > 0:
				c.seen = 0
				return good // first what comes before it
			case v.Status != 0:
				c.verdict.Store(&v)
				c.out, c.now = []byte(refusedHead), atEnd
				return 0
			}
			good += n
			c.seen = 0
			c.fresh = false
			c.heads++
			c.frame()
		default:
			return good
		}
	}
	return good
}

// frame goes by the head that was just read.
func (c *conn) frame() {
	switch h := &c.head; {
	case h.WebSocket:
		c.tunnel()
	case h.Length == wire.Chunked:
		c.now, c.chunk = inChunks, wire.Chunks{}
	case h.Length > 0:
		c.now, c.left = inBody, h.Length
	}
}

// tunnel ends the reading of HTTP/1.
func (c *conn) tunnel() {
	c.now = inTunnel
	if c.s != nil {
		close(c.tunnelled)
	}
}

// CloseWrite lets net/http end an answer before it closes.
func (c *conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// Close implements net.Conn. When the server ends, net/http closes an HTTP/2
// connection that rests at once, while its GOAWAY is still to be written: that is
// waited for, so that a client knows which of its requests were not seen.
func (c *conn) Close() error {
	if c.s == nil || !c.h2.Load() || !c.s.ending.Load() || c.s.closing.Load() || c.parting.Swap(true) {
		return c.part()
	}
	c.s.partings.Go(func() {
		t := time.NewTimer(goodbye)
		defer t.Stop()
		select {
		case <-c.over: // HTTP/2 has ended it
		case <-t.C:
			_ = c.part()
		}
	})
	return nil
}

// part is the real end.
func (c *conn) part() error {
	err := net.ErrClosed
	c.once.Do(func() {
		if c.s != nil {
			c.s.mu.Lock()
			delete(c.s.conns, c)
			c.s.mu.Unlock()
			close(c.over)
		}
		err = c.Conn.Close()
	})
	return err
}

type connKey struct{}

// withConn lets Wrap find the connection that a request came on.
func withConn(ctx context.Context, c net.Conn) context.Context {
	if c, ok := c.(*conn); ok {
		return context.WithValue(ctx, connKey{}, c)
	}
	return ctx
}

// Secure tells whether a request came over TLS.
func Secure(r *http.Request) bool {
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok {
		return r.TLS != nil
	}
	inner := c.Conn
	if k, ok := inner.(*counted); ok {
		inner = k.Conn
	}
	_, ok = inner.(*tls.Conn)
	return ok
}

// ends tells whether the server of a request ends, and with it the connection if
// HTTP/1 is spoken there.
func ends(r *http.Request) bool {
	c, ok := r.Context().Value(connKey{}).(*conn)
	return ok && r.ProtoMajor == 1 && c.s != nil && c.s.ending.Load()
}

// refused is the verdict that the request stands for; nil for a real one.
func refused(r *http.Request) *wire.Refusal {
	if r.RequestURI != refusedTarget {
		return nil
	}
	if c, ok := r.Context().Value(connKey{}).(*conn); ok {
		return c.verdict.Load()
	}
	return nil
}

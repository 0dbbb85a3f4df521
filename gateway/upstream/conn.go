package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

var (
	errHeader   = fmt.Errorf("the head of the answer has over %d bytes", maxHeader)
	errSwitched = errors.New("it switched protocols without being asked")
	past        = time.Unix(1, 0)
)

// conn is one connection, used by one request at a time.
type conn struct {
	net.Conn
	pool     *Pool
	in       *bufio.Reader
	out      *bufio.Writer
	rested   time.Time
	answered bool            // something was read for the request at hand
	budget   int             // bytes that the head may still have; negative: no limit
	ctx      context.Context //nolint:containedctx // of the request at hand
	release  func() bool     // of ctx
}

func newConn(p *Pool, nc net.Conn) *conn {
	c := &conn{Conn: nc, pool: p}
	c.in = bufio.NewReaderSize(reader{c}, 4<<10)
	c.out = bufio.NewWriterSize(nc, 4<<10)
	return c
}

// reader counts what comes in.
type reader struct{ c *conn }

func (r reader) Read(b []byte) (int, error) {
	c := r.c
	if c.budget == 0 {
		return 0, errHeader
	}
	if c.budget > 0 && len(b) > c.budget {
		b = b[:c.budget]
	}
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.answered = true
	}
	if c.budget > 0 {
		c.budget -= n
	}
	return n, err
}

// stands reports whether the other side has neither closed the connection nor
// said something unasked.
func (c *conn) stands() bool {
	sc, ok := c.Conn.(syscall.Conn)
	if !ok || c.in.Buffered() > 0 {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	open := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		open = err == syscall.EAGAIN
		return true
	})
	return err == nil && open
}

// exchange sends the request and reads the head of its answer.
func (c *conn) exchange(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	c.answered, c.budget, c.ctx = false, maxHeader, ctx
	// A context that ends makes reads and writes end.
	c.release = context.AfterFunc(ctx, func() { _ = c.SetDeadline(past) })
	resp, err := c.send(r)
	if err != nil {
		c.release()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	c.budget = -1
	resp.Body = &answer{ReadCloser: resp.Body, c: c, keep: !resp.Close}
	if resp.ContentLength == 0 || r.Method == http.MethodHead || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
		resp.Body.Close()
		resp.Body = http.NoBody
	}
	return resp, nil
}

func (c *conn) send(r *http.Request) (*http.Response, error) {
	if err := c.write(r); err != nil {
		return nil, err
	}
	for {
		resp, err := http.ReadResponse(c.in, r)
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF) && !c.answered:
			return nil, io.EOF
		case err != nil:
			return nil, err
		case resp.StatusCode == http.StatusSwitchingProtocols:
			return nil, errSwitched
		case resp.StatusCode >= 200:
			return resp, nil
		}
		// 1xx comes before the answer and is the hop's own affair.
	}
}

// write sends head and body, in one piece if they are small.
func (c *conn) write(r *http.Request) error {
	w := c.out
	w.Reset(c.Conn)
	uri := r.URL.RequestURI()
	host := r.Host
	if host == "" {
		host = r.URL.Host
	}
	line(w, r.Method, " ", uri, " HTTP/1.1\r\nHost: ", clean(host), "\r\n")
	for k, vs := range r.Header {
		switch k {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer":
			continue // said by us
		}
		for _, v := range vs {
			line(w, k, ": ", clean(v), "\r\n")
		}
	}
	switch {
	case r.Body != nil:
		line(w, "Content-Length: ", strconv.FormatInt(r.ContentLength, 10), "\r\n")
	case r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch:
		line(w, "Content-Length: 0\r\n")
	}
	line(w, "\r\n")
	if r.Body != nil {
		n, err := io.CopyN(w, r.Body, r.ContentLength)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("body after %d of %d bytes: %w", n, r.ContentLength, err)
		}
		// Its end is read, so that it is known to have ended.
		var end [1]byte
		if n, err := r.Body.Read(end[:]); n > 0 || err != nil && err != io.EOF {
			return fmt.Errorf("body after its %d bytes: %w", r.ContentLength, errors.Join(err, errLonger(n)))
		}
	}
	return w.Flush()
}

func errLonger(n int) error {
	if n == 0 {
		return nil
	}
	return http.ErrContentLength
}

func line(w *bufio.Writer, parts ...string) {
	for _, p := range parts {
		_, _ = w.WriteString(p) // Flush tells
	}
}

// clean keeps what would end a line out of it. What comes from net/http is
// clean; what comes from elsewhere must not smuggle.
func clean(v string) string {
	if !strings.ContainsAny(v, "\r\n\x00") {
		return v
	}
	return strings.NewReplacer("\r", " ", "\n", " ", "\x00", " ").Replace(v)
}

// answer is the body of an answer. When it was read to its end the connection
// goes back to the pool, otherwise it is closed.
type answer struct {
	io.ReadCloser
	c     *conn
	keep  bool
	ended bool
}

// Read implements io.Reader.
func (a *answer) Read(b []byte) (int, error) {
	if a.ended {
		return 0, io.EOF
	}
	n, err := a.ReadCloser.Read(b)
	switch {
	case errors.Is(err, io.EOF):
		a.end(true)
	case err != nil:
		if a.c.ctx.Err() != nil {
			err = context.Cause(a.c.ctx)
		}
		a.end(false)
	}
	return n, err
}

// Close implements io.Closer.
func (a *answer) Close() error {
	if a.ended {
		return nil
	}
	if a.ReadCloser == http.NoBody {
		a.end(true)
		return nil
	}
	// An answer that has no bytes left is whole; ReadResponse's own Close
	// would read the rest, however long it takes.
	a.end(false)
	return nil
}

func (a *answer) end(whole bool) {
	a.ended = true
	c := a.c
	if stopped := c.release(); !stopped || !whole || !a.keep || c.in.Buffered() > 0 {
		c.Close()
		return
	}
	c.ctx, c.release = nil, nil
	c.pool.put(c)
}

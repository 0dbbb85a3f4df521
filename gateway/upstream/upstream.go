// Package upstream sends requests to one replica over HTTP/1.1.
//
// A request without a body, or with a small one, is written and its answer read
// on the goroutine of the caller: net/http's transport hands both to goroutines
// of their own, and on a warm path these hand-overs cost more than the
// function. What needs both directions at once (a body of unknown or great
// length, an upgrade, 100-continue) goes through such a transport.
package upstream

import (
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

const (
	// maxInline is the longest body that is sent with its head.
	maxInline = 32 << 10
	// maxHeader bounds the head of an answer.
	maxHeader = 256 << 10
	maxIdle   = 512
)

// Config says how a replica is reached. The zero value is usable.
type Config struct {
	Connect time.Duration // longest time to connect; 0 is 1 s
	Idle    time.Duration // a connection that rests longer is closed; 0 is 4 s
}

// Pool has the connections to one address. It implements http.RoundTripper for
// requests to that address; it is safe for concurrent use.
type Pool struct {
	c       Config
	address string
	dialer  net.Dialer
	duplex  *http.Transport

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
	p := &Pool{c: c, address: address, dialer: net.Dialer{Timeout: c.Connect, KeepAlive: 30 * time.Second}}
	p.duplex = &http.Transport{
		DialContext:            p.dialer.DialContext,
		DisableCompression:     true, // the answer goes on as it is
		MaxIdleConnsPerHost:    maxIdle,
		IdleConnTimeout:        c.Idle,
		MaxResponseHeaderBytes: maxHeader,
	}
	return p
}

// RoundTrip implements http.RoundTripper. A failure to connect is a net.OpError
// whose Op is "dial": then nothing was sent and nothing of the body was read.
func (p *Pool) RoundTrip(r *http.Request) (*http.Response, error) {
	if !inline(r) {
		return p.duplex.RoundTrip(r)
	}
	for {
		c, reused, err := p.get(r.Context())
		if err != nil {
			return nil, err
		}
		if t := httptrace.ContextClientTrace(r.Context()); t != nil && t.GotConn != nil {
			t.GotConn(httptrace.GotConnInfo{Conn: c.Conn, Reused: reused})
		}
		resp, err := c.exchange(r)
		if err == nil {
			return resp, nil
		}
		c.Close()
		// The replica may have closed the connection while it rested. A request
		// that changes nothing may be sent again.
		if !reused || c.answered || !harmless(r) || r.Context().Err() != nil {
			return nil, err
		}
	}
}

func inline(r *http.Request) bool {
	if r.Header["Upgrade"] != nil || r.Header["Expect"] != nil || len(r.Trailer) > 0 {
		return false
	}
	return r.Body == nil || r.ContentLength > 0 && r.ContentLength <= maxInline
}

func harmless(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return r.Body == nil
	}
	return false
}

// get takes the connection that was used last, if it still stands, or makes
// one.
func (p *Pool) get(ctx context.Context) (c *conn, reused bool, err error) {
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
		c.Close()
	}
	nc, err := p.dialer.DialContext(ctx, "tcp", p.address)
	if err != nil {
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
		c.Close()
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
		c.Close()
	}
}

// Close closes the connections that rest; those in use are closed when they are
// not needed any more.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	if p.reaper != nil {
		p.reaper.Stop()
		p.reaper = nil
	}
	p.mu.Unlock()
	for _, c := range idle {
		c.Close()
	}
	p.duplex.CloseIdleConnections()
}

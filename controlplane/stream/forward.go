package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/podsnap/podsnap/api"
)

// MaxForwarded is how many connections one client may have forwarded at once.
const MaxForwarded = 256

// Dial connects to a port of what is forwarded to.
type Dial func(ctx context.Context, port uint16) (api.Conn, error)

// Forward upgrades a request and forwards each connection that the client opens
// over it, until the client goes. Only a request that cannot be upgraded is
// answered with an error.
func Forward(w http.ResponseWriter, r *http.Request, dial Dial) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	f := &forwarder{ctx: ctx, dial: dial, pairs: map[string]*pair{}}
	conn, below, end, err := f.accept(w, r)
	if err != nil {
		return err
	}
	defer end()
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() { watch(ctx, below, cancel) })
	f.mu.Lock()
	f.conn = conn
	f.mu.Unlock()
	select {
	case <-conn.CloseChan():
	case <-ctx.Done():
	}
	cancel()
	conn.Close()
	f.close()
	return nil
}

// accept upgrades a request to SPDY, or to SPDY in a WebSocket. below is what
// carries the connection, and end ends that.
func (f *forwarder) accept(w http.ResponseWriter, r *http.Request) (conn httpstream.Connection, below net.Conn, end func(), err error) {
	switch {
	case websocket.IsWebSocketUpgrade(r):
		ws, err := upgrade(w, r, portforward.WebsocketsSPDYTunnelingPortForwardV1)
		if err != nil {
			return nil, nil, nil, err
		}
		conn, err := spdy.NewServerConnection(&tunnel{Conn: ws}, f.add)
		if err != nil {
			ws.Close()
			panic(http.ErrAbortHandler) // the answer has begun
		}
		conn.SetIdleTimeout(Idle)
		var beating sync.WaitGroup
		beating.Go(func() { beat(f.ctx, ws) })
		return conn, ws.NetConn(), func() { ws.Close(); beating.Wait() }, nil
	case isSPDY(r):
		conn, below, err := accept(w, r, portforward.PortForwardV1Name, f.add)
		return conn, below, func() {}, err
	}
	return nil, nil, nil, noUpgrade()
}

// forwarder pairs streams up, of which each connection has two.
type forwarder struct {
	ctx  context.Context //nolint:containedctx // of the request, which its streams belong to
	dial Dial
	work sync.WaitGroup

	mu     sync.Mutex
	conn   httpstream.Connection // nil before the first stream may be forwarded
	pairs  map[string]*pair      // by the client's number of the connection
	closed bool
}

// pair is one connection: its data, and a stream for what goes wrong.
type pair struct {
	id          string
	port        uint16
	data, fault httpstream.Stream
	late        *time.Timer // until both are there
}

// add is a httpstream.NewStreamHandler.
func (f *forwarder) add(s httpstream.Stream, replySent <-chan struct{}) error {
	h := s.Headers()
	port, err := strconv.ParseUint(h.Get(corev1.PortHeader), 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("header %s: %q is not a number from 1 to 65535", corev1.PortHeader, h.Get(corev1.PortHeader))
	}
	id := h.Get(corev1.PortForwardRequestIDHeader)
	if id == "" {
		return fmt.Errorf("header %s is missing", corev1.PortForwardRequestIDHeader)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errors.New("the connection ends")
	}
	p := f.pairs[id]
	if p == nil {
		if len(f.pairs) == MaxForwarded {
			return fmt.Errorf("%d connections are forwarded already", MaxForwarded)
		}
		p = &pair{id: id, port: uint16(port)}
		f.pairs[id] = p
		p.late = time.AfterFunc(creation, func() { f.giveUp(p) })
	}
	to := &p.data
	switch kind := h.Get(corev1.StreamType); kind {
	case corev1.StreamTypeData:
	case corev1.StreamTypeError:
		to = &p.fault
	default:
		return fmt.Errorf("stream type %q is not %s or %s", kind, corev1.StreamTypeData, corev1.StreamTypeError)
	}
	if *to != nil {
		return fmt.Errorf("connection %s has such a stream", id)
	}
	*to = s
	if p.data != nil && p.fault != nil && p.late.Stop() {
		f.work.Go(func() {
			select {
			case <-replySent:
			case <-f.ctx.Done():
			}
			f.forward(p)
		})
	}
	return nil
}

// giveUp ends half a pair.
func (f *forwarder) giveUp(p *pair) {
	for _, s := range []httpstream.Stream{p.data, p.fault} {
		if s != nil {
			_ = s.Reset() // the connection has gone
		}
	}
	f.remove(p)
}

func (f *forwarder) remove(p *pair) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.pairs, p.id)
	if f.conn != nil {
		f.conn.RemoveStreams(p.data, p.fault)
	}
}

// close waits for all connections. What they read has ended.
func (f *forwarder) close() {
	f.mu.Lock()
	f.closed = true
	for _, p := range f.pairs {
		p.late.Stop()
	}
	f.mu.Unlock()
	f.work.Wait()
}

// forward connects to the port and passes both directions on.
func (f *forwarder) forward(p *pair) {
	defer f.remove(p)
	defer p.fault.Close()
	defer p.data.Close()
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	conn, err := f.dial(ctx, p.port)
	if err != nil {
		fmt.Fprintf(p.fault, "error forwarding port %d: %v", p.port, err) // the client has gone
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var sender sync.WaitGroup
	sender.Go(func() {
		if _, err := io.Copy(conn, p.data); err != nil {
			_, _ = io.Copy(io.Discard, p.data) // the pod has gone: the rest goes nowhere
			return
		}
		_ = conn.CloseWrite()
	})
	_, err = io.Copy(p.data, conn)
	if err != nil && ctx.Err() == nil {
		fmt.Fprintf(p.fault, "error forwarding port %d: %v", p.port, err)
	}
	conn.Close()
	p.data.Close()
	p.fault.Close()
	sender.Wait() // until the client has closed its side too
}

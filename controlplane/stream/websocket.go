package stream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/apimachinery/pkg/util/remotecommand"

	"github.com/podsnap/podsnap/api"
)

// heartbeat is how often a client is told that the connection lives, unasked:
// kubectl asks, and gives up after a minute, but as long as a process takes no
// input nothing behind that input is read.
const heartbeat = 10 * time.Second

// upgrade makes the request's connection a WebSocket of the first protocol that
// the client offers and we speak. Pages of other origins are refused.
func upgrade(w http.ResponseWriter, r *http.Request, spoken ...string) (*websocket.Conn, error) {
	offered := websocket.Subprotocols(r)
	if !slices.ContainsFunc(offered, func(p string) bool { return slices.Contains(spoken, p) }) {
		return nil, notSpoken(offered, spoken...)
	}
	var failed error
	u := websocket.Upgrader{
		Subprotocols: spoken, ReadBufferSize: 32 << 10, WriteBufferSize: 32 << 10,
		Error: func(_ http.ResponseWriter, _ *http.Request, _ int, reason error) { failed = reason },
	}
	conn, err := u.Upgrade(w, r, nil)
	if err != nil {
		return nil, errors.Join(err, failed)
	}
	return conn, nil
}

// socket is a WebSocket whose messages begin with the number of their stream.
type socket struct {
	conn  *websocket.Conn
	idle  *time.Timer
	mu    sync.Mutex // of writing
	stdin *io.PipeWriter
	sizes chan api.TerminalSize
}

func overWebSocket(w http.ResponseWriter, r *http.Request, want Wants, run Run) error {
	conn, err := upgrade(w, r, remotecommand.StreamProtocolV5Name, remotecommand.StreamProtocolV4Name)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	stdin, typed := io.Pipe()
	s := &socket{conn: conn, stdin: typed, sizes: make(chan api.TerminalSize, 1), idle: time.AfterFunc(Idle, func() { conn.Close() })}
	defer s.idle.Stop()
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() {
		defer cancel()
		s.read()
	})
	work.Go(func() { beat(ctx, conn) })
	work.Go(func() { watch(ctx, conn.NetConn(), cancel) })
	// A client that neither reads nor goes must not hold up the server's end.
	defer context.AfterFunc(r.Context(), func() { conn.Close() })()
	var streams Streams
	if want.Stdin {
		streams.Stdin = stdin
	}
	if want.Stdout {
		streams.Stdout = channel{s, remotecommand.StreamStdOut}
	}
	if want.Stderr {
		streams.Stderr = channel{s, remotecommand.StreamStdErr}
	}
	if want.TTY {
		streams.Resize = s.sizes
	}
	code, err := run(ctx, streams)
	stdin.Close()
	s.finish(code, err)
	cancel()
	return nil
}

// beat tells a client that the connection lives, until ctx is done.
func beat(ctx context.Context, conn *websocket.Conn) {
	t := time.NewTicker(heartbeat)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			_ = conn.WriteControl(websocket.PongMessage, nil, time.Now().Add(time.Second)) // while output is being written nobody misses it
		case <-ctx.Done():
			return
		}
	}
}

// read takes what comes until the connection ends. Input that nobody takes any
// more goes nowhere.
func (s *socket) read() {
	to := &sink{w: s.stdin}
	for {
		err := s.message(to)
		if err != nil {
			s.stdin.CloseWithError(io.ErrUnexpectedEOF)
			return
		}
		s.idle.Reset(Idle)
	}
}

// message reads one message.
func (s *socket) message(stdin io.Writer) error {
	_, m, err := s.conn.NextReader()
	if err != nil {
		return err
	}
	var id [1]byte
	if _, err := io.ReadFull(m, id[:]); err != nil {
		if errors.Is(err, io.EOF) { // empty
			return nil
		}
		return err
	}
	switch id[0] {
	case remotecommand.StreamStdIn:
		_, err = io.Copy(stdin, m)
	case remotecommand.StreamResize:
		var to size
		if json.NewDecoder(io.LimitReader(m, 1<<10)).Decode(&to) == nil {
			put(s.sizes, to)
		}
	case remotecommand.StreamClose: // only version 5 has it
		if _, err = io.ReadFull(m, id[:]); err == nil && id[0] == remotecommand.StreamStdIn {
			s.stdin.Close()
		}
	}
	return err
}

// write writes a message; as long as the client does not read, it waits.
func (s *socket) write(stream byte, p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle.Reset(Idle)
	m, err := s.conn.NextWriter(websocket.BinaryMessage)
	if err != nil {
		return err
	}
	if _, err := m.Write([]byte{stream}); err != nil {
		return err
	}
	if _, err := m.Write(p); err != nil {
		return err
	}
	return m.Close()
}

// finish says how the command ended and gives the client time to take it: a
// connection that is closed before may be reset, with all that is under way.
func (s *socket) finish(code int, err error) {
	b, _ := json.Marshal(statusOf(code, err)) // it has nothing that fails
	if s.write(remotecommand.StreamErr, b) != nil {
		return
	}
	until := time.Now().Add(farewell)
	_ = s.conn.SetReadDeadline(until) // the reader ends when the client has answered, or then
	_ = s.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), until)
}

// channel is a stream's writer.
type channel struct {
	s  *socket
	id byte
}

// Write implements io.Writer.
func (c channel) Write(p []byte) (int, error) {
	if err := c.s.write(c.id, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// sink writes until that fails, and takes the rest all the same.
type sink struct {
	w      io.Writer
	failed bool
}

// Write implements io.Writer.
func (s *sink) Write(p []byte) (int, error) {
	if !s.failed {
		_, err := s.w.Write(p)
		s.failed = err != nil
	}
	return len(p), nil
}

// tunnel is a connection through the binary messages of a WebSocket.
type tunnel struct {
	*websocket.Conn
	r  io.Reader // what is left of a message
	mu sync.Mutex
}

var _ net.Conn = (*tunnel)(nil)

// Read implements io.Reader. It has one caller at a time.
func (t *tunnel) Read(p []byte) (int, error) {
	for {
		if t.r == nil {
			_, m, err := t.NextReader()
			if websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseGoingAway) {
				err = io.EOF
			}
			if err != nil {
				return 0, err
			}
			t.r = m
		}
		n, err := t.r.Read(p)
		if errors.Is(err, io.EOF) {
			t.r, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// Write implements io.Writer.
func (t *tunnel) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m, err := t.NextWriter(websocket.BinaryMessage)
	if err != nil {
		return 0, err
	}
	if _, err := io.Copy(m, bytes.NewReader(p)); err != nil {
		return 0, err
	}
	return len(p), m.Close()
}

// SetDeadline implements net.Conn.
func (t *tunnel) SetDeadline(at time.Time) error {
	return errors.Join(t.SetReadDeadline(at), t.SetWriteDeadline(at))
}

package front_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/gateway/front"
	"github.com/podsnap/podsnap/gateway/invoke"
	"github.com/podsnap/podsnap/gateway/route"
	"github.com/podsnap/podsnap/gateway/wire"
	"github.com/podsnap/podsnap/test/bubble"
)

// function is an Invoker made of a func.
type function func(*invoke.Request, route.Plain, invoke.Asker) bool

func (f function) Invoke(q *invoke.Request, p route.Plain, a invoke.Asker) bool { return f(q, p, a) }

// say answers with a text of known length.
func say(a invoke.Asker, status int, text string) (broken bool) {
	return a.Begin(&invoke.Head{Status: status, Length: int64(len(text))}) != nil || second(io.WriteString(a, text)) != nil || a.Finish(nil) != nil
}

// start serves f; what goes to net/http gets 418.
func start(t testing.TB, c front.Config) (*front.Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if c.Handler == nil {
		c.Handler = front.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	}
	srv := front.New(c)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return srv, l.Addr().String()
}

type client struct {
	t testing.TB
	net.Conn
	br *bufio.Reader
}

func dial(t testing.TB, addr string) *client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return &client{t, c, bufio.NewReader(c)}
}

func (c *client) send(format string, a ...any) { fmt.Fprintf(c, format, a...) }

func (c *client) answer(method string) (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.br, &http.Request{Method: method})
	if err != nil {
		c.t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp, string(b)
}

func (c *client) ended() {
	c.t.Helper()
	if b, err := c.br.ReadByte(); err != io.EOF {
		c.t.Errorf("the connection goes on: %q %v", b, err)
	}
}

const call = "GET /function/f HTTP/1.1\r\nHost: x\r\n\r\n"

// TestFramings: an answer is framed for its status and method, and the
// connection goes on.
func TestFramings(t *testing.T) {
	_, addr := start(t, front.Config{Invoker: function(func(_ *invoke.Request, p route.Plain, a invoke.Asker) bool {
		h := &invoke.Head{Status: 200, Length: -1, Fields: []wire.Field{{Name: []byte("X-A"), Value: []byte("b\r\nX-Evil: 1")}}}
		switch string(p.Target) {
		case "/204":
			h.Status = 204
		case "/304":
			h.Status, h.Length = 304, 7
		case "/known":
			h.Length = 5
		case "/close":
			h.Close = true
		}
		if a.Begin(h) != nil || second(io.WriteString(a, "hello")) != nil {
			return true
		}
		return a.Finish([]wire.Field{{Name: []byte("X-Sum"), Value: []byte("5")}}) != nil
	})})
	c := dial(t, addr)
	for _, tt := range []struct {
		method, path, body string
		length             int64
		sum                string
	}{
		{"GET", "", "hello", -1, "5"},
		{"GET", "/known", "hello", 5, ""},
		{"HEAD", "", "", -1, ""},
		{"HEAD", "/known", "", 5, ""},
		{"GET", "/204", "", 0, ""},
		{"GET", "/304", "", 7, ""},
		{"POST", "?x=y", "hello", -1, "5"},
		{"GET", "/close", "hello", -1, "5"},
	} {
		c.send("%s /function/f%s HTTP/1.1\r\nHost: x\r\n\r\n", tt.method, tt.path)
		resp, body := c.answer(tt.method)
		if body != tt.body || resp.ContentLength != tt.length && resp.StatusCode != 304 || resp.Trailer.Get("X-Sum") != tt.sum || resp.Header.Get("X-Evil") != "" || resp.Header.Get("Date") == "" {
			t.Errorf("%s %s: %q %+v", tt.method, tt.path, body, resp)
		}
	}
	c.ended()
}

// TestBodyNotRead: what an answer leaves of a body ends the connection, unless
// it is there already; the answer arrives either way.
func TestBodyNotRead(t *testing.T) {
	_, addr := start(t, front.Config{Invoker: function(func(_ *invoke.Request, _ route.Plain, a invoke.Asker) bool { return say(a, 404, "no") })})
	c := dial(t, addr)
	for range 2 {
		c.send("POST /function/f HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
		if resp, body := c.answer("POST"); resp.StatusCode != 404 || body != "no" {
			t.Errorf("%d %q", resp.StatusCode, body)
		}
	}
	c.send("POST /function/f HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nhello")
	if resp, _ := c.answer("POST"); resp.StatusCode != 404 {
		t.Errorf("%d", resp.StatusCode)
	}
	io.WriteString(c, strings.Repeat("x", 99_995)+call)
	c.ended()
}

// TestProceed: 100 Continue is said when the body is wanted and not before, and
// never after the answer.
func TestProceed(t *testing.T) {
	_, addr := start(t, front.Config{Invoker: function(func(_ *invoke.Request, p route.Plain, a invoke.Asker) bool {
		if string(p.Target) == "/no" {
			return say(a, 403, "no")
		}
		b, err := io.ReadAll(a.Body())
		return err != nil || say(a, 200, string(b))
	})})
	const expect = " HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n"
	c := dial(t, addr)
	c.send("PUT /function/f" + expect)
	if resp, _ := c.answer("PUT"); resp.StatusCode != 100 {
		t.Fatalf("got %d", resp.StatusCode)
	}
	c.send("hello")
	if resp, body := c.answer("PUT"); resp.StatusCode != 200 || body != "hello" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	c.send("PUT /function/f/no" + expect)
	if resp, _ := c.answer("PUT"); resp.StatusCode != 403 {
		t.Errorf("got %d", resp.StatusCode)
	}
	c.ended() // nobody knows whether the body comes
	c = dial(t, addr)
	c.send("PUT /function/f HTTP/1.1\r\nHost: x\r\nExpect: miracles\r\nContent-Length: 5\r\n\r\n")
	if resp, _ := c.answer("PUT"); resp.StatusCode != http.StatusExpectationFailed {
		t.Errorf("another expectation: %d", resp.StatusCode)
	}
}

// TestClientLeaves: it is noticed when the request has no body, when its body
// was read before or after somebody asked, and not when the next request comes.
func TestClientLeaves(t *testing.T) {
	left := make(chan error)
	_, addr := start(t, front.Config{Invoker: function(func(q *invoke.Request, p route.Plain, a invoke.Asker) bool {
		if string(p.Target) == "/quick" {
			return say(a, 200, "")
		}
		ctx := a.Context()
		if body := a.Body(); body != nil {
			if string(p.Target) == "/later" {
				io.ReadAll(body)
			} else {
				io.ReadFull(body, make([]byte, q.Length))
			}
		}
		if string(p.Target) == "/stays" {
			return ctx.Err() != nil || say(a, 200, "")
		}
		left <- nil
		<-ctx.Done()
		left <- context.Cause(ctx)
		return true
	})})
	for _, head := range []string{
		"GET /function/f HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /function/f HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab",
		"POST /function/f/later HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
	} {
		c := dial(t, addr)
		io.WriteString(c, head)
		<-left
		c.Close()
		select {
		case err := <-left:
			if err == nil {
				t.Errorf("%q: no cause", head)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%q: nobody noticed", head)
		}
	}
	c := dial(t, addr)
	for range 3 {
		c.send("POST /function/f/stays HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab" + "GET /function/f/quick HTTP/1.1\r\nHost: x\r\n\r\n")
		for range 2 {
			if resp, _ := c.answer("GET"); resp.StatusCode != 200 {
				t.Errorf("got %d", resp.StatusCode)
			}
		}
	}
}

// TestHandOver: a connection serves both halves, in this order and with
// requests pipelined.
func TestHandOver(t *testing.T) {
	_, addr := start(t, front.Config{Invoker: function(func(_ *invoke.Request, _ route.Plain, a invoke.Asker) bool { return say(a, 200, "own") })})
	c := dial(t, addr)
	c.send("%s%sGET /system/x HTTP/1.1\r\nHost: x\r\n\r\n%s", call, call, call)
	for i, want := range []int{200, 200, 418, 418} { // net/http keeps it
		if resp, _ := c.answer("GET"); resp.StatusCode != want {
			t.Errorf("answer %d: %d, want %d", i, resp.StatusCode, want)
		}
	}
	for _, odd := range []string{
		"GET /function/f/%2F HTTP/1.1\r\nHost: x\r\n\r\n", "GET /function/f HTTP/1.0\r\n\r\n", "GET http://x/function/f HTTP/1.1\r\nHost: x\r\n\r\n",
		"BREW /function/f HTTP/1.1\r\nHost: x\r\n\r\n", "GET /function/f HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
	} {
		c := dial(t, addr)
		io.WriteString(c, odd)
		if resp, _ := c.answer("GET"); resp.StatusCode != 418 {
			t.Errorf("%q: %d", odd, resp.StatusCode)
		}
	}
}

// TestTimeouts: who says nothing, or never all of a head, is not waited for;
// who takes his time between requests is.
func TestTimeouts(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script func(io.Writer)
		after  time.Duration // when the connection ends
	}{
		{"nothing", func(io.Writer) {}, 5 * time.Second},
		{"half a head", func(w io.Writer) { io.WriteString(w, call[:9]) }, 5 * time.Second},
		{"drops", func(w io.Writer) {
			for i := range len(call) {
				time.Sleep(time.Second)
				if _, err := w.Write([]byte{call[i]}); err != nil {
					return
				}
			}
		}, 5 * time.Second},
		{"idle", func(w io.Writer) { io.WriteString(w, call) }, 120 * time.Second},
		{"half a second head", func(w io.Writer) {
			io.WriteString(w, call)
			time.Sleep(100 * time.Second)
			io.WriteString(w, call[:9])
		}, 105 * time.Second},
		{"a body that stops", func(w io.Writer) {
			io.WriteString(w, "POST /function/f HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
		}, 7*time.Second + 500*time.Millisecond}, // and it lingers
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				l := &one{c: make(chan net.Conn, 1), done: make(chan struct{})}
				l.c <- far
				srv := front.New(front.Config{
					Handler: front.Wrap(http.NotFoundHandler()),
					Invoker: function(func(_ *invoke.Request, _ route.Plain, a invoke.Asker) bool {
						if b := a.Body(); b != nil {
							b.Deadline(time.Now().Add(7 * time.Second))
							if _, err := io.ReadAll(b); err != nil {
								return say(a, 400, "")
							}
						}
						return say(a, 200, "")
					}),
				})
				served := make(chan error, 1)
				go func() { served <- srv.Serve(l) }()
				from := time.Now()
				var script sync.WaitGroup
				script.Go(func() { tt.script(near) })
				io.Copy(io.Discard, near)
				if took := time.Since(from); took < tt.after || took > tt.after+2*time.Second {
					t.Errorf("it ended after %s, want %s", took, tt.after)
				}
				near.Close()
				srv.Close()
				<-served
				script.Wait()
			})
		})
	}
}

// one is a listener of connections that the test makes.
type one struct {
	c    chan net.Conn
	done chan struct{}
}

func (l *one) Accept() (net.Conn, error) {
	select {
	case c := <-l.c:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *one) Close() error   { close(l.done); return nil }
func (l *one) Addr() net.Addr { return &net.TCPAddr{} }

// TestReaderThatStops: a client that takes nothing of its answer ends after a
// while.
func TestReaderThatStops(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		l := &one{c: make(chan net.Conn, 1), done: make(chan struct{})}
		l.c <- far
		ended := make(chan time.Time, 1)
		srv := front.New(front.Config{
			Handler: front.Wrap(http.NotFoundHandler()),
			Invoker: function(func(_ *invoke.Request, _ route.Plain, a invoke.Asker) bool {
				broken := say(a, 200, "hello")
				ended <- time.Now()
				return broken
			}),
		})
		served := make(chan error, 1)
		go func() { served <- srv.Serve(l) }()
		from := time.Now()
		io.WriteString(near, call)
		if took := (<-ended).Sub(from); took != 60*time.Second {
			t.Errorf("it was waited for %s", took)
		}
		near.Close()
		srv.Close()
		<-served
	})
}

// TestShutdown lets a request in flight end, closes connections that rest, and
// takes no new ones.
func TestShutdown(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	srv, addr := start(t, front.Config{Invoker: function(func(_ *invoke.Request, p route.Plain, a invoke.Asker) bool {
		if string(p.Target) == "/slow" {
			close(entered)
			<-release
		}
		return say(a, 200, "done")
	})})
	rests, busy := dial(t, addr), dial(t, addr)
	rests.send(call)
	rests.answer("GET")
	busy.send("GET /function/f/slow HTTP/1.1\r\nHost: x\r\n\r\n")
	<-entered
	done := make(chan error, 1)
	go func() { done <- srv.Shutdown(t.Context()) }()
	rests.ended()
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("it takes connections")
	}
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	default:
	}
	close(release)
	if resp, body := busy.answer("GET"); body != "done" || !resp.Close {
		t.Errorf("%q, close %v", body, resp.Close)
	}
	busy.ended()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestClose ends what is in flight.
func TestClose(t *testing.T) {
	entered := make(chan struct{})
	srv, addr := start(t, front.Config{Invoker: function(func(_ *invoke.Request, _ route.Plain, a invoke.Asker) bool {
		ctx := a.Context()
		close(entered)
		<-ctx.Done()
		return true
	})})
	c := dial(t, addr)
	c.send(call)
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := srv.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
	srv.Close()
	c.ended()
}

package front_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podsnap/podsnap/gateway/front"
	"github.com/podsnap/podsnap/gateway/invoke"
	"github.com/podsnap/podsnap/gateway/route"
	"github.com/podsnap/podsnap/internal/pause"
)

// house is servers one after the other at one address.
type house struct {
	t    *testing.T
	addr string
	door *net.TCPListener // stays, as with a keeper
	now  *front.Server
	done chan error

	mu    sync.Mutex
	left  []net.Conn
	lefts int
}

func newHouse(t *testing.T) *house {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, addr: l.Addr().String(), door: l.(*net.TCPListener)}
	h.open()
	t.Cleanup(func() {
		h.now.Close()
		<-h.done
		h.door.Close()
	})
	return h
}

// leave keeps a copy of a connection.
func (h *house) leave(c net.Conn) bool {
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		h.t.Error(err)
		return false
	}
	defer f.Close()
	again, err := net.FileConn(f)
	if err != nil {
		h.t.Error(err)
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left = append(h.left, again)
	h.lefts++
	return true
}

func (h *house) open() {
	f, err := h.door.File()
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		h.t.Fatal(err)
	}
	h.now = front.New(front.Config{
		Leave: h.leave,
		Handler: front.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			w.Write(b)
		})),
		Invoker: function(func(_ *invoke.Request, _ route.Plain, a invoke.Asker) bool {
			b, err := io.ReadAll(readAll{a.Body()})
			return err != nil || say(a, 200, string(b))
		}),
	})
	done := make(chan error, 1)
	h.done = done
	srv := h.now
	go func() { done <- srv.Serve(l) }()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.left {
		srv.Adopt(c)
	}
	h.left = nil
}

type readAll struct{ b invoke.Body }

func (r readAll) Read(p []byte) (int, error) { return r.b.Read(p) }

// turn ends the server and opens the next one.
func (h *house) turn() {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 10*time.Second)
	defer cancel()
	if err := h.now.Shutdown(ctx); err != nil {
		h.t.Errorf("Shutdown: %v", err)
	}
	if err := <-h.done; !errors.Is(err, http.ErrServerClosed) {
		h.t.Errorf("Serve: %v", err)
	}
	h.open()
}

// TestLeave: a connection that rests goes on with the next server, with what its
// client has sent meanwhile.
func TestLeave(t *testing.T) {
	for name, path := range map[string]string{"own loop": "/function/f", "net/http": "/system/f"} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			fresh, c := dial(t, h.addr), dial(t, h.addr) // who answers c has accepted what came before it
			ask := func(c *client, text string) {
				c.send("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", path, len(text), text)
			}
			ask(c, "one")
			if resp, body := c.answer("POST"); body != "one" || resp.Close {
				t.Fatalf("%q, close %v", body, resp.Close)
			}
			for i := range 3 {
				h.turn()
				ask(c, fmt.Sprint(i))
				if resp, body := c.answer("POST"); body != fmt.Sprint(i) || resp.Close {
					t.Errorf("the next server: %q, close %v", body, resp.Close)
				}
			}
			ask(fresh, "first")
			if _, body := fresh.answer("POST"); body != "first" {
				t.Errorf("on a connection without a request before: %q", body)
			}
			if h.lefts != 6 {
				t.Errorf("%d connections were left, want twice three", h.lefts)
			}
		})
	}
}

// TestNoCallIsLost: servers change under load, over each protocol, and whatever the
// moment at which a request arrives, it is answered. No client sends one again but
// over HTTP/2, whose GOAWAY says which requests nobody has seen.
func TestNoCallIsLost(t *testing.T) {
	h2 := &http.Protocols{}
	h2.SetUnencryptedHTTP2(true)
	for _, c := range []struct {
		name, path string
		transport  *http.Transport
		again      bool // the client may send again what a GOAWAY says was not seen
	}{
		{"own loop", "/function/f", &http.Transport{MaxIdleConnsPerHost: 64}, false},
		{"net/http", "/system/f", &http.Transport{MaxIdleConnsPerHost: 64}, false},
		{"HTTP/2", "/function/f", &http.Transport{Protocols: h2}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			client := &http.Client{Transport: c.transport, Timeout: 20 * time.Second}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var calls, faults atomic.Int64
			var wg sync.WaitGroup
			for i := range 16 {
				wg.Go(func() {
					for n := 0; ctx.Err() == nil; n++ {
						text := fmt.Sprintf("%d-%d", i, n)
						body := io.Reader(strings.NewReader(text))
						if !c.again {
							body = struct{ io.Reader }{body} // a body of an unknown kind can't be sent twice
						}
						resp, err := client.Post("http://"+h.addr+c.path, "text/plain", body)
						calls.Add(1)
						if err != nil {
							faults.Add(1)
							t.Errorf("call %s: %v", text, err)
							continue
						}
						b, err := io.ReadAll(resp.Body)
						resp.Body.Close()
						if err != nil || string(b) != text || resp.StatusCode != 200 {
							faults.Add(1)
							t.Errorf("call %s: %d %q %v", text, resp.StatusCode, b, err)
						}
					}
				})
			}
			turns := 40
			if c.name == "HTTP/2" {
				turns = 3 // each says goodbye for a second
			}
			for range turns {
				was := calls.Load()
				for calls.Load() < was+50 && ctx.Err() == nil && faults.Load() == 0 {
					pause.For(ctx, time.Millisecond)
				}
				h.turn()
			}
			cancel()
			wg.Wait()
			client.CloseIdleConnections()
			t.Logf("%d calls, %d turns, %d connections left", calls.Load(), turns, h.lefts)
			if c.name != "HTTP/2" && h.lefts == 0 {
				t.Error("no connection was left: the test shows nothing")
			}
		})
	}
}

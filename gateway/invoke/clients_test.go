package invoke_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/gateway/invoke"
	"golang.org/x/net/websocket"
	"k8s.io/apimachinery/pkg/types"
)

// TestWebSocketClient: a real client and a real server, through the gateway.
func TestWebSocketClient(t *testing.T) {
	r := newRig(t, invoke.Config{})
	echo := websocket.Handler(func(c *websocket.Conn) { io.Copy(c, c) })
	_, e := r.replica("a", echo.ServeHTTP)
	r.ready(e)
	c, err := websocket.Dial("ws"+strings.TrimPrefix(r.url, "http")+"/chat", "", "http://x/")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 100 {
		want, got := strings.Repeat(fmt.Sprint(i), 1000), ""
		if err := websocket.Message.Send(c, want); err != nil {
			t.Fatal(err)
		}
		if err := websocket.Message.Receive(c, &got); err != nil || got != want {
			t.Fatalf("%d: %d bytes, %v", i, len(got), err)
		}
	}
}

// TestHTTP2: a client that knows that the gateway speaks it.
func TestHTTP2(t *testing.T) {
	r := newRig(t, invoke.Config{})
	_, e := r.replica("a", func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		b, _ := io.ReadAll(req.Body)
		fmt.Fprintf(w, "%s %s %s", req.Method, req.URL, b)
		w.Header().Set("X-Sum", fmt.Sprint(len(b)))
	})
	r.ready(e)
	p := &http.Protocols{}
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: p}
	defer tr.CloseIdleConnections()
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			body := strings.Repeat("x", i*1000)
			req, err := http.NewRequestWithContext(t.Context(), "POST", fmt.Sprint(r.url, "/", i), strings.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := tr.RoundTrip(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil || resp.ProtoMajor != 2 || string(b) != fmt.Sprintf("POST /%d %s", i, body) || resp.Header.Get("X-Call-Id") == "" || resp.Trailer.Get("X-Sum") != fmt.Sprint(len(body)) {
				t.Errorf("HTTP/%d %d bytes %v %v", resp.ProtoMajor, len(b), resp.Header, err)
			}
		})
	}
	wg.Wait()
	req, _ := http.NewRequestWithContext(t.Context(), "GET", strings.Replace(r.url, "resize", "nope", 1), nil)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 404 {
		t.Errorf("an unknown function: %d", resp.StatusCode)
	}
}

// plainReplica answers every head with the same bytes, and allocates nothing.
func plainReplica(t testing.TB, answer string) api.Endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				buf, out := make([]byte, 64<<10), []byte(answer)
				for {
					if n, err := c.Read(buf); err != nil || n < 4 {
						return
					}
					if _, err := c.Write(out); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { l.Close() })
	return api.Endpoint{Pod: types.UID("plain"), Name: "plain", Address: l.Addr().String()}
}

// TestAllocations: a warm call costs the garbage collector next to nothing.
func TestAllocations(t *testing.T) {
	if !own || raceEnabled {
		t.Skip("the own loop's promise, without the race detector's allocations")
	}
	r := newRig(t, invoke.Config{})
	r.ready(plainReplica(t, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\nDate: Fri, 27 Nov 2026 13:00:00 GMT\r\n\r\nhello"))
	c, err := net.Dial("tcp", strings.Split(r.url, "/")[2])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	br := bufio.NewReader(c)
	for name, raw := range map[string]string{
		"GET":  "GET /function/resize/a?b=c HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n",
		"POST": "POST /function/resize HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: test\r\nAccept: */*\r\nContent-Length: 5\r\n\r\nhello",
	} {
		request := []byte(raw)
		once := func() {
			if _, err := c.Write(request); err != nil {
				t.Fatal(err)
			}
			for {
				line, err := br.ReadSlice('\n')
				if err != nil {
					t.Fatal(err)
				}
				if len(line) == 2 {
					break
				}
			}
			if _, err := br.Discard(5); err != nil {
				t.Fatal(err)
			}
		}
		for range 100 {
			once()
		}
		if n := testing.AllocsPerRun(2000, once); n >= 10 {
			t.Errorf("%s: %v allocations a call, want fewer than 10", name, n)
		} else {
			t.Logf("%s: %v allocations a call", name, n)
		}
	}
}

package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// raw serves one fixed answer to each request on each connection.
func raw(t testing.TB, answer string, hold bool) (address string, conns *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns = &atomic.Int32{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			wg.Go(func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, req.Body)
					if _, err := io.WriteString(c, answer); err != nil || !hold {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String(), conns
}

func request(t testing.TB, method, address, body string) *http.Request {
	t.Helper()
	var b io.Reader
	if body != "" {
		b = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+"/a/b?c=d", b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// outcome is what a client sees of an answer.
type outcome struct {
	Status  int
	Header  http.Header
	Length  int64
	Body    string
	Trailer http.Header
	Failed  bool
}

func see(rt http.RoundTripper, r *http.Request) outcome {
	resp, err := rt.RoundTrip(r)
	if err != nil {
		return outcome{Failed: true}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return outcome{resp.StatusCode, resp.Header, resp.ContentLength, string(b), resp.Trailer, err != nil}
}

var answers = []string{
	"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
	"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 204 No Content\r\n\r\n",
	"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
	"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 2\r\n\r\nno",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\n ab\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n2\r\nab\r\n0\r\nX-End: yes\r\n\r\n",
	"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.0 200 OK\r\n\r\nuntil the end",
	"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
	"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
	"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
	"HTTP/1.1 999 Odd\r\nContent-Length: 1\r\n\r\nx",
	"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx",
	"HTTP/1.1 2x0 Bad\r\n\r\n",
	"HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
	"HTTP/1.1 200 OK\r\n X: folded\r\nContent-Length: 0\r\n\r\n",
	"not HTTP at all\r\n\r\n",
	"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
	"",
	"HTTP/1.1 200 OK\r\nX-Long: " + strings.Repeat("x", maxHeader) + "\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nX: a\r\nX: b\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\n1trailing garbage",
}

// Every answer means the same to us as to net/http's own transport.
func TestAsNetHTTP(t *testing.T) {
	for i, a := range answers {
		for _, method := range []string{"GET", "HEAD", "POST"} {
			for _, hold := range []bool{true, false} {
				if hold && (a == "" || strings.Contains(a, "until the end") || strings.Contains(a, "short") || strings.HasSuffix(a, "zz\r\n")) {
					continue // it says no more, and both would wait
				}
				address, _ := raw(t, a, hold)
				body := ""
				if method == "POST" {
					body = "some body"
				}
				std := &http.Transport{DisableCompression: true, MaxResponseHeaderBytes: maxHeader}
				p := New(address, Config{})
				want, got := see(std, request(t, method, address, body)), see(p, request(t, method, address, body))
				std.CloseIdleConnections()
				p.Close()
				if strings.HasPrefix(a, "HTTP/1.1 101") && !want.Failed {
					want = outcome{Failed: true} // net/http hands it on; nobody asked
				}
				if want.Failed {
					want.Body, got.Body = "", "" // how much of a broken answer is seen is chance
				}
				if !reflect.DeepEqual(want, got) {
					t.Errorf("answer %d to %s (hold %v) %.60q:\ngot  %+v\nwant %+v", i, method, hold, a, got, want)
				}
			}
		}
	}
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	address, conns := raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", true)
	p := New(address, Config{})
	defer p.Close()
	for range 20 {
		if o := see(p, request(t, "POST", address, "x")); o.Body != "hello" {
			t.Fatalf("got %+v", o)
		}
	}
	if conns.Load() != 1 {
		t.Errorf("%d connections for 20 requests in a row", conns.Load())
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if o := see(p, request(t, "GET", address, "")); o.Body != "hello" {
					t.Errorf("got %+v", o)
				}
			}
		})
	}
	wg.Wait()
	if n := conns.Load(); n > 9 {
		t.Errorf("%d connections for 8 requests at a time", n)
	}
}

// A connection that the replica has closed while it rested is not used.
func TestClosedWhileResting(t *testing.T) {
	address, conns := raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false)
	p := New(address, Config{})
	defer p.Close()
	for range 20 {
		if o := see(p, request(t, "GET", address, "")); o.Body != "hello" {
			t.Fatalf("got %+v", o)
		}
	}
	if conns.Load() < 20 {
		t.Errorf("%d connections, want one a request", conns.Load())
	}
}

// What is left unread costs the connection and not a wait.
func TestAnswerNotRead(t *testing.T) {
	address, conns := raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nbeginning", true)
	p := New(address, Config{})
	defer p.Close()
	for range 3 {
		resp, err := p.RoundTrip(request(t, "GET", address, ""))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	if conns.Load() != 3 {
		t.Errorf("%d connections, want 3", conns.Load())
	}
}

func TestContextEnds(t *testing.T) {
	gate := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("c") == "d" && r.Method == "PUT" {
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
		}
		<-gate
	}))
	defer s.Close()
	defer close(gate)
	address := strings.TrimPrefix(s.URL, "http://")
	p := New(address, Config{})
	defer p.Close()
	cause := errors.New("my cause")
	for _, method := range []string{"GET", "PUT"} { // before and after the head
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(20*time.Millisecond, func() { cancel(cause) })
		resp, err := p.RoundTrip(request(t, method, address, "").WithContext(ctx))
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if !errors.Is(err, cause) {
			t.Errorf("%s: %v, want the cause", method, err)
		}
	}
}

func TestRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	p := New(address, Config{})
	defer p.Close()
	read := &counter{}
	r := request(t, "POST", address, "x")
	r.Body = read
	_, err = p.RoundTrip(r)
	if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "dial" {
		t.Errorf("got %v, want a dial error", err)
	}
	if read.n > 0 {
		t.Error("the body was read, though nothing could be sent")
	}
}

type counter struct{ n int }

func (c *counter) Read(b []byte) (int, error) { c.n++; return len(b), nil }
func (*counter) Close() error                 { return nil }

// A body that is not as long as it was said to be is an error, and never a
// request that begins inside another.
func TestBodyOfAnotherLength(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	defer s.Close()
	address := strings.TrimPrefix(s.URL, "http://")
	p := New(address, Config{})
	defer p.Close()
	for _, body := range []string{"four", "far too much"} {
		r := request(t, "POST", address, "12345")
		r.Body = io.NopCloser(strings.NewReader(body))
		if _, err := p.RoundTrip(r); err == nil {
			t.Errorf("%q went as 5 bytes", body)
		}
	}
	if o := see(p, request(t, "POST", address, "after")); o.Body != "after" {
		t.Errorf("afterwards: %+v", o)
	}
}

func TestNothingIsSmuggled(t *testing.T) {
	got := make(chan *http.Request, 2)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r }))
	defer s.Close()
	address := strings.TrimPrefix(s.URL, "http://")
	p := New(address, Config{})
	defer p.Close()
	r := request(t, "GET", address, "")
	r.Header["X-A"] = []string{"a\r\nX-B: b\r\n\r\nGET /other HTTP/1.1\r\nHost: x\r\n\r\n"}
	r.Header["Content-Length"] = []string{"7"}
	r.Header["Transfer-Encoding"] = []string{"chunked"}
	if o := see(p, r); o.Failed || o.Status != 200 {
		t.Fatalf("got %+v", o)
	}
	if g := <-got; g.Header.Get("X-B") != "" || g.ContentLength != 0 || !strings.HasPrefix(g.Header.Get("X-A"), "a  X-B: b") {
		t.Errorf("the replica saw %v", g.Header)
	}
	select {
	case g := <-got:
		t.Errorf("a second request arrived: %v", g.URL)
	default:
	}
}

func FuzzAnswer(f *testing.F) {
	for _, a := range answers {
		f.Add([]byte(a))
	}
	f.Fuzz(func(t *testing.T, a []byte) {
		address, _ := raw(t, string(a), false)
		std := &http.Transport{DisableCompression: true, DisableKeepAlives: true, MaxResponseHeaderBytes: maxHeader}
		p := New(address, Config{})
		defer p.Close()
		want, got := see(std, request(t, "POST", address, "x")), see(p, request(t, "POST", address, "x"))
		if want.Status < 200 && !want.Failed {
			return // no answer: net/http hands it on, for somebody else to refuse
		}
		if want.Failed != got.Failed || !want.Failed && (want.Status != got.Status || want.Body != got.Body) {
			t.Errorf("%q:\ngot  %+v\nwant %+v", a, got, want)
		}
	})
}

func BenchmarkRoundTrip(b *testing.B) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	defer s.Close()
	address := strings.TrimPrefix(s.URL, "http://")
	p := New(address, Config{})
	defer p.Close()
	std := &http.Transport{DisableCompression: true}
	defer std.CloseIdleConnections()
	for name, rt := range map[string]http.RoundTripper{"ours": p, "net/http": std} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if o := see(rt, request(b, "GET", address, "")); o.Body != "hello" {
					b.Fatalf("got %+v", o)
				}
			}
		})
	}
}

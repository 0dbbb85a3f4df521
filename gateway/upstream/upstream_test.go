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

	"github.com/podsnap/podsnap/gateway/wire"
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

// newRequest asks for /a/b?c=d; body is of known length, or chunked.
func newRequest(t testing.TB, method, body string, fields ...string) *Request {
	t.Helper()
	r := &Request{Method: []byte(method), Target: []byte("/a/b?c=d"), Host: []byte("x"), Context: t.Context}
	if body != "" {
		r.Body, r.Length = &text{Reader: strings.NewReader(body)}, int64(len(body))
	}
	for i := 0; i+1 < len(fields); i += 2 {
		r.Fields = append(r.Fields, wire.Field{Name: []byte(fields[i]), Value: []byte(fields[i+1])})
	}
	return r
}

// text is a Body.
type text struct {
	io.Reader
	trailers []wire.Field
	stop     func()
}

func (b *text) Trailers(fs []wire.Field) []wire.Field { return append(fs, b.trailers...) }
func (b *text) Stop() {
	if b.stop != nil {
		b.stop()
	}
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

func header(fs []wire.Field, framing bool) http.Header {
	h := http.Header{}
	for _, f := range fs {
		if framing || !f.Is("Transfer-Encoding") && !f.Is("Trailer") {
			h.Add(string(f.Name), string(f.Value))
		}
	}
	return h
}

func see(p *Pool, r *Request) outcome {
	a, err := p.Do(r)
	if err != nil {
		return outcome{Failed: true}
	}
	defer a.End()
	o := outcome{Status: a.Status, Header: header(a.Fields, false), Length: max(a.Length, -1)}
	b, err := io.ReadAll(a)
	o.Body, o.Failed = string(b), err != nil
	if ts := a.Trailers(nil); len(ts) > 0 {
		o.Trailer = header(ts, true)
	}
	return o
}

// standard is what net/http sees of the same.
func standard(t testing.TB, method, address, body string) outcome {
	t.Helper()
	std := &http.Transport{DisableCompression: true, DisableKeepAlives: true, MaxResponseHeaderBytes: wire.MaxReply}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+"/a/b?c=d", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := std.RoundTrip(r)
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
	"HTTP/1.1 200 OK\r\nX-Long: " + strings.Repeat("x", wire.MaxReply) + "\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nX: a\r\nX: b\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\n1trailing garbage",
}

// stricter is what we refuse and net/http does not: readers disagree about it.
func stricter(a string) bool {
	return strings.Contains(a, "\r\n X: folded") || strings.Contains(a, "Content-Length: 2\r\nTransfer-Encoding") || strings.HasPrefix(a, "HTTP/1.1 101")
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
				p := New(address, Config{})
				want, got := standard(t, method, address, body), see(p, newRequest(t, method, body))
				p.Close()
				if stricter(a) {
					want = outcome{Failed: true}
				}
				if want.Failed {
					want.Body, got.Body = "", "" // how much of a broken answer is seen is chance
				}
				if len(want.Trailer) > 0 && method == "HEAD" {
					want.Trailer = nil // announced, for a body that does not come
				}
				got.Header.Del("Connection") // net/http keeps it to itself
				if want.Status == 204 || want.Status == 304 || method == "HEAD" {
					got.Length = want.Length // net/http says 0 where there is no body
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
		if o := see(p, newRequest(t, "POST", "x")); o.Body != "hello" {
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
				if o := see(p, newRequest(t, "GET", "")); o.Body != "hello" {
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
		if o := see(p, newRequest(t, "GET", "")); o.Body != "hello" {
			t.Fatalf("got %+v", o)
		}
	}
	if conns.Load() < 20 {
		t.Errorf("%d connections, want one a request", conns.Load())
	}
}

// What is left unread costs the connection and not a wait.
func TestUsedAgainAfterARest(t *testing.T) {
	address, conns := raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", true)
	p := New(address, Config{})
	defer p.Close()
	for range 3 {
		if o := see(p, newRequest(t, "GET", "")); o.Body != "hello" {
			t.Fatalf("got %+v", o)
		}
		rest := time.NewTimer(2 * patience)
		<-rest.C
	}
	if conns.Load() != 1 {
		t.Errorf("%d connections", conns.Load())
	}
}

func TestAnswerNotRead(t *testing.T) {
	address, conns := raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nbeginning", true)
	p := New(address, Config{})
	defer p.Close()
	for range 3 {
		a, err := p.Do(newRequest(t, "GET", ""))
		if err != nil {
			t.Fatal(err)
		}
		a.End()
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
		r := newRequest(t, method, "")
		r.Context = func() context.Context { return ctx }
		a, err := p.Do(r)
		if err == nil {
			_, err = io.ReadAll(a)
			a.End()
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
	r := newRequest(t, "POST", "x")
	r.Body = &text{Reader: read}
	_, err = p.Do(r)
	if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "dial" {
		t.Errorf("got %v, want a dial error", err)
	}
	if read.n > 0 {
		t.Error("the body was read, though nothing could be sent")
	}
}

type counter struct{ n int }

func (c *counter) Read(b []byte) (int, error) { c.n++; return len(b), nil }

// A body that is not as long as it was said to be is an error, and never a
// request that begins inside another.
func TestBodyOfAnotherLength(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	defer s.Close()
	address := strings.TrimPrefix(s.URL, "http://")
	p := New(address, Config{})
	defer p.Close()
	for _, body := range []string{"four", "far too much"} {
		r := newRequest(t, "POST", body)
		r.Length = 5
		if _, err := p.Do(r); err == nil {
			t.Errorf("%q went as 5 bytes", body)
		}
	}
	if o := see(p, newRequest(t, "POST", "after")); o.Body != "after" {
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
	r := newRequest(t, "GET", "", "X-A", "a\r\nX-B: b\r\n\r\nGET /other HTTP/1.1\r\nHost: x\r\n\r\n")
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
		p := New(address, Config{})
		defer p.Close()
		want, got := standard(t, "POST", address, "x"), see(p, newRequest(t, "POST", "x"))
		if want.Status < 200 && !want.Failed {
			return // no answer: net/http hands it on, for somebody else to refuse
		}
		if got.Failed {
			return // ours may refuse what net/http takes, never the other way round
		}
		if want.Failed || (want.Status != got.Status || want.Body != got.Body) {
			t.Errorf("%q:\ngot  %+v\nwant %+v", a, got, want)
		}
	})
}

func BenchmarkDo(b *testing.B) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	defer s.Close()
	p := New(strings.TrimPrefix(s.URL, "http://"), Config{})
	defer p.Close()
	r, buf := newRequest(b, "GET", ""), make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		a, err := p.Do(r)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := a.Read(buf); string(buf[:n]) != "hello" {
			b.Fatalf("got %q, %v", buf[:n], err)
		}
		a.End()
	}
}

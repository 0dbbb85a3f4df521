package front_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/gateway/front"
	"github.com/podsnap/podsnap/gateway/invoke"
	"github.com/podsnap/podsnap/gateway/route"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server answers with what it understood; body faults are 400, as the
// invocation path has it.
type server struct {
	addr string
	mu   sync.Mutex
	got  []string
	own  int // requests that the own loop served
}

func newServer(t testing.TB, own bool) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: l.Addr().String()}
	c := front.Config{Handler: front.Wrap(http.HandlerFunc(s.serve))}
	if own {
		c.Invoker = s
	}
	srv := front.New(c)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return s
}

// Invoke is the same for the own loop; it is told from net/http by its path.
func (s *server) Invoke(q *invoke.Request, _ route.Plain, a invoke.Asker) (broken bool) {
	var b []byte
	var err error
	if body := a.Body(); body != nil {
		b, err = io.ReadAll(body)
	}
	s.mu.Lock()
	s.got = append(s.got, fmt.Sprintf("%s %s %q", q.Method, q.Target, b))
	s.own++
	s.mu.Unlock()
	status, text := 200, fmt.Sprint(len(b))
	if err != nil {
		status, text = 400, "body: "+err.Error()
	}
	return a.Begin(&invoke.Head{Status: status, Length: int64(len(text)), Close: err != nil}) != nil ||
		second(io.WriteString(a, text)) != nil || a.Finish(nil) != nil
}

func second(_ int, err error) error { return err }

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "websocket" && r.URL.Path == "/ws" {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		io.Copy(c, rw)
		return
	}
	b, err := io.ReadAll(r.Body)
	s.mu.Lock()
	s.got = append(s.got, fmt.Sprintf("%s %s %q", r.Method, r.RequestURI, b))
	s.mu.Unlock()
	if err != nil {
		w.Header().Set("Connection", "close")
		http.Error(w, "body: "+err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%d", len(b))
}

// exchange sends raw bytes and answers with the status of every response.
func (s *server) exchange(t testing.TB, raw string) (statuses []int, got []string) {
	t.Helper()
	s.mu.Lock()
	s.got = nil
	s.mu.Unlock()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	go func() {
		io.WriteString(c, raw)
		c.(*net.TCPConn).CloseWrite()
	}()
	br := bufio.NewReader(c)
	for {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			break
		}
		if resp.StatusCode != http.StatusContinue {
			statuses = append(statuses, resp.StatusCode)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return statuses, s.got
}

const get = "GET /ok HTTP/1.1\r\nHost: x\r\n\r\n"

// TestCorpus is what arrives in the wild on raw connections. The last request
// of most cases is a smuggled one: it must never arrive.
func TestCorpus(t *testing.T) {
	t.Run("net/http", func(t *testing.T) { corpus(t, newServer(t, false), func(s string) string { return s }) })
	// The own loop serves what is plain and has net/http refuse the rest.
	t.Run("own", func(t *testing.T) {
		s := newServer(t, true)
		corpus(t, s, strings.NewReplacer(" /ok", " /function/ok", " /a ", " /function/a ").Replace)
		if s.own < 10 {
			t.Errorf("only %d requests came through the own loop", s.own)
		}
	})
}

func corpus(t *testing.T, s *server, path func(string) string) {
	head := func(line string, fields ...string) string {
		return line + "\r\nHost: x\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n"
	}
	post := func(fields ...string) string { return head("POST /a HTTP/1.1", fields...) }
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, tt := range []struct {
		name, raw string
		want      []int
		got       []string
	}{
		{"plain", get, []int{200}, []string{`GET /ok ""`}},
		{"HTTP/1.0", "GET /ok HTTP/1.0\r\n\r\n", []int{200}, []string{`GET /ok ""`}},
		{"pipelined", get + post("Content-Length: 3") + "abc" + get, []int{200, 200, 200}, []string{`GET /ok ""`, `POST /a "abc"`, `GET /ok ""`}},
		{"chunked", post("Transfer-Encoding: chunked") + "3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n" + get, []int{200, 200}, []string{`POST /a "abc0123456789"`, `GET /ok ""`}},
		{"the same host twice over", "GET http://x/ok HTTP/1.1\r\nHost: x\r\n\r\n", []int{200}, []string{`GET http://x/ok ""`}},

		{"CL and TE", post("Content-Length: 4", "Transfer-Encoding: chunked") + "0\r\n\r\n" + smuggled, []int{400}, nil},
		{"TE and CL", post("Transfer-Encoding: chunked", "Content-Length: 4") + "0\r\n\r\n" + smuggled, []int{400}, nil},
		{"TE in HTTP/1.0", head("POST /a HTTP/1.0", "Transfer-Encoding: chunked") + "0\r\n\r\n" + smuggled, []int{400}, nil},
		{"TE folded", post("Transfer-Encoding:", " chunked") + "0\r\n\r\n", []int{400}, nil},
		{"TE twice", post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + "0\r\n\r\n", []int{400}, nil},
		{"TE unknown", post("Transfer-Encoding: xchunked") + "0\r\n\r\n", []int{501}, nil},
		{"TE list", post("Transfer-Encoding: chunked, identity") + "0\r\n\r\n", []int{501}, nil},
		{"TE with a space before the colon", post("Transfer-Encoding : chunked") + "0\r\n\r\n", []int{400}, nil},
		{"TE with a vertical tab", post("Transfer-Encoding: \x0bchunked") + "0\r\n\r\n", []int{400}, nil},
		{"CL twice", post("Content-Length: 3", "Content-Length: 4") + "abc", []int{400}, nil},
		{"CL list", post("Content-Length: 3, 3") + "abc", []int{400}, nil},
		{"CL plus", post("Content-Length: +3") + "abc", []int{400}, nil},
		{"CL minus", post("Content-Length: -1"), []int{400}, nil},
		{"CL hex", post("Content-Length: 0x3") + "abc", []int{400}, nil},
		{"CL 2^64", post("Content-Length: 18446744073709551616"), []int{400}, nil},
		{"CL empty", post("Content-Length:"), []int{400}, nil},

		{"CONNECT", "CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\n\r\n", []int{405}, nil},
		{"PRI after another request", get + "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []int{200, 400}, []string{`GET /ok ""`}},
		{"PRI with a field", "PRI * HTTP/2.0\r\nX: y\r\n\r\nSM\r\n\r\n", []int{400}, nil},
		{"HTTP/1.9", head("GET /a HTTP/1.9"), []int{505}, nil},
		{"HTTP/2.0", head("GET /a HTTP/2.0"), []int{505}, nil},
		{"HTTP/0.9", "GET /a\r\n\r\n", []int{400}, nil},
		{"another host in the target", "GET http://evil/ok HTTP/1.1\r\nHost: x\r\n\r\n", []int{400}, nil},
		{"another scheme in the target", "GET gopher://x/ok HTTP/1.1\r\nHost: x\r\n\r\n", []int{400}, nil},
		{"a user in the target", "GET http://x@evil/ok HTTP/1.1\r\nHost: x\r\n\r\n", []int{400}, nil},
		{"a target without a slash", head("GET ok HTTP/1.1"), []int{400}, nil},
		{"two slashes", head("GET //evil HTTP/1.1"), []int{400}, nil},
		{"dots", head("GET /function/../../system/functions HTTP/1.1"), []int{400}, nil},
		{"escaped dots", head("GET /function/%2e%2e/system HTTP/1.1"), []int{400}, nil},
		{"escaped dots and slash", head("GET /function/..%2fsystem HTTP/1.1"), []int{400}, nil},
		{"escaped NUL", head("GET /function/a%00 HTTP/1.1"), []int{400}, nil},
		{"bad escape", head("GET /%zz HTTP/1.1"), []int{400}, nil},
		{"star", head("GET * HTTP/1.1"), []int{400}, nil},
		{"tab in the request line", head("GET\t/ok HTTP/1.1"), []int{400}, nil},
		{"two spaces", head("GET  /ok HTTP/1.1"), []int{400}, nil},

		{"two hosts", head("GET /ok HTTP/1.1", "Host: y"), []int{400}, nil},
		{"no host", "GET /ok HTTP/1.1\r\n\r\n", []int{400}, nil},
		{"folded field", head("GET /ok HTTP/1.1", "X-A: 1", " 2"), []int{400}, nil},
		{"bare line feeds", "GET /ok HTTP/1.1\nHost: x\n\n", []int{400}, nil},
		{"one bare line feed", "GET /ok HTTP/1.1\r\nHost: x\nX-A: b\r\n\r\n", []int{400}, nil},
		{"bare carriage return", head("GET /ok HTTP/1.1", "X-A: 1\rX-B: 2"), []int{400}, nil},
		{"NUL in a field", head("GET /ok HTTP/1.1", "X-A: \x00"), []int{400}, nil},
		{"129 fields", head("GET /ok HTTP/1.1", strings.Split(strings.Repeat("X-A: 1|", 127)+"X-A: 1", "|")...), []int{431}, nil},
		{"128 fields", head("GET /ok HTTP/1.1", strings.Split(strings.Repeat("X-A: 1|", 126)+"X-A: 1", "|")...), []int{200}, []string{`GET /ok ""`}},
		{"a large head", head("GET /ok HTTP/1.1", "X-A: "+strings.Repeat("a", 65<<10)), []int{431}, nil},
		{"a head without end", "GET /ok HTTP/1.1\r\nX-A: " + strings.Repeat("a", 65<<10), []int{431}, nil},

		{"chunk size with 0x", post("Transfer-Encoding: chunked") + "0x3\r\nabc\r\n0\r\n\r\n" + smuggled, []int{400}, []string{`POST /a ""`}},
		{"chunk size with a bare line feed", post("Transfer-Encoding: chunked") + "3\nabc\r\n0\r\n\r\n" + smuggled, []int{400}, []string{`POST /a ""`}},
		{"chunk extension with a line feed", post("Transfer-Encoding: chunked") + "3;a\nb\r\nabc\r\n0\r\n\r\n" + smuggled, []int{400}, []string{`POST /a ""`}},
		{"chunk size too large", post("Transfer-Encoding: chunked") + "FFFFFFFFFFFFFFFF0\r\nabc\r\n0\r\n\r\n" + smuggled, []int{400}, []string{`POST /a ""`}},
		{"chunk longer than its size", post("Transfer-Encoding: chunked") + "3\r\nabcd\r\n0\r\n\r\n" + smuggled, []int{400}, []string{`POST /a "abc"`}},
		{"chunk size empty", post("Transfer-Encoding: chunked") + "\r\nabc\r\n0\r\n\r\n" + smuggled, []int{400}, []string{`POST /a ""`}},
		{"chunk size with a space", post("Transfer-Encoding: chunked") + "3 \r\nabc\r\n0\r\n\r\n" + smuggled, []int{400}, []string{`POST /a ""`}},
		{"chunked without end", post("Transfer-Encoding: chunked") + "3\r\nab", []int{400}, []string{`POST /a "ab"`}},

		{"bad after good", get + "GET http://evil/ HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, []int{200, 400}, []string{`GET /ok ""`}},
		{"rubbish after a body", post("Content-Length: 3") + "abc\r\nrubbish\r\n\r\n" + get, []int{200, 400}, []string{`POST /a "abc"`}},
		{"a WebSocket that is refused ends the connection", head("GET /a HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket") + smuggled, []int{200}, []string{`GET /a ""`}},
		{"a WebSocket with a body", head("GET /ws HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket", "Content-Length: 3") + "abc", []int{400}, nil},
	} {
		statuses, got := s.exchange(t, path(tt.raw))
		for i := range tt.got {
			tt.got[i] = path(tt.got[i])
		}
		if d := cmp.Diff(tt.want, statuses); d != "" {
			t.Errorf("%s: statuses (-want +got)\n%s", tt.name, d)
		}
		if d := cmp.Diff(tt.got, got); d != "" {
			t.Errorf("%s: what arrived (-want +got)\n%s", tt.name, d)
		}
	}
}

// TestByteByByte: a request is the same however it is cut.
func TestByteByByte(t *testing.T) {
	s := newServer(t, true)
	raw := "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + get
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	br := bufio.NewReader(c)
	go io.Copy(struct{ io.Writer }{c}, iotest.OneByteReader(strings.NewReader(raw)))
	for range 2 {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != 200 {
			t.Errorf("got %d", resp.StatusCode)
		}
	}
}

func TestTunnel(t *testing.T) {
	s := newServer(t, true)
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x00\n\x01not http")
	br := bufio.NewReader(c)
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 101 {
		t.Fatalf("%v %v", resp, err)
	}
	buf := make([]byte, len("\x00\n\x01not http"))
	if _, err := io.ReadFull(br, buf); err != nil || string(buf) != "\x00\n\x01not http" {
		t.Errorf("%q %v", buf, err)
	}
}

// FuzzConnection: whatever bytes come, the server answers or closes, and what
// it understands has one meaning: a request that arrives was framed as net/http
// frames it too.
func FuzzConnection(f *testing.F) {
	for _, s := range []string{
		get, get + get, "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" + get,
		"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + get,
		"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
	} {
		f.Add(s)
		f.Add(strings.NewReplacer(" /ok", " /function/ok", " /a ", " /function/a ").Replace(s)) // for the own loop
	}
	srv := newServer(f, true)
	f.Fuzz(func(t *testing.T, raw string) {
		_, got := srv.exchange(t, raw)
		want := plain(raw)
		for i, g := range got {
			if i >= len(want) || g != want[i] {
				t.Fatalf("%q: request %d arrived as %s; net/http alone has %q", raw, i, g, want)
			}
		}
	})
}

// plain is what net/http's own reader makes of raw.
func plain(raw string) (out []string) {
	br := bufio.NewReader(strings.NewReader(raw))
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return out
		}
		b, err := io.ReadAll(r.Body)
		out = append(out, fmt.Sprintf("%s %s %q", r.Method, r.RequestURI, b))
		if err != nil {
			return out
		}
	}
}

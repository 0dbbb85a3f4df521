package upstream

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/gateway/wire"
)

// hangsUp answers the first request of a connection and closes it when it has
// read the head of the second.
func hangsUp(t *testing.T) (address string, heads func() []string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var got []string
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				br := bufio.NewReader(c)
				for i := range 2 {
					req, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					io.Copy(io.Discard, req.Body)
					mu.Lock()
					got = append(got, req.Method)
					mu.Unlock()
					if i == 0 {
						io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
					}
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String(), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return got
	}
}

// TestSentOnce: what may have been acted upon is not sent again, what changes
// nothing is.
func TestSentOnce(t *testing.T) {
	for _, tt := range []struct {
		method, body string
		heads        string
		fails        bool
	}{
		{"GET", "", "GET GET GET", false},
		{"POST", "", "GET POST", true},
		{"GET", "x", "GET GET", true},
		{"DELETE", "", "GET DELETE", true},
	} {
		address, heads := hangsUp(t)
		p := New(address, Config{})
		if o := see(p, newRequest(t, "GET", "")); o.Body != "ok" {
			t.Fatalf("got %+v", o)
		}
		o := see(p, newRequest(t, tt.method, tt.body))
		p.Close()
		if got := strings.Join(heads(), " "); got != tt.heads || o.Failed != tt.fails {
			t.Errorf("%s %q: the replica saw %s, failed %v", tt.method, tt.body, got, o.Failed)
		}
	}
}

// TestLongBody: a body of unknown length goes as it comes, with its trailers; an
// answer that does not wait for it ends it, and the exchange.
func TestLongBody(t *testing.T) {
	address, _ := raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true)
	p := New(address, Config{})
	defer p.Close()
	r := newRequest(t, "POST", strings.Repeat("x", 100_000))
	r.Length = wire.Chunked
	r.Body.(*text).trailers = []wire.Field{{Name: []byte("X-Sum"), Value: []byte("1")}}
	for range 3 {
		r.Body.(*text).Reader = strings.NewReader(strings.Repeat("x", 100_000))
		if o := see(p, r); o.Body != "ok" {
			t.Fatalf("got %+v", o)
		}
	}
}

// TestEarlyAnswer: the rest of the body is not waited for.
func TestEarlyAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
		}
		io.Copy(io.Discard, c)
	}()
	p := New(l.Addr().String(), Config{})
	defer p.Close()
	pr, pw := io.Pipe()
	go io.WriteString(pw, "the beginning, and then nothing")
	stopped := errors.New("nobody needs the rest")
	r := newRequest(t, "POST", "x")
	r.Length = wire.Chunked
	r.Body = &text{Reader: pr, stop: func() { pr.CloseWithError(stopped) }}
	if o := see(p, r); o.Status != 403 || o.Body != "no" || o.Failed {
		t.Errorf("got %+v", o)
	}
	<-done // the connection was closed
}

// TestLimit ends the exchange whatever it is waiting for.
func TestLimit(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // nobody answers: the kernel takes the connection
	p := New(l.Addr().String(), Config{})
	defer p.Close()
	for _, limit := range []time.Duration{patience / 5, 3 * patience} {
		for _, body := range []string{"", strings.Repeat("x", maxInline+1)} {
			r := newRequest(t, "POST", body)
			r.Limit = time.Now().Add(limit)
			if _, err := p.Do(r); !errors.Is(err, ErrLimit) {
				t.Errorf("%s, %d bytes: %v", limit, len(body), err)
			}
		}
	}
}

package invoke_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/gateway/invoke"
)

// TestStreamsBothWays: each line goes out and comes back before the next one
// is sent.
func TestStreamsBothWays(t *testing.T) {
	r := newRig(t, invoke.Config{})
	_, e := r.replica("a", func(w http.ResponseWriter, req *http.Request) {
		c := http.NewResponseController(w)
		if err := c.EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		s := bufio.NewScanner(req.Body)
		for s.Scan() {
			fmt.Fprintf(w, "got %s\n", s.Text())
			c.Flush()
		}
	})
	r.ready(e)
	pr, pw := io.Pipe()
	req, _ := http.NewRequestWithContext(t.Context(), "POST", r.url, pr)
	got := make(chan *http.Response, 1)
	go func() {
		resp, err := r.client.Do(req)
		if err != nil {
			t.Error(err)
		}
		got <- resp
	}()
	io.WriteString(pw, "0\n")
	resp := <-got
	if resp == nil {
		t.FailNow()
	}
	defer resp.Body.Close()
	s := bufio.NewScanner(resp.Body)
	for i := range 5 {
		if !s.Scan() || s.Text() != fmt.Sprint("got ", i) {
			t.Fatalf("line %d: %q, %v", i, s.Text(), s.Err())
		}
		fmt.Fprintf(pw, "%d\n", i+1)
	}
	pw.Close()
}

// TestEventsComeAtOnce: headers and each event of a stream are there before the
// function goes on.
func TestEventsComeAtOnce(t *testing.T) {
	r := newRig(t, invoke.Config{})
	on := make(chan struct{})
	_, e := r.replica("a", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		for range 3 {
			<-on
			io.WriteString(w, "data: x\n\n")
			w.(http.Flusher).Flush()
		}
	})
	r.ready(e)
	req, _ := http.NewRequestWithContext(t.Context(), "GET", r.url, nil)
	resp, err := r.client.Do(req) // returns with the headers
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buf := make([]byte, len("data: x\n\n"))
	for range 3 {
		on <- struct{}{}
		if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != "data: x\n\n" {
			t.Fatalf("%q %v", buf, err)
		}
	}
}

// TestSlowKnownLength: a part of an answer whose length is known is not held
// back for the rest.
func TestSlowKnownLength(t *testing.T) {
	r := newRig(t, invoke.Config{})
	on := make(chan struct{})
	_, e := r.replica("a", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		io.WriteString(w, "first")
		w.(http.Flusher).Flush()
		<-on
		io.WriteString(w, "later")
	})
	r.ready(e)
	req, _ := http.NewRequestWithContext(t.Context(), "GET", r.url, nil)
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buf := make([]byte, 5)
	if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != "first" {
		t.Fatalf("%q %v", buf, err)
	}
	close(on)
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "later" {
		t.Fatalf("%q %v", rest, err)
	}
}

func TestTrailers(t *testing.T) {
	r := newRig(t, invoke.Config{})
	_, e := r.replica("a", func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		io.Copy(w, req.Body)
		w.Header().Set("X-Sum", "of "+req.Trailer.Get("X-Count"))
		w.Header().Set(http.TrailerPrefix+"X-Late", "yes")
	})
	r.ready(e)
	req, _ := http.NewRequestWithContext(t.Context(), "POST", r.url, io.MultiReader(strings.NewReader("body")))
	req.Trailer = http.Header{"X-Count": {"4"}}
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "body" {
		t.Fatalf("%q %v", b, err)
	}
	if resp.Trailer.Get("X-Sum") != "of 4" || resp.Trailer.Get("X-Late") != "yes" {
		t.Errorf("trailers %v", resp.Trailer)
	}
}

// TestStreamedBodyTooLarge: a body of unknown length is cut where it is too
// much, and never held.
func TestStreamedBodyTooLarge(t *testing.T) {
	r := newRig(t, invoke.Config{MaxBody: 1 << 20})
	_, e := r.replica("a", func(_ http.ResponseWriter, req *http.Request) { io.Copy(io.Discard, req.Body) })
	r.ready(e)
	req, _ := http.NewRequestWithContext(t.Context(), "POST", r.url, io.LimitReader(forever{}, 100<<20))
	resp, err := r.client.Do(req)
	if err != nil {
		t.Skipf("the connection was closed while the client still sent: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("got %d", resp.StatusCode)
	}
	exact := bytes.Repeat([]byte("x"), 1<<20)
	req, _ = http.NewRequestWithContext(t.Context(), "POST", r.url, io.MultiReader(bytes.NewReader(exact)))
	resp, err = r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("a body as large as the limit: %d", resp.StatusCode)
	}
}

type forever struct{}

func (forever) Read(p []byte) (int, error) { return len(p), nil }

// TestExpectContinue: the client is asked for the body only when a replica
// reads it.
func TestExpectContinue(t *testing.T) {
	r := newRig(t, invoke.Config{MaxBody: 10})
	_, e := r.replica("a", func(w http.ResponseWriter, req *http.Request) { io.Copy(w, req.Body) })
	r.ready(e)
	for body, want := range map[string]string{"hello": "HTTP/1.1 100 Continue", "hello, world": "HTTP/1.1 413 "} {
		c, err := net.Dial("tcp", strings.Split(r.url, "/")[2])
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "POST /function/resize HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", len(body))
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil || !strings.HasPrefix(line, want) {
			t.Errorf("%q: %q %v, want %q", body, line, err, want)
		}
		c.Close()
	}
}

func TestBrokenChunk(t *testing.T) {
	r := newRig(t, invoke.Config{})
	_, e := r.replica("a", func(_ http.ResponseWriter, req *http.Request) { io.Copy(io.Discard, req.Body) })
	r.ready(e)
	c, err := net.Dial("tcp", strings.Split(r.url, "/")[2])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST /function/resize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0x5\r\nhello\r\n0\r\n\r\n")
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 400 {
		t.Errorf("got %d", resp.StatusCode)
	}
}

func TestWebSocket(t *testing.T) {
	r := newRig(t, invoke.Config{Timeout: 50 * time.Millisecond, ColdStart: time.Second})
	_, e := r.replica("a", func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Upgrade") != "websocket" || req.Header.Get("Connection") != "Upgrade" || req.Header.Get("Sec-Websocket-Key") != "k" {
			t.Errorf("headers %v", req.Header)
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: a\r\n\r\n")
		io.Copy(c, rw)
	})
	r.ready(e)
	ask := func() (net.Conn, *bufio.Reader, *http.Response) {
		c, err := net.Dial("tcp", strings.Split(r.url, "/")[2])
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "GET /function/resize HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\nearly")
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		br := bufio.NewReader(c)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c, br, resp
	}
	dial := func() (net.Conn, *bufio.Reader) {
		c, br, resp := ask()
		for n := 1; resp.StatusCode == http.StatusGatewayTimeout && n < 100; n++ { // on a busy machine the limit is short
			c.Close()
			c, br, resp = ask()
		}
		if resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" || resp.Header.Get("Sec-Websocket-Accept") != "a" || resp.Header.Get("X-Call-Id") == "" {
			t.Fatalf("answer %d %v", resp.StatusCode, resp.Header)
		}
		return c, br
	}
	c, br := dial()
	defer c.Close()
	buf := make([]byte, 5)
	if _, err := io.ReadFull(br, buf); err != nil || string(buf) != "early" {
		t.Fatalf("%q %v", buf, err)
	}
	// It outlives the function's time limit.
	wait := time.NewTimer(100 * time.Millisecond)
	<-wait.C
	io.WriteString(c, "later")
	if _, err := io.ReadFull(br, buf); err != nil || string(buf) != "later" {
		t.Fatalf("%q %v", buf, err)
	}
	// The gateway's end closes it.
	r.stop()
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

// TestSlowUploadIsLeft: a function that answers early does not have to wait for
// a client that never ends its body.
func TestSlowUploadIsLeft(t *testing.T) {
	r := newRig(t, invoke.Config{})
	_, e := r.replica("a", func(w http.ResponseWriter, _ *http.Request) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Error(err) // without it the function itself would wait for the body
		}
		w.WriteHeader(http.StatusForbidden)
	})
	r.ready(e)
	c, err := net.Dial("tcp", strings.Split(r.url, "/")[2])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST /function/resize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n")
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("got %d", resp.StatusCode)
	}
	r.c.until(t, "the slot to be free", func() bool {
		d := r.c.reports[len(r.c.reports)-1]
		return d.InFlight == 0 && d.Arrived == 1
	})
}

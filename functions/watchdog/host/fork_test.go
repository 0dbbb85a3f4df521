package host

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestClassic(t *testing.T) {
	r := start(t, "fprocess=cat")
	res := r.expect(t, "POST", "/", "hello", 200, "hello", "Content-Type", "text/x-own")
	if got := res.Header.Get("Content-Type"); got != "text/x-own" {
		t.Errorf("content type %q, want the request's", got)
	}
	if s := seconds(t, res); s <= 0 || s > 10 {
		t.Errorf("duration %v", s)
	}
	r.log.await(t, "Wrote 5 Bytes - Duration: ")
	form := regexp.MustCompile(`(?m)^Forking fprocess\.$[^|]*^Wrote 5 Bytes - Duration: [0-9.]+s$`)
	if !form.MatchString(r.log.String()) {
		t.Errorf("the log does not have the lines that tools match:\n%s", r.log)
	}
	big := strings.Repeat("x", 5<<20)
	if res, got := r.do(t, "POST", "/", big); res.StatusCode != 200 || got != big {
		t.Errorf("%d, %d bytes, want %d", res.StatusCode, len(got), len(big))
	}
}

// deadlines notes the read deadlines of a request's connection.
type deadlines struct {
	*httptest.ResponseRecorder
	now atomic.Int32 // those that end reading
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	if !t.IsZero() {
		d.now.Add(1)
	}
	return nil
}

// A process that ends before its input costs the connection only if more of
// the body is to come: after the body's end the server itself reads, and what
// cuts that off would cancel the next request.
func TestProcessEndsBeforeItsInput(t *testing.T) {
	for _, whole := range []bool{true, false} {
		dir := t.TempDir()
		// It ends when the test says so. What it leaves behind has left its group
		// and holds the input open, unread and full.
		r := start(t, "fprocess=sh -c 'cd "+dir+`; exec 3<&0; setsid sh -c "touch away; exec sleep 1" >/dev/null 2>&1 & until [ -e end ] && [ -e away ]; do sleep 0.01; done'`)
		body := &timedBody{}
		d := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		body.rc = http.NewResponseController(d)
		stuck, more := make(chan struct{}), make(chan struct{})
		text := strings.NewReader(strings.Repeat("x", 65<<10))
		body.ReadCloser = io.NopCloser(readFunc(func(p []byte) (int, error) {
			n, _ := text.Read(p)
			switch {
			case text.Len() > 0:
			case whole:
				return n, io.EOF // and it is stuck in writing that
			case n == 0:
				close(stuck)
				<-more
				return 0, io.ErrUnexpectedEOF
			}
			return n, nil
		}))
		if !whole { // then it must not be stuck in writing
			text = strings.NewReader("begun")
		}
		req := httptest.NewRequestWithContext(t.Context(), "POST", "/", nil)
		req.Body = body
		done := make(chan error, 1)
		go func() { done <- r.process(d, req, io.Discard) }()
		if whole {
			for !body.ended.Load() {
				runtime.Gosched()
			}
		} else {
			<-stuck
		}
		if err := os.WriteFile(filepath.Join(dir, "end"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if !whole {
			for d.now.Load() == 0 {
				runtime.Gosched()
			}
			close(more)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n, closes := d.now.Load(), d.Header().Get("Connection") == "close"; n > 0 == whole || closes == whole {
			t.Errorf("the whole body was there: %v; reading was cut off %d times, the connection closes: %v", whole, n, closes)
		}
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

func TestEnvironment(t *testing.T) {
	r := start(t, `fprocess=sh -c 'env; echo problem >&2'`, "content_type=text/plain")
	_, got := r.do(t, "PUT", "/a/b?x=1&y", "12345", "X-Call-Id", "77")
	for _, want := range []string{
		"Http_Method=PUT\n", "Http_Path=/a/b\n", "Http_Query=x=1&y\n", "Http_X_Call_Id=77\n", "Http_ContentLength=5\n",
		"Http_Content_Length=5\n", "Http_Host=127.0.0.1", "problem\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	r = start(t, `fprocess=sh -c 'env; echo problem >&2'`, "combine_output=false", "cgi_headers=false")
	if _, got := r.do(t, "GET", "/", ""); strings.Contains(got, "problem") || strings.Contains(got, "Http_Method") {
		t.Errorf("stderr or CGI in\n%s", got)
	}
	r.log.await(t, "stderr: problem")
}

func TestProcessFails(t *testing.T) {
	r := start(t, `fprocess=sh -c 'echo partly; exit 7'`)
	r.expect(t, "GET", "/", "", 500, "exit status 7\npartly\n")
	r = start(t, "fprocess=/no/such/program")
	r.expect(t, "GET", "/", "", 500, "/no/such/program")
	// Too much was sent to change the status: the answer must not look whole.
	r = start(t, `fprocess=sh -c 'head -c 3000000 /dev/zero; exit 7'`)
	if _, got := r.do(t, "GET", "/", ""); !strings.HasPrefix(got, "cut: ") {
		t.Errorf("got %d bytes as if all was well", len(got))
	}
}

func TestProcessIsKilled(t *testing.T) {
	// What it leaves behind holds its output open, and must go too.
	for mode, code := range map[string]int{"classic": 408, "serializing": 504, "streaming": 504} {
		pid := filepath.Join(t.TempDir(), "pid")
		r := start(t, "mode="+mode, "exec_timeout=200ms", `fprocess=sh -c 'sleep 1000 & echo $! >`+pid+`; wait'`)
		begin := time.Now()
		res := r.expect(t, "GET", "/", "", code, "Killed process.")
		if took := time.Since(begin); took > 20*time.Second || took < 200*time.Millisecond {
			t.Errorf("%s: it took %v", mode, took)
		}
		if from := res.Header.Get("X-OpenFaaS-Internal"); (code == 504) != (from == "of-watchdog") {
			t.Errorf("%s: X-OpenFaaS-Internal %q", mode, from)
		}
		b, err := os.ReadFile(pid)
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(20 * time.Second); alive(strings.TrimSpace(string(b))); {
			if time.Now().After(deadline) { // a kill takes effect a moment later
				t.Fatalf("%s: process %s lives on", mode, b)
			}
		}
	}
	r := start(t, "exec_timeout=1m", "fprocess=sleep 1000")
	r.expect(t, "GET", "/", "", 408, "", "X-Timeout", "100ms")
}

func TestProcessLeavesOrphan(t *testing.T) {
	r := start(t, `fprocess=sh -c 'sleep 1000 & echo done'`)
	r.expect(t, "GET", "/", "", 200, "done")
}

func TestProcessIgnoresInput(t *testing.T) {
	r := start(t, "fprocess=echo enough")
	r.expect(t, "POST", "/", strings.Repeat("x", 200<<10), 200, "enough")
	// A client that sends nothing and keeps its body open gets its answer too.
	pr, pw := io.Pipe()
	defer pw.Close()
	req, _ := http.NewRequestWithContext(t.Context(), "POST", r.url, pr)
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "enough\n" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestStreaming(t *testing.T) {
	r := start(t, "mode=streaming", `fprocess=sh -c 'echo one; read x; echo two $x'`)
	pr, pw := io.Pipe()
	req, _ := http.NewRequestWithContext(t.Context(), "POST", r.url, pr)
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	buf := make([]byte, 64)
	n, err := res.Body.Read(buf) // the process has not ended: it waits for input
	if err != nil || string(buf[:n]) != "one\n" {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	_, _ = io.WriteString(pw, "input\n")
	_ = pw.Close()
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "two input\n" {
		t.Errorf("%q, %v", b, err)
	}
	r.log.await(t, "POST / - 200 OK - ContentLength: ")
}

func TestMaxInflight(t *testing.T) {
	r := start(t, "mode=streaming", "max_inflight=1", "fprocess=cat")
	pr, pw := io.Pipe()
	req, _ := http.NewRequestWithContext(t.Context(), "POST", r.url, pr)
	go func() { _, _ = io.WriteString(pw, "first") }()
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for _, path := range []string{"/", "/_/ready"} {
		if second := r.expect(t, "GET", path, "", 429, "max_inflight"); second.Header.Get("X-OpenFaaS-Internal") != "faas-middleware" {
			t.Errorf("%s: headers %v", path, second.Header)
		}
	}
	r.expect(t, "GET", "/_/health", "", 200, "OK")
	_ = pw.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	r.expect(t, "POST", "/", "third", 200, "third")
}

func TestStatic(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.txt"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, "mode=static", "static_path="+dir)
	r.expect(t, "GET", "/a.txt", "", 200, "content")
	r.expect(t, "GET", "/../../etc/passwd", "", 404, "")
}

func TestHealth(t *testing.T) {
	r := start(t, "fprocess=cat")
	r.expect(t, "GET", "/_/health", "", 200, "OK")
	r.expect(t, "GET", "/_/ready", "", 200, "OK")
	r.expect(t, "POST", "/_/health", "", 405, "")
	if err := os.Remove(r.c.lock); err != nil {
		t.Fatalf("no lock file: %v", err)
	}
	r.expect(t, "GET", "/_/health", "", 503, "")

	r = start(t, "fprocess=cat", "suppress_lock=true")
	r.expect(t, "GET", "/_/health", "", 200, "OK")
}

func alive(pid string) bool {
	state, err := os.ReadFile("/proc/" + pid + "/stat")
	return err == nil && !strings.Contains(string(state), ") Z ")
}

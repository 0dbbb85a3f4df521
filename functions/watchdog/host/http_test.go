package host

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// function prepares this test program as the process of http mode.
func function(t *testing.T, how string, vars ...string) []string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("TEST_FUNCTION", how)
	t.Setenv("TEST_ADDRESS", l.Addr().String())
	return append(vars, "fprocess="+os.Args[0], "mode=http", "upstream_url=http://"+l.Addr().String())
}

func TestProxy(t *testing.T) {
	r := start(t, function(t, "now", "log_callid=true", "ready_path=/healthy")...)
	res := r.expect(t, "POST", "/a%2Fb?x=1;y", "body", 202, "POST /a%2Fb?x=1;y 127.0.0.1:", "X-Forwarded-For", "10.1.2.3", "X-Call-Id", "id-1")
	if res.Header.Get("X-Own") != "yes" || seconds(t, res) <= 0 {
		t.Errorf("headers %v", res.Header)
	}
	r.expect(t, "POST", "/", "body", 202, "10.1.2.3 4 body", "X-Forwarded-For", "10.1.2.3")
	if res := r.expect(t, "GET", "/away", "", 302, ""); res.Header.Get("Location") != "http://example.com/" {
		t.Errorf("redirect %v", res.Header)
	}
	r.expect(t, "GET", "/_/ready", "", 418, "")
	r.log.await(t, "stdout: started")
	r.log.await(t, "POST /a%2Fb?x=1;y - 202 Accepted - ContentLength: ")
	r.log.await(t, "[id-1]")
}

func TestProxyTimeout(t *testing.T) {
	r := start(t, function(t, "now", "exec_timeout=100ms")...)
	if res := r.expect(t, "GET", "/hang", "", 504, "exec_timeout"); res.Header.Get("X-OpenFaaS-Internal") != "of-watchdog" || seconds(t, res) < 0.1 {
		t.Errorf("headers %v", res.Header)
	}
}

// The port is closed until the function listens; signals reach it before.
func TestReadyWhenUpstreamListens(t *testing.T) {
	r := launch(t, function(t, "late")...)
	r.log.await(t, "started")
	select {
	case <-r.ready:
		t.Fatal("the port was opened too early")
	default:
	}
	r.signals <- syscall.SIGHUP
	a := <-r.ready
	_, port, _ := strings.Cut(a.String(), "]:")
	r.url = "http://127.0.0.1:" + port
	r.expect(t, "GET", "/_/ready", "", 200, "OK")
}

func TestChildDies(t *testing.T) {
	r := start(t, function(t, "now")...)
	req, _ := http.NewRequestWithContext(t.Context(), "GET", r.url+"/die", nil)
	if res, err := http.DefaultTransport.RoundTrip(req); err == nil {
		_ = res.Body.Close()
	}
	if err := <-r.ended; err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("ended with %v, want the child's exit status", err)
	}
	r.ended <- nil
}

func TestDrain(t *testing.T) {
	r := start(t, function(t, "now")...)
	pr, pw := io.Pipe()
	req, _ := http.NewRequestWithContext(t.Context(), "POST", r.url+"/wait", pr)
	res, err := http.DefaultTransport.RoundTrip(req) // answers "begun" and waits for more
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	r.signals <- syscall.SIGTERM
	r.log.await(t, "finishing 1")
	if _, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://")); err == nil && exists(r.c.lock) {
		t.Error("still accepting")
	}
	_, _ = io.WriteString(pw, "well")
	_ = pw.Close()
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "begun\nended well" {
		t.Errorf("the request in flight got %q, %v", b, err)
	}
	if err := <-r.ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	r.log.await(t, "terminated")
	if exists(r.c.lock) {
		t.Error("the lock file is still there")
	}
	r.ended <- nil
}

func TestInProcess(t *testing.T) {
	r := start(t, "mode=inproc", "exec_timeout=100ms")
	res := r.expect(t, "POST", "/", "body", 200, "body")
	seconds(t, res)
	r.expect(t, "GET", "/late", "", 504, "")
	r.expect(t, "GET", "/panic", "", 500, "panicked")
	r.log.await(t, "panic: oh")
	if _, got := r.do(t, "GET", "/cut", ""); !strings.HasPrefix(got, "cut: ") {
		t.Errorf("got %q as if all was well", got)
	}
	r.expect(t, "GET", "/_/health", "", 200, "OK")
}

func TestMetrics(t *testing.T) {
	r := start(t, "fprocess=cat")
	r.expect(t, "POST", "/", "a", 200, "a")
	r.expect(t, "BREW", "/", "a", 200, "a")
	got := string(r.metrics.text(r.inflight.Load()))
	for _, want := range []string{
		"http_requests_in_flight 0\n",
		`http_requests_total{code="200",method="post"} 1` + "\n",
		`http_requests_total{code="200",method="unknown"} 1` + "\n",
		`http_request_duration_seconds_bucket{code="200",method="post",le="+Inf"} 1` + "\n",
		`http_request_duration_seconds_count{code="200",method="post"} 1` + "\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

// The program itself, as process 1: it reaps what its functions leave behind,
// and exits with 0 on SIGTERM.
func TestProcessOne(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a PID namespace needs root")
	}
	bin := filepath.Join(t.TempDir(), "watchdog")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_ = l.Close()
	out := &lines{more: make(chan struct{})}
	cmd := exec.CommandContext(t.Context(), bin)
	// The orphan leaves the group, so that it is not killed but ends by itself.
	cmd.Env = append(os.Environ(), "port="+port, "metrics_port=0", "suppress_lock=true",
		`fprocess=sh -c 'setsid sh -c "exit 0" & cut -d" " -f1,3 /proc/[0-9]*/stat 2>/dev/null; echo $$'`)
	cmd.Stderr = out
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if err := cmd.Start(); err != nil {
		t.Skipf("no PID namespace here: %v", err)
	}
	r := &running{log: out, url: "http://127.0.0.1:" + port}
	for !(&watchdog{c: &config{upstream: mustParse("http://127.0.0.1:" + port)}}).upstreamAccepts(t.Context()) {
		if t.Context().Err() != nil {
			t.Fatal(out)
		}
	}
	for range 20 {
		r.expect(t, "GET", "/", "", 200, "")
	}
	// Its zombies, seen from outside, are children of its pid.
	if z := zombies(t, cmd.Process.Pid); z > 1 {
		t.Errorf("%d zombies are left", z)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v\n%s", err, out)
	}
}

func zombies(t *testing.T, parent int) (n int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stats {
		b, err := os.ReadFile(s)
		if err != nil {
			continue
		}
		f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		if string(f[0]) == "Z" && string(f[1]) == itoa(parent) {
			n++
		}
	}
	return n
}

package host

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMain also is the function in http mode: a server that misbehaves on
// demand.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_FUNCTION") != "" {
		serveFunction()
		return
	}
	os.Exit(m.Run())
}

func serveFunction() {
	hup, term := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	signal.Notify(term, syscall.SIGTERM)
	fmt.Println("started")
	if os.Getenv("TEST_FUNCTION") == "late" {
		<-hup
	}
	go func() {
		<-term
		fmt.Println("terminated")
		os.Exit(0)
	}()
	mux := http.NewServeMux()
	mux.HandleFunc("/die", func(http.ResponseWriter, *http.Request) { os.Exit(3) })
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/away", func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, "http://example.com/", http.StatusFound)
	})
	mux.HandleFunc("/healthy", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusTeapot) })
	mux.HandleFunc("/wait", func(rw http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(rw).EnableFullDuplex()
		fmt.Fprintln(rw, "begun")
		_ = http.NewResponseController(rw).Flush()
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(rw, "ended %s", b)
	})
	mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		rw.Header().Set("X-Own", "yes")
		rw.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(rw, "%s %s %s %s %d %s", r.Method, r.URL.RequestURI(), r.Host, r.Header.Get("X-Forwarded-For"), r.ContentLength, b)
	})
	_ = http.ListenAndServe(os.Getenv("TEST_ADDRESS"), mux)
}

// own is the function in inproc mode.
func own(rw http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/panic":
		panic("oh")
	case "/late":
		<-r.Context().Done()
		rw.WriteHeader(http.StatusGatewayTimeout)
	case "/cut":
		_, _ = io.WriteString(rw, "begun")
		_ = http.NewResponseController(rw).Flush()
		panic("oh")
	default:
		_, _ = io.Copy(rw, r.Body)
	}
}

// lines is a log that tests can wait on.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.more)
	l.more = make(chan struct{})
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// await returns when the log has a line.
func (l *lines) await(t *testing.T, part string) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		l.mu.Lock()
		has, more := strings.Contains(l.text.String(), part), l.more
		l.mu.Unlock()
		if has {
			return
		}
		select {
		case <-more:
		case <-late:
			t.Fatalf("no %q in the log:\n%s", part, l)
		}
	}
}

// running is a watchdog that serves.
type running struct {
	*watchdog
	log     *lines
	url     string
	signals chan os.Signal
	ended   chan error
}

// start runs a watchdog with these variables; "k=v".
func start(t *testing.T, vars ...string) *running {
	t.Helper()
	r := launch(t, vars...)
	select {
	case a := <-r.ready:
		_, port, _ := strings.Cut(a.String(), "]:")
		r.url = "http://127.0.0.1:" + port
	case err := <-r.ended:
		t.Fatalf("ended at once: %v\n%s", err, r.log)
	}
	return r
}

func launch(t *testing.T, vars ...string) *running {
	t.Helper()
	env := map[string]string{"port": "0", "metrics_port": "0"}
	for _, kv := range vars {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	c, err := read(func(k string) string { return env[k] }, env["mode"] == inproc)
	if err != nil {
		t.Fatal(err)
	}
	if c.lock != "" {
		c.lock = filepath.Join(t.TempDir(), ".lock")
	}
	l := &lines{more: make(chan struct{})}
	r := &running{watchdog: newWatchdog(c, l), log: l, signals: make(chan os.Signal, 4), ended: make(chan error, 1)}
	r.function = http.HandlerFunc(own)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.ended <- r.run(ctx, r.signals)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return r
}

func (r *running) do(t *testing.T, method, path, body string, header ...string) (*reply, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", method, path, err, r.log)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return &reply{res.StatusCode, res.Header}, "cut: " + err.Error()
	}
	return &reply{res.StatusCode, res.Header}, string(b)
}

// reply is what a response says before its body.
type reply struct {
	StatusCode int
	Header     http.Header
}

func (r *running) expect(t *testing.T, method, path, body string, code int, part string, header ...string) *reply {
	t.Helper()
	res, got := r.do(t, method, path, body, header...)
	if res.StatusCode != code || !strings.Contains(got, part) {
		t.Errorf("%s %s: got %d %q, want %d with %q", method, path, res.StatusCode, got, code, part)
	}
	return res
}

func seconds(t *testing.T, res *reply) float64 {
	t.Helper()
	s, err := strconv.ParseFloat(res.Header.Get("X-Duration-Seconds"), 64)
	if err != nil {
		t.Fatalf("X-Duration-Seconds: %v", err)
	}
	return s
}

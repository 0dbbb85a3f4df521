package remote_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/api/remote"
	"github.com/podsnap/podsnap/api/seamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeAgent remembers what it was asked and answers from its fields.
type fakeAgent struct {
	mu      sync.Mutex
	started []string
	stopped map[types.UID]time.Duration
	states  chan api.PodState
	log     io.ReadCloser
	asked   api.LogOptions
	exec    func(context.Context, api.ExecOptions) (int, error)
	attach  func(context.Context, api.AttachOptions) error
	forward func(context.Context, uint16) (api.Conn, error)
	err     error
}

func (f *fakeAgent) Start(_ context.Context, pods []*corev1.Pod) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range pods {
		f.started = append(f.started, string(p.UID)+" "+p.Spec.Containers[0].Image)
	}
	return f.err
}

func (f *fakeAgent) Stop(_ context.Context, pod types.UID, grace time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped[pod] = grace
	return f.err
}

func (f *fakeAgent) List(context.Context) ([]api.PodState, error) {
	return []api.PodState{{UID: "u/1", Name: "p", Namespace: "n", Status: corev1.PodStatus{Phase: corev1.PodRunning}}}, f.err
}

func (f *fakeAgent) Observe(ctx context.Context) (<-chan api.PodState, error) {
	out := make(chan api.PodState)
	go func() {
		defer close(out)
		for {
			select {
			case s, ok := <-f.states:
				if !ok {
					return
				}
				select {
				case out <- s:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, f.err
}

func (f *fakeAgent) Logs(_ context.Context, pod types.UID, o api.LogOptions) (io.ReadCloser, error) {
	f.asked = o
	if pod != "u/1" {
		return nil, apierrors.NewNotFound(api.Pods.GR(), string(pod))
	}
	return f.log, nil
}

func (f *fakeAgent) Exec(ctx context.Context, _ types.UID, o api.ExecOptions) (int, error) {
	return f.exec(ctx, o)
}

func (f *fakeAgent) Attach(ctx context.Context, _ types.UID, o api.AttachOptions) error {
	return f.attach(ctx, o)
}

func (f *fakeAgent) Forward(ctx context.Context, _ types.UID, port uint16) (api.Conn, error) {
	return f.forward(ctx, port)
}

func (f *fakeAgent) SetFrozen(context.Context, types.UID, uint64, bool) error { return f.err }

func (f *fakeAgent) Stats(context.Context) (api.NodeStats, error) {
	return api.NodeStats{CPUSeconds: 1.5, Memory: 1 << 60, Pods: []api.PodStats{{UID: "u/1"}}}, f.err
}

func agentPair(t *testing.T, f *fakeAgent) *remote.Agent {
	t.Helper()
	srv := httptest.NewServer(remote.RequireToken("secret", remote.ServeAgent(f)))
	t.Cleanup(srv.Close)
	return remote.NewAgent(remote.Config{URL: srv.URL, Token: "secret", Client: srv.Client()})
}

// TestAgentSeam runs the seam's conformance suite over HTTP.
func TestAgentSeam(t *testing.T) {
	seamtest.Agent(t, func(t *testing.T) api.Agent {
		t.Helper()
		srv := httptest.NewServer(remote.ServeAgent(memory.NewAgent()))
		t.Cleanup(srv.Close)
		return remote.NewAgent(remote.Config{URL: srv.URL, Client: srv.Client()})
	})
}

func TestAgentCalls(t *testing.T) {
	f := &fakeAgent{stopped: map[types.UID]time.Duration{}}
	a := agentPair(t, f)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u/1"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: "i"}}}}
	if err := a.Start(t.Context(), []*corev1.Pod{pod}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"u/1 i"}, f.started); d != "" {
		t.Error(d)
	}
	if err := a.Stop(t.Context(), "u/1", 1500*time.Millisecond); err != nil || f.stopped["u/1"] != 1500*time.Millisecond {
		t.Errorf("stopped %v, %v", f.stopped, err)
	}
	list, err := a.List(t.Context())
	want := []api.PodState{{UID: "u/1", Name: "p", Namespace: "n", Status: corev1.PodStatus{Phase: corev1.PodRunning}}}
	if d := cmp.Diff(want, list); d != "" || err != nil {
		t.Error(d, err)
	}
	stats, err := a.Stats(t.Context())
	if d := cmp.Diff(api.NodeStats{CPUSeconds: 1.5, Memory: 1 << 60, Pods: []api.PodStats{{UID: "u/1"}}}, stats); d != "" || err != nil {
		t.Error(d, err)
	}
}

func TestAgentErrors(t *testing.T) {
	f := &fakeAgent{stopped: map[types.UID]time.Duration{}, err: apierrors.NewServiceUnavailable("containerd is gone")}
	a := agentPair(t, f)
	if err := a.Start(t.Context(), nil); !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "containerd is gone") {
		t.Errorf("Start: got %v", err)
	}
	if _, err := a.Observe(t.Context()); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("Observe: got %v", err)
	}
	f.err = errors.New("a fault")
	if _, err := a.List(t.Context()); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "a fault") {
		t.Errorf("List: got %v", err)
	}
	if _, err := a.Logs(t.Context(), "other", api.LogOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("Logs: got %v", err)
	}
	srv := httptest.NewServer(remote.RequireToken("secret", remote.ServeAgent(f)))
	stranger := remote.NewAgent(remote.Config{URL: srv.URL, Token: "wrong", Client: srv.Client()})
	if _, err := stranger.Stats(t.Context()); !apierrors.IsUnauthorized(err) {
		t.Errorf("a wrong token: got %v", err)
	}
	srv.Close()
	if _, err := stranger.Stats(t.Context()); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("nobody there: got %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	if err := a.Start(ctx, nil); !errors.Is(err, cause) {
		t.Errorf("a context that is done: got %v", err)
	}
}

func TestAgentObserve(t *testing.T) {
	f := &fakeAgent{states: make(chan api.PodState)}
	a := agentPair(t, f)
	states, err := a.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		want := api.PodState{UID: types.UID(fmt.Sprint(i)), Gone: i%2 == 1}
		f.states <- want
		if d := cmp.Diff(want, <-states); d != "" {
			t.Fatal(d)
		}
	}
	close(f.states)
	if s, ok := <-states; ok {
		t.Errorf("after the end came %v", s)
	}

	f.states = make(chan api.PodState)
	ctx, cancel := context.WithCancel(t.Context())
	if states, err = a.Observe(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	if s, ok := <-states; ok {
		t.Errorf("after its context came %v", s)
	}
}

// oneByte cuts lines as badly as a network can.
type oneByte struct{ *strings.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.Reader.Read(p[:min(1, len(p))]) }
func (oneByte) Close() error                 { return nil }

func TestAgentLogs(t *testing.T) {
	f := &fakeAgent{log: oneByte{strings.NewReader("one\ntwo\nlast")}}
	a := agentPair(t, f)
	o := api.LogOptions{Container: "c", Follow: true, Previous: true, Tail: 7, Since: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Timestamps: true}
	log, err := a.Logs(t.Context(), "u/1", o)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if d := cmp.Diff(o, f.asked); d != "" {
		t.Error(d)
	}
	var got string
	for {
		buf := make([]byte, 100)
		n, err := log.Read(buf)
		got += string(buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if part := string(buf[:n]); !strings.HasSuffix(part, "\n") && part != "last" {
			t.Errorf("a read delivers %q, want whole lines", part)
		}
	}
	if got != "one\ntwo\nlast" {
		t.Errorf("got %q", got)
	}
}

func TestAgentLogsFollow(t *testing.T) {
	r, w := io.Pipe()
	f := &fakeAgent{log: r}
	a := agentPair(t, f)
	log, err := a.Logs(t.Context(), "u/1", api.LogOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(log)
	for i := range 10 {
		want := fmt.Sprint("line ", i)
		if _, err := io.WriteString(w, want+"\n"); err != nil {
			t.Fatal(err)
		}
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("got %q (%v), want %q", lines.Text(), lines.Err(), want)
		}
	}
	_ = w.CloseWithError(errors.New("disk"))
	if lines.Scan() || lines.Err() == nil {
		t.Errorf("a log that broke off ended with %q, %v: want an error", lines.Text(), lines.Err())
	}
	if err := log.Close(); err != nil {
		t.Error(err)
	}
}

func TestAgentExec(t *testing.T) {
	f := &fakeAgent{exec: func(_ context.Context, o api.ExecOptions) (int, error) {
		if d := cmp.Diff([]string{"sh", "-c", "a b"}, o.Command); d != "" || o.Container != "c" {
			return 0, errors.New(d)
		}
		if _, err := io.WriteString(o.Stderr, "begin"); err != nil {
			return 0, err
		}
		in := bufio.NewScanner(o.Stdin)
		for in.Scan() {
			if _, err := fmt.Fprintf(o.Stdout, "<%s>\n", in.Text()); err != nil {
				return 0, err
			}
		}
		return 42, in.Err()
	}}
	a := agentPair(t, f)
	stdin, typed := io.Pipe()
	shown, stdout := io.Pipe()
	var stderr bytes.Buffer
	type result struct {
		code int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		code, err := a.Exec(t.Context(), "u/1", api.ExecOptions{Container: "c", Command: []string{"sh", "-c", "a b"}, Stdin: stdin, Stdout: stdout, Stderr: &stderr})
		done <- result{code, err}
	}()
	screen := bufio.NewScanner(shown)
	for i := range 5 { // a conversation: each answer is there before the next question
		if _, err := fmt.Fprintln(typed, i); err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("<%d>", i); !screen.Scan() || screen.Text() != want {
			t.Fatalf("got %q, want %q", screen.Text(), want)
		}
	}
	typed.Close()
	if got := <-done; got.err != nil || got.code != 42 {
		t.Errorf("got %+v, want exit code 42", got)
	}
	if stderr.String() != "begin" {
		t.Errorf("stderr: got %q", stderr.String())
	}
}

func TestAgentExecLarge(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB: several frames
	f := &fakeAgent{exec: func(_ context.Context, o api.ExecOptions) (int, error) {
		if o.Stdin == nil && o.Stdout == nil && o.Stderr == nil {
			return 0, nil
		}
		_, err := io.Copy(o.Stdout, o.Stdin)
		return 0, err
	}}
	var out bytes.Buffer
	code, err := agentPair(t, f).Exec(t.Context(), "u/1", api.ExecOptions{Stdin: strings.NewReader(big), Stdout: &out})
	if err != nil || code != 0 || out.String() != big {
		t.Errorf("got %d bytes, code %d, %v; want %d bytes", out.Len(), code, err, len(big))
	}
	code, err = agentPair(t, f).Exec(t.Context(), "u/1", api.ExecOptions{})
	if err != nil || code != 0 {
		t.Errorf("with nothing: got %d, %v", code, err)
	}
}

func TestAgentExecEnds(t *testing.T) {
	f := &fakeAgent{exec: func(context.Context, api.ExecOptions) (int, error) {
		return 0, apierrors.NewNotFound(api.Pods.GR(), "u/1")
	}}
	a := agentPair(t, f)
	stdin, typed := io.Pipe() // nobody types: the command's end does not wait for it
	defer typed.Close()
	if _, err := a.Exec(t.Context(), "u/1", api.ExecOptions{Stdin: stdin}); !apierrors.IsNotFound(err) {
		t.Errorf("got %v, want NotFound", err)
	}
	stdin.Close()

	begun := make(chan struct{})
	f.exec = func(ctx context.Context, _ api.ExecOptions) (int, error) {
		close(begun)
		<-ctx.Done()
		return 0, ctx.Err()
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	go func() {
		<-begun
		cancel(cause)
	}()
	if _, err := a.Exec(ctx, "u/1", api.ExecOptions{}); !errors.Is(err, cause) {
		t.Errorf("got %v, want the context's cause", err)
	}
}

func TestServedByAnotherServer(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "<html>sorry</html>", http.StatusBadGateway)
	}))
	defer srv.Close()
	a := remote.NewAgent(remote.Config{URL: srv.URL, Client: srv.Client()})
	if _, err := a.List(t.Context()); err == nil || !strings.Contains(err.Error(), "sorry") {
		t.Errorf("got %v, want what the server said", err)
	}
}

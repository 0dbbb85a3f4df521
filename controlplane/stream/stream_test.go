package stream_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/stream"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("k8s.io/client-go/tools/remotecommand.(*heartbeat).start")) // a client's that has gone: it ends with its next beat
}

// patience bounds what would hang.
const patience = 30 * time.Second

// serve has requests answered by f until the test's end, and then waits for
// every connection.
func serve(t *testing.T, f func(w http.ResponseWriter, r *http.Request) error) *url.URL {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := f(w, r); err != nil {
			var known apierrors.APIStatus
			errors.As(err, &known)
			http.Error(w, err.Error(), int(known.Status().Code))
		}
	}))
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// command serves a command to clients of both wires.
func command(t *testing.T, want stream.Wants, run stream.Run, test func(t *testing.T, e remotecommand.Executor)) {
	t.Helper()
	u := serve(t, func(w http.ResponseWriter, r *http.Request) error { return stream.Remote(w, r, want, run) })
	cfg := &rest.Config{Host: u.String()}
	for name, open := range map[string]func() (remotecommand.Executor, error){
		"websocket v5": func() (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutor(cfg, "GET", u.String())
		},
		"websocket v4": func() (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutorForProtocols(cfg, "GET", u.String(), "v4.channel.k8s.io")
		},
		"spdy": func() (remotecommand.Executor, error) { return remotecommand.NewSPDYExecutor(cfg, "POST", u) },
	} {
		t.Run(name, func(t *testing.T) {
			e, err := open()
			if err != nil {
				t.Fatal(err)
			}
			test(t, e)
		})
	}
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestOutputAndExitCode(t *testing.T) {
	want := stream.Wants{Stdout: true, Stderr: true}
	command(t, want, func(_ context.Context, s stream.Streams) (int, error) {
		if s.Stdin != nil || s.Resize != nil {
			return 0, errors.New("streams that were not asked for")
		}
		_, err := io.WriteString(s.Stdout, "out")
		if err == nil {
			_, err = io.WriteString(s.Stderr, "err")
		}
		return 42, err
	}, func(t *testing.T, e remotecommand.Executor) {
		var out, errs bytes.Buffer
		err := e.StreamWithContext(bounded(t), remotecommand.StreamOptions{Stdout: &out, Stderr: &errs})
		var code utilexec.ExitError
		if !errors.As(err, &code) || code.ExitStatus() != 42 {
			t.Errorf("got %v, want exit code 42", err)
		}
		if out.String() != "out" || errs.String() != "err" {
			t.Errorf("got %q and %q", out.String(), errs.String())
		}
	})
}

func TestFault(t *testing.T) {
	command(t, stream.Wants{Stdout: true}, func(context.Context, stream.Streams) (int, error) {
		return 0, apierrors.NewBadRequest("container \"x\" of pod \"y\" does not run")
	}, func(t *testing.T, e remotecommand.Executor) {
		err := e.StreamWithContext(bounded(t), remotecommand.StreamOptions{Stdout: io.Discard})
		if err == nil || !strings.Contains(err.Error(), "does not run") {
			t.Errorf("got %v", err)
		}
	})
}

// What is typed comes back whole, and slowly, so that the pipes between fill up.
func TestLarge(t *testing.T) {
	want := stream.Wants{Stdin: true, Stdout: true}
	const total = 10 << 20
	command(t, want, func(_ context.Context, s stream.Streams) (int, error) {
		n, err := io.Copy(s.Stdout, io.LimitReader(s.Stdin, total)) // version 4 over WebSocket has no end of input
		if err == nil && n != total {
			err = fmt.Errorf("got %d bytes, want %d", n, total)
		}
		return 0, err
	}, func(t *testing.T, e remotecommand.Executor) {
		sent, got := sha256.New(), sha256.New()
		in := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{}), total), sent)
		if err := e.StreamWithContext(bounded(t), remotecommand.StreamOptions{Stdin: in, Stdout: got}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
			t.Error("what came back is not what was sent")
		}
	})
}

// The end of input reaches the command, whose output goes on.
func TestHalfClose(t *testing.T) {
	command(t, stream.Wants{Stdin: true, Stdout: true}, func(_ context.Context, s stream.Streams) (int, error) {
		b, err := io.ReadAll(s.Stdin)
		if err == nil {
			_, err = fmt.Fprintf(s.Stdout, "%d bytes", len(b))
		}
		return 0, err
	}, func(t *testing.T, e remotecommand.Executor) {
		if strings.HasSuffix(t.Name(), "v4") {
			t.Skip("its protocol has no end of input")
		}
		var out bytes.Buffer
		err := e.StreamWithContext(bounded(t), remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out})
		if err != nil || out.String() != "5 bytes" {
			t.Errorf("got %q, %v", out.String(), err)
		}
	})
}

// A command that takes no input ends all the same, and so does its client, with
// the exit code.
func TestUnreadInput(t *testing.T) {
	command(t, stream.Wants{Stdin: true, Stdout: true}, func(_ context.Context, s stream.Streams) (int, error) {
		_, err := io.ReadFull(s.Stdin, make([]byte, 10))
		return 7, err
	}, func(t *testing.T, e remotecommand.Executor) {
		err := e.StreamWithContext(bounded(t), remotecommand.StreamOptions{
			Stdin: io.LimitReader(rand.NewChaCha8([32]byte{}), 4<<20), Stdout: io.Discard,
		})
		var code utilexec.ExitError
		if !errors.As(err, &code) || code.ExitStatus() != 7 {
			t.Errorf("got %v, want exit code 7", err)
		}
	})
}

type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-s
	if !ok {
		return nil
	}
	return &size
}

func TestTerminal(t *testing.T) {
	shown := make(chan api.TerminalSize)
	command(t, stream.Wants{Stdin: true, Stdout: true, Stderr: true, TTY: true}, func(ctx context.Context, s stream.Streams) (int, error) {
		if s.Stderr != nil {
			return 0, errors.New("a terminal has no standard error")
		}
		for range 2 {
			select {
			case size := <-s.Resize:
				shown <- size
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		return 0, nil
	}, func(t *testing.T, e remotecommand.Executor) {
		queue := make(sizes)
		go func() {
			defer close(queue)
			for _, w := range []uint16{80, 132} {
				queue <- remotecommand.TerminalSize{Width: w, Height: 24}
				if got := <-shown; got != (api.TerminalSize{Width: w, Height: 24}) {
					t.Errorf("got %+v, want width %d", got, w)
				}
			}
		}()
		in, typed := io.Pipe()
		defer typed.Close()
		err := e.StreamWithContext(bounded(t), remotecommand.StreamOptions{Stdin: in, Stdout: io.Discard, Tty: true, TerminalSizeQueue: queue})
		if err != nil {
			t.Error(err)
		}
	})
}

// A client that goes ends the command.
func TestClientGone(t *testing.T) {
	gone := make(chan error, 1)
	command(t, stream.Wants{Stdin: true, Stdout: true}, func(ctx context.Context, s stream.Streams) (int, error) {
		_, _ = io.WriteString(s.Stdout, "runs")
		_, _ = io.Copy(io.Discard, s.Stdin) // ends, too
		<-ctx.Done()
		gone <- ctx.Err()
		return 0, ctx.Err()
	}, func(t *testing.T, e remotecommand.Executor) {
		ctx, cancel := context.WithCancel(bounded(t))
		shown, stdout := io.Pipe()
		in, typed := io.Pipe()
		defer typed.Close()
		go func() {
			_, _ = shown.Read(make([]byte, 10))
			cancel()
		}()
		if err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: stdout}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		select {
		case err := <-gone:
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("the command goes on without its client")
		}
	})
}

// A client that goes ends the command even when that has not taken what was
// typed.
func TestClientGoneUnread(t *testing.T) {
	gone := make(chan struct{}, 1)
	command(t, stream.Wants{Stdin: true, Stdout: true}, func(ctx context.Context, s stream.Streams) (int, error) {
		_, _ = io.WriteString(s.Stdout, "runs")
		<-ctx.Done()
		gone <- struct{}{}
		return 0, ctx.Err()
	}, func(t *testing.T, e remotecommand.Executor) {
		ctx, cancel := context.WithCancel(bounded(t))
		shown, stdout := io.Pipe()
		go func() {
			_, _ = shown.Read(make([]byte, 10))
			time.AfterFunc(200*time.Millisecond, cancel) // when it has sent more than is taken
		}()
		in := io.MultiReader(io.LimitReader(rand.NewChaCha8([32]byte{}), 100<<10), until{ctx.Done()})
		_ = e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: stdout}) // its own end
		select {
		case <-gone:
		case <-time.After(patience):
			t.Error("the command goes on without its client")
		}
	})
}

// until is input that ends, with nothing, when the channel is closed.
type until struct{ done <-chan struct{} }

func (u until) Read([]byte) (int, error) {
	<-u.done
	return 0, io.EOF
}

func TestRefused(t *testing.T) {
	u := serve(t, func(w http.ResponseWriter, r *http.Request) error {
		return stream.Remote(w, r, stream.Wants{Stdout: true}, func(context.Context, stream.Streams) (int, error) {
			t.Error("it runs")
			return 0, nil
		})
	})
	for name, c := range map[string]struct {
		header http.Header
		code   int
		says   string
	}{
		"no upgrade":   {http.Header{}, 400, "Upgrade request required"},
		"old protocol": {http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {"v2.channel.k8s.io"}}, 403, "server accepts [v4.channel.k8s.io]"},
		"no protocol":  {http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}, 403, "server accepts [v5.channel.k8s.io v4.channel.k8s.io]"},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(bounded(t), "GET", u.String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header = c.header
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != c.code || !strings.Contains(string(b), c.says) {
				t.Errorf("got %d %s, want %d with %q", resp.StatusCode, b, c.code, c.says)
			}
		})
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

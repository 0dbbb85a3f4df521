package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/remote"
)

// overBoth runs a test over HTTP/1.1 and HTTP/2.
func overBoth(t *testing.T, f *fakeAgent, run func(t *testing.T, a *remote.Agent)) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2=%v", http2), func(t *testing.T) {
			srv := httptest.NewUnstartedServer(remote.ServeAgent(f))
			srv.EnableHTTP2 = http2
			srv.StartTLS()
			defer srv.Close()
			defer srv.Client().CloseIdleConnections()
			run(t, remote.NewAgent(remote.Config{URL: srv.URL, Client: srv.Client()}))
		})
	}
}

func TestAgentTerminal(t *testing.T) {
	f := &fakeAgent{exec: func(ctx context.Context, o api.ExecOptions) (int, error) {
		if !o.TTY || o.Stderr != nil || o.Stdin == nil {
			return 0, fmt.Errorf("got %+v, want a terminal with input and without standard error", o)
		}
		for range 2 {
			select {
			case s := <-o.Resize:
				fmt.Fprintf(o.Stdout, "%dx%d\n", s.Width, s.Height)
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		return 3, nil
	}}
	overBoth(t, f, func(t *testing.T, a *remote.Agent) {
		sizes := make(chan api.TerminalSize)
		stdin, typed := io.Pipe()
		defer typed.Close()
		shown, stdout := io.Pipe()
		done := make(chan error, 1)
		go func() {
			code, err := a.Exec(t.Context(), "u/1", api.ExecOptions{TTY: true, Stdin: stdin, Stdout: stdout, Resize: sizes})
			if err == nil && code != 3 {
				err = fmt.Errorf("exit code %d, want 3", code)
			}
			done <- err
		}()
		buf := make([]byte, 100)
		for _, s := range []api.TerminalSize{{Width: 80, Height: 24}, {Width: 300, Height: 1}} {
			sizes <- s
			n, err := shown.Read(buf)
			if want := fmt.Sprintf("%dx%d\n", s.Width, s.Height); err != nil || string(buf[:n]) != want {
				t.Fatalf("got %q, %v, want %q", buf[:n], err, want)
			}
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Sizes that nobody takes hold nothing up, and neither does input that nobody reads.
func TestAgentUnread(t *testing.T) {
	f := &fakeAgent{attach: func(_ context.Context, o api.AttachOptions) error {
		_, err := io.ReadAll(o.Stdin)
		if err == nil {
			_, err = io.WriteString(o.Stderr, "read")
		}
		return err
	}}
	overBoth(t, f, func(t *testing.T, a *remote.Agent) {
		sizes := make(chan api.TerminalSize, 10)
		for range 10 {
			sizes <- api.TerminalSize{Width: 1}
		}
		var out bytes.Buffer
		if err := a.Attach(t.Context(), "u/1", api.AttachOptions{Stdin: strings.NewReader("x"), Stderr: &out, Resize: sizes}); err != nil || out.String() != "read" {
			t.Errorf("got %q, %v", out.String(), err)
		}
	})
}

// A client that goes away takes the command's context with it.
func TestAgentClientGone(t *testing.T) {
	gone := make(chan error, 1)
	f := &fakeAgent{exec: func(ctx context.Context, o api.ExecOptions) (int, error) {
		_, _ = io.WriteString(o.Stdout, "runs")
		<-ctx.Done()
		gone <- ctx.Err()
		return 0, ctx.Err()
	}}
	overBoth(t, f, func(t *testing.T, a *remote.Agent) {
		ctx, cancel := context.WithCancel(t.Context())
		shown, stdout := io.Pipe()
		go func() {
			_, _ = shown.Read(make([]byte, 10))
			cancel()
		}()
		if _, err := a.Exec(ctx, "u/1", api.ExecOptions{Stdout: stdout}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the client's own error", err)
		}
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// tcp is a connection to a listener that serve takes.
func tcp(t *testing.T, serve func(net.Conn)) func(context.Context, uint16) (api.Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return func(ctx context.Context, port uint16) (api.Conn, error) {
		if port != 80 {
			return nil, apierrors.NewServiceUnavailable("connection refused")
		}
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
		if err != nil {
			return nil, err
		}
		return c.(*net.TCPConn), nil
	}
}

func TestAgentForward(t *testing.T) {
	f := &fakeAgent{forward: tcp(t, func(c net.Conn) {
		defer c.Close()
		_, _ = io.WriteString(c, "hello ") // first, unasked
		b, _ := io.ReadAll(c)              // to the end of what is sent: the other direction stays
		_, _ = c.Write(b)
	})}
	overBoth(t, f, func(t *testing.T, a *remote.Agent) {
		if _, err := a.Forward(t.Context(), "u/1", 81); !apierrors.IsServiceUnavailable(err) {
			t.Errorf("got %v, want that it was refused", err)
		}
		big := strings.Repeat("0123456789abcdef", 1<<18)
		c, err := a.Forward(t.Context(), "u/1", 80)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		go func() {
			_, _ = io.WriteString(c, big)
			_ = c.CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil || string(got) != "hello "+big {
			t.Errorf("got %d bytes, %v, want %d", len(got), err, len(big)+6)
		}
	})
}

// Who closes a forwarded connection closes the pod's end.
func TestAgentForwardClosed(t *testing.T) {
	ended := make(chan error, 1)
	f := &fakeAgent{forward: tcp(t, func(c net.Conn) {
		defer c.Close()
		_, _ = io.WriteString(c, "hello")
		_, err := io.ReadAll(c)
		ended <- err
	})}
	overBoth(t, f, func(t *testing.T, a *remote.Agent) {
		c, err := a.Forward(t.Context(), "u/1", 80)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		<-ended
	})
}

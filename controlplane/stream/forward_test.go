package stream_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/stream"
)

// forwarded serves forwarding to clients of both wires; each gets the address of
// a listener that leads to port 80.
func forwarded(t *testing.T, dial stream.Dial, test func(t *testing.T, address string, faults *bytes.Buffer)) {
	u := serve(t, func(w http.ResponseWriter, r *http.Request) error { return stream.Forward(w, r, dial) })
	cfg := &rest.Config{Host: u.String()}
	ports := []string{"0:80"}
	for name, open := range map[string]func(stop, ready chan struct{}, faults io.Writer) (*portforward.PortForwarder, error){
		"websocket": func(stop, ready chan struct{}, faults io.Writer) (*portforward.PortForwarder, error) {
			d, err := portforward.NewSPDYOverWebsocketDialer(u, cfg)
			if err != nil {
				return nil, err
			}
			return portforward.New(d, ports, stop, ready, io.Discard, faults)
		},
		"spdy": func(stop, ready chan struct{}, faults io.Writer) (*portforward.PortForwarder, error) {
			transport, upgrader, err := spdy.RoundTripperFor(cfg)
			if err != nil {
				return nil, err
			}
			return portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u), ports, stop, ready, io.Discard, faults)
		},
	} {
		t.Run(name, func(t *testing.T) {
			stop, ready, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			faults := &bytes.Buffer{}
			f, err := open(stop, ready, faults)
			if err != nil {
				t.Fatal(err)
			}
			go func() { done <- f.ForwardPorts() }()
			select {
			case <-ready:
			case err := <-done:
				t.Fatal(err)
			}
			ports, err := f.GetPorts()
			if err != nil {
				t.Fatal(err)
			}
			test(t, fmt.Sprintf("127.0.0.1:%d", ports[0].Local), faults)
			close(stop)
			<-done
		})
	}
}

// backend is what listens in a pod.
func backend(t *testing.T) stream.Dial {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	})}
	var running sync.WaitGroup
	running.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() { srv.Close(); running.Wait() })
	return func(ctx context.Context, port uint16) (api.Conn, error) {
		if port != 80 {
			return nil, fmt.Errorf("port %d, want 80", port)
		}
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
		if err != nil {
			return nil, err
		}
		return c.(*net.TCPConn), nil
	}
}

func TestForward(t *testing.T) {
	forwarded(t, backend(t), func(t *testing.T, address string, _ *bytes.Buffer) {
		tr := &http.Transport{}
		defer tr.CloseIdleConnections()
		client := &http.Client{Transport: tr, Timeout: patience}
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				body := strings.Repeat(fmt.Sprint(i), 300<<10)
				resp, err := client.Post("http://"+address, "text/plain", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				got, err := io.ReadAll(resp.Body)
				if err != nil || string(got) != body {
					t.Errorf("got %d bytes, %v, want %d of %d", len(got), err, len(body), i)
				}
			})
		}
		wg.Wait()
	})
}

func TestForwardRefused(t *testing.T) {
	dial := func(context.Context, uint16) (api.Conn, error) {
		return nil, apierrors.NewServiceUnavailable("connect: connection refused")
	}
	forwarded(t, dial, func(t *testing.T, address string, _ *bytes.Buffer) {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
			t.Errorf("got %q, %v, want the end", b, err)
		}
	})
}

// A client that goes takes its connections with it.
func TestForwardGone(t *testing.T) {
	ended := make(chan struct{}, 2)
	forwarded(t, func(ctx context.Context, _ uint16) (api.Conn, error) {
		in, out := net.Pipe()
		context.AfterFunc(ctx, func() { in.Close(); ended <- struct{}{} })
		return pipe{out}, nil
	}, func(t *testing.T, address string, _ *bytes.Buffer) {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("the connection to the pod stays")
		}
	})
}

type pipe struct{ net.Conn }

func (p pipe) CloseWrite() error { return p.Close() }

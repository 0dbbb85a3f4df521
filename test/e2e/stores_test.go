package e2e

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/daemon/embedded"
	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
)

// With --etcd and --nats the platform uses servers that are not its own, by the
// same code.
func TestExternalStores(t *testing.T) {
	platform.NeedRoot(t)
	dir, err := os.MkdirTemp("", "psx")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := embedded.Config{Dir: dir, Socket: filepath.Join(dir, "etcd.sock"), NATS: platform.FreePorts(t, 1)[0], NATSToken: "outside", Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancelCause(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- embedded.Run(ctx, c, func() { close(ready) }) }()
	t.Cleanup(func() { cancel(errors.New("the test is over")); <-done })
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	p := platform.New(t, "--etcd", embedded.EtcdEndpoint(c.Socket), "--nats", "nats://outside@"+c.NATS)
	build(t, p)
	if kids := children(t, p); kids["store"] != 0 {
		t.Errorf("the platform started a store of its own: %v", kids)
	}
	deploy(t, p, openfaas.FunctionDeployment{Service: "outer"})
	if code, body, _ := invoke(t, p, "POST", "/function/outer", "x"); code != 200 || body != "x" {
		t.Errorf("got %d %q", code, body)
	}
	l := newLedger(t)
	id, err := enqueue(p, "outer", "x", l.URL)
	if err != nil {
		t.Fatal(err)
	}
	platform.Eventually(t, 20*time.Second, func() error { return l.missing([]string{id}) })
}

package embedded

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// run starts both servers on dir and answers with a function that stops them.
func run(t *testing.T, c Config) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- Run(ctx, c, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	case <-time.After(30 * time.Second):
		t.Fatal("the servers did not become ready")
	}
	return func() {
		cancel(errors.New("stop"))
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// What was acknowledged is there after a restart, and the servers are reached
// in the way in which the platform reaches them.
func TestRestartKeeps(t *testing.T) {
	run1, err := os.MkdirTemp("", "pse") // short: a socket's path is limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run1) })
	c := Config{
		Dir: t.TempDir(), Socket: filepath.Join(run1, "etcd.sock"), NATS: freePort(t), NATSToken: "secret",
		Log: slog.New(slog.DiscardHandler),
	}
	use := func(f func(kv *clientv3.Client, js jetstream.JetStream)) {
		stop := run(t, c)
		defer stop()
		kv, err := clientv3.New(clientv3.Config{Endpoints: []string{EtcdEndpoint(c.Socket)}, DialTimeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer kv.Close()
		if _, err := nats.Connect("nats://" + c.NATS); err == nil {
			t.Error("NATS let a client in without the token")
		}
		nc, err := nats.Connect("nats://"+c.NATS, nats.Token(c.NATSToken))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		f(kv, js)
	}
	ctx := t.Context()
	use(func(kv *clientv3.Client, js jetstream.JetStream) {
		if _, err := kv.Put(ctx, "a", "1"); err != nil {
			t.Fatal(err)
		}
		if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, Storage: jetstream.FileStorage}); err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(ctx, "s", []byte("x")); err != nil {
			t.Fatal(err)
		}
	})
	use(func(kv *clientv3.Client, js jetstream.JetStream) {
		got, err := kv.Get(ctx, "a")
		if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "1" {
			t.Fatalf("got %v, %v after the restart", got, err)
		}
		s, err := js.Stream(ctx, "S")
		if err != nil {
			t.Fatal(err)
		}
		if n := s.CachedInfo().State.Msgs; n != 1 {
			t.Fatalf("%d messages after the restart, want 1", n)
		}
	})
}

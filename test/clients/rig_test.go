package clients

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/controlplane/apiserver"
	"github.com/podsnap/podsnap/controlplane/soft"
	"github.com/podsnap/podsnap/controlplane/store"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/client-go/rest"
)

// server is the API over etcd, in this process. It can be stopped and started.
type server struct {
	t    *testing.T
	etcd *clientv3.Client
	addr string

	objects api.Objects // of the running store
	hangUp  func()      // ends the listening server and all connections
	stop    func()
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, etcd: newEtcd(t)}
	s.start()
	t.Cleanup(func() { s.stop() })
	return s
}

// newEtcd is one that ends with the test.
func newEtcd(t *testing.T) *clientv3.Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcd") // short, as a socket is in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := func(name string) []url.URL { return []url.URL{{Scheme: "unix", Path: filepath.Join(dir, name)}} }
	c := embed.NewConfig()
	c.Dir = filepath.Join(dir, "data")
	c.ListenClientUrls, c.AdvertiseClientUrls = socket("c.sock"), socket("c.sock")
	c.ListenPeerUrls, c.AdvertisePeerUrls = socket("p.sock"), socket("p.sock")
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.LogLevel, c.LogOutputs, c.UnsafeNoFsync = "error", []string{filepath.Join(dir, "log")}, true
	etcd, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Close)
	<-etcd.Server.ReadyNotify()
	client, err := store.Dial([]string{socket("c.sock")[0].String()}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// start starts a store with empty caches, and a server before it.
func (s *server) start() {
	s.t.Helper()
	durable, err := store.New(store.Config{Client: s.etcd, CompactEvery: -1, Admit: admission.Admit})
	if err != nil {
		s.t.Fatal(err)
	}
	front, err := soft.New(soft.Config{Durable: durable, Kinds: soft.ReplicaKinds(), Soft: soft.Replicas, Admit: admission.Admit})
	if err != nil {
		s.t.Fatal(err)
	}
	s.objects = front
	ctx, cancel := context.WithCancel(context.Background())
	below, end := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- front.Run(ctx) }()
	go func() { ended <- durable.Run(below) }()
	s.hangUp = s.listen()
	s.stop = func() {
		s.hangUp()
		cancel()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
		end()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
	}
}

// reopen ends all connections and puts another server before the same store.
func (s *server) reopen() {
	s.t.Helper()
	s.hangUp()
	s.hangUp = s.listen()
}

// listen serves what is there at the address of the server.
func (s *server) listen() (hangUp func()) {
	s.t.Helper()
	h, err := apiserver.New(apiserver.Config{Objects: s.objects})
	if err != nil {
		s.t.Fatal(err)
	}
	if s.addr == "" {
		s.addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	srv := &http.Server{Handler: h, BaseContext: func(net.Listener) context.Context { return ctx }, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	return func() {
		cancel()
		srv.Close()
		<-done
	}
}

func (s *server) config() *rest.Config { return &rest.Config{Host: "http://" + s.addr, QPS: -1} }

package store_test

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/podsnap/podsnap/controlplane/store"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

// server is an etcd in this process, on sockets in a directory of its own, that
// can be stopped and started again on its data.
type server struct {
	t    *testing.T
	dir  string
	etcd *embed.Etcd
}

func startEtcd(t *testing.T) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcd") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &server{t: t, dir: dir}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *server) url() string { return "unix://" + filepath.Join(s.dir, "c.sock") }

func (s *server) start() {
	s.t.Helper()
	client, err := url.Parse(s.url())
	if err != nil {
		s.t.Fatal(err)
	}
	peer := url.URL{Scheme: "unix", Path: filepath.Join(s.dir, "p.sock")}
	c := embed.NewConfig()
	c.Dir = filepath.Join(s.dir, "data")
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.LogLevel, c.LogOutputs = "error", []string{filepath.Join(s.dir, "log")}
	c.UnsafeNoFsync = true // the machine does not fail in a test
	if s.etcd, err = embed.StartEtcd(c); err != nil {
		s.t.Fatal(err)
	}
	select {
	case <-s.etcd.Server.ReadyNotify():
	case <-time.After(30 * time.Second):
		s.t.Fatal("etcd is not ready after 30 s")
	}
}

func (s *server) stop() {
	if s.etcd == nil {
		return
	}
	s.etcd.Close()
	<-s.etcd.Server.StopNotify()
	s.etcd = nil
}

func (s *server) client() *clientv3.Client {
	s.t.Helper()
	c, err := store.Dial([]string{s.url()}, nil, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// open starts a store that ends with the test.
func (s *server) open(c store.Config) *store.Store {
	s.t.Helper()
	if c.Client == nil {
		c.Client = s.client()
	}
	st, err := store.New(c)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- st.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-st.Ready():
	case <-time.After(30 * time.Second):
		s.t.Fatal("the store is not ready after 30 s")
	}
	return st
}

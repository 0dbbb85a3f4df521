package store

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

// server is an etcd in this process, on sockets in a directory of its own, that
// can be stopped and started again on its data.
type server struct {
	place
	etcd *embed.Etcd
}

// place is where an etcd is.
type place struct {
	t   testing.TB
	dir string
}

func startEtcd(t testing.TB) *server {
	t.Helper()
	s := &server{place: place{t, shortDir(t)}}
	s.start()
	t.Cleanup(s.stop)
	return s
}

// shortDir is a directory whose path leaves room for a socket's name, which
// t.TempDir's does not.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (p place) url() string { return "unix://" + filepath.Join(p.dir, "c.sock") }

func (p place) client() *clientv3.Client { return dial(p.t, p.url()) }

func (s *server) start() {
	s.t.Helper()
	var err error
	if s.etcd, err = launch(s.dir, false); err != nil {
		s.t.Fatal(err)
	}
	select {
	case <-s.etcd.Server.ReadyNotify():
	case <-time.After(30 * time.Second):
		s.t.Fatal("etcd is not ready after 30 s")
	}
}

func socketURL(dir, name string) url.URL {
	return url.URL{Scheme: "unix", Path: filepath.Join(dir, name)}
}

func launch(dir string, durable bool) (*embed.Etcd, error) {
	client, peer := socketURL(dir, "c.sock"), socketURL(dir, "p.sock")
	c := embed.NewConfig()
	c.Dir = filepath.Join(dir, "data")
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.LogLevel, c.LogOutputs = "error", []string{filepath.Join(dir, "log")}
	c.UnsafeNoFsync = !durable
	return embed.StartEtcd(c)
}

func (s *server) stop() {
	if s.etcd == nil {
		return
	}
	s.etcd.Close()
	<-s.etcd.Server.StopNotify()
	s.etcd = nil
}

func dial(t testing.TB, url string) *clientv3.Client {
	t.Helper()
	c, err := Dial([]string{url}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// open starts a store that ends with the test.
func open(t testing.TB, c Config) *Store {
	t.Helper()
	st, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- st.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-st.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("the store is not ready after 30 s")
	}
	return st
}

func (p place) open(c Config) *Store {
	p.t.Helper()
	c.Client = p.client()
	return open(p.t, c)
}

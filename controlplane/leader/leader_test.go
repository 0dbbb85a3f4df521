package leader_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podsnap/podsnap/controlplane/leader"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// startEtcd starts a real one on a socket and answers with the socket's path.
func startEtcd(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	client, peer := url.URL{Scheme: "unix", Path: filepath.Join(dir, "c")}, url.URL{Scheme: "unix", Path: filepath.Join(dir, "p")}
	c := embed.NewConfig()
	c.Name, c.Dir, c.LogLevel, c.UnsafeNoFsync = "test", filepath.Join(dir, "d"), "fatal", true
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	return client.Path
}

// server is one that stands for election, over a connection that can be cut.
type server struct {
	*testing.T
	id     string
	client *clientv3.Client
	cut    atomic.Bool
	terms  chan leader.Term // begun
	ends   chan error       // why the term's context ended
	stop   func()

	mu    sync.Mutex
	conns []net.Conn
}

const ttl = 2 * time.Second // etcd knows no shorter lease

func stand(t *testing.T, socket, id string) *server {
	t.Helper()
	s := &server{T: t, id: id, terms: make(chan leader.Term, 8), ends: make(chan error, 8)}
	var err error
	s.client, err = clientv3.New(clientv3.Config{
		Endpoints: []string{"http://etcd"}, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			if s.cut.Load() {
				return nil, errors.New("cut")
			}
			c, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
			if err == nil {
				s.mu.Lock()
				s.conns = append(s.conns, c)
				s.mu.Unlock()
			}
			return c, err
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	e := leader.New(leader.Config{
		Client: s.client, Key: "/leader", Self: leader.Server{ID: id, Name: "node-" + id, URL: "https://" + id}, TTL: ttl,
		Clock: func() int64 { return 1000 }, Span: 100,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- e.Run(ctx, func(ctx context.Context, term leader.Term) error {
			s.terms <- term
			<-ctx.Done()
			s.ends <- context.Cause(ctx)
			return nil
		})
	}()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.client.Close()
	})
	t.Cleanup(s.stop)
	return s
}

// part cuts the server off from etcd.
func (s *server) part() {
	s.cut.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
}

func (s *server) leads(within time.Duration) leader.Term {
	s.Helper()
	select {
	case t := <-s.terms:
		return t
	case <-time.After(within):
		s.Fatalf("%s does not lead after %v", s.id, within)
	}
	panic("unreachable")
}

func (s *server) ended(within time.Duration) error {
	s.Helper()
	select {
	case err := <-s.ends:
		return err
	case <-time.After(within):
		s.Fatalf("the term of %s has not ended after %v", s.id, within)
	}
	panic("unreachable")
}

// lease is what a key lies under.
func (s *server) lease(key string) clientv3.LeaseID {
	s.Helper()
	resp, err := s.client.Get(s.Context(), key)
	if err != nil || len(resp.Kvs) != 1 {
		s.Fatalf("the key %s: %v, %v", key, resp, err)
	}
	return clientv3.LeaseID(resp.Kvs[0].Lease)
}

func (s *server) idle() {
	s.Helper()
	select {
	case <-s.terms:
		s.Fatalf("%s leads too", s.id)
	default:
	}
}

// A leader that ends gives its place up at once; the next one's numbers are above
// all of its own, though the clocks say the same.
func TestHandsOver(t *testing.T) {
	socket := startEtcd(t)
	a := stand(t, socket, "a")
	first := a.leads(5 * time.Second)
	b := stand(t, socket, "b")
	b.idle()
	a.stop()
	second := b.leads(ttl / 2)
	if first.Base != 1000 || second.Base != 1100 || second.Revision <= first.Revision {
		t.Errorf("terms %+v and %+v, want bases 1000 and 1100 and a later revision", first, second)
	}
}

// Who cannot renew stops by its own clock, and only then somebody else leads. Its
// late write is refused.
func TestCutOff(t *testing.T) {
	socket := startEtcd(t)
	a := stand(t, socket, "a")
	first := a.leads(5 * time.Second)
	b := stand(t, socket, "b")
	a.part()
	if err := a.ended(ttl + time.Second); !errors.Is(err, leader.ErrLost) {
		t.Errorf("the term ended by %v, want that it is lost", err)
	}
	second := b.leads(3 * ttl)
	a.cut.Store(false)
	for _, c := range []struct {
		term leader.Term
		done bool
	}{{first, false}, {second, true}} {
		resp, err := b.client.Txn(t.Context()).If(clientv3.Compare(clientv3.CreateRevision(c.term.Key), "=", c.term.Revision)).Then(clientv3.OpPut("/x", "y")).Commit()
		if err != nil || resp.Succeeded != c.done {
			t.Errorf("a write of the term %d: done %v, %v; want %v", c.term.Revision, resp.Succeeded, err, c.done)
		}
	}
	b.stop()
	a.leads(5 * time.Second) // it stands again
}

// A server that has died and is back does not wait for its own lease to end.
func TestTakesItsOwnPlaceAgain(t *testing.T) {
	socket := startEtcd(t)
	a := stand(t, socket, "a")
	first := a.leads(5 * time.Second)
	a.part() // so that it cannot give the key back
	again := stand(t, socket, "a")
	if second := again.leads(ttl / 2); second.Revision <= first.Revision {
		t.Errorf("terms %+v and %+v", first, second)
	}
}

// Nobody waits for the lease of a server that is known to be dead.
func TestDead(t *testing.T) {
	socket := startEtcd(t)
	a := stand(t, socket, "a")
	first := a.leads(5 * time.Second)
	a.part()
	var asked atomic.Int32
	c := dial(t, socket)
	e := leader.New(leader.Config{
		Client: c, Key: "/leader", Self: leader.Server{ID: "b"}, TTL: time.Hour, Probe: time.Millisecond,
		Look: func(_ context.Context, s leader.Server) leader.Sight {
			if s.ID == "a" && asked.Add(1) == 5 {
				return leader.Dead
			}
			return leader.Alive
		},
	})
	done := make(chan leader.Term, 1)
	enough := errors.New("enough")
	if err := e.Run(t.Context(), func(_ context.Context, term leader.Term) error {
		done <- term
		return enough
	}); !errors.Is(err, enough) {
		t.Fatal(err)
	}
	if term := <-done; term.Revision <= first.Revision || asked.Load() != 5 {
		t.Errorf("term %+v after %d questions", term, asked.Load())
	}
}

// A machine that is silent is waited for until its lease is about to end, by a second:
// one that still renews is not its successor's affair.
func TestSilent(t *testing.T) {
	socket := startEtcd(t)
	a := stand(t, socket, "a")
	first := a.leads(5 * time.Second)
	c := dial(t, socket)
	e := leader.New(leader.Config{
		Client: c, Key: "/leader", Self: leader.Server{ID: "b"}, TTL: ttl, Probe: 10 * time.Millisecond,
		Look: func(context.Context, leader.Server) leader.Sight { return leader.Silent },
	})
	done := make(chan leader.Term, 1)
	ended, enough := make(chan error, 1), errors.New("enough")
	go func() {
		ended <- e.Run(t.Context(), func(_ context.Context, term leader.Term) error {
			done <- term
			return enough
		})
	}()
	select {
	case term := <-done:
		t.Fatalf("term %+v while the leader renews its lease", term)
	case <-time.After(ttl + ttl/2):
	}
	lease := a.lease(first.Key)
	a.part()
	if _, err := c.KeepAliveOnce(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	cut := time.Now()
	if term := <-done; term.Revision <= first.Revision || time.Since(cut) < ttl/2-100*time.Millisecond || time.Since(cut) > ttl {
		t.Errorf("term %+v after %v, want a later one, between one and two seconds after the last sign", term, time.Since(cut))
	}
	if err := <-ended; !errors.Is(err, enough) {
		t.Error(err)
	}
}

// A leader whose key somebody takes away knows it at once.
func TestKeyTakenAway(t *testing.T) {
	socket := startEtcd(t)
	a := stand(t, socket, "a")
	first := a.leads(5 * time.Second)
	if _, err := a.client.Delete(t.Context(), first.Key); err != nil {
		t.Fatal(err)
	}
	if err := a.ended(ttl / 2); !errors.Is(err, leader.ErrLost) {
		t.Errorf("the term ended by %v, want that it is lost", err)
	}
	a.leads(5 * time.Second)
}

// Who waits knows who leads.
func TestFollows(t *testing.T) {
	socket := startEtcd(t)
	a := stand(t, socket, "a")
	a.leads(5 * time.Second)
	c := dial(t, socket)
	e := leader.New(leader.Config{Client: c, Key: "/leader", Self: leader.Server{ID: "b", Name: "node-b"}, TTL: ttl})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	gaveUp := errors.New("no")
	go func() {
		done <- e.Run(ctx, func(context.Context, leader.Term) error { return gaveUp })
	}()
	defer cancel()
	var seen []string
	for {
		now, changed := e.Leader()
		if seen = append(seen, now.Name); len(seen) == 3 {
			break // b gives up at once: whether there is another change depends on who was faster
		}
		if now.Name == "node-a" {
			a.stop()
		}
		select {
		case <-changed:
		case <-time.After(time.Minute):
			t.Fatalf("seen %q", seen)
		}
	}
	if seen[0] != "" || seen[1] != "node-a" || seen[2] == "node-a" {
		t.Errorf("leaders %q, want nobody, then a, then not a", seen)
	}
	if err := <-done; !errors.Is(err, gaveUp) {
		t.Errorf("the election ended by %v, want the leader's own error", err)
	}
}

func dial(t *testing.T, socket string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + socket}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Servers that run are listed, and no two of them have one name.
func TestMembers(t *testing.T) {
	c := dial(t, startEtcd(t))
	log := slog.New(slog.DiscardHandler)
	member := func(id, name string) *leader.Members {
		return leader.NewMembers(c, "/servers/", leader.Server{ID: id, Name: name, URL: "https://" + id}, log)
	}
	a := member("1", "a")
	if _, err := a.Enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := member("2", "a").Enter(t.Context()); !errors.Is(err, leader.ErrNameTaken) || !strings.Contains(err.Error(), "https://1") {
		t.Errorf("another server of the name: %v", err)
	}
	lease, err := member("1", "a").Enter(t.Context())
	if err != nil {
		t.Errorf("the same server, again: %v", err)
	}
	if _, err := member("2", "b").Enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	names := func() (out []string) {
		l, err := a.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range l {
			out = append(out, s.Name)
		}
		return out
	}
	if got := names(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("servers %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Run(ctx, lease); err != nil {
		t.Fatal(err)
	}
	if got := names(); !slices.Equal(got, []string{"b"}) {
		t.Errorf("after the end of one, servers %q", got)
	}
}

func TestClaim(t *testing.T) {
	c := dial(t, startEtcd(t))
	for _, tt := range []struct {
		value string
		ours  bool
	}{{"a", true}, {"b", false}, {"a", true}} {
		if ours, err := leader.Claim(t.Context(), c, "/x", tt.value); err != nil || ours != tt.ours {
			t.Errorf("claim %s: %v, %v; want %v", tt.value, ours, err, tt.ours)
		}
	}
}

package store

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// counted counts what a client of etcd asks for at once.
type counted struct {
	clientv3.KV
	clientv3.Watcher
	asked atomic.Int64

	mu            sync.Mutex
	running, most int // transactions
}

func (c *counted) Txn(ctx context.Context) clientv3.Txn { return countedTxn{c.KV.Txn(ctx), c} }

func (c *counted) RequestProgress(ctx context.Context) error {
	c.asked.Add(1)
	return c.Watcher.RequestProgress(ctx)
}

func (c *counted) count(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running += n
	c.most = max(c.most, c.running)
}

type countedTxn struct {
	clientv3.Txn
	c *counted
}

func (t countedTxn) If(cs ...clientv3.Cmp) clientv3.Txn { return countedTxn{t.Txn.If(cs...), t.c} }
func (t countedTxn) Then(o ...clientv3.Op) clientv3.Txn { return countedTxn{t.Txn.Then(o...), t.c} }
func (t countedTxn) Else(o ...clientv3.Op) clientv3.Txn { return countedTxn{t.Txn.Else(o...), t.c} }
func (t countedTxn) Commit() (*clientv3.TxnResponse, error) {
	t.c.count(1)
	defer t.c.count(-1)
	return t.Txn.Commit()
}

func openCounted(t *testing.T) (*Store, *counted, *clientv3.Client) {
	t.Helper()
	e := startEtcd(t)
	client := e.client()
	c := &counted{KV: client.KV, Watcher: client.Watcher}
	client.KV, client.Watcher = c, c
	// Who waits for his turn waits as long as the disk takes for all before him.
	return open(t, Config{Client: client, Timeout: time.Minute}), c, e.client()
}

// A crowd of writers is let in by and by, and each is served.
func TestCrowdOfWriters(t *testing.T) {
	s, c, _ := openCounted(t)
	prepare(t, s)
	var wg sync.WaitGroup
	const n = 10 * atOnce
	for i := range n {
		wg.Go(func() {
			if _, err := s.Create(t.Context(), configMap(fmt.Sprint("x", i), "0")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most := c.most; most > atOnce || most < 2 {
		t.Errorf("%d transactions were under way at once, want some and %d at most", most, atOnce)
	}
	// One whose turn does not come in time leaves the queue.
	for range atOnce {
		s.turns <- struct{}{}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Create(ctx, configMap("late", "0")); err == nil {
		t.Error("a write was carried out though all turns were taken")
	}
	for range atOnce {
		<-s.turns
	}
	mustCreate(t, s, configMap("late", "0"))
}

// Who waits for a revision that no watched key has asks etcd for the watch's
// progress; many who wait ask once.
func TestCrowdAsksOnce(t *testing.T) {
	s, c, other := openCounted(t)
	prepare(t, s)
	for round := range 3 {
		resp, err := other.Put(t.Context(), "/elsewhere", fmt.Sprint(round))
		if err != nil {
			t.Fatal(err)
		}
		before := c.asked.Load()
		var wg sync.WaitGroup
		const n = 500
		for range n {
			wg.Go(func() { s.catchUp(t.Context(), resp.Header.Revision) })
		}
		wg.Wait()
		if s.rev.Load() < resp.Header.Revision {
			t.Errorf("the caches are at %d, want %d", s.rev.Load(), resp.Header.Revision)
		}
		if asked := c.asked.Load() - before; asked < 1 || asked > 20 {
			t.Errorf("etcd was asked %d times by %d who wait, want once or a few times", asked, n)
		}
	}
	if len(s.waits.list) > 0 {
		t.Errorf("%d still wait", len(s.waits.list))
	}
}

package store

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/remote"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/controlplane/apiserver"
	"github.com/podsnap/podsnap/controlplane/soft"
	"github.com/podsnap/podsnap/test/history"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// historyFor, in the environment, is how long TestHistories goes on, such as 5m.
const historyFor = "STORE_HISTORY"

// TestHistories has clients write and read through the store and through the API
// server before it, while connections to etcd are cut, silenced and refused, answers
// get lost, and etcd itself is killed. What they are told has to be linearizable,
// what is acknowledged has to be there once, and each watch has to tell all of it.
func TestHistories(t *testing.T) {
	span := 3 * time.Second
	if v := os.Getenv(historyFor); v != "" {
		var err error
		if span, err = time.ParseDuration(v); err != nil {
			t.Fatalf("%s: %v", historyFor, err)
		}
	}
	t.Run("one store and its API", func(t *testing.T) {
		e := startChild(t)
		p := startProxy(t, filepath.Join(e.dir, "c.sock"))
		s := open(t, Config{Client: dial(t, p.url()), Timeout: 2 * time.Second, CompactEvery: -1, ProbeEvery: 300 * time.Millisecond, Admit: admission.Admit})
		over := served(t, s)
		told(t, e.place, span, faults{p, e}, []api.Objects{s, over}, history.Load{
			Objects: []api.Objects{s, over, over}, Clients: 9, Keys: 3, Each: 40, Hasty: true,
		})
	})
	// Two stores may be behind one another, but must not write over one another: a
	// leader that does not know yet that it is none is held to the same.
	t.Run("two stores", func(t *testing.T) {
		e := startChild(t)
		p := startProxy(t, filepath.Join(e.dir, "c.sock"))
		one := open(t, Config{Client: dial(t, p.url()), Timeout: 2 * time.Second, CompactEvery: -1, ProbeEvery: 300 * time.Millisecond})
		two := open(t, Config{Client: dial(t, e.url()), Timeout: 2 * time.Second, CompactEvery: -1})
		told(t, e.place, span/2, faults{p, e}, []api.Objects{one, two}, history.Load{
			Objects: []api.Objects{one, two}, Clients: 6, Keys: 3, Each: 40, NoReads: true,
		})
	})
}

// served is s as clients of the API have it.
func served(t *testing.T, s *Store) api.Objects {
	t.Helper()
	so, err := soft.New(soft.Config{Durable: s, Kinds: soft.ReplicaKinds(), Soft: soft.Replicas, Admit: admission.Admit})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- so.Run(ctx) }()
	h, err := apiserver.New(apiserver.Config{Objects: so})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		srv.CloseClientConnections()
		srv.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the soft store: %v", err)
		}
	})
	return remote.NewObjects(remote.Config{URL: srv.URL, Client: &http.Client{Transport: transport}})
}

// told runs a load under faults and judges what its clients were told.
func told(t *testing.T, e place, span time.Duration, f faults, watched []api.Objects, load history.Load) {
	t.Helper()
	load.Seed = uint64(time.Now().UnixNano())
	t.Logf("the seed is %d", load.Seed)
	ns, err := load.Objects[0].Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: history.Namespace}})
	if err != nil {
		t.Fatal(err)
	}
	following, stop := context.WithCancel(t.Context())
	var feeds []*history.Feed
	for _, o := range watched {
		feed, done := history.Follow(following, o, ns.GetResourceVersion())
		feeds = append(feeds, feed)
		defer done()
	}
	defer stop()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var log history.Log
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		suffice(ctx, &log, span)
	})
	var n map[string]int
	wg.Go(func() { n = f.run(ctx, rand.New(rand.NewPCG(load.Seed, 1<<32))) })
	load.Run(ctx, &log)
	wg.Wait()

	truth, err := history.Truth(t.Context(), e.client(), ns.GetResourceVersion())
	if err != nil {
		t.Fatal(err)
	}
	fates := map[history.Fate]int{}
	for _, op := range log.Ops() {
		fates[op.Output.(history.Answer).Fate]++
	}
	t.Logf("%d changes; answers: %v; faults: %v", len(truth), fates, n)
	if len(truth) < 10 || fates[history.Done] < 20 || len(n) == 0 {
		t.Error("that is too little to tell anything")
	}
	log.Learn(truth)
	if err := log.Check(time.Minute); err != nil {
		t.Error(err)
	}
	if err := log.Accounts(truth); err != nil {
		t.Error(err)
	}
	bounded, done := context.WithTimeout(t.Context(), 20*time.Second)
	defer done()
	for i, feed := range feeds {
		events, err := feed.Until(bounded, truth[len(truth)-1].Rev)
		if err != nil {
			t.Errorf("watch %d: %v", i, err)
		} else if err := history.Same(truth, events); err != nil {
			t.Errorf("watch %d: %v", i, err)
		}
	}
}

// suffice returns when span is over and the log has enough to be judged by, which takes
// longer on a machine that has something else to do; after two minutes it does so anyway.
func suffice(ctx context.Context, log *history.Log, span time.Duration) {
	begin := time.Now()
	for wait := span; ctx.Err() == nil && time.Since(begin) < 2*time.Minute; wait = 50 * time.Millisecond {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		if log.Changes() >= 20 {
			return
		}
	}
}

// faults are what befalls the way to etcd, and etcd.
type faults struct {
	p *proxy
	e *child
}

// run makes one after another until ctx ends, and answers with how many of each.
func (f faults) run(ctx context.Context, r *rand.Rand) map[string]int {
	n := map[string]int{}
	wait := func(least, most time.Duration) {
		select {
		case <-time.After(least + rand.N(most-least)):
		case <-ctx.Done():
		}
	}
	kinds := []struct {
		name string
		do   func()
	}{
		{"cut", func() { f.p.cut(); f.p.listen() }},
		{"away", func() { f.p.cut(); wait(50*time.Millisecond, 400*time.Millisecond); f.p.listen() }},
		{"silent", func() { f.p.block(); wait(20*time.Millisecond, 600*time.Millisecond); f.p.release() }},
		{"answers lost", func() {
			f.p.block()
			wait(5*time.Millisecond, 50*time.Millisecond)
			f.p.cut()
			f.p.release()
			f.p.listen()
		}},
		{"killed", func() { f.e.kill(); f.e.start() }},
	}
	for {
		wait(100*time.Millisecond, 500*time.Millisecond)
		if ctx.Err() != nil {
			return n
		}
		k := kinds[min(r.IntN(2*len(kinds)-1)/2, len(kinds)-1)] // the last is the rarest
		k.do()
		n[k.name]++
	}
}

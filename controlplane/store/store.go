package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/cache"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/util/rand"
)

// Config says how a store works. Client has to be set.
type Config struct {
	Client *clientv3.Client // stays the caller's to close; see Dial
	Prefix string           // of all keys, begins with a slash; "" is "/registry"

	// Admit, when not nil, fills defaults and judges what is to be written.
	Admit rules.Admit
	// Fence, when it has a key, is what allows this process to write.
	Fence Fence

	// Define, when not nil, makes kinds of CustomResourceDefinitions. It is called
	// by one goroutine at a time.
	Define api.Define

	Timeout      time.Duration // how long a request waits for etcd; 0 is 5 s
	History      int           // changes of each kind kept for watches; 0 is 4096
	EventTTL     time.Duration // life of an Event, whole seconds; 0 is 1 h
	CompactEvery time.Duration // 0 is 5 min, negative is never
	ProbeEvery   time.Duration // how long the watch may be silent before it is probed; 0 is 5 s

	Log     *slog.Logger          // nil discards
	Metrics prometheus.Registerer // nil is none
}

// Fence is a key of etcd, and the revision that made it: while it is that one,
// and only then, writes are carried out, by etcd's own judgement.
type Fence struct {
	Key      string
	Revision int64
}

// Store is an api.Objects over etcd. Run has to be running for it to work.
type Store struct {
	c      Config
	etcd   *clientv3.Client
	caches map[*api.Resource]*cache.Cache
	custom customKinds
	rev    atomic.Int64 // the newest revision that the caches have taken in
	gaps   atomic.Int64 // times that the feed has not seen each single change
	waits  waits
	turns  chan struct{} // holds one for each transaction that is under way
	asking chan struct{} // holds one while etcd is asked for the watch's progress
	own    own
	leases leases
	m      *metrics

	ready chan struct{} // closed when the caches are filled
	ended chan struct{} // closed when Run has ended
	once  sync.Once
}

var _ api.Objects = (*Store)(nil)

// New makes a store; it does not talk to etcd yet.
func New(c Config) (*Store, error) {
	if c.Client == nil {
		return nil, errors.New("store: Config.Client is not set; make one with Dial")
	}
	if c.Prefix == "" {
		c.Prefix = "/registry"
	}
	if !strings.HasPrefix(c.Prefix, "/") || strings.HasSuffix(c.Prefix, "/") {
		return nil, fmt.Errorf("store: the prefix %q does not begin with a slash, or ends with one", c.Prefix)
	}
	fill(&c.Timeout, 5*time.Second)
	fill(&c.EventTTL, time.Hour)
	fill(&c.CompactEvery, 5*time.Minute)
	fill(&c.ProbeEvery, 5*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		c: c, etcd: c.Client, caches: make(map[*api.Resource]*cache.Cache, len(api.Resources)),
		turns: make(chan struct{}, atOnce), asking: make(chan struct{}, 1),
		own:   own{process: rand.String(8)},
		ready: make(chan struct{}), ended: make(chan struct{}),
	}
	s.m = newMetrics(s)
	for _, r := range api.Resources {
		s.caches[r] = cache.New(r, cache.Config{History: c.History, Revision: &s.rev, Lag: s.m.delivered})
	}
	if c.Metrics != nil {
		if err := s.m.register(c.Metrics); err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
	}
	return s, nil
}

func fill(d *time.Duration, v time.Duration) {
	if *d == 0 {
		*d = v
	}
}

// Ready is closed when the caches hold everything; requests wait for it.
func (s *Store) Ready() <-chan struct{} { return s.ready }

// Run feeds the caches until ctx is done, and returns nil then; all watches
// have ended with ServiceUnavailable by that time. It may be called once.
func (s *Store) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	if s.c.CompactEvery > 0 {
		wg.Go(func() { s.compact(ctx) })
	}
	s.feed(ctx)
	s.once.Do(func() { close(s.ended) })
	for _, c := range s.kinds() {
		c.End(errStopped())
	}
	wg.Wait()
	return nil
}

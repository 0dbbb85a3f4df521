package soft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/cache"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Durable is what a soft store stands on.
type Durable interface {
	api.Objects
	// Persist stores or removes objects, each at most once in writes, and
	// answers in their order. It asks no rules.
	Persist(ctx context.Context, writes ...api.Write) []api.Written
}

// Config says what is soft. Durable, Kinds and Soft have to be set.
type Config struct {
	Durable Durable
	Kinds   []*api.Resource
	// Soft says whether a write may be stored behind. old is nil for a
	// creation, next for a removal.
	Soft func(old, next api.Object) bool
	// Passing says whether a soft write need not be stored at all, unless with
	// a later one; nil is never.
	Passing func(old, next api.Object) bool

	Admit   rules.Admit   // as the durable store's; for the kinds
	Delay   time.Duration // how long a soft write waits for others; 0 is 500 ms
	Closing time.Duration // how long Run may take at its end to store what is left; 0 is 5 s
	History int           // changes of each kind kept for watches; 0 is 4096
	Base    int64         // the first resource version, above all of other stores before; 0 is Base()

	Log     *slog.Logger          // nil discards
	Metrics prometheus.Registerer // nil is none
}

// Store is the api.Objects of the package comment. Run has to be running for
// it to work.
type Store struct {
	api.Objects // the durable store, for all other kinds
	c           Config
	base        int64 // the first resource version
	shown       atomic.Int64
	kinds       map[*api.Resource]*kind
	ready       chan struct{} // closed when the caches are filled
	ended       chan struct{} // closed when Run ends
	m           *metrics

	mu    sync.Mutex // held while memory changes
	rev   int64
	slots map[id]*slot
	queue map[id]bool // what has to be stored
	wake  chan struct{}
}

type kind struct {
	r     *api.Resource
	cache *cache.Cache
	from  string // resource version of the durable store up to which all is taken in
}

// id names an object.
type id struct {
	r               *api.Resource
	namespace, name string
}

func idOf(obj api.Object) id {
	return id{api.ResourceOf(obj), obj.GetNamespace(), obj.GetName()}
}

// slot is what is known of an object's durable copy. Store.mu guards it.
type slot struct {
	there bool  // whether there is one
	rev   int64 // its revision
	gone  int64 // revision of our removal, until the durable watch shows it

	last  api.Object    // the last state of an object whose removal is not stored yet
	busy  chan struct{} // a write is under way; closed at its end
	hard  bool          // and memory must not change until then
	early []api.Event   // what the durable watch showed meanwhile
}

var _ api.Objects = (*Store)(nil)

// Base is a first resource version by the clock. A process makes far fewer than a
// million changes a millisecond, so the next start begins above every version of
// this one.
func Base() int64 { return time.Now().UnixMilli() << 20 }

// Span is more than the versions that one store can use.
const Span = 1 << 40

// renewals is how many changes of each Lease are kept for watches at least. Nodes
// renew theirs each second: a reader has as many seconds, however many nodes there
// are.
const renewals = 4

// New makes a store; it does nothing before Run.
func New(c Config) (*Store, error) {
	if c.Durable == nil || len(c.Kinds) == 0 || c.Soft == nil {
		return nil, errors.New("soft store: Durable, Kinds and Soft are required")
	}
	if c.Delay == 0 {
		c.Delay = 500 * time.Millisecond
	}
	if c.Base == 0 {
		c.Base = Base()
	}
	if c.Closing == 0 {
		c.Closing = 5 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		Objects: c.Durable, c: c, kinds: map[*api.Resource]*kind{},
		base:  c.Base,
		ready: make(chan struct{}), ended: make(chan struct{}),
		slots: map[id]*slot{}, queue: map[id]bool{}, wake: make(chan struct{}, 1),
	}
	s.rev = s.base
	for _, r := range c.Kinds {
		h := cache.Config{History: c.History, Revision: &s.shown}
		if r == api.Leases {
			h.PerObject = renewals
		}
		s.kinds[r] = &kind{r: r, cache: cache.New(r, h)}
	}
	s.m = newMetrics(c.Metrics, s.behind)
	return s, nil
}

// Ready is closed when memory holds everything; requests wait for it.
func (s *Store) Ready() <-chan struct{} { return s.ready }

// behind is the number of objects that are not stored as they are.
func (s *Store) behind() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue)
}

// Get implements api.Objects.
func (s *Store) Get(ctx context.Context, r *api.Resource, namespace, name string) (api.Object, error) {
	k, err := s.kind(ctx, r)
	if err != nil {
		return nil, err
	}
	if k == nil {
		return s.Objects.Get(ctx, r, namespace, name)
	}
	obj, ok := k.cache.Get(namespace, name)
	if !ok {
		return nil, apierrors.NewNotFound(r.GR(), name)
	}
	return obj, nil
}

// List implements api.Objects.
func (s *Store) List(ctx context.Context, r *api.Resource, o api.ListOptions) (api.List, error) {
	k, err := s.kind(ctx, r)
	if err != nil {
		return api.List{}, err
	}
	if k == nil {
		return s.Objects.List(ctx, r, o)
	}
	return k.cache.List(o)
}

// Watch implements api.Objects.
func (s *Store) Watch(ctx context.Context, r *api.Resource, o api.WatchOptions) (api.Watch, error) {
	k, err := s.kind(ctx, r)
	if err != nil {
		return nil, err
	}
	if k == nil {
		return s.Objects.Watch(ctx, r, o)
	}
	return k.cache.Watch(ctx, o)
}

// kind is the soft kind of r when memory is filled; nil for another kind.
func (s *Store) kind(ctx context.Context, r *api.Resource) (*kind, error) {
	k := s.kinds[r]
	if k == nil {
		return nil, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	select {
	case <-s.ended:
		return nil, errStopped()
	default:
	}
	select {
	case <-s.ready:
		return k, nil
	case <-s.ended:
		return nil, errStopped()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// put takes in the new or, with remove, the last state of an object, which is
// the caller's alone until then. Called with s.mu held.
func (s *Store) put(i id, obj api.Object, remove bool) {
	s.rev++
	obj.SetResourceVersion(strconv.FormatInt(s.rev, 10))
	now := obj
	if remove {
		now = nil
	}
	s.kinds[i.r].cache.Apply(s.rev, cache.Change{Namespace: i.namespace, Name: i.name, Object: now})
	s.shown.Store(s.rev)
}

// slot finds or makes what is known of an object. Called with s.mu held.
func (s *Store) slot(i id) *slot {
	sl := s.slots[i]
	if sl == nil {
		sl = &slot{}
		s.slots[i] = sl
	}
	return sl
}

// store has an object stored soon. Called with s.mu held.
func (s *Store) store(i id) {
	s.queue[i] = true
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func errStopped() error {
	return apierrors.NewServiceUnavailable("the store has stopped")
}

func (i id) String() string { return fmt.Sprintf("%s %s/%s", i.r.Singular, i.namespace, i.name) }

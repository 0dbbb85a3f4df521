package mirror

import (
	"context"
	"log/slog"
	"strconv"
	"sync"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/cache"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Shared is Objects that follow some kinds once for all who watch them: the parts of
// a node that is connected to a server follow the same Services, and each would have
// a stream, and a copy, of its own. All other requests, reads included, are the
// Objects' own.
type Shared struct {
	api.Objects
	kinds map[*api.Resource]*sharedKind
	ended chan struct{} // closed when Run ends
}

var _ api.Objects = (*Shared)(nil)

// sharedHistory is how many changes are kept for who is slow. Beginning anew is cheap.
const sharedHistory = 256

// Share makes a Shared of kinds whose objects are the same for whatever they are
// selected by. A kind is followed from the first watch of it on, as long as Run runs.
func Share(o api.Objects, log *slog.Logger, kinds ...*api.Resource) *Shared {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Shared{Objects: o, kinds: map[*api.Resource]*sharedKind{}, ended: make(chan struct{})}
	for _, r := range kinds {
		k := &sharedKind{cache: cache.New(r, cache.Config{History: sharedHistory}), wanted: make(chan struct{}), loaded: make(chan struct{})}
		k.follower = follower{objects: o, resource: r, o: Options{Log: log}, to: k}
		s.kinds[r] = k
	}
	return s
}

// Run follows until ctx is done, and returns nil then. Watches end with it. It can be
// called once.
func (s *Shared) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, k := range s.kinds {
		wg.Go(func() {
			select {
			case <-k.wanted:
				k.follower.run(ctx)
			case <-ctx.Done():
			}
		})
	}
	wg.Wait()
	close(s.ended)
	for _, k := range s.kinds {
		k.cache.End(errEnded())
	}
	return nil
}

func errEnded() error { return apierrors.NewServiceUnavailable("this process ends") }

// Watch implements api.Objects. Of a kind that is shared it returns when the kind is
// known.
func (s *Shared) Watch(ctx context.Context, r *api.Resource, o api.WatchOptions) (api.Watch, error) {
	k := s.kinds[r]
	if k == nil {
		return s.Objects.Watch(ctx, r, o)
	}
	k.want.Do(func() { close(k.wanted) })
	select {
	case <-k.loaded:
	case <-s.ended:
		return nil, errEnded()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return k.cache.Watch(ctx, o)
}

// sharedKind is one kind. But for the channels and the cache all is the follower's.
type sharedKind struct {
	follower follower
	cache    *cache.Cache
	want     sync.Once
	wanted   chan struct{} // closed when somebody watches
	loaded   chan struct{} // closed when the cache first holds everything

	initial bool
	objects []api.Object // of the present state, while it comes
	rev     int64        // up to which all is in the cache
}

func (k *sharedKind) begin() { k.initial, k.objects = true, nil }

func (k *sharedKind) take(t api.EventType, obj api.Object) error {
	if k.initial {
		k.objects = append(k.objects, obj)
		return nil
	}
	c := cache.Change{Namespace: obj.GetNamespace(), Name: obj.GetName(), Object: obj}
	if t == api.Deleted {
		c.Object = nil
	}
	// A kind's revision is of one object alone: otherwise nobody could resume a watch.
	k.rev = revision(obj.GetResourceVersion())
	k.cache.Apply(k.rev, c)
	return nil
}

// complete has all who watch begin anew, if they have begun.
func (k *sharedKind) complete(rv string) {
	k.rev = revision(rv)
	k.cache.Load(k.objects, k.rev)
	k.initial, k.objects = false, nil
	select {
	case <-k.loaded:
	default:
		close(k.loaded)
	}
}

func (k *sharedKind) passed(rv string) {
	if rev := revision(rv); rev > k.rev {
		k.rev = rev
		k.cache.Apply(rev)
	}
}

// revision reads a resourceVersion; 0 is none of this API's.
func revision(rv string) int64 {
	n, _ := strconv.ParseInt(rv, 10, 64)
	return n
}

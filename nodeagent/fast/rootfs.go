package fast

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/podsnap/podsnap/nodeagent/confine"
	"github.com/podsnap/podsnap/nodeagent/launch"
	"github.com/podsnap/podsnap/nodeagent/park"
)

// rootfs is a root file system: an overlay over an image's layers, mounted on the
// launcher's shelf, with a directory of its own that takes what is written.
type rootfs struct {
	id       string
	launcher int         // the process on whose shelf it is
	of       *rootfsPool // nil: of a former runtime, not to be used again
}

// rootfsPool has the root file systems that can stand for one another: of the
// same layers, and of the same function, so that nothing of one function is
// ever another's. Those that are ready are parked, and one to which nothing was
// written is used again: mounting one takes longer than all other mounts of a
// start together.
type rootfsPool struct {
	lower []string
	below string
	chain string // of the image's layers
	key   string // in rootfsPools.byKey
	alone bool   // it is of a single pod: nothing of it is kept
	pool  *park.Pool[*rootfs]
	stop  context.CancelFunc
	over  chan struct{} // closed when the pool is not filled any more

	// rootfsPools.mu guards:
	inUse int
	used  time.Time // the last time
}

// layers are the directories that are merged, uppermost first.
func (k *rootfsPool) layers() []string { return append(slices.Clone(k.lower), k.below) }

// Kept parked in each pool, and for how long after the last use.
const (
	leastRootfs = 1
	mostRootfs  = 64
	keepRootfs  = 10 * time.Minute
)

// rootfsPools are the pools in use.
type rootfsPools struct {
	mu     sync.Mutex
	byKey  map[string]*rootfsPool
	closed bool // no more are made
}

// close has no more of them made.
func (s *rootfsPools) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// takeRootfs has a root file system ready on the present launcher's shelf.
func (r *Runtime) takeRootfs(ctx context.Context, of string, lower []string, below, chain string) (*rootfs, error) {
	k, err := r.rootfsPoolOf(of, lower, below, chain) //nolint:contextcheck // it outlives the start
	if err != nil {
		return nil, err
	}
	for {
		f, _, err := k.pool.Take(ctx)
		if err != nil {
			r.roots.release(k)
			return nil, err
		}
		if r.present(f) {
			return f, nil
		}
		r.destroyRootfs(f) //nolint:contextcheck // undoing outlives whoever asked; it went with its launcher
	}
}

func (r *Runtime) present(f *rootfs) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return f.launcher == r.launcher
}

func (s *rootfsPools) release(k *rootfsPool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k.inUse--
	k.used = time.Now()
	if k.alone && k.inUse == 0 {
		delete(s.byKey, k.key)
		k.stop()
	}
}

// rootfsPoolOf finds or makes a pool and counts one of its root file systems as
// used.
// Those of the owner "" are of the pod alone.
func (r *Runtime) rootfsPoolOf(of string, lower []string, below, chain string) (*rootfsPool, error) {
	key := of + "\x00\x00" + strings.Join(lower, "\x00") + "\x00\x00" + below
	r.roots.mu.Lock()
	defer r.roots.mu.Unlock()
	if r.roots.closed {
		return nil, errors.New("the fast runtime is shutting down")
	}
	k := r.roots.byKey[key]
	if k == nil {
		if _, _, err := r.rootOf(lower, below, "x").Overlay(); err != nil { // each would fail
			return nil, startError("CreateContainerConfigError", err)
		}
		k = &rootfsPool{lower: lower, below: below, chain: chain, key: key, alone: of == "", over: make(chan struct{})}
		least := leastRootfs
		if r.c.Parked < 0 || k.alone {
			least = -1
		}
		k.pool = park.New(park.Config[*rootfs]{
			Make:    func(ctx context.Context) (*rootfs, error) { return r.makeRootfs(ctx, k) },
			Recycle: func(f *rootfs) (*rootfs, error) { return f, nil }, // it is as it was
			Destroy: r.destroyRootfs,
			Least:   least, Most: mostRootfs, AtOnce: 4 * goruntime.NumCPU(),
			Failed: func(what string, err error) {
				r.c.Log.Warn("parked root file system", slog.String("what", what), slog.Any("error", err))
			},
		})
		ctx, cancel := context.WithCancel(r.fill)
		k.stop = cancel
		r.filled.Go(func() {
			defer close(k.over)
			_ = k.pool.Run(ctx) // nil, always
		})
		r.roots.byKey[key] = k
	}
	k.inUse++
	k.used = time.Now()
	return k, nil
}

// rootOf is a root file system with directories of its own.
func (r *Runtime) rootOf(lower []string, below, id string) confine.Root {
	return confine.Root{
		Lower: lower, Below: below,
		Upper: filepath.Join(r.upperDir(id), "upper"), Work: filepath.Join(r.upperDir(id), "work"),
	}
}

// makeRootfs makes the directories of a root file system and mounts it.
func (r *Runtime) makeRootfs(ctx context.Context, k *rootfsPool) (_ *rootfs, err error) {
	f := &rootfs{id: newID(), of: k}
	at := r.rootOf(k.lower, k.below, f.id)
	base, options, err := at.Overlay()
	if err != nil {
		return nil, err
	}
	for _, d := range []string{r.upperDir(f.id), at.Upper, at.Work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, err
		}
	}
	a, err := r.keeper.Do(ctx, launch.Request{Op: launch.Shelve, Name: f.id, Base: base, Options: options}, nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("root file system: %w", err), r.throwAway(f.id))
	}
	f.launcher = a.Pid
	return f, nil
}

// giveRootfs takes a root file system back. Its container has ended.
func (r *Runtime) giveRootfs(f *rootfs) {
	if f.of == nil {
		r.destroyRootfs(f)
		return
	}
	clean := r.present(f) && untouched(filepath.Join(r.upperDir(f.id), "upper"), f.of.layers())
	f.of.pool.Give(f, clean)
	r.roots.release(f.of)
}

// destroyRootfs takes a root file system off the shelf and has its directory
// removed in the background: that takes as long as was written.
func (r *Runtime) destroyRootfs(f *rootfs) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) //nolint:forbidigo // undoing outlives whoever asked
	defer cancel()
	_, err := r.keeper.Do(ctx, launch.Request{Op: launch.Unshelve, Name: f.id}, nil)
	if errors.Is(err, launch.ErrClosed) || errors.Is(err, launch.ErrLost) {
		err = nil // a shelf goes with its launcher; the next agent asks it
	}
	if err := errors.Join(err, r.throwAway(f.id)); err != nil {
		r.c.Log.Warn("remove root file system", slog.String("root", f.id), slog.Any("error", err))
	}
}

// throwAway has a directory of what was written removed in the background.
func (r *Runtime) throwAway(id string) error {
	err := os.Rename(r.upperDir(id), r.trashDir(id))
	select {
	case r.trash <- struct{}{}:
	default:
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// expireRootfsPools gives up the pools that nothing has used for long; all is for the
// end, when nothing is used any more.
func (r *Runtime) expireRootfsPools(now time.Time, all bool) {
	var gone []*rootfsPool
	r.roots.mu.Lock()
	for key, k := range r.roots.byKey {
		if all || k.inUse == 0 && now.Sub(k.used) >= keepRootfs {
			delete(r.roots.byKey, key)
			gone = append(gone, k)
		}
	}
	r.roots.mu.Unlock()
	for _, k := range gone {
		k.stop()
		<-k.over
		k.pool.Close()
	}
}

// chains are the layers that are in use, for roots that are parked too.
func (s *rootfsPools) chains(used map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.byKey {
		used[k.chain] = true
	}
}

// wait waits until all that was given back is dealt with.
func (s *rootfsPools) wait() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.byKey {
		k.pool.Wait()
	}
}

// size is how many root file systems are parked.
func (s *rootfsPools) size() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.byKey {
		ready, _ := k.pool.Size()
		n += ready
	}
	return n
}

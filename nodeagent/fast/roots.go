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

	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/nodeagent/confine"
	"github.com/podsnap/podsnap/nodeagent/launch"
	"github.com/podsnap/podsnap/nodeagent/park"
)

// root is a root file system: an overlay over an image's layers, mounted on the
// launcher's shelf, with a directory of its own that takes what is written.
type root struct {
	id       string
	launcher int   // the process on whose shelf it is
	kind     *kind // nil: of a former runtime, not to be used again
}

// kind is all that root file systems have in common that can stand for one
// another: the layers, and whose they are, so that nothing of one function is
// ever another's. Those that are ready are parked, and one to which nothing was
// written is used again: mounting one takes longer than all other mounts of a
// start together.
type kind struct {
	lower []string
	below string
	chain string // of the image's layers
	key   string // in roots.kinds
	alone bool   // it is of a single pod: nothing of it is kept
	pool  *park.Pool[*root]
	stop  context.CancelFunc
	over  chan struct{} // closed when the pool is not filled any more

	// roots.mu guards:
	inUse int
	used  time.Time // the last time
}

// layers are the directories that are merged, uppermost first.
func (k *kind) layers() []string { return append(slices.Clone(k.lower), k.below) }

// Kept parked for each kind, and for how long after the last use.
const (
	leastRoots = 1
	mostRoots  = 64
	keepRoots  = 10 * time.Minute
)

// roots are the kinds in use.
type roots struct {
	mu     sync.Mutex
	kinds  map[string]*kind
	closed bool // no more are made
}

// close has no more of them made.
func (s *roots) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// takeRoot has a root file system ready on the present launcher's shelf.
func (r *Runtime) takeRoot(ctx context.Context, of string, lower []string, below, chain string) (*root, error) {
	if _, _, err := r.rootOf(lower, below, "x").Overlay(); err != nil {
		return nil, startError("CreateContainerConfigError", err)
	}
	k, err := r.kindOf(of, lower, below, chain) //nolint:contextcheck // it outlives the start
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
		r.destroyRoot(f) //nolint:contextcheck // undoing outlives whoever asked; it went with its launcher
	}
}

func (r *Runtime) present(f *root) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return f.launcher == r.launcher
}

func (s *roots) release(k *kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k.inUse--
	k.used = time.Now()
	if k.alone && k.inUse == 0 {
		delete(s.kinds, k.key)
		k.stop()
	}
}

// kindOf finds or makes a kind and counts one of it as used.
// Those of the owner "" are of the pod alone.
func (r *Runtime) kindOf(of string, lower []string, below, chain string) (*kind, error) {
	key := of + "\x00\x00" + strings.Join(lower, "\x00") + "\x00\x00" + below
	r.roots.mu.Lock()
	defer r.roots.mu.Unlock()
	if r.roots.closed {
		return nil, errors.New("the fast runtime is shutting down")
	}
	k := r.roots.kinds[key]
	if k == nil {
		k = &kind{lower: lower, below: below, chain: chain, key: key, alone: of == "", over: make(chan struct{})}
		least := leastRoots
		if r.c.Parked < 0 || k.alone {
			least = -1
		}
		k.pool = park.New(park.Config[*root]{
			Make:    func(ctx context.Context) (*root, error) { return r.makeRoot(ctx, k) },
			Recycle: func(f *root) (*root, error) { return f, nil }, // it is as it was
			Destroy: r.destroyRoot,
			Least:   least, Most: mostRoots, AtOnce: 4 * goruntime.NumCPU(),
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
		r.roots.kinds[key] = k
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

// makeRoot makes the directories of a root file system and mounts it.
func (r *Runtime) makeRoot(ctx context.Context, k *kind) (_ *root, err error) {
	f := &root{id: newID(), kind: k}
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

// giveRoot takes a root file system back. Its container has ended.
func (r *Runtime) giveRoot(f *root) {
	if f.kind == nil {
		r.destroyRoot(f)
		return
	}
	clean := r.present(f) && untouched(filepath.Join(r.upperDir(f.id), "upper"), f.kind.layers())
	f.kind.pool.Give(f, clean)
	r.roots.release(f.kind)
}

// untouched tells whether a root file system is as it was: what is written to it
// is in its upper directory. Folders that were only gone through on the way to
// something that is not there any more do not count, nor the mount point for
// /proc, which every start makes whose image lacks it.
func untouched(upper string, layers []string) bool {
	folders := 0
	return plain(upper, 0o755) && sameFolders(upper, "", layers, &folders)
}

// mostFolders is how many folders are looked at before a root file system is
// taken as used.
const mostFolders = 32

func sameFolders(upper, at string, layers []string, seen *int) bool {
	entries, err := os.ReadDir(filepath.Join(upper, at))
	if err != nil {
		return false
	}
	for _, e := range entries {
		name := filepath.Join(at, e.Name())
		if *seen++; *seen > mostFolders || !e.IsDir() {
			return false
		}
		mode := uint32(0o755)
		if name != "proc" {
			var st unix.Stat_t
			if !slices.ContainsFunc(layers, func(l string) bool { return unix.Lstat(filepath.Join(l, name), &st) == nil }) || st.Uid != 0 || st.Gid != 0 {
				return false
			}
			mode = st.Mode &^ unix.S_IFMT
		}
		if !plain(filepath.Join(upper, name), mode) || !sameFolders(upper, name, layers, seen) {
			return false
		}
	}
	return true
}

// plain tells a folder of root's with this mode and nothing else. Extended
// attributes are the overlay's own, or somebody's; an opaque folder hides what
// the image has there.
func plain(path string, mode uint32) bool {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil || st.Mode != unix.S_IFDIR|mode || st.Uid != 0 || st.Gid != 0 {
		return false
	}
	names := make([]byte, 1<<10)
	n, err := unix.Llistxattr(path, names)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return false
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:max(n, 0)]), "\x00"), "\x00") {
		if name != "" && (!strings.HasPrefix(name, overlayAttr) || name == overlayAttr+"opaque" || name == overlayAttr+"redirect") {
			return false
		}
	}
	return true
}

const overlayAttr = "trusted.overlay."

// destroyRoot takes a root file system off the shelf and has its directory
// removed in the background: that takes as long as was written.
func (r *Runtime) destroyRoot(f *root) {
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

// expireRoots gives up the kinds that nothing has used for long; all is for the
// end, when nothing is used any more.
func (r *Runtime) expireRoots(now time.Time, all bool) {
	var gone []*kind
	r.roots.mu.Lock()
	for key, k := range r.roots.kinds {
		if all || k.inUse == 0 && now.Sub(k.used) >= keepRoots {
			delete(r.roots.kinds, key)
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
func (s *roots) chains(used map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.kinds {
		used[k.chain] = true
	}
}

// wait waits until all that was given back is dealt with.
func (s *roots) wait() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.kinds {
		k.pool.Wait()
	}
}

// size is how many root file systems are parked.
func (s *roots) size() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.kinds {
		ready, _ := k.pool.Size()
		n += ready
	}
	return n
}

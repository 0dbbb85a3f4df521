// Package cache keeps all objects of one kind in order, with the recent changes,
// and serves gets, consistent pages and watches from that. It is what the
// implementations of api.Objects read from; they write to it, one revision
// at a time in order.
//
// A watch is a cursor into the history of changes, not a queue of its own: a
// slow reader costs nothing, blocks nobody, and is cut off when what it has not
// yet read is about to be dropped.
package cache

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/third_party/forked/golang/btree"
)

// Config says how a cache works.
type Config struct {
	// History is how many changes are kept for watches that resume and for
	// continued lists; 0 is 4096.
	History int
	// PerObject is how many changes are kept for each object there is, where that
	// is more: for a kind all of whose objects change all the time.
	PerObject int
	// Revision, when not nil, is the newest revision of which the caches that
	// share it have taken in every change. The owner stores to it after Apply.
	Revision *atomic.Int64
	// Lag, when not nil, is told how long a change took from Apply to a reader.
	Lag func(time.Duration)
}

// Cache holds the objects of one kind. Reads are safe for concurrent use at any
// time; Apply, Load and Fail are to be called by one goroutine at a time.
type Cache struct {
	r *api.Resource
	c Config

	mu       sync.RWMutex
	tree     *btree.BTree[entry]
	snap     *btree.BTree[entry] // of tree, while it is unchanged
	rev      int64               // of the last change
	oldest   int64               // history holds every change after this revision
	history  ring
	aged     uint64 // number of the change that was next at the last Age
	watchers []*watch
	broad    []*watch               // those of them that may want any change
	byView   map[*api.View][]*watch // those that want any that is seen in a part of the objects
	byNode   map[string][]*watch    // the others, by the node whose pods they want
	cut      uint64                 // watches that were too slow
	ended    error                  // what new watches are told, once there are none any more
}

type entry struct {
	namespace, name string
	obj             api.Object
}

func (e entry) before(o entry) bool {
	return e.namespace < o.namespace || e.namespace == o.namespace && e.name < o.name
}

// New makes an empty cache of r at revision 0.
func New(r *api.Resource, c Config) *Cache {
	if c.History == 0 {
		c.History = 4096
	}
	return &Cache{r: r, c: c, tree: btree.New(32, entry.before), byView: map[*api.View][]*watch{}, byNode: map[string][]*watch{}, history: ring{limit: c.History}}
}

// Get looks an object up.
func (c *Cache) Get(namespace, name string) (api.Object, bool) {
	c.mu.RLock()
	e, ok := c.tree.Get(entry{namespace: namespace, name: name})
	c.mu.RUnlock()
	return e.obj, ok
}

// Load replaces the content by objs, all of which have their resourceVersion,
// as of revision rev. The history begins there; watches that run end with
// Expired.
func (c *Cache) Load(objs []api.Object, rev int64) {
	tree := btree.New(32, entry.before)
	for _, o := range objs {
		tree.ReplaceOrInsert(entry{o.GetNamespace(), o.GetName(), o})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tree, c.snap, c.rev = tree, nil, rev
	c.fail(apierrors.NewResourceExpired("the history of " + c.r.String() + " begins anew; list again"))
}

// Change is what became of one object. Object has its resourceVersion and is
// immutable from now on; nil means that it was deleted.
type Change struct {
	Namespace, Name string
	Object          api.Object
}

// Apply takes in what changed at revision rev, all at once. Revisions grow from
// call to call. A watch that resumes goes on after a whole revision, so whoever
// has seen only a part of one has to resume from the one before.
func (c *Cache) Apply(rev int64, changes ...Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rev <= c.rev {
		return
	}
	c.rev = rev
	c.snap = nil
	for _, x := range changes {
		c.apply(rev, x.Namespace, x.Name, x.Object)
	}
}

// apply takes in one change. Called with c.mu held for writing.
func (c *Cache) apply(rev int64, namespace, name string, obj api.Object) {
	ch := &change{rev: rev, now: obj}
	if c.c.Lag != nil {
		ch.at = time.Now()
	}
	key := entry{namespace, name, obj}
	var had bool
	var before entry
	if obj == nil {
		before, had = c.tree.Delete(key)
	} else {
		before, had = c.tree.ReplaceOrInsert(key)
	}
	if !had && obj == nil {
		return
	}
	if had {
		ch.old = before.obj
	}
	if obj == nil {
		ch.gone = rules.WithRevision(ch.old, strconv.FormatInt(rev, 10))
	}
	c.history.limit = max(c.history.limit, c.c.PerObject*c.tree.Len())
	if dropped := c.history.push(ch); dropped != nil {
		c.oldest = dropped.rev
	}
	c.wake(ch)
}

// wake tells the watches that a change may concern. Those of single nodes are
// found by the node, those that see a part of the objects by that: there may be
// thousands of them. Now and then it looks after all, too.
func (c *Cache) wake(ch *change) {
	notify(c.broad, ch)
	for v, watchers := range c.byView {
		if v.Same == nil {
			notify(watchers, ch)
			continue
		}
		hidden := v.Hides(ch.old, ch.now)
		ch.seen = append(ch.seen, seen{v, hidden})
		if !hidden {
			notify(watchers, ch)
		}
	}
	if len(c.byNode) > 0 {
		was, is := nodeOf(ch.old), nodeOf(ch.now)
		notify(c.byNode[is], ch)
		if was != is {
			notify(c.byNode[was], ch)
		}
	}
	if c.history.next%uint64(max(c.history.limit/16, 1)) == 0 {
		c.press()
	}
}

func notify(watchers []*watch, ch *change) {
	for _, w := range watchers {
		if w.concerns(ch) {
			w.due = true
			w.wake()
		}
	}
}

// press tells the watches that fall behind: they have to move on or be cut off.
func (c *Cache) press() {
	for _, w := range c.watchers {
		lag := c.history.next - w.cursor.Load()
		switch {
		case lag > uint64(c.history.limit)*3/4 && w.blocked.Load():
			if !w.cutOff {
				w.cutOff = true
				c.cut++
				close(w.slow)
			}
		case lag > uint64(c.history.limit)/4:
			w.wake()
		}
	}
}

// Fresh is how often a cache is to be aged: a change is kept for so long at least,
// and twice as long at most. It is what Kubernetes' own watch caches keep.
const Fresh = 75 * time.Second

// Age drops the changes that were there at its last call already. Called now and
// then, it bounds the history by time, as Config.History does by number: what a
// busy hour has left behind is not kept for ever. A watch loses nothing by it.
func (c *Cache) Age() {
	c.mu.Lock()
	defer c.mu.Unlock()
	to := c.aged
	for _, w := range c.watchers {
		to = min(to, w.cursor.Load())
		w.wake() // it moves on past what does not concern it
	}
	if dropped := c.history.drop(to); dropped != nil {
		c.oldest = dropped.rev
	}
	c.aged = c.history.next
}

// End ends all watches with err, those that are yet to come too.
func (c *Cache) End(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = err
	c.fail(err)
}

// Fail ends all watches with err and drops the history.
func (c *Cache) Fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail(err)
}

func (c *Cache) fail(err error) {
	for _, w := range c.watchers {
		w.fail(err)
	}
	c.oldest = c.rev
	c.history = ring{limit: c.c.History, first: c.history.next, next: c.history.next}
}

// Stats are figures for metrics.
type Stats struct {
	Objects  int
	Watchers int
	Cut      uint64 // watches that were cut off since the start, monotonic
}

// Stats answers with the figures of now.
func (c *Cache) Stats() Stats {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return Stats{Objects: c.tree.Len(), Watchers: len(c.watchers), Cut: c.cut}
}

// revision is the newest one whose changes are all in the cache. Called with
// c.mu held; floor was read before that.
func (c *Cache) revision(floor int64) int64 { return max(c.rev, floor) }

func (c *Cache) floor() int64 {
	if c.c.Revision == nil {
		return 0
	}
	return c.c.Revision.Load()
}

// snapshot answers with the present content, immutable.
func (c *Cache) snapshot() (*btree.BTree[entry], int64) {
	floor := c.floor()
	c.mu.RLock()
	if t := c.snap; t != nil {
		rev := c.revision(floor)
		c.mu.RUnlock()
		return t, rev
	}
	c.mu.RUnlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.freeze(), c.revision(floor)
}

// freeze makes a snapshot with c.mu held for writing.
func (c *Cache) freeze() *btree.BTree[entry] {
	if c.snap == nil {
		c.snap = c.tree.Clone()
	}
	return c.snap
}

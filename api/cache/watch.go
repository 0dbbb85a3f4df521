package cache

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podsnap/podsnap/api"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/third_party/forked/golang/btree"
)

const (
	// batch is how many changes a watch takes at a time.
	batch = 64
	// quiet is after how many changes that do not concern it a watch gets a
	// bookmark, so that it can resume without reading them again.
	quiet = 512
)

// watch is a reader of the history.
type watch struct {
	c        *Cache
	r        *api.Resource // the version of the kind in which it wants objects
	selector selector
	view     *api.View // of whose rest it need not be told; nil: there is none

	events chan api.Event
	more   chan struct{} // holds one token when there may be something to read
	slow   chan struct{} // closed when the reader is too slow
	broken chan error    // holds the fault that ends the watch
	stop   chan struct{} // closed by Stop
	done   chan struct{} // closed when the goroutine has ended

	cursor  atomic.Uint64 // number of the next change to read
	blocked atomic.Bool   // the reader does not take the event that is offered
	cutOff  bool          // guarded by the cache's lock
	due     bool          // a change from cursor on may concern it; guarded by the cache's lock, and cleared by the reader alone
	place   int           // in the cache's list; guarded by its lock
	skipped int           // changes since the last event
	passed  int64         // revision of the last change that was read
	err     error
	once    sync.Once
}

// Watch streams changes, as api.Objects.Watch does.
func (c *Cache) Watch(ctx context.Context, o api.WatchOptions) (api.Watch, error) {
	return c.WatchAs(ctx, c.r, o)
}

// WatchAs is Watch of objects as they are in a version of the kind.
func (c *Cache) WatchAs(ctx context.Context, r *api.Resource, o api.WatchOptions) (api.Watch, error) {
	rev := int64(0)
	if o.ResourceVersion != "" {
		var err error
		if rev, err = strconv.ParseInt(o.ResourceVersion, 10, 64); err != nil || rev < 0 {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version %q", o.ResourceVersion))
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	w := &watch{
		c: c, r: r, selector: selectorOf(r, o.Namespace, o.Labels, o.Fields), view: o.View,
		events: make(chan api.Event, 16), more: make(chan struct{}, 1), slow: make(chan struct{}),
		broken: make(chan error, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	tree, at, err := c.join(w, rev)
	if err != nil {
		return nil, err
	}
	go w.run(ctx, tree, at)
	return w, nil
}

// join registers w, to read on after rev; with rev 0 it answers with the
// content to begin with, and its revision.
func (c *Cache) join(w *watch, rev int64) (*btree.BTree[entry], int64, error) {
	floor := c.floor()
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.revision(floor)
	var tree *btree.BTree[entry]
	switch {
	case c.ended != nil:
		return nil, 0, c.ended
	case rev == 0:
		tree = c.freeze()
		w.cursor.Store(c.history.next)
	case rev < c.oldest:
		return nil, 0, apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", rev, c.oldest))
	case rev > now:
		return nil, 0, tooNew(rev)
	default:
		w.cursor.Store(c.history.after(rev))
		w.due = true
	}
	w.place = len(c.watchers)
	c.watchers = append(c.watchers, w)
	switch {
	case w.selector.byNode:
		c.byNode[w.selector.node] = append(c.byNode[w.selector.node], w)
	case w.view != nil:
		c.byView[w.view] = append(c.byView[w.view], w)
	default:
		c.broad = append(c.broad, w)
	}
	return tree, now, nil
}

func (c *Cache) leave(w *watch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := len(c.watchers) - 1
	c.watchers[w.place] = c.watchers[last]
	c.watchers[w.place].place = w.place
	c.watchers[last] = nil
	c.watchers = c.watchers[:last]
	switch {
	case w.selector.byNode:
		leaveGroup(c.byNode, w.selector.node, w)
	case w.view != nil:
		leaveGroup(c.byView, w.view, w)
	default:
		c.broad = without(c.broad, w)
	}
}

// leaveGroup takes a watch out of its group, and away a group that has none left.
func leaveGroup[K comparable](groups map[K][]*watch, k K, w *watch) {
	if groups[k] = without(groups[k], w); len(groups[k]) == 0 {
		delete(groups, k)
	}
}

// without is the list without one of its watches, in another order.
func without(list []*watch, w *watch) []*watch {
	i, last := slices.Index(list, w), len(list)-1
	list[i] = list[last]
	list[last] = nil
	return list[:last]
}

// read appends to buf the changes that w has to look at, at most a batch, or has it
// pass over all of them when it knows that none concerns it; false when some are
// dropped already.
func (c *Cache) read(w *watch, buf []*change) ([]*change, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	i, next := w.cursor.Load(), c.history.next
	switch {
	case i < c.history.first:
		return nil, false
	case i == next:
		return buf, true
	case !w.due:
		w.skipped += int(next - i)
		w.passed = c.history.at(next - 1).rev
		w.cursor.Store(next)
		return buf, true
	}
	end := min(next, i+batch)
	w.due = end < next
	for ; i < end; i++ {
		buf = append(buf, c.history.at(i))
	}
	return buf, true
}

// wake has the reader look whether there is something to read.
func (w *watch) wake() {
	select {
	case w.more <- struct{}{}:
	default:
	}
}

func (w *watch) Events() <-chan api.Event { return w.events }

func (w *watch) Err() error {
	<-w.done
	return w.err
}

func (w *watch) Stop() {
	w.once.Do(func() { close(w.stop) })
	<-w.done
}

// fail ends the watch with err, at most once.
func (w *watch) fail(err error) {
	select {
	case w.broken <- err:
	default:
	}
}

func (w *watch) run(ctx context.Context, tree *btree.BTree[entry], rev int64) {
	defer close(w.done)
	defer close(w.events)
	defer w.c.leave(w)
	w.passed = rev
	if tree != nil && !w.initial(ctx, tree, rev) {
		return
	}
	buf := make([]*change, 0, batch)
	for {
		var ok bool
		if buf, ok = w.c.read(w, buf[:0]); !ok {
			w.err = w.tooSlow()
			return
		}
		if len(buf) == 0 && (!w.mark(ctx) || !w.wait(ctx)) {
			return
		}
		for _, ch := range buf {
			if !w.pass(ctx, ch) {
				return
			}
			w.cursor.Add(1)
		}
		clear(buf)
	}
}

// initial sends what is there, and the bookmark that ends it.
func (w *watch) initial(ctx context.Context, tree *btree.BTree[entry], rev int64) bool {
	going := true
	tree.AscendGreaterOrEqual(entry{namespace: w.selector.namespace}, func(e entry) bool {
		if w.selector.namespace != "" && e.namespace != w.selector.namespace {
			return false
		}
		if w.selector.matches(e.obj, nil) {
			going = w.send(ctx, api.Event{Type: api.Added, Object: e.obj})
		}
		return going
	})
	return going && w.send(ctx, api.Event{Type: api.Bookmark, Object: w.bookmark(rev), InitialEventsEnd: true})
}

// pass sends what ch means to this watch; false when the watch ends.
func (w *watch) pass(ctx context.Context, ch *change) bool {
	w.passed = ch.rev
	e, ok := w.event(ch)
	if ok {
		w.skipped = 0
		if !w.send(ctx, e) {
			return false
		}
		if w.c.c.Lag != nil {
			w.c.c.Lag(time.Since(ch.at))
		}
		return true
	}
	w.skipped++
	return w.mark(ctx)
}

// mark sends a bookmark when it is time for one; false when the watch ends.
func (w *watch) mark(ctx context.Context) bool {
	if w.skipped < quiet {
		return true
	}
	w.skipped = 0
	return w.send(ctx, api.Event{Type: api.Bookmark, Object: w.bookmark(w.passed)})
}

// event says what ch is for this watch's selection, if anything.
func (w *watch) event(ch *change) (api.Event, bool) {
	before := ch.old != nil && w.selector.matches(ch.old, ch.fieldsOfOld)
	after := ch.now != nil && w.selector.matches(ch.now, ch.fieldsOfNow)
	switch {
	case before && after && ch.hiddenIn(w.view):
		return api.Event{}, false
	case before && after:
		return api.Event{Type: api.Modified, Object: ch.now}, true
	case after:
		return api.Event{Type: api.Added, Object: ch.now}, true
	case before:
		return api.Event{Type: api.Deleted, Object: ch.departed()}, true
	default:
		return api.Event{}, false
	}
}

// concerns is a cheap first guess of whether event would answer true.
func (w *watch) concerns(ch *change) bool {
	obj := ch.now
	if obj == nil {
		obj = ch.old
	}
	if ns := w.selector.namespace; ns != "" && obj.GetNamespace() != ns {
		return false
	}
	if w.selector.byName && obj.GetName() != w.selector.name {
		return false
	}
	return !w.selector.byNode || nodeOf(ch.old) == w.selector.node || nodeOf(ch.now) == w.selector.node
}

func (w *watch) bookmark(rev int64) api.Object {
	obj := w.r.New()
	obj.GetObjectKind().SetGroupVersionKind(w.r.GVK())
	obj.SetResourceVersion(strconv.FormatInt(rev, 10))
	return obj
}

// send hands e to the reader; false when the watch ends instead.
func (w *watch) send(ctx context.Context, e api.Event) bool {
	e.Object = w.r.As(e.Object)
	select {
	case w.events <- e:
		return true
	default:
	}
	w.blocked.Store(true)
	defer w.blocked.Store(false)
	select {
	case w.events <- e:
		return true
	case <-w.stop:
	case <-ctx.Done():
		w.err = context.Cause(ctx)
	case <-w.slow:
		w.err = w.tooSlow()
	case w.err = <-w.broken:
	}
	return false
}

// wait returns true when there may be more to read.
func (w *watch) wait(ctx context.Context) bool {
	select {
	case <-w.more:
		return true
	case <-w.stop:
	case <-ctx.Done():
		w.err = context.Cause(ctx)
	case <-w.slow:
		w.err = w.tooSlow()
	case w.err = <-w.broken:
	}
	return false
}

func (w *watch) tooSlow() error {
	return apierrors.NewTimeoutError(fmt.Sprintf("the watch of %s was cut off because its reader is too slow; watch again from the last event", w.c.r), 0)
}

package cache

import (
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"k8s.io/apimachinery/pkg/fields"
)

// change is one step of one object; immutable but for what is computed once.
type change struct {
	rev      int64
	old, now api.Object // nil: was not there, is not there any more
	gone     api.Object // for a deletion, the last state with the deletion's revision
	at       time.Time
	seen     []seen // by those who watched when it came

	oldOnce, nowOnce, leftOnce sync.Once
	oldFields, nowFields       fields.Set
	left                       api.Object
}

func (c *change) fieldsOfOld() fields.Set {
	c.oldOnce.Do(func() { c.oldFields = api.FieldSet(c.old) })
	return c.oldFields
}

func (c *change) fieldsOfNow() fields.Set {
	c.nowOnce.Do(func() { c.nowFields = api.FieldSet(c.now) })
	return c.nowFields
}

// seen says whether a change is hidden in a view.
type seen struct {
	view   *api.View
	hidden bool
}

// hiddenIn tells whether who sees a view sees nothing of the change. It is decided
// once for all who do.
func (c *change) hiddenIn(v *api.View) bool {
	if v == nil {
		return false
	}
	for _, s := range c.seen {
		if s.view == v {
			return s.hidden
		}
	}
	return v.Hides(c.old, c.now)
}

// departed is what a selective watch is told about an object that has stopped
// matching: the state that matched, at this change's revision.
func (c *change) departed() api.Object {
	if c.gone != nil {
		return c.gone
	}
	c.leftOnce.Do(func() { c.left = rules.WithRevision(c.old, c.now.GetResourceVersion()) })
	return c.left
}

// ring holds the newest changes. Each has a number; first is the oldest that
// is still there, next the one that the next change gets. It grows up to limit.
type ring struct {
	limit       int
	buf         []*change
	first, next uint64
}

const least = 64 // length of a buffer

// push appends ch and answers with the change that made room, if one had to.
func (r *ring) push(ch *change) (dropped *change) {
	n := int(r.next - r.first)
	if n == len(r.buf) && n < r.limit {
		r.resize(min(r.limit, max(least, 2*n)))
	}
	if n == len(r.buf) {
		dropped = r.buf[r.first%uint64(len(r.buf))]
		r.first++
	}
	r.buf[r.next%uint64(len(r.buf))] = ch
	r.next++
	return dropped
}

// drop forgets the changes before number to and answers with the last of them,
// nil if there are none.
func (r *ring) drop(to uint64) (last *change) {
	for ; r.first < to; r.first++ {
		last = r.at(r.first)
		r.buf[r.first%uint64(len(r.buf))] = nil
	}
	if n := int(r.next - r.first); len(r.buf) > least && n <= len(r.buf)/4 {
		r.resize(max(least, 2*n))
	}
	return last
}

// resize moves the changes into a buffer of another length.
func (r *ring) resize(n int) {
	buf := make([]*change, n)
	for i := r.first; i < r.next; i++ {
		buf[i%uint64(n)] = r.at(i)
	}
	r.buf = buf
}

func (r *ring) at(i uint64) *change { return r.buf[i%uint64(len(r.buf))] }

// after is the number of the first change with a revision above rev.
func (r *ring) after(rev int64) uint64 {
	lo, hi := r.first, r.next
	for lo < hi {
		mid := lo + (hi-lo)/2
		if r.at(mid).rev > rev {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

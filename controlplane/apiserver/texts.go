package apiserver

import (
	"encoding/json"
	"sync"

	"github.com/podsnap/podsnap/api"
)

// texts are objects as JSON, made once for all who read the same: each of
// thousands of nodes follows the list of nodes, so that every change of one of
// them is told thousands of times. The oldest make room for new ones.
type texts struct {
	most int // bytes

	mu   sync.Mutex
	made map[textKey]*text
	old  []textKey // in the order in which they came
	size int
}

// mostTexts is room for ten thousand nodes.
const mostTexts = 32 << 20

// textKey is an object, which is immutable, and what is seen of it.
type textKey struct {
	object api.Object
	view   *api.View
}

type text struct {
	once sync.Once
	b    []byte
	err  error

	size int  // that is counted; guarded by texts.mu, as is gone
	gone bool // it has made room
}

func newTexts() *texts { return &texts{most: mostTexts, made: map[textKey]*text{}} }

// of is an object's text, not to be changed; view nil is all of it.
func (t *texts) of(obj api.Object, view *api.View) ([]byte, error) {
	key := textKey{obj, view}
	t.mu.Lock()
	x, ok := t.made[key]
	if !ok {
		x = &text{}
		t.made[key] = x
		t.old = append(t.old, key)
	}
	t.mu.Unlock()
	x.once.Do(func() {
		o := obj
		if view != nil {
			o = view.Show(obj)
		}
		x.b, x.err = json.Marshal(stamped(o))
		t.took(x, len(x.b))
	})
	return x.b, x.err
}

// took counts what was made, and lets the oldest go.
func (t *texts) took(x *text, bytes int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if x.gone {
		return
	}
	x.size = bytes
	t.size += bytes
	for t.size > t.most {
		first := t.made[t.old[0]] // one that is being made is not counted, and will not be
		first.gone = true
		t.size -= first.size
		delete(t.made, t.old[0])
		t.old[0] = textKey{}
		t.old = t.old[1:]
	}
}

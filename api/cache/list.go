package cache

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/podsnap/podsnap/api"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/third_party/forked/golang/btree"
)

// token is where a list goes on: behind namespace/name, in the state as of
// revision Rev; 0 is the present one, which a client may choose when the
// first has expired.
type token struct {
	Rev       int64  `json:"rv"`
	Namespace string `json:"ns,omitempty"`
	Name      string `json:"name"`
}

func (t token) String() string {
	data, _ := json.Marshal(t) // two strings and a number: no error
	return base64.RawURLEncoding.EncodeToString(data)
}

func parseToken(s string) (token, error) {
	var t token
	data, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(data, &t)
	}
	if err != nil || t.Rev < 0 || t.Name == "" {
		return t, apierrors.NewBadRequest("continue key is not valid: use the one of the list before, unchanged")
	}
	return t, nil
}

// List answers with a page of the objects that match, as api.Objects.List
// does. Remaining is 0 when a selector is set: it is not counted then. A
// continue token that is too old gets an Expired that carries another one, for
// going on with the present state.
func (c *Cache) List(o api.ListOptions) (api.List, error) { return c.ListAs(c.r, o) }

// ListAs is List of objects as they are in a version of the kind.
func (c *Cache) ListAs(r *api.Resource, o api.ListOptions) (api.List, error) {
	if o.Continue == "" {
		tree, rev := c.snapshot()
		return page(r, tree, rev, entry{namespace: o.Namespace}, o), nil
	}
	t, err := parseToken(o.Continue)
	if err != nil {
		return api.List{}, err
	}
	tree, rev := c.snapshot()
	if t.Rev != 0 {
		if tree, err = c.asOf(t); err != nil {
			return api.List{}, err
		}
		rev = t.Rev
	}
	// "\x00" makes the smallest name behind t's.
	return page(r, tree, rev, entry{namespace: t.Namespace, name: t.Name + "\x00"}, o), nil
}

// asOf undoes the changes that came after t's revision, in a copy.
func (c *Cache) asOf(t token) (*btree.BTree[entry], error) {
	floor := c.floor()
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.Rev < c.oldest {
		return nil, expiredToken(t)
	}
	if t.Rev > c.revision(floor) {
		return nil, tooNew(t.Rev)
	}
	from := c.history.after(t.Rev)
	if from == c.history.next {
		return c.freeze(), nil
	}
	tree := c.tree.Clone()
	for i := c.history.next; i > from; i-- {
		ch := c.history.at(i - 1)
		if ch.old != nil {
			tree.ReplaceOrInsert(entry{ch.old.GetNamespace(), ch.old.GetName(), ch.old})
		} else {
			tree.Delete(entry{namespace: ch.now.GetNamespace(), name: ch.now.GetName()})
		}
	}
	return tree, nil
}

func page(r *api.Resource, tree *btree.BTree[entry], rev int64, from entry, o api.ListOptions) api.List {
	l := api.List{ResourceVersion: strconv.FormatInt(rev, 10), Items: []api.Object{}}
	s := selectorOf(r, o.Namespace, o.Labels, o.Fields)
	if o.Namespace == "" && o.Limit == 0 && s.all() && from == (entry{}) {
		l.Items = make([]api.Object, 0, tree.Len())
	}
	var last entry
	tree.AscendGreaterOrEqual(from, func(e entry) bool {
		if o.Namespace != "" && e.namespace != o.Namespace {
			return false
		}
		if o.Limit > 0 && int64(len(l.Items)) == o.Limit {
			if l.Continue == "" {
				if !s.all() && !s.matches(e.obj, nil) {
					return true
				}
				l.Continue = token{rev, last.namespace, last.name}.String()
			}
			l.Remaining++
			return s.all()
		}
		if s.all() || s.matches(e.obj, nil) {
			l.Items = append(l.Items, r.As(e.obj))
			last = e
		}
		return true
	})
	if !s.all() {
		l.Remaining = 0
	}
	return l
}

func expiredToken(t token) error {
	err := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. " +
		"Start a new list without it, or use the continue token in this answer to go on with the present state, which may be inconsistent with the pages before.")
	err.ErrStatus.ListMeta.Continue = token{0, t.Namespace, t.Name}.String()
	return err
}

// tooNew is for a revision that another server must have given out.
func tooNew(rev int64) error {
	return apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d has not been reached yet", rev), 1)
}

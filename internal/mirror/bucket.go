package mirror

import (
	"slices"

	"github.com/podsnap/podsnap/api"
	"k8s.io/apimachinery/pkg/types"
)

// fewest is up to how many objects of a key are kept as a list: most keys of
// most indexes have one, for which a map would take half a kilobyte.
const fewest = 8

// bucket holds the objects of one key of an index.
type bucket[T api.Object] struct {
	few  []T
	many map[types.NamespacedName]T // instead, when there are more
}

// put takes in obj, in the place of one of its name.
func (b *bucket[T]) put(obj T) {
	k := nameOf(obj)
	if b.many != nil {
		b.many[k] = obj
		return
	}
	if i := b.find(k); i >= 0 {
		b.few[i] = obj
		return
	}
	if len(b.few) < fewest {
		b.few = append(b.few, obj)
		return
	}
	b.many = make(map[types.NamespacedName]T, 2*fewest)
	for _, o := range b.few {
		b.many[nameOf(o)] = o
	}
	b.many[k] = obj
	b.few = nil
}

// drop forgets the object of that name; it answers whether any is left.
func (b *bucket[T]) drop(k types.NamespacedName) (left bool) {
	if b.many != nil {
		delete(b.many, k)
		return len(b.many) > 0
	}
	if i := b.find(k); i >= 0 {
		b.few = slices.Delete(b.few, i, i+1)
	}
	return len(b.few) > 0
}

func (b *bucket[T]) find(k types.NamespacedName) int {
	return slices.IndexFunc(b.few, func(o T) bool { return nameOf(o) == k })
}

// all is a copy of the content, in no order.
func (b *bucket[T]) all() []T {
	if b == nil {
		return nil
	}
	out := make([]T, 0, max(len(b.few), len(b.many)))
	out = append(out, b.few...)
	for _, o := range b.many {
		out = append(out, o)
	}
	return out
}

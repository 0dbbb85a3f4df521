package store

import (
	"context"
	"errors"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Bounds of one transaction: etcd takes 128 operations and 1.5 MiB unless it is
// told otherwise.
const (
	mostWrites = 100
	mostBytes  = 1 << 20
)

// Persist stores or removes objects, each at most once in writes, and answers
// in their order. Those that go into one transaction together share a revision.
// It asks no rules: it is for a caller that has decided already (package soft).
func (s *Store) Persist(ctx context.Context, writes ...api.Write) []api.Written {
	out := make([]api.Written, len(writes))
	var xs []txn
	var places []int // of xs, in out
	size := 0
	send := func() {
		for n, w := range s.persist(ctx, xs) {
			out[places[n]] = w
		}
		xs, places, size = xs[:0], places[:0], 0
	}
	for n, w := range writes {
		i := idOf(api.ResourceOf(w.Object), w.Object)
		x := txn{id: i, key: i.key(s.c.Prefix), expect: w.Expect, obj: w.Object}
		if !w.Remove {
			if x.value, out[n].Err = rules.Encode(w.Object); out[n].Err != nil {
				continue
			}
		}
		if len(xs) == mostWrites || len(xs) > 0 && size+len(x.value) > mostBytes {
			send()
		}
		xs, places, size = append(xs, x), append(places, n), size+len(x.value)
	}
	if len(xs) > 0 {
		send()
	}
	return out
}

// persist makes one transaction of xs.
func (s *Store) persist(ctx context.Context, xs []txn) []api.Written {
	out := make([]api.Written, len(xs))
	_, err := s.write(ctx, "persist", func(ctx context.Context) (api.Object, error) {
		outs, errs := s.commitAll(ctx, xs)
		for n, o := range outs {
			out[n] = api.Written{Revision: o.rev, Err: errs[n]}
			if errs[n] == nil && !o.done {
				i := xs[n].id
				out[n].Err = apierrors.NewConflict(i.r.GR(), i.name, errors.New("it was changed by somebody else"))
			}
		}
		return nil, errors.Join(errs...)
	})
	if err != nil {
		for n := range out {
			if out[n] == (api.Written{}) { // it was not even tried
				out[n].Err = err
			}
		}
	}
	return out
}

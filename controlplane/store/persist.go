package store

import (
	"context"
	"errors"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Persist stores obj as it is, or removes it, when the stored object is at
// revision expect (0: it is not there), and answers with the new revision.
// Conflict when it is at another one. It asks no rules: it is for a caller that
// has decided already (package soft). obj must not be used afterwards.
func (s *Store) Persist(ctx context.Context, obj api.Object, expect int64, remove bool) (int64, error) {
	i := idOf(api.ResourceOf(obj), obj)
	rev := int64(0)
	_, err := s.write(ctx, "persist", func(ctx context.Context) (api.Object, error) {
		x := txn{id: i, key: i.key(s.c.Prefix), expect: expect, obj: obj}
		if !remove {
			var err error
			if x.value, err = rules.Encode(obj); err != nil {
				return nil, err
			}
		}
		out, err := s.commit(ctx, x)
		if err == nil && !out.done {
			err = apierrors.NewConflict(i.r.GR(), i.name, errors.New("it was changed by somebody else"))
		}
		rev = out.rev
		return obj, err
	})
	return rev, err
}

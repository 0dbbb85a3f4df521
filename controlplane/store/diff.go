package store

import (
	"cmp"
	"math"
	"slices"
)

// diff makes the changes that lead from have, as of revision from, to want, as
// of revision to, in order: a step without object is a deletion, and is alone
// at its revision. It is false when there is no such sequence, because etcd
// went back or several objects were deleted in one transaction.
//
// A changed object keeps its revision. When objects were deleted is not known,
// but each deletion took a revision that no key has now; so they get the
// smallest such revisions, those first whose name was used again soonest. As
// the real deletions fitted, these fit too.
func diff(have, want []state, from, to int64) ([]state, bool) {
	if to < from {
		return nil, false
	}
	now := make(map[id]state, len(want))
	used := map[int64]bool{}
	var steps []state
	for _, w := range want {
		now[w.id] = w
		if w.rev > from {
			used[w.rev] = true
			steps = append(steps, w)
		}
	}
	type deletion struct {
		id     id
		before int64 // it must come earlier than this revision
	}
	var gone []deletion
	for _, h := range have {
		w, ok := now[h.id]
		switch {
		case !ok:
			gone = append(gone, deletion{h.id, math.MaxInt64})
		case w.created > from:
			gone = append(gone, deletion{h.id, w.created})
		case w.rev < h.rev:
			return nil, false
		}
	}
	slices.SortStableFunc(gone, func(a, b deletion) int { return cmp.Compare(a.before, b.before) })
	rev := from
	for _, d := range gone {
		rev++
		for used[rev] {
			rev++
		}
		if rev > to || rev >= d.before {
			return nil, false
		}
		steps = append(steps, state{id: d.id, rev: rev})
	}
	slices.SortFunc(steps, func(a, b state) int { return cmp.Compare(a.rev, b.rev) })
	return steps, true
}

package history

import "github.com/anishathalye/porcupine"

// state is one object.
type state struct {
	there bool
	value string // of the last write
	rev   int64  // of the last write, 0: of a write whose answer was lost, nobody has told it yet
	floor int64  // rev is above it if it is 0
}

// model is what an api.Objects promises of each object by itself.
var model = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{state{}} },
	Step: func(s, in, out any) []any {
		next := step(s.(state), in.(Question), out.(Answer))
		all := make([]any, len(next))
		for i, n := range next {
			all[i] = n
		}
		return all
	},
	DescribeOperation: describe,
}).ToModel()

// step is what an object may be after a question that was answered so; nothing
// when such an answer cannot be.
func step(s state, q Question, a Answer) []state {
	same := []state{s}
	switch a.Fate {
	case Missing:
		return only(!s.there && q.Verb != Create, same)
	case Exists:
		return only(s.there && q.Verb == Create, same)
	case Conflict:
		return only(s.there && q.Expect != 0 && s.rev != q.Expect, same)
	case Unknown:
		if s.takes(q) {
			return append(same, s.after(q, 0))
		}
		return same
	case Done: // see below
	}
	if q.Verb == Get {
		return only(s.there && s.value == a.Value && s.canBe(a.Rev), []state{{there: true, value: s.value, rev: a.Rev, floor: a.Rev}})
	}
	if q.Verb == Delete {
		// The object may have been deleted already by somebody else, when the answer to
		// the first attempt was lost: that it is gone is what can be told then.
		told := a.Value == "" || a.Value == s.value
		return only(told && (s.takes(q) || !s.there && s.value != ""), []state{s.after(q, 0)})
	}
	return only(s.takes(q) && a.Value == q.Value && a.Rev > s.latest(), []state{s.after(q, a.Rev)})
}

func only(ok bool, s []state) []state {
	if ok {
		return s
	}
	return nil
}

// takes says whether what is asked can be carried out.
func (s state) takes(q Question) bool {
	switch {
	case q.Verb == Create:
		return !s.there
	case q.Expect != 0:
		return s.there && s.canBe(q.Expect)
	}
	return s.there
}

// canBe says whether the object may be at a revision.
func (s state) canBe(rev int64) bool { return s.rev == rev || s.rev == 0 && rev > s.floor }

// latest is a revision that is not above the object's.
func (s state) latest() int64 { return max(s.rev, s.floor) }

// after is the object when that is carried out, at a revision if it is known.
func (s state) after(q Question, rev int64) state {
	floor := max(s.latest(), q.Expect)
	if q.Verb == Delete {
		return state{value: s.value, floor: floor}
	}
	return state{there: true, value: q.Value, rev: rev, floor: max(floor, rev)}
}

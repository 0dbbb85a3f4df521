// Package indexes is sets of the completion indexes of Jobs, in the form that a
// Job's status shows them in: "1,3-5,7".
package indexes

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Set is a set of numbers from 0 on, as ranges in ascending order that neither
// overlap nor touch. The zero value is empty.
type Set struct{ ranges []span }

type span struct{ first, last int }

// Parse reads a set below limit. The text must be in ascending order; that of ""
// is empty.
func Parse(text string, limit int) (Set, error) {
	var s Set
	if text == "" {
		return s, nil
	}
	next := 0
	for part := range strings.SplitSeq(text, ",") {
		from, to, ranged := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		if err != nil {
			return Set{}, fmt.Errorf("%q is no index", from)
		}
		last := first
		if ranged {
			if last, err = strconv.Atoi(to); err != nil {
				return Set{}, fmt.Errorf("%q is no index", to)
			}
			if last <= first {
				return Set{}, fmt.Errorf("the range %q must end above its beginning", part)
			}
		}
		switch {
		case first < next:
			return Set{}, errors.New("indexes must be in ascending order, each of them once")
		case last >= limit:
			return Set{}, fmt.Errorf("the index %d is not below the number of completions, %d", last, limit)
		}
		next = last + 1
		s.join(span{first, last})
	}
	return s, nil
}

// Below is the part of what a text says that is below limit. It is for texts that
// were written by String: what cannot be read counts as empty.
func Below(text string, limit int) Set {
	s, err := Parse(text, int(^uint(0)>>1))
	if err != nil {
		return Set{}
	}
	var out Set
	for _, r := range s.ranges {
		if r.first < limit {
			out.ranges = append(out.ranges, span{r.first, min(r.last, limit-1)})
		}
	}
	return out
}

// join puts a span behind all others.
func (s *Set) join(r span) {
	if n := len(s.ranges); n > 0 && s.ranges[n-1].last+1 == r.first {
		s.ranges[n-1].last = r.last
		return
	}
	s.ranges = append(s.ranges, r)
}

// Add puts an index into the set.
func (s *Set) Add(i int) {
	if s.Has(i) {
		return
	}
	all := slices.Clone(s.ranges)
	at, _ := slices.BinarySearchFunc(all, i, func(r span, i int) int { return r.first - i })
	all = slices.Insert(all, at, span{i, i})
	s.ranges = nil
	for _, r := range all {
		s.join(r)
	}
}

// Has tells whether an index is in the set.
func (s Set) Has(i int) bool {
	_, ok := slices.BinarySearchFunc(s.ranges, i, func(r span, i int) int {
		switch {
		case r.last < i:
			return -1
		case r.first > i:
			return 1
		}
		return 0
	})
	return ok
}

// Len is how many there are.
func (s Set) Len() int {
	n := 0
	for _, r := range s.ranges {
		n += r.last - r.first + 1
	}
	return n
}

// Within is how many of them are in another set, too.
func (s Set) Within(o Set) int {
	n := 0
	for _, r := range s.ranges {
		for _, q := range o.ranges {
			n += max(0, min(r.last, q.last)-max(r.first, q.first)+1)
		}
	}
	return n
}

// String is the set as a status has it: three and more in a row are a range.
func (s Set) String() string {
	var b strings.Builder
	for _, r := range s.ranges {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(r.first))
		switch r.last - r.first {
		case 0:
		case 1:
			b.WriteString("," + strconv.Itoa(r.last))
		default:
			b.WriteString("-" + strconv.Itoa(r.last))
		}
	}
	return b.String()
}

// Gap is the first index from i on that is not in the set.
func (s Set) Gap(i int) int {
	for _, r := range s.ranges {
		if i < r.first {
			break
		}
		if i <= r.last {
			i = r.last + 1
		}
	}
	return i
}

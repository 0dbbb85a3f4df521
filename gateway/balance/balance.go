// Package balance chooses the replica that serves a request. It is pure: it
// reads no clock, takes no lock and starts nothing; its caller serialises.
package balance

import "slices"

// Replica is one choice. Its owner keeps what it needs to know in Value.
type Replica[T any] struct {
	Value T

	limit    int // 0 is none
	inFlight int
	open     bool // may be chosen
}

// InFlight is the number of slots taken.
func (r *Replica[T]) InFlight() int { return r.inFlight }

// Open reports whether the replica may be chosen.
func (r *Replica[T]) Open() bool { return r.open }

func (r *Replica[T]) full() bool { return r.limit > 0 && r.inFlight >= r.limit }

// exact is the number of replicas up to which the least loaded one is searched
// for; beyond it the better of two random ones is nearly as good.
const exact = 8

// Set is the replicas of one function. Replicas that serve one request at a
// time are a stack, the most recently freed on top: its caches are warm, and
// those at the bottom become idle and can be stopped. The others are chosen by
// the fewest requests in flight.
type Set[T any] struct {
	all  []*Replica[T]
	idle []*Replica[T] // open, limit 1, nothing in flight; the last is the top
	many []*Replica[T] // open, limit other than 1
	free int           // how many of many are not full
	next int           // where a scan of many starts, so that ties go round
}

// Add takes a replica in, open, with room for limit requests at once (0 is no
// limit).
func (s *Set[T]) Add(v T, limit int) *Replica[T] {
	r := &Replica[T]{Value: v, limit: max(limit, 0)}
	s.all = append(s.all, r)
	s.SetOpen(r, true)
	return r
}

// Remove forgets a replica. What is in flight on it may still be released.
func (s *Set[T]) Remove(r *Replica[T]) {
	s.SetOpen(r, false)
	if i := slices.Index(s.all, r); i >= 0 {
		s.all = slices.Delete(s.all, i, i+1)
	}
}

// SetOpen says whether a replica may be chosen.
func (s *Set[T]) SetOpen(r *Replica[T], open bool) {
	if r.open == open {
		return
	}
	r.open = open
	if !open {
		s.drop(r)
		return
	}
	if r.limit != 1 {
		s.many = append(s.many, r)
		if !r.full() {
			s.free++
		}
	} else if r.inFlight == 0 {
		s.idle = append(s.idle, r)
	}
}

// SetLimit changes how many requests a replica takes at once.
func (s *Set[T]) SetLimit(r *Replica[T], limit int) {
	if limit = max(limit, 0); limit == r.limit {
		return
	}
	open := r.open
	s.SetOpen(r, false)
	r.limit = limit
	s.SetOpen(r, open)
}

func (s *Set[T]) drop(r *Replica[T]) {
	if i := slices.Index(s.idle, r); i >= 0 {
		s.idle = slices.Delete(s.idle, i, i+1)
	}
	if i := slices.Index(s.many, r); i >= 0 {
		s.many = slices.Delete(s.many, i, i+1)
		if !r.full() {
			s.free--
		}
	}
}

// All is every replica, open or not; it must not be changed.
func (s *Set[T]) All() []*Replica[T] { return s.all }

// Open is how many replicas may be chosen, full ones included.
func (s *Set[T]) Open() int {
	n := 0
	for _, r := range s.all {
		if r.open {
			n++
		}
	}
	return n
}

// Acquire takes a slot on the best replica; nil when none has one. random(n)
// is a number in [0,n).
func (s *Set[T]) Acquire(random func(int) int) *Replica[T] {
	if n := len(s.idle); n > 0 {
		r := s.idle[n-1]
		s.idle[n-1] = nil
		s.idle = s.idle[:n-1]
		r.inFlight++
		return r
	}
	if s.free == 0 {
		return nil
	}
	r := s.least(random)
	r.inFlight++
	if r.full() {
		s.free--
	}
	return r
}

// least expects that at least one of many is not full.
func (s *Set[T]) least(random func(int) int) *Replica[T] {
	n := len(s.many)
	if n > exact {
		i, j := random(n), random(n-1)
		if j >= i {
			j++
		}
		if r := better(s.many[i], s.many[j]); !r.full() {
			return r
		}
	}
	best := s.many[s.next%n]
	for i := 1; i < n; i++ {
		best = better(best, s.many[(s.next+i)%n])
	}
	s.next = (s.next + 1) % n
	return best
}

// better prefers a, if all else is the same.
func better[T any](a, b *Replica[T]) *Replica[T] {
	if a.full() != b.full() {
		if a.full() {
			return b
		}
		return a
	}
	if b.inFlight < a.inFlight {
		return b
	}
	return a
}

// Release gives a slot back.
func (s *Set[T]) Release(r *Replica[T]) {
	wasFull := r.full()
	r.inFlight--
	switch {
	case !r.open:
	case r.limit == 1:
		if r.inFlight == 0 {
			s.idle = append(s.idle, r)
		}
	case wasFull && !r.full():
		s.free++
	}
}

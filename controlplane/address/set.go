package address

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// claim is who has something. A claim that is not stored yet belongs to a write
// that is under way, or that has failed: after patience it counts for nothing.
type claim struct {
	owner  string
	stored bool
	since  time.Time
}

// patience is how long a write may take from its admission to the watch that
// shows it.
const patience = time.Minute

// set hands out things of one kind, each to one owner. It is plain data: no
// locks, no clock.
type set[T comparable] struct {
	claims map[T]claim
	owned  map[string][]T // by owner, what claims says
	after  func(T) T      // the one after it, round and round
	start  T
	size   int
	next   T
}

// newSet makes a set of size things that begins with start.
func newSet[T comparable](start T, size int, after func(T) T) *set[T] {
	return &set[T]{claims: map[T]claim{}, owned: map[string][]T{}, after: after, start: start, size: size, next: start}
}

// taken tells whether somebody else than owner has v.
func (s *set[T]) taken(v T, owner string, now time.Time) bool {
	c, ok := s.claims[v]
	return ok && c.owner != owner && (c.stored || now.Sub(c.since) < patience)
}

// take hands out one that is free, not one that became free a moment ago if
// that can be helped. An owner of an earlier attempt, of which nothing is stored,
// gets the same again if keep says so.
func (s *set[T]) take(owner string, now time.Time, keep func(T) bool) (T, bool) {
	for _, v := range s.owned[owner] {
		if !s.claims[v].stored && keep(v) {
			s.put(v, claim{owner: owner, since: now})
			return v, true
		}
	}
	v := s.next
	for range s.size {
		if c, ok := s.claims[v]; !ok || !c.stored && now.Sub(c.since) >= patience {
			s.next = s.after(v)
			s.put(v, claim{owner: owner, since: now})
			return v, true
		}
		v = s.after(v)
	}
	var none T
	return none, false
}

// ask claims a certain one; false when somebody else has it.
func (s *set[T]) ask(v T, owner string, now time.Time) bool {
	if s.taken(v, owner, now) {
		return false
	}
	if c, ok := s.claims[v]; !ok || c.owner != owner || !c.stored {
		s.put(v, claim{owner: owner, since: now})
	}
	return true
}

// store notes what an owner has now, and frees what it had before. Of two
// owners of one thing the one that was stored first has it.
func (s *set[T]) store(owner string, has []T) {
	for _, v := range slices.Clone(s.owned[owner]) {
		if s.claims[v].stored && !slices.Contains(has, v) {
			s.drop(v)
		}
	}
	for _, v := range has {
		if c, ok := s.claims[v]; !ok || !c.stored {
			s.put(v, claim{owner: owner, stored: true})
		}
	}
}

// free forgets what an owner has stored.
func (s *set[T]) free(owner string) { s.store(owner, nil) }

func (s *set[T]) put(v T, c claim) {
	s.drop(v)
	s.claims[v] = c
	s.owned[c.owner] = append(s.owned[c.owner], v)
}

func (s *set[T]) drop(v T) {
	owner := s.claims[v].owner
	delete(s.claims, v)
	left := slices.DeleteFunc(s.owned[owner], func(o T) bool { return o == v })
	if len(left) == 0 {
		delete(s.owned, owner)
		return
	}
	s.owned[owner] = left
}

// addresses is a set of the addresses of a network, without its first and its last
// one.
func addresses(p netip.Prefix) *set[netip.Addr] {
	p = p.Masked()
	start := p.Addr().Next()
	return newSet(start, 1<<(p.Addr().BitLen()-p.Bits())-2, func(a netip.Addr) netip.Addr {
		a = a.Next()
		if !p.Contains(a.Next()) {
			return start
		}
		return a
	})
}

// blocks is a set of the networks of a length of which a network is made.
func blocks(p netip.Prefix, bits int) (*set[netip.Prefix], error) {
	p = p.Masked()
	if longest := p.Addr().BitLen() - 3; bits < p.Bits() || bits > longest {
		return nil, fmt.Errorf("blocks of /%d can't be taken out of %s: the length must be between %d and %d", bits, p, p.Bits(), longest)
	}
	start := netip.PrefixFrom(p.Addr(), bits)
	return newSet(start, 1<<(bits-p.Bits()), func(b netip.Prefix) netip.Prefix {
		next := netip.PrefixFrom(following(b), bits)
		if !p.Contains(next.Addr()) {
			return start
		}
		return next
	}), nil
}

// following is the first address after a network.
func following(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	i := (p.Bits() - 1) / 8
	add := uint(1) << (7 - (p.Bits()-1)%8)
	for ; i >= 0 && add > 0; i-- {
		sum := uint(b[i]) + add
		b[i], add = byte(sum), sum>>8
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

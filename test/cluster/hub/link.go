package hub

import (
	"math/rand/v2"
	"time"
)

// Link is what happens to the frames of one direction between two hosts. The
// zero value is a good cable.
type Link struct {
	Cut       bool          // nothing arrives
	Delay     time.Duration // until a frame arrives
	Loss      float64       // share of frames that do not arrive
	Duplicate float64       // share of the others that arrive twice
}

// copies decides how many of a frame arrive. A link without loss and
// duplicates uses up no randomness, so that a fault has the same course
// whatever was sent before it.
func (l Link) copies(r *rand.Rand) int {
	switch {
	case l.Cut:
		return 0
	case l.Loss > 0 && r.Float64() < l.Loss:
		return 0
	case l.Duplicate > 0 && r.Float64() < l.Duplicate:
		return 2
	}
	return 1
}

// rules are all links and who stands still. They do not change once in use.
type rules struct {
	n     int
	links []Link // of from to to: at from*n+to
	still []bool
}

func newRules(n int) *rules {
	return &rules{n: n, links: make([]Link, n*n), still: make([]bool, n)}
}

// clone is a copy to be changed.
func (r *rules) clone() *rules {
	c := newRules(r.n)
	copy(c.links, r.links)
	copy(c.still, r.still)
	return c
}

// link is what a frame meets on its way.
func (r *rules) link(from, to int) Link {
	l := r.links[from*r.n+to]
	l.Cut = l.Cut || r.still[from] || r.still[to]
	return l
}

// each changes the links of a direction; a negative number stands for all
// hosts.
func (r *rules) each(from, to int, change func(*Link)) {
	for f := range r.n {
		for t := range r.n {
			if f != t && (from < 0 || from == f) && (to < 0 || to == t) {
				change(&r.links[f*r.n+t])
			}
		}
	}
}

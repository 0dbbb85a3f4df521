package node

import (
	"slices"
	"time"
)

// health decides which nodes are lost, from when their leases were seen to
// change: on our own clock, never by comparing the times of two machines.
//
// A silent node is lost only when the store was known to take writes all the
// while, else it is the store that is silent. That is known from evidence:
// every lease that is seen renewed, and probes, which are writes of our own.
// Where evidence has a gap, every node gets its full grace period again.
type health struct {
	grace time.Duration
	since time.Time // the store takes writes since; zero: it is not known to
	last  time.Time // the last evidence
	beats map[string]beat
}

// beat is a node's last sign of life.
type beat struct {
	mark string // what the lease said
	at   time.Time
	away time.Duration // how long it has said to be silent
	lost bool
}

// longestAway is how long a node is waited for at most that has said to be silent.
const longestAway = 30 * time.Second

func newHealth(grace time.Duration) *health {
	return &health{grace: grace, beats: map[string]beat{}}
}

// gap is the longest time without evidence that does not break the chain.
func (h *health) gap() time.Duration { return h.grace / 2 }

// tick is how often a silent node is looked at.
func (h *health) tick() time.Duration { return h.grace / 8 }

// late is the silence after which the store is probed. It and a tick are
// together less than gap, so that a node that dies alone breaks no chain.
func (h *health) late() time.Duration { return h.grace * 5 / 16 }

// evidence says that a write was stored, or (ok false) that one could not be.
func (h *health) evidence(ok bool, now time.Time) {
	if !ok {
		h.since, h.last = time.Time{}, now
		return
	}
	if h.since.IsZero() || now.Sub(h.last) > h.gap() {
		h.since = now
	}
	h.last = now
}

// register makes a node known: alive for now, or lost until its lease is seen
// to change.
func (h *health) register(node string, lost bool, now time.Time) {
	if _, ok := h.beats[node]; !ok {
		h.beats[node] = beat{at: now, lost: lost}
	}
}

// renewed takes in a node's lease. mark changes with each renewal; away is how long
// the node says to be silent. It reports whether the node came back. Leases of nodes
// that are not known are nothing.
func (h *health) renewed(node, mark string, away time.Duration, now time.Time) (back bool) {
	b, known := h.beats[node]
	if !known || b.mark == mark {
		return false
	}
	if b.lost && b.mark == "" { // as it was when we began to look
		b.mark = mark
		h.beats[node] = b
		return false
	}
	h.beats[node] = beat{mark: mark, at: now, away: min(away, longestAway)}
	h.evidence(true, now)
	return b.lost
}

func (h *health) forget(node string) { delete(h.beats, node) }

func (h *health) lost(node string) bool { return h.beats[node].lost }

// lose takes the verdict that due proposes.
func (h *health) lose(node string) {
	if b, ok := h.beats[node]; ok {
		b.lost = true
		h.beats[node] = b
	}
}

// silent says whether any node that is not lost has missed a renewal, so that
// the store has to be probed.
func (h *health) silent(now time.Time) bool {
	for _, b := range h.beats {
		if !b.lost && now.Sub(b.at) >= h.late() {
			return true
		}
	}
	return false
}

// due are the nodes that have been silent for the grace period while the store
// took writes, by name; next is when to look again.
func (h *health) due(now time.Time) (names []string, next time.Duration) {
	next = h.tick()
	if h.since.IsZero() || now.Sub(h.last) > h.gap() {
		return nil, next
	}
	for name, b := range h.beats {
		if b.lost {
			continue
		}
		from := b.at
		if h.since.After(from) {
			from = h.since
		}
		left := max(h.grace, b.away) - now.Sub(from)
		if left <= 0 {
			names = append(names, name)
			continue
		}
		next = min(next, left)
	}
	slices.Sort(names)
	return names, next
}

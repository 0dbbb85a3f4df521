package scheduler

import (
	"cmp"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// wait is a pod that has no node yet.
type wait struct {
	key    types.NamespacedName
	seq    uint64 // the order of arrival
	first  time.Time
	last   time.Time
	tries  int
	parked bool // fits nowhere; wake unparks it

	priority int32
	woken    bool // is about to be tried again

	owes bool // has given room back that nobody was told of

	sociable  bool // has to be near other pods
	selective bool // asks for pods or nodes, by namespaces perhaps
	stored    bool // has claims
}

func all(*wait) bool        { return true }
func sociable(w *wait) bool { return w.sociable }

func selective(w *wait) bool { return w.selective }

// repay has those that wait look for the room that one has given back; nil is none.
// The lock is held.
func (s *Scheduler) repay(w *wait) {
	if w != nil && w.owes {
		w.owes = false
		s.wake(all)
	}
}

// rouse notes whether one is about to be tried again; nil is none. The lock is held.
func (s *Scheduler) rouse(w *wait, woken bool) {
	if w == nil || w.woken == woken {
		return
	}
	w.woken = woken
	if woken {
		s.woken[w.priority]++
	} else if s.woken[w.priority]--; s.woken[w.priority] == 0 {
		delete(s.woken, w.priority)
	}
}

// forget is for a pod that waits no more. The lock is held.
func (s *Scheduler) forget(key types.NamespacedName) {
	w := s.waiting[key]
	s.rouse(w, false)
	delete(s.waiting, key)
	s.repay(w)
}

// wake has the parked pods that a change may help tried again, those of the highest
// priority and then the oldest first, each no sooner than its back-off allows. The
// lock is held.
func (s *Scheduler) wake(helps func(*wait) bool) {
	var again []*wait
	for _, w := range s.waiting {
		if w.parked && helps(w) {
			again = append(again, w)
		}
	}
	slices.SortFunc(again, func(a, b *wait) int { return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(a.seq, b.seq)) })
	for _, w := range again {
		w.parked = false
		wait := backoff(w.tries, s.c.BackoffMax) - time.Since(w.last)
		s.rouse(w, wait <= 0)
		s.loop.AddAfter(w.key, wait)
	}
}

// backoff is the least time between two tries: none at first, so that the node
// that a pod waited for has it at once, then doubling from 20 ms.
func backoff(tries int, most time.Duration) time.Duration {
	if tries < 3 {
		return 0
	}
	return min(most, 20*time.Millisecond<<min(tries-3, 20))
}

// pending counts the pods that wait, and those of them that fit nowhere.
func (s *Scheduler) pending() (active, unschedulable int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.waiting {
		if w.parked {
			unschedulable++
		} else {
			active++
		}
	}
	return active, unschedulable
}

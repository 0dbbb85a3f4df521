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

	sociable bool // has to be near other pods
	stored   bool // has claims
}

func all(*wait) bool        { return true }
func sociable(w *wait) bool { return w.sociable }

// wake has the parked pods that a change may help tried again, the oldest first,
// each no sooner than its back-off allows. The lock is held.
func (s *Scheduler) wake(helps func(*wait) bool) {
	var again []*wait
	for _, w := range s.waiting {
		if w.parked && helps(w) {
			again = append(again, w)
		}
	}
	slices.SortFunc(again, func(a, b *wait) int { return cmp.Compare(a.seq, b.seq) })
	for _, w := range again {
		w.parked = false
		s.loop.AddAfter(w.key, backoff(w.tries, s.c.BackoffMax)-time.Since(w.last))
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

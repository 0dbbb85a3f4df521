package invoke

import "time"

// waiter is a request in a function's queue.
type waiter struct {
	got        chan grant // holds one: the giver never waits
	queued     bool
	prev, next *waiter
	since      time.Time
}

// grant is how a wait ends: with a slot or with an error.
type grant struct {
	slot slot
	err  error
}

// queue is a FIFO that can be left at any place. Its zero value is empty.
type queue struct {
	head, tail *waiter
	n          int
}

func (q *queue) pushBack(w *waiter) {
	w.queued, w.prev, w.next = true, q.tail, nil
	if q.tail != nil {
		q.tail.next = w
	} else {
		q.head = w
	}
	q.tail = w
	q.n++
}

func (q *queue) pushFront(w *waiter) {
	w.queued, w.prev, w.next = true, nil, q.head
	if q.head != nil {
		q.head.prev = w
	} else {
		q.tail = w
	}
	q.head = w
	q.n++
}

// remove reports whether w was still waiting.
func (q *queue) remove(w *waiter) bool {
	if !w.queued {
		return false
	}
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		q.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		q.tail = w.prev
	}
	w.queued, w.prev, w.next = false, nil, nil
	q.n--
	return true
}

// pop takes the oldest out; nil when nobody waits.
func (q *queue) pop() *waiter {
	w := q.head
	if w != nil {
		q.remove(w)
	}
	return w
}

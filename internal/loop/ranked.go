package loop

import "container/heap"

// ranked is a queue of which the highest come out first, and of equals those that
// came first.
type ranked[K comparable] struct {
	rank func(K) int64
	seq  uint64
	heap rankedHeap[K]
}

type rankedItem[K comparable] struct {
	key  K
	rank int64
	seq  uint64
}

func newRanked[K comparable](rank func(K) int64) *ranked[K] { return &ranked[K]{rank: rank} }

// Touch implements workqueue.Queue: what waits keeps its place.
func (q *ranked[K]) Touch(K) {}

// Push implements workqueue.Queue.
func (q *ranked[K]) Push(key K) {
	q.seq++
	heap.Push(&q.heap, rankedItem[K]{key: key, rank: q.rank(key), seq: q.seq})
}

// Len implements workqueue.Queue.
func (q *ranked[K]) Len() int { return len(q.heap) }

// Pop implements workqueue.Queue.
func (q *ranked[K]) Pop() K { return heap.Pop(&q.heap).(rankedItem[K]).key }

type rankedHeap[K comparable] []rankedItem[K]

func (h rankedHeap[K]) Len() int { return len(h) }

func (h rankedHeap[K]) Less(i, j int) bool {
	if h[i].rank != h[j].rank {
		return h[i].rank > h[j].rank
	}
	return h[i].seq < h[j].seq
}

func (h rankedHeap[K]) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *rankedHeap[K]) Push(x any) { *h = append(*h, x.(rankedItem[K])) }

// Pop implements heap.Interface.
func (h *rankedHeap[K]) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = rankedItem[K]{}
	*h = old[:len(old)-1]
	return last
}

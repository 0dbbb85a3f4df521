package backlog

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/bubble"
	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/types"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// queue counts how often it is looked at.
type queue struct {
	mu      sync.Mutex
	waiting uint64
	err     error
	looks   int
}

func (q *queue) pending(context.Context) ([]openfaas.PendingCalls, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.looks++
	if q.waiting == 0 {
		return nil, q.err
	}
	return []openfaas.PendingCalls{{Name: "resize", Namespace: "f", Pending: q.waiting}}, q.err
}

func (q *queue) set(waiting uint64, err error) (looks int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting, q.err, looks, q.looks = waiting, err, q.looks, 0
	return looks
}

func TestReports(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		q, c := &queue{}, memory.NewCapacity()
		b := New(Config{Capacity: c, Gateway: "g", Pending: q.pending})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		f := types.NamespacedName{Namespace: "f", Name: "resize"}
		told := func(want int) {
			t.Helper()
			synctest.Wait()
			if got := c.Demand(f, "g backlog"); got.Pending != want || want > 0 && got != (api.Demand{Function: f, Pending: want}) {
				t.Fatalf("told %+v, want %d pending and nothing else", got, want)
			}
		}
		time.Sleep(time.Hour + 7*time.Second) // not at a moment at which it looks by itself, here and below
		if n := q.set(3, nil); n > 130 {
			t.Fatalf("an empty queue was looked at %d times in an hour", n)
		}
		told(0)
		b.Kick()
		told(3) // at once
		q.set(8, nil)
		for range 100 {
			b.Kick()
		}
		time.Sleep(1300 * time.Millisecond)
		told(8)
		q.set(9, errors.New("the queue is away"))
		time.Sleep(3 * time.Second)
		told(8) // what is not known is not told
		q.set(0, nil)
		time.Sleep(1300 * time.Millisecond)
		told(0) // once more, with nothing
		q.set(0, nil)
		time.Sleep(10 * time.Minute)
		if n := q.set(1, nil); n > 25 {
			t.Fatalf("looked %d times in ten minutes after it was empty", n)
		}
		time.Sleep(31 * time.Second)
		told(1)                                 // another gateway's call is seen too
		if looks := q.set(1, nil); looks > 33 { // once a second
			t.Fatalf("looked %d times", looks)
		}
		for range 100 {
			b.Kick()
		}
		time.Sleep(10 * time.Second)
		if looks := q.set(0, nil); looks > 12 {
			t.Fatalf("a crowd made it look %d times in 10 s", looks)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

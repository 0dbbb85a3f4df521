package history

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Event is one change as a watch tells it.
type Event struct {
	Rev   int64
	Type  api.EventType
	Key   string
	Value string // of a deletion: the last one
}

// Feed is what a watch has told so far. When the watch ends it is opened again
// where it was; Again counts that.
type Feed struct {
	mu     sync.Mutex
	events []Event
	at     int64
	again  int
	err    error
	turn   chan struct{} // closed at each change
}

// Follow watches from a revision on, until ctx ends; done waits for that.
func Follow(ctx context.Context, o api.Objects, from string) (f *Feed, done func()) {
	f = &Feed{turn: make(chan struct{})}
	f.at, _ = strconv.ParseInt(from, 10, 64) // a revision that was given out
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if err := f.watch(ctx, o); err != nil {
				f.mu.Lock()
				f.err = err
				f.change()
				f.mu.Unlock()
				return
			}
		}
	})
	return f, wg.Wait
}

// watch follows one watch to its end; an error says why it is of no use to go on.
func (f *Feed) watch(ctx context.Context, o api.Objects) error {
	f.mu.Lock()
	from := strconv.FormatInt(f.at, 10)
	f.mu.Unlock()
	w, err := o.Watch(ctx, api.ConfigMaps, api.WatchOptions{Namespace: Namespace, ResourceVersion: from})
	if err != nil {
		return lasting(err)
	}
	defer w.Stop()
	for e := range w.Events() {
		f.take(e)
	}
	f.mu.Lock()
	f.again++
	f.mu.Unlock()
	return lasting(w.Err())
}

// lasting is an error after which no events can be had without a gap.
func lasting(err error) error {
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsBadRequest(err) {
		return err
	}
	return nil
}

func (f *Feed) take(e api.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	rev := revision(e.Object)
	if e.Type == api.Bookmark {
		f.at = max(f.at, rev)
		return
	}
	f.at = rev
	told := Event{Rev: rev, Type: e.Type, Key: e.Object.GetName()}
	if cm, ok := e.Object.(*corev1.ConfigMap); ok {
		told.Value = cm.Data["v"]
	}
	f.events = append(f.events, told)
	f.change()
}

func (f *Feed) change() {
	close(f.turn)
	f.turn = make(chan struct{})
}

// Again is how often the watch was opened again.
func (f *Feed) Again() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.again
}

// Until waits for the event of a revision and answers with all up to there.
func (f *Feed) Until(ctx context.Context, rev int64) ([]Event, error) {
	for {
		f.mu.Lock()
		events, err, turn := slices.Clone(f.events), f.err, f.turn
		f.mu.Unlock()
		switch {
		case len(events) > 0 && events[len(events)-1].Rev >= rev:
			return events, nil
		case err != nil:
			return events, fmt.Errorf("the watch cannot go on: %w", err)
		}
		select {
		case <-turn:
		case <-ctx.Done():
			return events, fmt.Errorf("no event at %d, the last of %d is at %d: %w", rev, len(events), f.last(), ctx.Err())
		}
	}
}

func (f *Feed) last() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.events) == 0 {
		return 0
	}
	return f.events[len(f.events)-1].Rev
}

// Same says where two accounts of the same time differ; nil is nowhere.
func Same(truth, told []Event) error {
	for i := range max(len(truth), len(told)) {
		switch {
		case i >= len(told):
			return fmt.Errorf("event %d, %+v, was not told", i, truth[i])
		case i >= len(truth):
			return fmt.Errorf("event %d was told, %+v, and never was", i, told[i])
		case truth[i] != told[i]:
			return fmt.Errorf("event %d was told as %+v, and is %+v", i, told[i], truth[i])
		}
	}
	return nil
}

// Accounts says what is wrong with the answers of a history, measured by all that
// has really happened: an acknowledged write that is not there, or at another
// revision; one that is there twice; one that was refused and is there all the same.
func (l *Log) Accounts(truth []Event) error {
	written := map[string]Event{}
	for i, e := range truth {
		if i > 0 && e.Rev <= truth[i-1].Rev {
			return fmt.Errorf("%+v comes after %+v", e, truth[i-1])
		}
		if e.Type == api.Deleted {
			continue
		}
		if was, twice := written[e.Value]; twice {
			return fmt.Errorf("%s was carried out twice: %+v and %+v", e.Value, was, e)
		}
		written[e.Value] = e
	}
	for _, op := range l.Ops() {
		q, a := op.Input.(Question), op.Output.(Answer)
		if q.Value == "" {
			continue
		}
		e, is := written[q.Value]
		switch {
		case a.Fate == Done && (!is || e.Rev != a.Rev || e.Key != q.Key):
			return fmt.Errorf("client %d, %s of %s: there is %+v", op.ClientId, describe(q, a), q.Key, e)
		case a.Fate != Done && a.Fate != Unknown && is:
			return fmt.Errorf("client %d, %s of %s (%s): it was carried out, %+v", op.ClientId, describe(q, a), q.Key, a.Err, e)
		}
		delete(written, q.Value)
	}
	for _, e := range written {
		return fmt.Errorf("%+v was asked for by nobody", e)
	}
	return nil
}

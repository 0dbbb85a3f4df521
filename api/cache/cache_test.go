package cache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/test/bubble"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func podAt(rev int64, name, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, ResourceVersion: strconv.FormatInt(rev, 10)},
		Spec:       corev1.PodSpec{NodeName: node},
	}
}

func put(c *Cache, rev int64, name, node string) {
	c.Apply(rev, Change{"a", name, podAt(rev, name, node)})
}

// Aged changes are gone for who resumes, not for a watch that has yet to read
// them; the numbers of changes go on.
func TestAge(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := New(api.Pods, Config{})
		c.Load(nil, 1)
		behind, err := c.Watch(t.Context(), api.WatchOptions{ResourceVersion: "1"})
		if err != nil {
			t.Fatal(err)
		}
		defer behind.Stop()
		other, err := c.Watch(t.Context(), api.WatchOptions{ResourceVersion: "1", Namespace: "elsewhere"})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Stop()
		const n = 200
		for i := range n {
			put(c, int64(2+i), "x", "")
		}
		resume := func(rev string) error {
			w, err := c.Watch(t.Context(), api.WatchOptions{ResourceVersion: rev})
			if err == nil {
				w.Stop()
			}
			return err
		}
		c.Age() // marks them
		synctest.Wait()
		c.Age() // drops them, but for what behind has not read
		if err := resume("1"); !apierrors.IsResourceExpired(err) {
			t.Errorf("resume from before all that was dropped: %v, want Expired", err)
		}
		if err := resume("100"); err != nil {
			t.Errorf("resume among what a watch has yet to read: %v", err)
		}
		for i := range n {
			if e := <-behind.Events(); e.Object.GetResourceVersion() != strconv.Itoa(2+i) {
				t.Fatalf("got revision %s, want %d", e.Object.GetResourceVersion(), 2+i)
			}
		}
		synctest.Wait()
		c.Age()
		if held := len(c.history.buf); c.history.first != c.history.next || held > least {
			t.Errorf("%d changes are kept in a buffer of %d, want none", c.history.next-c.history.first, held)
		}
		put(c, 500, "x", "")
		if e := <-behind.Events(); e.Type != api.Modified || e.Object.GetResourceVersion() != "500" {
			t.Errorf("got %s %s, want MODIFIED 500", e.Type, e.Object.GetResourceVersion())
		}
		if err := resume(strconv.Itoa(n + 1)); err != nil {
			t.Errorf("resume from the last change that was dropped: %v", err)
		}
	})
}

// What changed at one revision is there at once, for lists and for watches, and
// a watch that resumes goes on after the whole of it.
func TestSeveralChangesOfOneRevision(t *testing.T) {
	c := New(api.Pods, Config{})
	c.Load([]api.Object{podAt(1, "x", "")}, 1)
	w, err := c.Watch(t.Context(), api.WatchOptions{ResourceVersion: "1"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	c.Apply(2, Change{"a", "x", nil}, Change{"a", "y", podAt(2, "y", "")}, Change{"a", "z", podAt(2, "z", "")})
	put(c, 3, "y", "n")
	l, err := c.List(api.ListOptions{})
	if err != nil || len(l.Items) != 2 || l.ResourceVersion != "3" {
		t.Fatalf("%d objects at %s (%v), want two at 3", len(l.Items), l.ResourceVersion, err)
	}
	for _, want := range []string{"DELETED x 2", "ADDED y 2", "ADDED z 2", "MODIFIED y 3"} {
		e := <-w.Events()
		if got := fmt.Sprintf("%s %s %s", e.Type, e.Object.GetName(), e.Object.GetResourceVersion()); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
	again, err := c.Watch(t.Context(), api.WatchOptions{ResourceVersion: "2"})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Stop()
	if e := <-again.Events(); e.Object.GetResourceVersion() != "3" {
		t.Fatalf("resumed after 2 with %s at %s", e.Object.GetName(), e.Object.GetResourceVersion())
	}
}

// A reader that takes nothing is cut off while its last event can still be
// resumed from; one that reads is not.
func TestSlowReaderIsCutOff(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := New(api.Pods, Config{History: 400})
		c.Load(nil, 1)
		slow, err := c.Watch(t.Context(), api.WatchOptions{ResourceVersion: "1"})
		if err != nil {
			t.Fatal(err)
		}
		defer slow.Stop()
		quick, err := c.Watch(t.Context(), api.WatchOptions{ResourceVersion: "1"})
		if err != nil {
			t.Fatal(err)
		}
		defer quick.Stop()
		rev := int64(1)
		for c.Stats().Cut == 0 {
			rev++
			put(c, rev, "p", "")
			synctest.Wait()
			if e := <-quick.Events(); e.Object.GetResourceVersion() != strconv.FormatInt(rev, 10) {
				t.Fatalf("got %s, want %d", e.Object.GetResourceVersion(), rev)
			}
			if rev > 1000 {
				t.Fatal("1000 changes later it is not cut off")
			}
		}
		last := ""
		for e := range slow.Events() {
			last = e.Object.GetResourceVersion()
		}
		if err := slow.Err(); !apierrors.IsTimeout(err) {
			t.Fatalf("the watch ended with %v, want Timeout", err)
		}
		again, err := c.Watch(t.Context(), api.WatchOptions{ResourceVersion: last})
		if err != nil {
			t.Fatalf("resume at %s of %d: %v", last, rev, err)
		}
		defer again.Stop()
		from, _ := strconv.ParseInt(last, 10, 64)
		if e := <-again.Events(); e.Object.GetResourceVersion() != strconv.FormatInt(from+1, 10) {
			t.Fatalf("resumed at %s with %s", last, e.Object.GetResourceVersion())
		}
		if got := c.Stats(); got.Cut != 1 || got.Watchers != 2 || got.Objects != 1 {
			t.Fatalf("stats are %+v", got)
		}
	})
}

// A watch that is concerned by nothing for long moves on all the same: it is
// neither cut off nor can it not resume.
func TestUnconcernedWatchMovesOn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := New(api.Pods, Config{History: 1000})
		c.Load(nil, 1)
		w, err := c.Watch(t.Context(), api.WatchOptions{ResourceVersion: "1", Fields: fields.OneTermEqualSelector("spec.nodeName", "mine")})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		rev, seen := int64(1), int64(1)
		for range 5000 {
			rev++
			put(c, rev, "p", "other")
			synctest.Wait()
			select {
			case e, ok := <-w.Events():
				if !ok || e.Type != api.Bookmark || e.InitialEventsEnd {
					t.Fatalf("got %+v (%v), want a bookmark", e, ok)
				}
				seen, _ = strconv.ParseInt(e.Object.GetResourceVersion(), 10, 64)
			default:
			}
			if rev-seen > 1000 {
				t.Fatalf("at revision %d the last it can resume from is %d", rev, seen)
			}
		}
		rev++
		put(c, rev, "q", "mine")
		for e := range w.Events() {
			if e.Type == api.Bookmark {
				continue
			}
			if e.Type != api.Added || e.Object.GetName() != "q" {
				t.Fatalf("got %+v", e)
			}
			return
		}
		t.Fatalf("the watch ended: %v", w.Err())
	})
}

func TestEndIsOfAllWatches(t *testing.T) {
	c := New(api.Pods, Config{})
	c.Load(nil, 5)
	w, err := c.Watch(t.Context(), api.WatchOptions{ResourceVersion: "5"})
	if err != nil {
		t.Fatal(err)
	}
	over := apierrors.NewServiceUnavailable("it is over")
	c.End(over)
	for e := range w.Events() {
		t.Errorf("got %+v", e)
	}
	if err := w.Err(); !errors.Is(err, over) {
		t.Errorf("the watch ended with %v", err)
	}
	if _, err := c.Watch(t.Context(), api.WatchOptions{}); !errors.Is(err, over) {
		t.Errorf("a watch after the end: %v", err)
	}
}

func TestLoadEndsWatches(t *testing.T) {
	c := New(api.Pods, Config{})
	c.Load(nil, 5)
	w, err := c.Watch(t.Context(), api.WatchOptions{ResourceVersion: "5"})
	if err != nil {
		t.Fatal(err)
	}
	c.Load([]api.Object{podAt(3, "p", "")}, 3)
	for e := range w.Events() {
		t.Errorf("got %+v", e)
	}
	if err := w.Err(); !apierrors.IsResourceExpired(err) {
		t.Fatalf("the watch ended with %v, want Expired", err)
	}
	if _, err := c.Watch(t.Context(), api.WatchOptions{ResourceVersion: "2"}); !apierrors.IsResourceExpired(err) {
		t.Fatalf("got %v, want Expired", err)
	}
	if _, err := c.Watch(t.Context(), api.WatchOptions{ResourceVersion: "5"}); !apierrors.IsTimeout(err) {
		t.Fatalf("a revision that is not reached: got %v, want Timeout", err)
	}
	put(c, 4, "q", "")
	w, err = c.Watch(t.Context(), api.WatchOptions{ResourceVersion: "3"})
	if err != nil {
		t.Fatal(err)
	}
	if e := <-w.Events(); e.Object.GetName() != "q" {
		t.Fatalf("got %+v", e)
	}
	w.Stop()
}

// Whatever happens, at any revision that is kept a page as of then and the
// changes after then are what a simple model says.
func TestHistoryAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := New(api.Pods, Config{History: rapid.IntRange(1, 80).Draw(t, "history")})
		c.Load(nil, 1)
		states := []map[string]int64{1: {}} // by revision
		changes := int64(rapid.IntRange(0, 100).Draw(t, "changes"))
		for rev := int64(2); rev < 2+changes; rev++ {
			next := map[string]int64{}
			maps.Copy(next, states[rev-1])
			name := fmt.Sprint("p", rapid.IntRange(0, 4).Draw(t, "name"))
			if _, there := next[name]; there && rapid.Bool().Draw(t, "delete") {
				delete(next, name)
				c.Apply(rev, Change{"a", name, nil})
			} else {
				next[name] = rev
				put(c, rev, name, "")
			}
			states = append(states, next)
		}
		for rev := 1; rev < len(states); rev++ {
			compare(t, c, int64(rev), states)
		}
	})
}

func compare(t *rapid.T, c *Cache, rev int64, states []map[string]int64) {
	kept := rev >= c.oldest
	l, err := c.List(api.ListOptions{Continue: token{rev, "a", "\x00"}.String()})
	if apierrors.IsResourceExpired(err) == kept {
		t.Fatalf("page as of %d (kept: %v): %v", rev, kept, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w, err := c.Watch(ctx, api.WatchOptions{ResourceVersion: strconv.FormatInt(rev, 10)})
	if apierrors.IsResourceExpired(err) == kept {
		t.Fatalf("watch from %d (kept: %v): %v", rev, kept, err)
	}
	if !kept {
		return
	}
	defer w.Stop()
	got := map[string]int64{}
	for _, o := range l.Items {
		got[o.GetName()], _ = strconv.ParseInt(o.GetResourceVersion(), 10, 64)
	}
	for at := rev; ; at++ {
		if fmt.Sprint(got) != fmt.Sprint(states[at]) {
			t.Fatalf("from %d, at %d: got %v, want %v", rev, at, got, states[at])
		}
		if at+1 == int64(len(states)) {
			return
		}
		e := <-w.Events()
		now, _ := strconv.ParseInt(e.Object.GetResourceVersion(), 10, 64)
		if now != at+1 {
			t.Fatalf("after %d came %d", at, now)
		}
		if e.Type == api.Deleted {
			delete(got, e.Object.GetName())
		} else {
			got[e.Object.GetName()] = now
		}
	}
}

// Where every object changes all the time, a reader gets as many changes of each.
func TestHistoryGrowsWithObjects(t *testing.T) {
	c := New(api.Pods, Config{History: 10, PerObject: 3})
	c.Load(nil, 1)
	rev := int64(1)
	round := func(objects int) {
		for i := range objects {
			rev++
			put(c, rev, fmt.Sprint("p", i), "")
		}
	}
	kept := func() int64 { return rev - c.oldest }
	for range 5 {
		round(2)
	}
	round(2)
	if kept() != 10 {
		t.Errorf("%d changes of two objects are kept, want 10", kept())
	}
	for range 4 {
		round(40)
	}
	if kept() != 120 {
		t.Errorf("%d changes of 40 objects are kept, want 120", kept())
	}
}

// Each of many watches of one node is woken by changes of its node alone, and
// sees them all.
func TestWatchesOfNodes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		const nodes = 20
		c := New(api.Pods, Config{History: 4096})
		c.Load(nil, 1)
		var all [nodes]api.Watch
		for i := range all {
			w, err := c.Watch(t.Context(), api.WatchOptions{ResourceVersion: "1", Fields: fields.OneTermEqualSelector("spec.nodeName", fmt.Sprint("n", i))})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			all[i] = w
		}
		next := func(i int, want string) {
			t.Helper()
			synctest.Wait()
			select {
			case e := <-all[i].Events():
				if got := fmt.Sprint(e.Type, " ", e.Object.GetName(), " ", e.Object.GetResourceVersion()); got != want {
					t.Fatalf("node %d sees %s, want %s", i, got, want)
				}
			default:
				t.Fatalf("node %d sees nothing, want %s", i, want)
			}
		}
		synctest.Wait()
		before := all[7].(*watch).cursor.Load()
		put(c, 2, "a", "n3")
		put(c, 3, "a", "n4") // as no pod does, but a watch has to be right
		c.Apply(4, Change{"a", "a", nil})
		next(3, "ADDED a 2")
		next(3, "DELETED a 3")
		next(4, "ADDED a 3")
		next(4, "DELETED a 4")
		if now := all[7].(*watch).cursor.Load(); now != before {
			t.Errorf("a watch of another node was woken: it has read %d changes", now-before)
		}
		put(c, 5, "b", "n7")
		next(7, "ADDED b 5")
		all[7].Stop()
		if left := c.byNode["n7"]; left != nil {
			t.Errorf("%d watches of the node are left", len(left))
		}
	})
}

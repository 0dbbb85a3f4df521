package cache

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/test/bubble"
)

// onNodes sees of pods on which node they are.
func onNodes() *api.View {
	return &api.View{
		Show: func(o api.Object) api.Object { return o },
		Same: func(old, now api.Object) bool { return nodeOf(old) == nodeOf(now) },
	}
}

// Who sees a part of the objects is told of changes of that part, and of nothing else
// but how far it has come; resumed from anywhere it is told the same. Others are told
// of everything.
func TestWatchOfAView(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := New(api.Pods, Config{})
		c.Load(nil, 1)
		view := onNodes()
		from := func(rev string, v *api.View) api.Watch {
			w, err := c.Watch(ctx, api.WatchOptions{ResourceVersion: rev, View: v})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(w.Stop)
			return w
		}
		whole, part := from("1", nil), from("1", view)
		rev := int64(1)
		var all, told []string
		for i := range 2000 {
			rev++
			node := strconv.Itoa(i / 500)
			put(c, rev, "p", node)
			synctest.Wait()
			e := <-whole.Events()
			all = append(all, e.Object.GetResourceVersion())
			if i%500 == 0 {
				told = append(told, e.Object.GetResourceVersion())
			}
		}
		if len(all) != 2000 || all[1999] != strconv.FormatInt(rev, 10) {
			t.Fatalf("who sees everything was told %d changes", len(all))
		}
		expect := func(name string, w api.Watch, want []string) {
			t.Helper()
			var got []string
			var last int64
			for {
				synctest.Wait()
				select {
				case e := <-w.Events():
					at, err := strconv.ParseInt(e.Object.GetResourceVersion(), 10, 64)
					if err != nil || at <= last {
						t.Fatalf("%s: %s %s after %d", name, e.Type, e.Object.GetResourceVersion(), last)
					}
					if last = at; e.Type != api.Bookmark {
						got = append(got, e.Object.GetResourceVersion())
					}
					continue
				default:
				}
				break
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: told %v, want %v", name, got, want)
			}
			if rev-last > 2*quiet {
				t.Errorf("%s: it knows of revision %d, %d is there", name, last, rev)
			}
		}
		expect("from the start", part, told)
		expect("resumed", from(told[1], view), told[2:])
		expect("resumed between", from("700", view), told[2:])
		expect("by a view that came later", from("1", onNodes()), told)
		c.Apply(rev+1, Change{"a", "p", nil})
		rev++
		synctest.Wait()
		if e := <-part.Events(); e.Type != api.Deleted {
			t.Errorf("got %s, want the deletion", e.Type)
		}
		for _, w := range slices.Clone(c.watchers) {
			w.Stop()
		}
		if len(c.byView) != 0 || len(c.broad) != 0 {
			t.Errorf("watches that have ended are kept: %d views, %d", len(c.byView), len(c.broad))
		}
	})
}

// What a change is in a view is decided once, however many see it.
func TestAViewIsAskedOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := New(api.Pods, Config{})
		c.Load(nil, 1)
		asked := 0
		v := onNodes()
		same := v.Same
		v.Same = func(old, now api.Object) bool { asked++; return same(old, now) }
		for range 100 {
			w, err := c.Watch(t.Context(), api.WatchOptions{ResourceVersion: "1", View: v})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
		}
		for i := range 10 {
			put(c, int64(2+i), "p", strconv.Itoa(i%5/4)) // one in five moves it
			synctest.Wait()
		}
		if asked != 9 { // not of the pod that came
			t.Errorf("it was asked %d times about 9 changes", asked)
		}
	})
}

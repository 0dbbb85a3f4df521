package store

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/custom"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// A store that begins later tells the changes from before its start one by one, to
// watches that have seen those up to then.
func TestWatchFromBeforeTheStart(t *testing.T) {
	e := startEtcd(t)
	first := e.open(Config{CompactEvery: -1})
	prepare(t, first)
	made := mustCreate(t, first, configMap("x", "0"))
	for range 3 {
		if err := increment(t, first, "x"); err != nil {
			t.Fatal(err)
		}
	}
	mustCreate(t, first, configMap("y", "0"))
	if _, err := first.Delete(t.Context(), api.ConfigMaps, "a", "x", api.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// The newest revision is one of a key that is nobody's object.
	if _, err := e.client().Put(t.Context(), "/elsewhere", "1"); err != nil {
		t.Fatal(err)
	}
	second := e.open(Config{CompactEvery: -1})
	if got := mustGet(t, second, "y"); got.Data["n"] != "0" {
		t.Errorf("y is %v", got.Data)
	}
	if _, err := api.Get[*corev1.ConfigMap](t.Context(), second, api.ConfigMaps, "a", "x"); !apierrors.IsNotFound(err) {
		t.Errorf("x, which was deleted: %v", err)
	}
	told := watched(t, second, made.GetResourceVersion(), 5)
	if want := "MODIFIED x 1, MODIFIED x 2, MODIFIED x 3, ADDED y 0, DELETED x 3"; told != want {
		t.Errorf("told were %s, want %s", told, want)
	}
}

// A watch of somebody else on the same client, from a revision that is not there yet,
// keeps etcd from telling how far its stream has come, but not how far the store's has.
// A leader that has just been elected watches its key so.
func TestBeginsBesideAnotherWatch(t *testing.T) {
	e := startEtcd(t)
	prepare(t, e.open(Config{CompactEvery: -1}))
	client := e.client()
	put, err := client.Put(t.Context(), "/leader", "1")
	if err != nil {
		t.Fatal(err)
	}
	other := client.Watch(clientv3.WithRequireLeader(t.Context()), "/leader", clientv3.WithRev(put.Header.Revision+1), clientv3.WithCreatedNotify())
	if resp := <-other; !resp.Created {
		t.Fatalf("the other watch: %+v", resp)
	}
	begun := time.Now()
	s := open(t, Config{Client: client, CompactEvery: -1})
	if _, err := api.Get[*corev1.ConfigMap](t.Context(), s, api.ConfigMaps, "a", "none"); !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("it was loaded after %v", d)
	}
}

// What etcd has dropped can't be told; what came after can.
func TestWatchFromBeforeTheStartCompacted(t *testing.T) {
	e := startEtcd(t)
	first := e.open(Config{CompactEvery: -1})
	prepare(t, first)
	lost := mustCreate(t, first, configMap("x", "0"))
	if err := increment(t, first, "x"); err != nil {
		t.Fatal(err)
	}
	kept := mustGet(t, first, "x")
	if _, err := e.client().Compact(t.Context(), revOf(kept)); err != nil {
		t.Fatal(err)
	}
	if err := increment(t, first, "x"); err != nil {
		t.Fatal(err)
	}
	second := e.open(Config{CompactEvery: -1})
	if _, err := second.Watch(t.Context(), api.ConfigMaps, api.WatchOptions{ResourceVersion: lost.GetResourceVersion()}); !apierrors.IsResourceExpired(err) {
		t.Errorf("a watch from what was compacted: %v, want Expired", err)
	}
	if told := watched(t, second, kept.ResourceVersion, 1); told != "MODIFIED x 2" {
		t.Errorf("told were %s", told)
	}
	// With everything compacted there is no past, and all is there nevertheless.
	if _, err := e.client().Compact(t.Context(), revOf(mustGet(t, first, "x"))); err != nil {
		t.Fatal(err)
	}
	if got := mustGet(t, e.open(Config{CompactEvery: -1}), "x"); got.Data["n"] != "2" {
		t.Errorf("x is %v", got.Data)
	}
}

// A kind that was defined before the start, and its objects, are in the past as
// others are.
func TestWatchOfACustomKindFromBeforeTheStart(t *testing.T) {
	e := startEtcd(t)
	var here, there custom.Kinds
	first := e.open(Config{CompactEvery: -1, Define: here.Define})
	prepare(t, first)
	mustCreate(t, first, widgets())
	establish(t, first)
	obj := api.NewCustom(here.Set().Served[0])
	obj.Namespace, obj.Name, obj.Content = "a", "w", map[string]any{"size": int64(1)}
	made := mustCreate(t, first, obj)
	if _, err := first.Patch(t.Context(), here.Set().Served[0], "a", "w", api.Patch{Type: "application/merge-patch+json", Data: []byte(`{"size":2}`)}); err != nil {
		t.Fatal(err)
	}
	second := e.open(Config{CompactEvery: -1, Define: there.Define})
	w, err := second.Watch(t.Context(), there.Set().Served[0], api.WatchOptions{ResourceVersion: made.GetResourceVersion()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if ev, ok := nextEvent(t, w); !ok || ev.Type != api.Modified || ev.Object.(*api.CustomObject).Content["size"] != int64(2) {
		t.Errorf("told was %+v, %v", ev, w.Err())
	}
}

// watched is what a watch of ConfigMaps tells first after a revision.
func watched(t *testing.T, s *Store, after string, n int) string {
	t.Helper()
	w, err := s.Watch(t.Context(), api.ConfigMaps, api.WatchOptions{ResourceVersion: after})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	var told []string
	for range n {
		ev, ok := nextEvent(t, w)
		if !ok {
			t.Fatalf("the watch ended after %v: %v", told, w.Err())
		}
		told = append(told, fmt.Sprintf("%s %s %s", ev.Type, ev.Object.GetName(), ev.Object.(*corev1.ConfigMap).Data["n"]))
	}
	return strings.Join(told, ", ")
}

func TestNewest(t *testing.T) {
	for _, x := range []struct {
		revs string
		n    int
		want string
		from int64
	}{
		{"", 2, "", 1},
		{"2 3", 2, "2 3", 1},
		{"2 3 4", 2, "3 4", 2},
		{"2 2 3", 2, "3", 2}, // a part of a revision is not kept
		{"2 3 3 3", 2, "", 3},
		{"2 2 3 4 4", 3, "3 4 4", 2},
	} {
		var events []*clientv3.Event
		for f := range strings.FieldsSeq(x.revs) {
			var rev int64
			fmt.Sscan(f, &rev)
			events = append(events, &clientv3.Event{Kv: &mvccpb.KeyValue{ModRevision: rev}})
		}
		events, from := newest(events, x.n, 1)
		var got []string
		for _, ev := range events {
			got = append(got, fmt.Sprint(ev.Kv.ModRevision))
		}
		if g := strings.Join(got, " "); g != x.want || from != x.from {
			t.Errorf("the newest %d of %q are %q after %d, want %q after %d", x.n, x.revs, g, from, x.want, x.from)
		}
	}
}

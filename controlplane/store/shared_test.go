package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Several stores on one etcd lose nothing either: 8 writers through 2 stores
// count to 400.
func TestTwoStoresCount(t *testing.T) {
	const writers, each = 8, 50
	e := startEtcd(t)
	stores := []*Store{e.open(Config{}), e.open(Config{})}
	prepare(t, stores[0])
	mustCreate(t, stores[0], configMap("sum", "0"))
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for range each {
				err := increment(t, stores[i%2], "sum")
				for apierrors.IsNotFound(err) { // the other store may not have heard of it yet
					err = increment(t, stores[i%2], "sum")
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	got, err := stores[0].fetch(t.Context(), id{api.ConfigMaps, "a", "sum"})
	if err != nil {
		t.Fatal(err)
	}
	if n := got.(*corev1.ConfigMap).Data["n"]; n != strconv.Itoa(writers*each) || got.GetGeneration() != writers*each+1 {
		t.Fatalf("the sum is %s at generation %d, want %d", n, got.GetGeneration(), writers*each)
	}
}

// What one store has written the other can change, delete and watch at once,
// whether its cache has it or not.
func TestWritesDoNotDependOnTheCache(t *testing.T) {
	e := startEtcd(t)
	a, b := e.open(Config{}), e.open(Config{})
	prepare(t, a)
	for i := range 30 {
		made := mustCreate(t, a, configMap(fmt.Sprint("x", i), "0")).(*corev1.ConfigMap)
		next := made.DeepCopy()
		next.Data["n"] = "1"
		got, err := b.Update(t.Context(), next, api.UpdateOptions{})
		if err != nil {
			t.Fatalf("update through the other store: %v", err)
		}
		w, err := a.Watch(t.Context(), api.ConfigMaps, api.WatchOptions{ResourceVersion: got.GetResourceVersion()})
		if err != nil {
			t.Fatalf("watch from the other store's revision: %v", err)
		}
		w.Stop()
		if _, err := a.Delete(t.Context(), api.ConfigMaps, "a", made.Name, api.DeleteOptions{ResourceVersion: got.GetResourceVersion()}); err != nil {
			t.Fatalf("delete through the first store: %v", err)
		}
		if _, err := b.Update(t.Context(), next, api.UpdateOptions{}); !apierrors.IsNotFound(err) {
			t.Fatalf("update of what the other store deleted: got %v, want NotFound", err)
		}
	}
}

// A namespace that changes while objects are created in it disturbs nobody;
// once it is being deleted nothing comes in.
func TestNamespaceGuardsCreates(t *testing.T) {
	e := startEtcd(t)
	a, b := e.open(Config{}), e.open(Config{})
	prepare(t, a)
	var wg sync.WaitGroup
	first := make(chan struct{}) // closed when something was created
	wg.Go(func() {
		for i := range 50 {
			_, err := api.Mutate(t.Context(), a, api.Namespaces, "", "a", api.UpdateOptions{}, func(n *corev1.Namespace) (bool, error) {
				n.Labels = map[string]string{"i": strconv.Itoa(i)}
				return true, nil
			})
			if err != nil {
				t.Error(err)
			}
		}
		select {
		case <-first:
		case <-t.Context().Done():
		}
		if _, err := a.Delete(t.Context(), api.Namespaces, "", "a", api.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	made := 0
	for ; made < 100_000; made++ {
		if _, err := b.Create(t.Context(), configMap(fmt.Sprint("x", made), "0")); apierrors.IsForbidden(err) {
			break
		} else if err != nil {
			t.Fatalf("create %d: %v", made, err)
		}
		if made == 0 {
			close(first)
		}
	}
	wg.Wait()
	_, err := b.Create(t.Context(), configMap("late", "0"))
	if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || made == 0 {
		t.Fatalf("after %d creates: got %v, want cause %s", made, err, corev1.NamespaceTerminatingCause)
	}
	ns, err := a.fetch(t.Context(), id{api.Namespaces, "", "a"})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := e.client().Get(t.Context(), "/registry/core/configmaps/a/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil || resp.Count != int64(made) {
		t.Fatalf("%d objects are there (%v), want %d", resp.Count, err, made)
	}
	for _, kv := range resp.Kvs {
		if kv.CreateRevision > revOf(ns) {
			t.Fatalf("%s was created at %d, its namespace is terminating since %d", kv.Key, kv.CreateRevision, revOf(ns))
		}
	}
}

func TestEventsExpire(t *testing.T) {
	s := startEtcd(t).open(Config{EventTTL: time.Second})
	prepare(t, s)
	mustCreate(t, s, configMap("stays", "1"))
	w, err := s.Watch(t.Context(), api.Events, api.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for _, name := range []string{"one", "two"} {
		mustCreate(t, s, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}})
		nextEvent(t, w)
	}
	gone, seen := map[string]bool{}, revOf(mustGet(t, s, "stays"))
	for range 2 {
		ev, ok := nextEvent(t, w)
		if !ok {
			t.Fatal(w.Err())
		}
		// They share a lease, and so a revision at most with each other.
		if rev := revOf(ev.Object); ev.Type != api.Deleted || gone[ev.Object.GetName()] || rev <= seen && len(gone) == 0 || rev < seen {
			t.Fatalf("got %s of %s at %d after %d, want its deletion, once and later", ev.Type, ev.Object.GetName(), rev, seen)
		}
		seen = revOf(ev.Object)
		gone[ev.Object.GetName()] = true
	}
	if !gone["one"] || !gone["two"] {
		t.Fatalf("deleted: %v, want both", gone)
	}
	mustGet(t, s, "stays")
}

// Two processes take turns at compacting; what was written after the last
// turn stays.
func TestCompaction(t *testing.T) {
	e := startEtcd(t)
	a, b := e.open(Config{CompactEvery: -1}), e.open(Config{CompactEvery: -1})
	prepare(t, a)
	first := revOf(mustCreate(t, a, configMap("x", "0")))
	readable := func(rev int64) bool {
		_, err := a.etcd.Get(t.Context(), "/registry/core/configmaps/a/x", clientv3.WithRev(rev))
		if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
			t.Fatal(err)
		}
		return err == nil
	}
	var ta, tb turn
	var err error
	round := func() int64 {
		if ta, err = a.compactOnce(t.Context(), ta); err != nil {
			t.Fatal(err)
		}
		if tb, err = b.compactOnce(t.Context(), tb); err != nil {
			t.Fatal(err)
		}
		return revOf(must(a.Update(t.Context(), configMap("x", strconv.FormatInt(ta.rev, 10)), api.UpdateOptions{})))
	}
	second := round()
	if !readable(first) {
		t.Fatal("the first turn has nothing to compact by, yet it did")
	}
	third := round()
	if readable(first) || !readable(second) {
		t.Fatalf("after the second turn: %d readable: %v, %d readable: %v; want only the later", first, readable(first), second, readable(second))
	}
	round()
	if readable(second-1) || !readable(third) {
		t.Fatalf("after the third turn: %d readable: %v, %d readable: %v; want only the later", second-1, readable(second-1), third, readable(third))
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestAdmitDefaultsAndRefuses(t *testing.T) {
	var seen []string
	s := startEtcd(t).open(Config{Admit: func(_ context.Context, op rules.Op, r *api.Resource, old, next api.Object, sub string) error {
		seen = append(seen, fmt.Sprint(op, " ", r.Plural, " ", old != nil, " ", sub))
		if d, ok := next.(*corev1.Pod); ok && d.Spec.RestartPolicy == "" {
			d.Spec.RestartPolicy = corev1.RestartPolicyAlways
		}
		if next.GetName() == "bad" {
			return apierrors.NewForbidden(r.GR(), "bad", errors.New("no"))
		}
		return nil
	}})
	prepare(t, s)
	seen = nil
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p"}}
	got := mustCreate(t, s, pod).(*corev1.Pod)
	if got.Spec.RestartPolicy != corev1.RestartPolicyAlways || pod.Spec.RestartPolicy != "" {
		t.Fatalf("stored %q, the client's object has %q", got.Spec.RestartPolicy, pod.Spec.RestartPolicy)
	}
	if _, err := s.Update(t.Context(), got, api.UpdateOptions{Subresource: "status"}); err != nil {
		t.Fatal(err)
	}
	_, err := s.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "bad"}})
	if !apierrors.IsForbidden(err) {
		t.Fatalf("got %v, want Forbidden", err)
	}
	want := "[CREATE pods false  UPDATE pods true status CREATE pods false ]"
	if fmt.Sprint(seen) != want {
		t.Fatalf("admitted %v, want %v", seen, want)
	}
}

// Keys and values that are none of ours do no harm.
func TestForeignKeys(t *testing.T) {
	e := startEtcd(t)
	c := e.client()
	for k, v := range map[string]string{
		"/registry/core/configmaps/a/broken": "{",
		"/registry/core/widgets/a/x":         "{}",
		"/registry/core/configmaps/a/b/c":    "{}",
		"/registry/x":                        "",
		"/registryother":                     "",
	} {
		if _, err := c.Put(t.Context(), k, v); err != nil {
			t.Fatal(err)
		}
	}
	reg := prometheus.NewRegistry()
	s := e.open(Config{Metrics: reg})
	prepare(t, s)
	mustCreate(t, s, configMap("x", "1"))
	if _, err := c.Put(t.Context(), "/registry/core/configmaps/a/y", "[]"); err != nil {
		t.Fatal(err)
	}
	mustCreate(t, s, configMap("z", "1"))
	l, err := s.List(t.Context(), api.ConfigMaps, api.ListOptions{})
	if err != nil || len(l.Items) != 2 {
		t.Fatalf("%d objects, %v; want x and z", len(l.Items), err)
	}
	if _, err := s.Update(t.Context(), configMap("broken", "1"), api.UpdateOptions{}); !apierrors.IsInternalError(err) {
		t.Fatalf("update of what can't be decoded: got %v, want InternalError", err)
	}
	for _, name := range []string{"a/../b", "../../core", ""} {
		if _, err := s.Delete(t.Context(), api.ConfigMaps, "a", name, api.DeleteOptions{}); !apierrors.IsNotFound(err) {
			t.Fatalf("delete %q: got %v, want NotFound", name, err)
		}
	}
	values := map[string]float64{}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			values[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for name, want := range map[string]float64{
		"faas_store_undecodable_total": 2, "faas_store_objects": 3, "faas_store_write_duration_seconds": 7,
		"faas_watchers": 0, "faas_watch_events_total": 3,
	} {
		if got, ok := values[name]; !ok || got != want {
			t.Errorf("%s is %v (there: %v), want %v", name, got, ok, want)
		}
	}
}

func TestStoppedStore(t *testing.T) {
	e := startEtcd(t)
	s, err := New(Config{Client: e.client(), Timeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), api.Pods, "a", "x"); !apierrors.IsServiceUnavailable(err) {
		t.Fatalf("before Run: got %v, want ServiceUnavailable", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	<-s.Ready()
	w, err := s.Watch(t.Context(), api.Pods, api.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	cancel()
	if err := <-ended; err != nil {
		t.Fatalf("Run: %v", err)
	}
	if ev, ok := nextEvent(t, w); ok || !apierrors.IsServiceUnavailable(w.Err()) {
		t.Fatalf("a watch after the end: %+v, %v", ev, w.Err())
	}
	if _, err := s.Create(t.Context(), configMap("x", "1")); !apierrors.IsServiceUnavailable(err) {
		t.Fatalf("after Run: got %v, want ServiceUnavailable", err)
	}
	for _, c := range []Config{{}, {Client: s.etcd, Prefix: "x"}, {Client: s.etcd, Prefix: "/x/"}} {
		if _, err := New(c); err == nil {
			t.Errorf("New(%+v) has no error", c)
		}
	}
}

package store

import (
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func configMap(name, n string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}, Data: map[string]string{"n": n}}
}

func prepare(t testing.TB, o api.Objects) {
	t.Helper()
	if _, err := o.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}}); err != nil {
		t.Fatal(err)
	}
}

func increment(t testing.TB, o api.Objects, name string) error {
	_, err := api.Mutate(t.Context(), o, api.ConfigMaps, "a", name, api.UpdateOptions{}, func(c *corev1.ConfigMap) (bool, error) {
		n, err := strconv.Atoi(c.Data["n"])
		c.Data["n"] = strconv.Itoa(n + 1)
		return true, err
	})
	return err
}

func nextEvent(t testing.TB, w api.Watch) (api.Event, bool) {
	t.Helper()
	for {
		select {
		case e, ok := <-w.Events():
			if ok && e.Type == api.Bookmark {
				continue
			}
			return e, ok
		case <-time.After(30 * time.Second):
			t.Fatal("no event within 30 s")
		}
	}
}

// etcd is killed over and over while several clients count up. No increment
// is lost or done twice, no client sees an error, and a watch sees every step.
func TestKilledEtcd(t *testing.T) {
	const writers, each, kills = 4, 40, 3
	c := startChild(t)
	s := c.open(Config{Timeout: 30 * time.Second})
	prepare(t, s)
	first := mustCreate(t, s, configMap("sum", "0"))
	w, err := s.Watch(t.Context(), api.ConfigMaps, api.WatchOptions{ResourceVersion: first.GetResourceVersion()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	var wg sync.WaitGroup
	step := make(chan struct{}, writers*each)
	for range writers {
		wg.Go(func() {
			for range each {
				if err := increment(t, s, "sum"); err != nil {
					t.Errorf("increment: %v", err)
					return
				}
				step <- struct{}{}
			}
		})
	}
	for range kills {
		for range writers * each / (kills + 1) {
			<-step
		}
		c.kill()
		if obj, err := s.Get(t.Context(), api.ConfigMaps, "a", "sum"); err != nil || obj == nil {
			t.Errorf("reads have to go on while etcd is away: %v", err)
		}
		c.start()
	}
	wg.Wait()
	for i := 1; i <= writers*each; i++ {
		e, ok := nextEvent(t, w)
		if !ok {
			t.Fatalf("the watch ended before step %d: %v", i, w.Err())
		}
		if got := e.Object.(*corev1.ConfigMap).Data["n"]; got != strconv.Itoa(i) {
			t.Fatalf("step %s came after %d", got, i-1)
		}
	}
	got := mustGet(t, s, "sum")
	if got.Data["n"] != strconv.Itoa(writers*each) {
		t.Fatalf("the sum is %s, want %d", got.Data["n"], writers*each)
	}
}

func mustCreate(t testing.TB, o api.Objects, obj api.Object) api.Object {
	t.Helper()
	got, err := o.Create(t.Context(), obj)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func mustGet(t testing.TB, o api.Objects, name string) *corev1.ConfigMap {
	t.Helper()
	got, err := api.Get[*corev1.ConfigMap](t.Context(), o, api.ConfigMaps, "a", name)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// While etcd is away for longer than the time-out, writes end with an error
// in bounded time and reads go on; afterwards everything works again.
func TestOutage(t *testing.T) {
	e := startChild(t)
	s := e.open(Config{Timeout: 500 * time.Millisecond})
	prepare(t, s)
	made := mustCreate(t, s, configMap("x", "1"))
	w, err := s.Watch(t.Context(), api.ConfigMaps, api.WatchOptions{ResourceVersion: made.GetResourceVersion()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	e.kill()
	start := time.Now()
	_, err = s.Update(t.Context(), configMap("x", "2"), api.UpdateOptions{})
	if !apierrors.IsServiceUnavailable(err) && !apierrors.IsTimeout(err) {
		t.Fatalf("a write during the outage: got %v, want ServiceUnavailable or Timeout", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Fatalf("a write during the outage took %v", d)
	}
	if got := mustGet(t, s, "x"); got.Data["n"] != "1" {
		t.Fatalf("a read during the outage: %v", got.Data)
	}
	e.start()
	deadline := time.Now().Add(20 * time.Second)
	for {
		_, err := s.Update(t.Context(), configMap("x", "3"), api.UpdateOptions{})
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("20 s after etcd's return: %v", err)
		}
	}
	for {
		ev, ok := nextEvent(t, w)
		if !ok {
			t.Fatalf("the watch ended: %v", w.Err())
		}
		if ev.Object.(*corev1.ConfigMap).Data["n"] == "3" {
			return
		}
	}
}

// A store that is cut off while others write and compact finds the difference
// and tells it as events: nothing is missed, no watch ends.
func TestCompactedWhileCutOff(t *testing.T) {
	e := startEtcd(t)
	p := startProxy(t, filepath.Join(e.dir, "c.sock"))
	s := open(t, Config{Client: dial(t, p.url())})
	other := e.open(Config{CompactEvery: -1})
	prepare(t, other)
	for _, name := range []string{"deleted", "changed", "again", "kept"} {
		mustCreate(t, other, configMap(name, "1"))
	}
	w, err := s.Watch(t.Context(), api.ConfigMaps, api.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for range 4 {
		nextEvent(t, w)
	}
	p.cut()
	for _, name := range []string{"deleted", "again"} {
		if _, err := other.Delete(t.Context(), api.ConfigMaps, "a", name, api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	mustCreate(t, other, configMap("again", "2"))
	mustCreate(t, other, configMap("brief", "1"))
	for range 5 {
		if err := increment(t, other, "changed"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := other.Delete(t.Context(), api.ConfigMaps, "a", "brief", api.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	last := mustCreate(t, other, configMap("new", "1"))
	if _, err := e.client().Compact(t.Context(), revOf(last)); err != nil {
		t.Fatal(err)
	}
	p.listen()
	got := map[string]int{}
	rev := int64(0)
	for range 5 {
		ev, ok := nextEvent(t, w)
		if !ok {
			t.Fatalf("the watch ended: %v", w.Err())
		}
		if r := revOf(ev.Object); r <= rev {
			t.Fatalf("%s %s at %d came after %d", ev.Type, ev.Object.GetName(), r, rev)
		} else {
			rev = r
		}
		got[string(ev.Type)+" "+ev.Object.GetName()+" "+ev.Object.(*corev1.ConfigMap).Data["n"]]++
	}
	want := map[string]int{"DELETED deleted 1": 1, "DELETED again 1": 1, "ADDED again 2": 1, "MODIFIED changed 6": 1, "ADDED new 1": 1}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("events (-want +got):\n%s", d)
	}
	mustCreate(t, s, configMap("after", "1"))
	if ev, ok := nextEvent(t, w); !ok || ev.Object.GetName() != "after" {
		t.Fatalf("after the resync: %+v, %v", ev, w.Err())
	}
}

// A connection that is up but silent is noticed by the probe, and given up.
func TestSilentWatch(t *testing.T) {
	e := startEtcd(t)
	p := startProxy(t, filepath.Join(e.dir, "c.sock"))
	s := open(t, Config{Client: dial(t, p.url()), ProbeEvery: 50 * time.Millisecond, Timeout: 500 * time.Millisecond})
	other := e.open(Config{})
	prepare(t, other)
	w, err := s.Watch(t.Context(), api.ConfigMaps, api.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	p.block()
	mustCreate(t, other, configMap("x", "1"))
	if _, err := s.Update(t.Context(), configMap("x", "2"), api.UpdateOptions{}); !apierrors.IsTimeout(err) && !apierrors.IsServiceUnavailable(err) {
		t.Fatalf("a write to a silent etcd: got %v, want Timeout", err)
	}
	p.release()
	if ev, ok := nextEvent(t, w); !ok || ev.Object.GetName() != "x" {
		t.Fatalf("after the silence: %+v, %v", ev, w.Err())
	}
}

// An etcd in which nobody writes is not one whose watch is stalled.
func TestQuietWatch(t *testing.T) {
	e := startEtcd(t)
	prepare(t, e.open(Config{}))
	log := &lines{}
	s := open(t, Config{Client: e.client(), ProbeEvery: 300 * time.Millisecond, Log: slog.New(slog.NewTextHandler(log, nil))})
	w, err := s.Watch(t.Context(), api.ConfigMaps, api.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	select { // a time in which a stall would be found, and again
	case <-time.After(1500 * time.Millisecond):
	case <-t.Context().Done():
	}
	mustCreate(t, s, configMap("x", "1"))
	nextEvent(t, w)
	if said := log.about("watch ended"); said != "" {
		t.Fatalf("the watch was taken for stalled: %s", said)
	}
}

// lines is a log that is written to by several and read.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(b))
	return len(b), nil
}

func (l *lines) about(what string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.all {
		if strings.Contains(s, what) {
			return s
		}
	}
	return ""
}

// An etcd that comes back with an older state makes every watch end with
// Expired; then the caches show that state.
func TestLostRevisions(t *testing.T) {
	e := startChild(t)
	s := e.open(Config{ProbeEvery: 50 * time.Millisecond})
	prepare(t, s)
	for i := range 20 {
		mustCreate(t, s, configMap("x"+strconv.Itoa(i), "1"))
	}
	w, err := s.Watch(t.Context(), api.ConfigMaps, api.WatchOptions{ResourceVersion: mustGet(t, s, "x19").ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	e.kill()
	if err := os.RemoveAll(filepath.Join(e.dir, "data")); err != nil {
		t.Fatal(err)
	}
	e.start()
	if ev, ok := nextEvent(t, w); ok {
		t.Fatalf("got %+v, want the watch's end", ev)
	}
	if err := w.Err(); !apierrors.IsResourceExpired(err) {
		t.Fatalf("the watch ended with %v, want Expired", err)
	}
	if _, err := s.Get(t.Context(), api.ConfigMaps, "a", "x1"); !apierrors.IsNotFound(err) {
		t.Fatalf("an object that etcd has lost: got %v, want NotFound", err)
	}
	prepare(t, s)
	mustCreate(t, s, configMap("x1", "2"))
}

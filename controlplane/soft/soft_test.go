package soft_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/seamtest"
	"github.com/podsnap/podsnap/controlplane/soft"
	"github.com/podsnap/podsnap/controlplane/store"
	"go.etcd.io/etcd/server/v3/embed"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// etcd starts one that ends with the test, and answers with its address.
func etcd(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "soft") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	at := func(name string) []url.URL {
		return []url.URL{{Scheme: "unix", Path: filepath.Join(dir, name)}}
	}
	c := embed.NewConfig()
	c.Dir = filepath.Join(dir, "data")
	c.ListenClientUrls, c.AdvertiseClientUrls = at("c.sock"), at("c.sock")
	c.ListenPeerUrls, c.AdvertisePeerUrls = at("p.sock"), at("p.sock")
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.LogLevel, c.LogOutputs = "error", []string{filepath.Join(dir, "log")}
	c.UnsafeNoFsync = true
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	select {
	case <-e.Server.ReadyNotify():
	case <-time.After(30 * time.Second):
		t.Fatal("etcd is not ready after 30 s")
	}
	return "unix://" + filepath.Join(dir, "c.sock")
}

// durable starts a store on an etcd, and answers with it and what ends it.
func durable(t testing.TB, url, prefix string) *store.Store {
	t.Helper()
	client, err := store.Dial([]string{url}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := store.New(store.Config{Client: client, Prefix: prefix, History: 512})
	if err != nil {
		t.Fatal(err)
	}
	end := run(t, d.Run)
	t.Cleanup(func() {
		end()
		client.Close()
	})
	<-d.Ready()
	return d
}

func run(t testing.TB, f func(context.Context) error) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// open starts a soft store; end ends it as a process would.
func open(t testing.TB, c soft.Config) (s *soft.Store, end func()) {
	t.Helper()
	if c.History == 0 {
		c.History = 512
	}
	s, err := soft.New(c)
	if err != nil {
		t.Fatal(err)
	}
	end = run(t, s.Run)
	t.Cleanup(end)
	<-s.Ready()
	return s, end
}

func always(_, _ api.Object) bool { return true }
func never(_, _ api.Object) bool  { return false }

// pods has only pods stored behind, whose label asks for it.
func pods(old, next api.Object) bool {
	for _, o := range []api.Object{old, next} {
		if p, ok := o.(*corev1.Pod); ok && p.Labels["soft"] != "" {
			return true
		}
	}
	return false
}

// Whether writes are soft or not, the seam's contract holds.
func TestSeam(t *testing.T) {
	url := etcd(t)
	var n atomic.Int32
	for name, judge := range map[string]func(old, next api.Object) bool{"soft": always, "through": never} {
		t.Run(name, func(t *testing.T) {
			seamtest.Objects(t, func(t *testing.T) api.Objects {
				d := durable(t, url, fmt.Sprintf("/seam-%d", n.Add(1)))
				var kinds []*api.Resource
				for _, r := range api.Resources {
					if r != api.Namespaces { // objects are judged by their namespace's durable state
						kinds = append(kinds, r)
					}
				}
				s, _ := open(t, soft.Config{Durable: d, Kinds: kinds, Soft: judge, Delay: time.Millisecond})
				return s
			})
		})
	}
}

// gate is a durable store whose door can be shut.
type gate struct {
	soft.Durable
	mu     sync.Mutex
	shut   bool
	writes int
}

func (g *gate) set(shut bool) {
	g.mu.Lock()
	g.shut = shut
	g.mu.Unlock()
}

func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.writes
}

func (g *gate) Persist(ctx context.Context, writes ...api.Write) []api.Written {
	g.mu.Lock()
	shut := g.shut
	if !shut {
		g.writes += len(writes)
	}
	g.mu.Unlock()
	if shut {
		out := make([]api.Written, len(writes))
		for n := range out {
			out[n].Err = apierrors.NewServiceUnavailable("shut")
		}
		return out
	}
	return g.Durable.Persist(ctx, writes...)
}

func prepare(t *testing.T, o api.Objects) {
	t.Helper()
	if _, err := o.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, Labels: map[string]string{"soft": "yes"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

func create(t testing.TB, o api.Objects, obj api.Object) api.Object {
	t.Helper()
	got, err := o.Create(t.Context(), obj)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func note(t *testing.T, o api.Objects, name, value string) {
	t.Helper()
	_, err := api.Mutate(t.Context(), o, api.Pods, "a", name, api.UpdateOptions{}, func(p *corev1.Pod) (bool, error) {
		p.Annotations = map[string]string{"note": value}
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func noteOf(t *testing.T, o api.Objects, name string) string {
	t.Helper()
	p, err := api.Get[*corev1.Pod](t.Context(), o, api.Pods, "a", name)
	if err != nil {
		t.Fatal(err)
	}
	return p.Annotations["note"]
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not after 20 s: %s", what)
		}
		select {
		case <-t.Context().Done():
		case <-time.After(time.Millisecond):
		}
	}
}

// While the durable store is away soft writes go on and are watched, others do
// not; when it is back the newest state is stored, once.
func TestGoesOnWithoutTheDurableStore(t *testing.T) {
	d := durable(t, etcd(t), "")
	g := &gate{Durable: d}
	s, _ := open(t, soft.Config{Durable: g, Kinds: []*api.Resource{api.Pods}, Soft: pods, Delay: time.Millisecond})
	prepare(t, s)
	w, err := s.Watch(t.Context(), api.Pods, api.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	<-w.Events() // that nothing is there
	g.set(true)
	create(t, s, pod("x"))
	for i := range 10 {
		note(t, s, "x", strconv.Itoa(i))
	}
	for i := range 11 {
		e := <-w.Events()
		want := ""
		if i > 0 {
			want = strconv.Itoa(i - 1)
		}
		if got := e.Object.GetAnnotations()["note"]; got != want {
			t.Fatalf("event %d: got %q, want %q", i, got, want)
		}
	}
	hard := pod("hard")
	hard.Labels = nil
	if _, err := s.Create(t.Context(), hard); !apierrors.IsServiceUnavailable(err) {
		t.Fatalf("got %v, want ServiceUnavailable", err)
	}
	if _, err := s.Get(t.Context(), api.Pods, "a", "hard"); !apierrors.IsNotFound(err) {
		t.Fatalf("what is not stored is shown: %v", err)
	}
	g.set(false)
	until(t, "the newest state is stored", func() bool {
		p, err := api.Get[*corev1.Pod](t.Context(), d, api.Pods, "a", "x")
		return err == nil && p.Annotations["note"] == "9"
	})
	if n := g.count(); n != 1 {
		t.Errorf("%d writes, want 1", n)
	}
}

// What comes and goes between two rounds leaves nothing in the durable store.
func TestComesAndGoes(t *testing.T) {
	g := &gate{Durable: durable(t, etcd(t), "")}
	s, end := open(t, soft.Config{Durable: g, Kinds: []*api.Resource{api.Pods}, Soft: pods, Delay: time.Hour})
	prepare(t, s)
	create(t, s, pod("x"))
	note(t, s, "x", "1")
	if _, err := s.Delete(t.Context(), api.Pods, "a", "x", api.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	create(t, s, pod("kept"))
	end()
	if n := g.count(); n != 1 {
		t.Errorf("%d writes, want the one of the pod that was left at the end", n)
	}
	if _, err := g.Get(t.Context(), api.Pods, "a", "kept"); err != nil {
		t.Error(err)
	}
}

// The next process has what was stored, and versions of the first one are
// expired: a watcher of then lists anew.
func TestRestart(t *testing.T) {
	url := etcd(t)
	d := durable(t, url, "")
	s, end := open(t, soft.Config{Durable: d, Kinds: []*api.Resource{api.Pods}, Soft: pods})
	prepare(t, s)
	create(t, s, pod("gone"))
	create(t, s, pod("x"))
	note(t, s, "x", "1")
	if _, err := s.Delete(t.Context(), api.Pods, "a", "gone", api.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	last, err := s.Get(t.Context(), api.Pods, "a", "x")
	if err != nil {
		t.Fatal(err)
	}
	end()
	if _, err := s.Get(t.Context(), api.Pods, "a", "x"); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("after its end: %v", err)
	}
	again, _ := open(t, soft.Config{Durable: durable(t, url, ""), Kinds: []*api.Resource{api.Pods}, Soft: pods})
	if got := noteOf(t, again, "x"); got != "1" {
		t.Errorf("got %q", got)
	}
	l, err := again.List(t.Context(), api.Pods, api.ListOptions{})
	if err != nil || len(l.Items) != 1 {
		t.Errorf("%d pods, %v", len(l.Items), err)
	}
	if _, err := again.Watch(t.Context(), api.Pods, api.WatchOptions{ResourceVersion: last.GetResourceVersion()}); !apierrors.IsResourceExpired(err) {
		t.Errorf("a watch from before: got %v, want Expired", err)
	}
	note(t, again, "x", "2") // and writing goes on
	until(t, "it is stored", func() bool { return noteOf(t, d, "x") == "2" })
}

// What somebody else does to the durable store is taken over.
func TestOthersWrite(t *testing.T) {
	url := etcd(t)
	s, _ := open(t, soft.Config{Durable: durable(t, url, ""), Kinds: []*api.Resource{api.Pods}, Soft: pods, Delay: time.Millisecond})
	other := durable(t, url, "")
	prepare(t, s)
	create(t, s, pod("x"))
	until(t, "it is stored", func() bool {
		_, err := other.Get(t.Context(), api.Pods, "a", "x")
		return err == nil
	})
	note(t, other, "x", "theirs")
	create(t, other, pod("y"))
	until(t, "their change is seen", func() bool { return noteOf(t, s, "x") == "theirs" })
	until(t, "their pod is seen", func() bool {
		_, err := s.Get(t.Context(), api.Pods, "a", "y")
		return err == nil
	})
	note(t, s, "y", "ours")
	until(t, "our change is stored", func() bool { return noteOf(t, other, "y") == "ours" })
	if _, err := other.Delete(t.Context(), api.Pods, "a", "y", api.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "their deletion is seen", func() bool {
		_, err := s.Get(t.Context(), api.Pods, "a", "y")
		return apierrors.IsNotFound(err)
	})
}

// Many writers, soft and not, lose no change; what is stored at the end is what
// memory had.
func TestCount(t *testing.T) {
	const writers, each = 8, 50
	d := durable(t, etcd(t), "")
	mixed := func(_, next api.Object) bool { // every second change
		n, _ := strconv.Atoi(next.GetAnnotations()["n"])
		return n%2 == 0
	}
	s, end := open(t, soft.Config{Durable: d, Kinds: []*api.Resource{api.Pods}, Soft: mixed, Delay: time.Millisecond})
	prepare(t, s)
	create(t, s, pod("sum"))
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				_, err := api.Mutate(t.Context(), s, api.Pods, "a", "sum", api.UpdateOptions{}, func(p *corev1.Pod) (bool, error) {
					n, _ := strconv.Atoi(p.Annotations["n"])
					p.Annotations = map[string]string{"n": strconv.Itoa(n + 1)}
					return true, nil
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	end()
	p, err := api.Get[*corev1.Pod](t.Context(), d, api.Pods, "a", "sum")
	if err != nil {
		t.Fatal(err)
	}
	if p.Annotations["n"] != strconv.Itoa(writers*each) {
		t.Errorf("the sum is %s, want %d", p.Annotations["n"], writers*each)
	}
}

// A passing change is seen and not stored, but goes with the next one that is.
func TestPassing(t *testing.T) {
	d := durable(t, etcd(t), "")
	g := &gate{Durable: d}
	passing := func(old, next api.Object) bool {
		return old != nil && next != nil && next.GetAnnotations()["note"] == "passing"
	}
	s, _ := open(t, soft.Config{Durable: g, Kinds: []*api.Resource{api.Pods}, Soft: pods, Passing: passing, Delay: time.Millisecond})
	prepare(t, s)
	create(t, s, pod("x"))
	create(t, s, pod("y"))
	stored := func(name, value string) func() bool {
		return func() bool {
			p, err := api.Get[*corev1.Pod](t.Context(), d, api.Pods, "a", name)
			return err == nil && p.Annotations["note"] == value
		}
	}
	until(t, "x and y are stored", func() bool { return stored("x", "")() && stored("y", "")() })
	before := g.count()
	note(t, s, "x", "passing")
	if got := noteOf(t, s, "x"); got != "passing" {
		t.Fatalf("the note is %q", got)
	}
	note(t, s, "y", "kept")
	until(t, "y is stored", stored("y", "kept"))
	if n := g.count() - before; n != 1 || !stored("x", "")() {
		t.Fatalf("%d writes, want one: x was stored too", n)
	}
	note(t, s, "x", "kept")
	until(t, "x is stored", stored("x", "kept"))
}

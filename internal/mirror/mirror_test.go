package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/internal/mirror"
	"github.com/podsnap/podsnap/test/bubble"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func configMap(name, owner string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{"owner": owner}}}
}

// change is what a handler was told, in order.
type change struct {
	mu  sync.Mutex
	log []string
}

func (c *change) take(t api.EventType, old, now *corev1.ConfigMap) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := now
	if t == api.Deleted {
		o = old
	}
	c.log = append(c.log, fmt.Sprint(t, " ", o.Name))
}

func TestMirrorFollows(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		objects := memory.New(memory.Config{})
		must(t)(objects.Create(ctx, configMap("a", "x")))
		m := mirror.New[*corev1.ConfigMap](objects, api.ConfigMaps, mirror.Options{})
		m.Index("owner", func(c *corev1.ConfigMap) []string { return []string{c.Labels["owner"]} })
		var seen change
		m.OnChange(seen.take)
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		<-m.Synced()
		must(t)(objects.Create(ctx, configMap("b", "x")))
		b := configMap("b", "y")
		must(t)(objects.Update(ctx, b, api.UpdateOptions{}))
		must(t)(objects.Delete(ctx, api.ConfigMaps, "ns", "a", api.DeleteOptions{}))
		synctest.Wait()
		if got, want := fmt.Sprint(seen.log), "[ADDED a ADDED b MODIFIED b DELETED a]"; got != want {
			t.Errorf("the handler was told %s, want %s", got, want)
		}
		if x, y := m.By("owner", "x"), m.By("owner", "y"); len(x) != 0 || len(y) != 1 || y[0].Name != "b" {
			t.Errorf("the index has %v under x and %v under y", x, y)
		}
		if _, ok := m.Get("ns", "a"); ok || m.Len() != 1 {
			t.Error("a deleted object is still there")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// cut ends every watch after its first events, and loses the place in it.
type cut struct {
	api.Objects
	mu      sync.Mutex
	watches []api.Watch
	expire  bool
	away    int // watches that are still to be refused, as of a server that restarts
	lists   int
}

func (c *cut) Watch(ctx context.Context, r *api.Resource, o api.WatchOptions) (api.Watch, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.expire && o.ResourceVersion != "" {
		return nil, errors.New("too old")
	}
	if c.away > 0 {
		c.away--
		return nil, apierrors.NewServiceUnavailable("connection refused")
	}
	if o.ResourceVersion == "" {
		c.lists++
	}
	w, err := c.Objects.Watch(ctx, r, o)
	c.watches = append(c.watches, w)
	return w, err
}

func (c *cut) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.watches {
		w.Stop()
	}
	c.watches = nil
}

func TestMirrorResumesAndBeginsAgain(t *testing.T) {
	for _, expire := range []bool{false, true} {
		t.Run(fmt.Sprint("expired=", expire), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				objects := &cut{Objects: memory.New(memory.Config{}), expire: expire}
				must(t)(objects.Create(ctx, configMap("gone", "x")))
				must(t)(objects.Create(ctx, configMap("stays", "x")))
				m := mirror.New[*corev1.ConfigMap](objects, api.ConfigMaps, mirror.Options{})
				var seen change
				m.OnChange(seen.take)
				done := make(chan error)
				go func() { done <- m.Run(ctx) }()
				<-m.Synced()
				objects.end()
				must(t)(objects.Delete(ctx, api.ConfigMaps, "ns", "gone", api.DeleteOptions{}))
				must(t)(objects.Create(ctx, configMap("new", "x")))
				for m.Len() != 2 || !has(m, "new") {
					synctest.Wait()
					tick(ctx)
				}
				synctest.Wait()
				told := map[string]int{}
				for _, l := range seen.log {
					told[l]++
				}
				for _, want := range []string{"ADDED gone", "ADDED stays", "DELETED gone", "ADDED new"} {
					if told[want] != 1 {
						t.Errorf("%q was told %d times, want once: %v", want, told[want], seen.log)
					}
				}
				cancel()
				<-done
			})
		})
	}
}

// A server that restarts is away for some tries; its watches go on where they were.
func TestMirrorGoesOnAfterARestart(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		objects := &cut{Objects: memory.New(memory.Config{})}
		must(t)(objects.Create(ctx, configMap("a", "x")))
		m := mirror.New[*corev1.ConfigMap](objects, api.ConfigMaps, mirror.Options{})
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		<-m.Synced()
		for round := range 2 { // the second one without an event since the first
			objects.mu.Lock()
			objects.away = 3
			objects.mu.Unlock()
			objects.end()
			for range 1000 {
				synctest.Wait()
				tick(ctx)
			}
			if objects.away > 0 {
				t.Fatalf("round %d: the mirror has not tried again", round)
			}
		}
		must(t)(objects.Create(ctx, configMap("b", "x")))
		synctest.Wait()
		if !has(m, "b") || objects.lists != 1 {
			t.Errorf("has b: %v, after %d lists of all, want true after 1", has(m, "b"), objects.lists)
		}
		cancel()
		<-done
	})
}

func has(m *mirror.Mirror[*corev1.ConfigMap], name string) bool {
	_, ok := m.Get("ns", name)
	return ok
}

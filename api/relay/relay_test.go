package relay_test

import (
	"context"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/api/relay"
	"github.com/podsnap/podsnap/api/seamtest"
	"github.com/podsnap/podsnap/test/bubble"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestObjects(t *testing.T) {
	seamtest.Objects(t, func(*testing.T) api.Objects {
		r := relay.New()
		r.Set(&relay.Seams{Objects: memory.New(memory.Config{History: 512})})
		return r.Objects()
	})
}

func TestCapacity(t *testing.T) {
	seamtest.Capacity(t, func(*testing.T) seamtest.CapacityRig {
		c, f := memory.NewCapacity(), types.NamespacedName{Namespace: "seam", Name: "resize"}
		r := relay.New()
		r.Set(&relay.Seams{Capacity: c})
		uid := func(pod string) types.UID { return types.UID("uid-" + pod) }
		return seamtest.CapacityRig{
			Capacity: r.Capacity(), Function: f,
			Ready: func(pod string) api.Endpoint {
				e := api.Endpoint{Pod: uid(pod), Name: pod, Address: "127.0.0.1:8080", Concurrency: 2}
				c.Ready(f, e)
				return e
			},
			Delete:  func(pod string) { c.Delete(uid(pod)) },
			Lose:    func(pod string) { c.Lose(uid(pod)) },
			Fail:    func(reason string) { c.Fail(f, reason) },
			Wanted:  func() int { return c.Wanted(f) },
			Drained: func(pod string) bool { return !c.Has(uid(pod)) },
		}
	})
}

func namespaced(name string) *memory.Objects {
	o := memory.New(memory.Config{})
	if _, err := o.Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
		panic(err)
	}
	return o
}

// A call waits for the next leader, streams of the one before end, and after that
// the new one's are seen.
func TestLeadershipMoves(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := relay.New()
		r.Set(&relay.Seams{Objects: namespaced("first")})
		o := r.Objects()
		w, err := o.Watch(t.Context(), api.Namespaces, api.WatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if e := <-w.Events(); e.Object.GetName() != "first" {
			t.Fatalf("the watch begins with %+v", e)
		}
		r.Set(nil)
		for range w.Events() {
		}
		w.Stop()
		time.AfterFunc(2*time.Second, func() { r.Set(&relay.Seams{Objects: namespaced("second")}) })
		began := time.Now()
		if _, err := o.Get(t.Context(), api.Namespaces, "", "second"); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited != 2*time.Second {
			t.Errorf("the call took %v, the leader was there after 2 s", waited)
		}
		if _, err := o.Get(t.Context(), api.Namespaces, "", "first"); !apierrors.IsNotFound(err) {
			t.Errorf("an object of the former leader: %v", err)
		}
		r.Set(&relay.Seams{Objects: namespaced("third")}) // at once, with nobody in between
		if _, err := o.Get(t.Context(), api.Namespaces, "", "third"); err != nil {
			t.Error(err)
		}
		r.Set(nil)
		began = time.Now()
		if _, err := o.List(t.Context(), api.Namespaces, api.ListOptions{}); !apierrors.IsServiceUnavailable(err) || time.Since(began) != relay.Hold {
			t.Errorf("without a leader: %v after %v, want ServiceUnavailable after %v", err, time.Since(began), relay.Hold)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Capacity().Report(ctx, "g", nil); err == nil || ctx.Err() == nil {
			t.Errorf("a report that is given up: %v", err)
		}
	})
}

package record_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/internal/record"
	"github.com/podsnap/podsnap/test/bubble"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func with(t *testing.T, c record.Config, f func(r *record.Recorder, events func() []*corev1.Event)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c.Objects, c.Component, c.Host = memory.New(), "test", "h"
		r := record.New(c)
		var wg sync.WaitGroup
		wg.Go(func() { _ = r.Run(ctx) })
		defer wg.Wait()
		defer cancel()
		f(r, func() []*corev1.Event {
			synctest.Wait()
			es, err := api.Items[*corev1.Event](ctx, c.Objects, api.Events, api.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return es
		})
	})
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, UID: "u"}}
}

func TestRepetitionsAreCounted(t *testing.T) {
	with(t, record.Config{}, func(r *record.Recorder, events func() []*corev1.Event) {
		for range 20 {
			r.Event(pod("p"), corev1.EventTypeWarning, "BackOff", "again")
		}
		events()
		for range 5 {
			time.Sleep(3 * time.Second)
			r.Eventf(pod("p"), corev1.EventTypeWarning, "BackOff", "%s", "again")
		}
		r.Event(pod("p"), corev1.EventTypeWarning, "BackOff", "something else")
		time.Sleep(time.Minute)
		es := events()
		if len(es) != 2 {
			t.Fatalf("%d events, want two", len(es))
		}
		counts := map[string]int32{es[0].Message: es[0].Count, es[1].Message: es[1].Count}
		if counts["again"] != 25 || counts["something else"] != 1 {
			t.Errorf("counts %v, want 25 and 1", counts)
		}
		for _, e := range es {
			if e.Message == "again" && e.LastTimestamp.Sub(e.FirstTimestamp.Time) != 15*time.Second {
				t.Errorf("from %v to %v, want 15 s", e.FirstTimestamp, e.LastTimestamp)
			}
			if o := e.InvolvedObject; o.Kind != "Pod" || o.APIVersion != "v1" || o.Name != "p" || o.UID != "u" || e.Source.Component != "test" {
				t.Errorf("about %+v from %+v", o, e.Source)
			}
		}
	})
}

func TestClusterScopedGoToDefault(t *testing.T) {
	with(t, record.Config{}, func(r *record.Recorder, events func() []*corev1.Event) {
		r.Event(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, corev1.EventTypeNormal, "NodeReady", "")
		if es := events(); len(es) != 1 || es[0].Namespace != "default" {
			t.Errorf("events %v", es)
		}
	})
}

func TestBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		o := memory.New()
		r := record.New(record.Config{Objects: o, Component: "test", Limit: 10})
		for i := range 100 { // before anybody writes them
			r.Event(pod(fmt.Sprint("p", i)), corev1.EventTypeNormal, "R", "m")
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = r.Run(ctx) })
		synctest.Wait()
		es, err := api.Items[*corev1.Event](ctx, o, api.Events, api.ListOptions{})
		if err != nil || len(es) != 10 {
			t.Errorf("%d events (%v), the limit is 10", len(es), err)
		}
		cancel()
		wg.Wait()
	})
}

// Routine is thinned out under load, warnings are not.
func TestRate(t *testing.T) {
	with(t, record.Config{Rate: 2}, func(r *record.Recorder, events func() []*corev1.Event) {
		count := func(kind string) (n int) {
			for _, e := range events() {
				if e.Type == kind {
					n++
				}
			}
			return n
		}
		for i := range 50 {
			r.Event(pod(fmt.Sprint("p", i)), corev1.EventTypeNormal, "Started", "s")
			r.Event(pod(fmt.Sprint("p", i)), corev1.EventTypeWarning, "BackOff", "b")
		}
		if n, w := count(corev1.EventTypeNormal), count(corev1.EventTypeWarning); n != 10 || w != 50 {
			t.Errorf("%d normal events and %d warnings, want 10 and 50", n, w)
		}
		time.Sleep(time.Second)
		for i := range 50 {
			r.Event(pod(fmt.Sprint("q", i)), corev1.EventTypeNormal, "Started", "s")
		}
		if n := count(corev1.EventTypeNormal); n != 12 {
			t.Errorf("%d normal events a second later, want 12", n)
		}
	})
}

func TestNilDrops(*testing.T) {
	var r *record.Recorder
	r.Event(pod("p"), corev1.EventTypeNormal, "R", "m")
}

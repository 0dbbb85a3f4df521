// Package clients holds Kubernetes' own client libraries to the API: informers,
// leader election, and a controller made of them.
package clients

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/remote"
	"github.com/podsnap/podsnap/test/history"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// seen is what an informer's handler was told, in its order.
type seen struct {
	mu     sync.Mutex
	events []history.Event
	relist int // deletions of which only the result was found
}

func (s *seen) handler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { s.take(api.Added, obj) },
		UpdateFunc: func(_, obj any) { s.take(api.Modified, obj) },
		DeleteFunc: func(obj any) { s.take(api.Deleted, obj) },
	}
}

func (s *seen) take(t api.EventType, obj any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		s.relist++
		obj = gone.Obj
	}
	s.events = append(s.events, event(t, obj))
}

func event(t api.EventType, obj any) history.Event {
	e := history.Event{Type: t}
	switch o := obj.(type) {
	case *corev1.ConfigMap:
		e.Key, e.Value = o.Name, o.Data["v"]
		e.Rev, _ = strconv.ParseInt(o.ResourceVersion, 10, 64) // the server's own
	case *unstructured.Unstructured:
		e.Key = o.GetName()
		e.Value, _, _ = unstructured.NestedString(o.Object, "data", "v") // else it differs
		e.Rev, _ = strconv.ParseInt(o.GetResourceVersion(), 10, 64)
	}
	return e
}

func (s *seen) all() []history.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]history.Event{}, s.events...)
}

// informed runs a typed informer, in protobuf, and a dynamic one, in JSON, until the
// test's end.
func informed(t *testing.T, s *server) (told []*seen, stores []cache.Store) {
	t.Helper()
	c := s.config()
	c.ContentType = "application/vnd.kubernetes.protobuf"
	typed, err := kubernetes.NewForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	dyn, err := dynamic.NewForConfig(s.config())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a := informers.NewSharedInformerFactoryWithOptions(typed, 0, informers.WithNamespace(history.Namespace))
	b := dynamicinformer.NewFilteredDynamicSharedInformerFactory(dyn, 0, history.Namespace, nil)
	for _, i := range []cache.SharedIndexInformer{a.Core().V1().ConfigMaps().Informer(), b.ForResource(corev1.SchemeGroupVersion.WithResource("configmaps")).Informer()} {
		x := &seen{}
		if _, err := i.AddEventHandler(x.handler()); err != nil {
			t.Fatal(err)
		}
		told, stores = append(told, x), append(stores, i.GetStore())
	}
	a.Start(ctx.Done())
	b.Start(ctx.Done())
	t.Cleanup(func() { cancel(); a.Shutdown(); b.Shutdown() })
	a.WaitForCacheSync(ctx.Done())
	b.WaitForCacheSync(ctx.Done())
	return told, stores
}

// written has clients of the API write while it is disturbed, and answers with what
// they were told and what etcd says.
func written(t *testing.T, s *server, disturb func(rest func(time.Duration))) (*history.Log, []history.Event) {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 8}
	defer transport.CloseIdleConnections()
	o := remote.NewObjects(remote.Config{URL: "http://" + s.addr, Client: &http.Client{Transport: transport}})
	var log history.Log
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	wg.Go(func() {
		history.Load{Objects: []api.Objects{o}, Clients: 4, Keys: 4, Each: 50, Seed: uint64(time.Now().UnixNano())}.Run(ctx, &log)
	})
	disturb(func(least time.Duration) {
		n := log.Changes()
		pause(t, least)
		eventually(t, func() error {
			if made := log.Changes() - n; made < 20 {
				return fmt.Errorf("only %d changes were made", made)
			}
			return nil
		})
	})
	cancel()
	wg.Wait()
	truth, err := history.Truth(t.Context(), s.etcd, "1")
	if err != nil {
		t.Fatal(err)
	}
	if len(truth) < 50 {
		t.Fatalf("only %d changes were made", len(truth))
	}
	if err := log.Accounts(truth); err != nil {
		t.Error(err)
	}
	return &log, truth
}

func namespace(t *testing.T, s *server) {
	t.Helper()
	if _, err := s.objects.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: history.Namespace}}); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	await(t, 40*time.Second, check)
}

// await is eventually with a limit of its own.
func await(t *testing.T, limit time.Duration, check func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); ; <-tick.C {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("still: %v", err)
		}
	}
}

// While only connections end, and the server that took them, informers see each single
// change, once, in order.
func TestInformersSeeEachChange(t *testing.T) {
	s := newServer(t)
	namespace(t, s)
	told, _ := informed(t, s)
	_, truth := written(t, s, func(rest func(time.Duration)) {
		for range 3 {
			rest(150 * time.Millisecond)
			s.reopen()
		}
		rest(150 * time.Millisecond)
	})
	for i, x := range told {
		eventually(t, func() error { return history.Same(truth, x.all()) })
		if x.relist > 0 {
			t.Errorf("informer %d has listed again", i)
		}
	}
}

// A server that starts anew knows what happened last, too: its clients see each
// single change, as if it had not been away.
func TestInformersOutliveTheServer(t *testing.T) {
	s := newServer(t)
	namespace(t, s)
	told, stores := informed(t, s)
	_, truth := written(t, s, func(rest func(time.Duration)) {
		for range 3 {
			rest(300 * time.Millisecond)
			s.stop()
			s.start()
		}
		rest(300 * time.Millisecond)
	})
	for i, x := range told {
		eventually(t, func() error { return history.Same(truth, x.all()) })
		if x.relist > 0 {
			t.Errorf("informer %d has listed again", i)
		}
		holds := map[string]string{}
		for _, obj := range stores[i].List() {
			e := event("", obj)
			holds[e.Key] = e.Value
		}
		if want := remaining(truth); !maps.Equal(holds, want) {
			t.Errorf("informer %d holds %v, there is %v", i, holds, want)
		}
	}
}

func pause(t *testing.T, d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// remaining is what is there after all of it: the keys, and their values.
func remaining(truth []history.Event) map[string]string {
	all := map[string]string{}
	for _, e := range truth {
		if all[e.Key] = e.Value; e.Type == api.Deleted {
			delete(all, e.Key)
		}
	}
	return all
}

package mirror_test

import (
	"context"
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
	"k8s.io/apimachinery/pkg/labels"
)

// All who follow a kind that is shared do so by one watch of it, see the same objects,
// and go on when that watch breaks, whether or not it can be resumed.
func TestSharedFollowsOnce(t *testing.T) {
	for _, expire := range []bool{false, true} {
		t.Run(fmt.Sprint("expired=", expire), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) { followShared(t, expire) })
		})
	}
}

func followShared(t *testing.T, expire bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	from := &cut{Objects: memory.New(memory.Config{}), expire: expire}
	must(t)(from.Create(ctx, configMap("gone", "x")))
	must(t)(from.Create(ctx, configMap("stays", "x")))
	shared := mirror.Share(from, nil, api.ConfigMaps, api.Services)
	var wg sync.WaitGroup
	wg.Go(func() { _ = shared.Run(ctx) })
	var mirrors []*mirror.Mirror[*corev1.ConfigMap]
	for range 3 {
		mirrors = append(mirrors, mirror.New[*corev1.ConfigMap](shared, api.ConfigMaps, mirror.Options{}))
	}
	mine := mirror.New[*corev1.ConfigMap](shared, api.ConfigMaps, mirror.Options{Labels: labels.SelectorFromSet(labels.Set{"owner": "me"})})
	for _, m := range append(mirrors, mine) {
		wg.Go(func() { _ = m.Run(ctx) })
		<-m.Synced()
	}
	if len(from.watches) != 1 {
		t.Fatalf("%d watches for four who follow, want one", len(from.watches))
	}
	from.end()
	must(t)(from.Delete(ctx, api.ConfigMaps, "ns", "gone", api.DeleteOptions{}))
	must(t)(from.Create(ctx, configMap("new", "me")))
	must(t)(shared.Create(ctx, configMap("newer", "x"))) // writes and reads pass through
	for len(mirrors[2].List()) != 3 || !has(mirrors[2], "newer") || !has(mine, "new") {
		synctest.Wait()
		tick(ctx)
	}
	synctest.Wait()
	a, _ := mirrors[0].Get("ns", "newer")
	for i, m := range mirrors {
		b, ok := m.Get("ns", "newer")
		if !ok || a != b || m.Len() != 3 || has(m, "gone") {
			t.Errorf("mirror %d has %v, and another copy of one: %v", i, m.List(), a != b)
		}
	}
	if mine.Len() != 1 {
		t.Errorf("who selects has %v", mine.List())
	}
	if len(from.watches) != 1 {
		t.Errorf("%d watches after one broke, want one", len(from.watches))
	}
	w, err := shared.Watch(ctx, api.ConfigMaps, api.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	wg.Wait()
	for range w.Events() {
	}
	if _, err := shared.Watch(t.Context(), api.ConfigMaps, api.WatchOptions{}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("a watch after the end: %v, want ServiceUnavailable", err)
	}
}

// A kind that is not shared is watched as it is.
func TestOthersAreNotShared(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		from := &cut{Objects: memory.New(memory.Config{})}
		shared := mirror.Share(from, nil, api.Services)
		for range 2 {
			w, err := shared.Watch(t.Context(), api.ConfigMaps, api.WatchOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
		}
		if len(from.watches) != 2 {
			t.Errorf("%d watches, want each its own", len(from.watches))
		}
	})
}

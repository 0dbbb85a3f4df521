package seamtest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// watchesConverge lets writers work while watches begin, break and resume; in
// the end each has seen what a list shows, and each revision once, in order.
func watchesConverge(s *suite) {
	const writers, each, objects = 4, 100, 7
	done := make(chan struct{})
	var watches, writes sync.WaitGroup
	for i := range 4 {
		watches.Go(func() { s.follow(done, i*10) })
	}
	for w := range writers {
		writes.Go(func() {
			for i := range each {
				s.churn(numbered("cm", (w*31+i*7)%objects), strconv.Itoa(w*each+i))
			}
		})
	}
	writes.Wait()
	create(s, s.configMap("zz-end"))
	close(done)
	watches.Wait()
}

// churn creates, updates or deletes, whichever is possible.
func (s *suite) churn(name, value string) {
	_, err := s.o.Create(s.Context(), s.configMap(name, "n", value))
	if apierrors.IsAlreadyExists(err) {
		if value[len(value)-1] == '5' {
			_, err = s.o.Delete(s.Context(), api.ConfigMaps, s.ns, name, api.DeleteOptions{})
		} else {
			_, err = s.o.Update(s.Context(), s.configMap(name, "n", value), api.UpdateOptions{})
		}
	}
	if err != nil && !apierrors.IsNotFound(err) {
		s.Errorf("%s: %v", name, err)
	}
}

// follow keeps a copy by watches, each of which is stopped after a few events.
func (s *suite) follow(done <-chan struct{}, few int) {
	have := map[string]string{}
	rv := ""
	for ended := false; !ended; {
		w, err := s.o.Watch(s.Context(), api.ConfigMaps, api.WatchOptions{Namespace: s.ns, ResourceVersion: rv})
		if err != nil {
			s.Errorf("resume at %q: %v", rv, err)
			return
		}
		rv, ended = s.take(w, have, rv, few+1)
		w.Stop()
		if s.Failed() {
			return
		}
	}
	<-done
	l, err := s.o.List(s.Context(), api.ConfigMaps, api.ListOptions{Namespace: s.ns})
	if err != nil {
		s.Error(err)
		return
	}
	want := map[string]string{}
	for _, o := range l.Items {
		want[o.GetName()] = o.GetResourceVersion()
	}
	if d := cmp.Diff(want, have); d != "" {
		s.Errorf("a watch saw another end than a list (-list +watch):\n%s", d)
	}
}

func (s *suite) take(w api.Watch, have map[string]string, rv string, few int) (string, bool) {
	initial := rv == ""
	ended := false
	for few > 0 {
		e, ok := next(s.T, w)
		if !ok {
			s.Errorf("the watch ended: %v", w.Err())
			return rv, true
		}
		now := e.Object.GetResourceVersion()
		if !initial && number(s.T, now) <= number(s.T, rv) && e.Type != api.Bookmark {
			s.Errorf("%s %s at %s came after %s", e.Type, e.Object.GetName(), now, rv)
			return rv, true
		}
		ended = ended || e.Object.GetName() == "zz-end"
		_, had := have[e.Object.GetName()]
		switch e.Type {
		case api.Bookmark:
			initial = initial && !e.InitialEventsEnd
		case api.Deleted:
			delete(have, e.Object.GetName())
		case api.Added, api.Modified:
			have[e.Object.GetName()] = now
		}
		if e.Type != api.Bookmark && had != (e.Type != api.Added) {
			s.Errorf("%s %s at %s, but it was there: %v", e.Type, e.Object.GetName(), now, had)
		}
		if initial {
			continue
		}
		rv = now
		few--
		if ended {
			return rv, true
		}
	}
	return rv, false
}

func writersLoseNothing(s *suite) {
	const writers, each = 8, 50
	create(s, s.configMap("sum", "n", "0"))
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				if err := increment(s.Context(), s.o, s.ns, "sum"); err != nil {
					s.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	got := s.get(api.ConfigMaps, "sum").(*corev1.ConfigMap)
	if got.Data["n"] != strconv.Itoa(writers*each) || got.Generation != writers*each+1 {
		s.Fatalf("the sum is %s at generation %d, want %d", got.Data["n"], got.Generation, writers*each)
	}
}

func increment(ctx context.Context, o api.Objects, ns, name string) error {
	_, err := api.Mutate(ctx, o, api.ConfigMaps, ns, name, api.UpdateOptions{}, func(c *corev1.ConfigMap) (bool, error) {
		n, err := strconv.Atoi(c.Data["n"])
		c.Data["n"] = strconv.Itoa(n + 1)
		return true, err
	})
	return err
}

func createOnce(s *suite) {
	var made atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := s.o.Create(s.Context(), s.configMap("one"))
			switch {
			case err == nil:
				made.Add(1)
			case !apierrors.IsAlreadyExists(err):
				s.Error(err)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		s.Fatalf("%d of 8 creates of one name succeeded", made.Load())
	}
}

func readsSeeOwnWrites(s *suite) {
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 25 {
				if err := s.writeAndRead(fmt.Sprintf("own-%d-%d", w, i)); err != nil {
					s.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func (s *suite) writeAndRead(name string) error {
	ctx := s.Context()
	made, err := s.o.Create(ctx, s.configMap(name))
	if err != nil {
		return err
	}
	got, err := s.o.Get(ctx, api.ConfigMaps, s.ns, name)
	if err != nil || number(s.T, got.GetResourceVersion()) < number(s.T, made.GetResourceVersion()) {
		return fmt.Errorf("get after create: %v, %w", got, err)
	}
	l, err := s.o.List(ctx, api.ConfigMaps, api.ListOptions{Namespace: s.ns})
	if err != nil || !contains(l.Items, name) {
		return fmt.Errorf("list after create lacks %s: %w", name, err)
	}
	if number(s.T, l.ResourceVersion) < number(s.T, made.GetResourceVersion()) {
		return fmt.Errorf("list as of %s, after a create at %s", l.ResourceVersion, made.GetResourceVersion())
	}
	if _, err := s.o.Delete(ctx, api.ConfigMaps, s.ns, name, api.DeleteOptions{}); err != nil {
		return err
	}
	if _, err := s.o.Get(ctx, api.ConfigMaps, s.ns, name); !apierrors.IsNotFound(err) {
		return errors.New("get after delete finds " + name)
	}
	return nil
}

func contains(items []api.Object, name string) bool {
	for _, o := range items {
		if o.GetName() == name {
			return true
		}
	}
	return false
}

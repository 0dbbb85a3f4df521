package seamtest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
)

func (s *suite) watch(r *api.Resource, o api.WatchOptions) api.Watch {
	s.Helper()
	w, err := s.o.Watch(s.Context(), r, o)
	if err != nil {
		s.Fatalf("watch %s from %q: %v", r, o.ResourceVersion, err)
	}
	s.Cleanup(w.Stop)
	return w
}

// next is the next event; false when the watch has ended.
func next(t *testing.T, w api.Watch) (api.Event, bool) {
	t.Helper()
	select {
	case e, ok := <-w.Events():
		return e, ok
	case <-time.After(patience):
		t.Fatalf("no event within %v", patience)
		return api.Event{}, false
	}
}

// expect reads events, bookmarks of progress left out, and compares them as
// "TYPE name" texts.
func (s *suite) expect(w api.Watch, want ...string) (last api.Event) {
	s.Helper()
	for _, text := range want {
		e, ok := next(s.T, w)
		for ok && e.Type == api.Bookmark && !e.InitialEventsEnd {
			e, ok = next(s.T, w)
		}
		if !ok {
			s.Fatalf("the watch ended (%v), want %q", w.Err(), text)
		}
		if got := fmt.Sprintf("%s %s", e.Type, e.Object.GetName()); got != text {
			s.Fatalf("got %q, want %q", got, text)
		}
		last = e
	}
	return last
}

func number(t *testing.T, rv string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(rv, 10, 64)
	if err != nil {
		t.Fatalf("resourceVersion %q is not a number", rv)
	}
	return n
}

func watchBegins(s *suite) {
	create(s, s.configMap("b"))
	create(s, s.configMap("a"))
	for _, rv := range []string{"", "0"} {
		w := s.watch(api.ConfigMaps, api.WatchOptions{Namespace: s.ns, ResourceVersion: rv})
		s.expect(w, "ADDED a", "ADDED b")
		e := s.expect(w, "BOOKMARK ")
		if !e.InitialEventsEnd || e.Object.GetResourceVersion() == "" {
			s.Fatalf("the bookmark is %+v, want one that ends the initial events", e)
		}
		resumed := s.watch(api.ConfigMaps, api.WatchOptions{Namespace: s.ns, ResourceVersion: e.Object.GetResourceVersion()})
		create(s, s.configMap("c"))
		s.expect(w, "ADDED c")
		s.expect(resumed, "ADDED c")
		s.delete(api.ConfigMaps, "c", api.DeleteOptions{})
	}
	_, err := s.o.Watch(s.Context(), api.ConfigMaps, api.WatchOptions{ResourceVersion: "new"})
	s.want(apierrors.IsBadRequest, "BadRequest for a resourceVersion that is no number", err)
}

func watchInOrder(s *suite) {
	w := s.watch(api.ConfigMaps, api.WatchOptions{Namespace: s.ns})
	s.expect(w, "BOOKMARK ")
	made := create(s, s.configMap("a", "n", "1"))
	mod := update(s, changed(made, func(c *corev1.ConfigMap) { c.Data["n"] = "2" }))
	s.delete(api.ConfigMaps, "a", api.DeleteOptions{})
	again := create(s, s.configMap("a", "n", "3"))

	if e := s.expect(w, "ADDED a"); cmp.Diff(made, e.Object) != "" {
		s.Fatalf("event differs from the answer:\n%s", cmp.Diff(made, e.Object))
	}
	if e := s.expect(w, "MODIFIED a"); cmp.Diff(mod, e.Object) != "" {
		s.Fatalf("event differs from the answer:\n%s", cmp.Diff(mod, e.Object))
	}
	e := s.expect(w, "DELETED a")
	if e.Object.(*corev1.ConfigMap).Data["n"] != "2" || e.Object.GetUID() != made.UID {
		s.Fatalf("a deletion carries %+v, want the last state", e.Object)
	}
	at := number(s.T, e.Object.GetResourceVersion())
	if at <= number(s.T, mod.ResourceVersion) || at >= number(s.T, again.ResourceVersion) {
		s.Fatalf("a deletion is at %d, between %s and %s it must be", at, mod.ResourceVersion, again.ResourceVersion)
	}
	s.expect(w, "ADDED a")
}

// watchResumes goes on from every single revision of a history.
func watchResumes(s *suite) {
	var rvs, want []string
	for i := range 5 {
		name := numbered("cm", i)
		rvs = append(rvs, create(s, s.configMap(name)).ResourceVersion)
		rvs = append(rvs, update(s, s.configMap(name, "n", "1")).ResourceVersion)
		s.delete(api.ConfigMaps, name, api.DeleteOptions{})
		want = append(want, "ADDED "+name, "MODIFIED "+name, "DELETED "+name)
	}
	for i, rv := range rvs {
		w := s.watch(api.ConfigMaps, api.WatchOptions{Namespace: s.ns, ResourceVersion: rv})
		from := i/2*3 + i%2 + 1
		s.expect(w, want[from:]...)
		w.Stop()
	}
}

func watchFromList(s *suite) {
	create(s, s.configMap("a"))
	create(s, s.pod("noise", ""))
	l := s.list(api.ConfigMaps, api.ListOptions{})
	create(s, s.configMap("b"))
	w := s.watch(api.ConfigMaps, api.WatchOptions{Namespace: s.ns, ResourceVersion: l.ResourceVersion})
	s.delete(api.ConfigMaps, "a", api.DeleteOptions{})
	s.expect(w, "ADDED b", "DELETED a")
}

func watchSelects(s *suite) {
	byLabel := s.watch(api.Pods, api.WatchOptions{Labels: selector(s.T, "app=x")})
	byNode := s.watch(api.Pods, api.WatchOptions{Namespace: s.ns, Fields: fields.OneTermEqualSelector("spec.nodeName", "n1")})
	elsewhere := s.watch(api.Pods, api.WatchOptions{Namespace: "elsewhere"})
	for _, w := range []api.Watch{byLabel, byNode, elsewhere} {
		s.expect(w, "BOOKMARK ")
	}
	p := create(s, s.pod("p", ""))
	p = update(s, changed(p, func(p *corev1.Pod) { p.Labels = map[string]string{"app": "x"} }))
	p = update(s, changed(p, func(p *corev1.Pod) { p.Spec.NodeName = "n1" }))
	last := update(s, changed(p, func(p *corev1.Pod) { p.Labels["app"] = "y" }))
	s.updateStatus(changed(last, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }))
	s.delete(api.Pods, "p", api.DeleteOptions{})
	create(s, changed(s.pod("q", ""), func(p *corev1.Pod) { p.Labels = map[string]string{"app": "x"} }))
	create(s, s.pod("r", "n1"))

	s.expect(byLabel, "ADDED p", "MODIFIED p")
	e := s.expect(byLabel, "DELETED p")
	if e.Object.GetResourceVersion() != last.ResourceVersion {
		s.Fatalf("an object that stops matching is Deleted at %s, want %s", e.Object.GetResourceVersion(), last.ResourceVersion)
	}
	s.expect(byLabel, "ADDED q")
	s.expect(byNode, "ADDED p", "MODIFIED p", "MODIFIED p", "DELETED p", "ADDED r")
	select {
	case e := <-elsewhere.Events():
		s.Fatalf("a watch of another namespace got %+v", e)
	default:
	}
}

func watchEnds(s *suite) {
	w := s.watch(api.ConfigMaps, api.WatchOptions{})
	s.expect(w, "BOOKMARK ")
	w.Stop()
	w.Stop()
	if _, ok := next(s.T, w); ok || w.Err() != nil {
		s.Fatalf("after Stop: another event or error %v", w.Err())
	}
	ctx, cancel := context.WithCancelCause(s.Context())
	w, err := s.o.Watch(ctx, api.ConfigMaps, api.WatchOptions{})
	if err != nil {
		s.Fatal(err)
	}
	defer w.Stop()
	s.expect(w, "BOOKMARK ")
	cancel(errors.New("enough"))
	if _, ok := next(s.T, w); ok || w.Err() == nil {
		s.Fatalf("after its context: another event, or error %v", w.Err())
	}
	if _, err := s.o.Watch(ctx, api.ConfigMaps, api.WatchOptions{}); err == nil {
		s.Fatal("a watch with a context that is done began")
	}
}

func watchTooOld(s *suite) {
	first := create(s, s.configMap("cm-00000"))
	s.age(func() error {
		w, err := s.o.Watch(s.Context(), api.ConfigMaps, api.WatchOptions{Namespace: s.ns, ResourceVersion: first.ResourceVersion})
		if err == nil {
			w.Stop()
		}
		return err
	})
}

// watchSlowReader does not read for a long time. What it then gets has no gap,
// and where it was cut off it can go on, or is told to begin again.
func watchSlowReader(s *suite) {
	first := create(s, s.configMap("cm-00000"))
	w := s.watch(api.ConfigMaps, api.WatchOptions{Namespace: s.ns, ResourceVersion: first.ResourceVersion})
	s.age(func() error {
		probe, err := s.o.Watch(s.Context(), api.ConfigMaps, api.WatchOptions{Namespace: s.ns, ResourceVersion: first.ResourceVersion})
		if err == nil {
			probe.Stop()
		}
		return err
	})
	update0(s, "cm-00000", "last")
	at, rv := -1, first.ResourceVersion
	follow := func(w api.Watch) bool {
		for {
			e, ok := next(s.T, w)
			if !ok {
				return false
			}
			rv = e.Object.GetResourceVersion()
			if e.Type == api.Bookmark {
				continue
			}
			value := e.Object.(*corev1.ConfigMap).Data["n"]
			if value == "last" {
				return true
			}
			if value != strconv.Itoa(at+1) {
				s.Fatalf("after change %d came %s: a gap", at, value)
			}
			at++
		}
	}
	if follow(w) {
		return
	}
	if w.Err() == nil {
		s.Fatal("a watch that was cut off has no error")
	}
	again, err := s.o.Watch(s.Context(), api.ConfigMaps, api.WatchOptions{Namespace: s.ns, ResourceVersion: rv})
	if apierrors.IsResourceExpired(err) {
		return
	}
	if err != nil {
		s.Fatal(err)
	}
	defer again.Stop()
	if !follow(again) {
		s.Fatalf("the resumed watch ended: %v", again.Err())
	}
}

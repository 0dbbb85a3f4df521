package store

import (
	"fmt"
	"testing"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

// For any history, diff finds changes that lead to its end: in order, each at
// a revision of its own, what was there before a deletion being deleted before
// its name is used again.
func TestDiffFindsAWay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := map[id]state{}
		rev := int64(1)
		step := func() {
			i := id{api.Pods, "a", fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "name"))}
			old, there := now[i]
			rev++
			switch {
			case !there:
				now[i] = state{id: i, obj: &corev1.Pod{}, created: rev, rev: rev}
			case rapid.Bool().Draw(t, "delete"):
				delete(now, i)
			default:
				now[i] = state{id: i, obj: &corev1.Pod{}, created: old.created, rev: rev}
			}
		}
		for range rapid.IntRange(0, 20).Draw(t, "before") {
			step()
		}
		from, have := rev, list(now)
		for range rapid.IntRange(0, 20).Draw(t, "after") {
			step()
		}
		steps, ok := diff(have, list(now), from, rev)
		if !ok {
			t.Fatalf("no way from %v to %v", have, now)
		}
		replay(t, have, steps, from, rev, now)
	})
}

func replay(t *rapid.T, have []state, steps []state, from, to int64, want map[id]state) {
	got := map[id]state{}
	for _, h := range have {
		got[h.id] = h
	}
	last := from
	for _, st := range steps {
		if st.rev <= last || st.rev > to {
			t.Fatalf("a step at %d after %d, up to %d", st.rev, last, to)
		}
		last = st.rev
		old, there := got[st.id]
		switch {
		case st.obj == nil && !there:
			t.Fatalf("%s is deleted but not there", st.id.name)
		case st.obj == nil:
			delete(got, st.id)
		case there && st.created > from && old.created != st.created:
			t.Fatalf("%s is made again before it was deleted", st.id.name)
		default:
			got[st.id] = st
		}
	}
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i, w := range want {
		if got[i].rev != w.rev {
			t.Fatalf("%s ends at %d, want %d", i.name, got[i].rev, w.rev)
		}
	}
}

func list(m map[id]state) []state {
	var out []state
	for _, s := range m {
		out = append(out, s)
	}
	return out
}

func TestDiffSeesWhatCannotBe(t *testing.T) {
	x := id{api.Pods, "a", "x"}
	for name, c := range map[string]struct {
		have, want []state
		from, to   int64
	}{
		"went back":              {nil, nil, 9, 8},
		"object went back":       {[]state{{id: x, rev: 7}}, []state{{id: x, rev: 5, created: 2}}, 9, 9},
		"no room for a deletion": {[]state{{id: x, rev: 7}}, nil, 9, 9},
	} {
		if steps, ok := diff(c.have, c.want, c.from, c.to); ok {
			t.Errorf("%s: got %v, want none", name, steps)
		}
	}
}

func TestKeysAreReversible(t *testing.T) {
	for _, r := range api.Resources {
		obj := r.New()
		obj.SetName("x.y")
		if r.Namespaced {
			obj.SetNamespace("a")
		}
		i := idOf(r, obj)
		if got, ok := parse("/p", i.key("/p"), nil); !ok || got != i {
			t.Errorf("%s: %q became %v, %v", r, i.key("/p"), got, ok)
		}
		obj.SetName("a/b")
		if key := idOf(r, obj).key("/p"); key != "" {
			t.Errorf("%s: a name with a slash has the key %q", r, key)
		}
	}
	for want, obj := range map[string]api.Object{
		"/registry/core/pods/a/b":                        &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b"}},
		"/registry/core/nodes/n":                         &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}},
		"/registry/openfaas.com/functions/openfaas-fn/f": &api.Function{ObjectMeta: metav1.ObjectMeta{Namespace: "openfaas-fn", Name: "f"}},
	} {
		if got := idOf(api.ResourceOf(obj), obj).key("/registry"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

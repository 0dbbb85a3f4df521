package store

import (
	"fmt"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/api"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Writes that go together are one revision; one that cannot be carried out
// keeps none of the others from it.
func TestPersist(t *testing.T) {
	s := startEtcd(t).open(Config{})
	prepare(t, s)
	many := func(n int) (out []api.Write) {
		for i := range n {
			out = append(out, api.Write{Object: configMap(fmt.Sprint("m", i), "1")})
		}
		return out
	}
	check := func(done []api.Written, revisions int) {
		t.Helper()
		seen := map[int64]bool{}
		for n, d := range done {
			if d.Err != nil {
				t.Fatalf("write %d: %v", n, d.Err)
			}
			if got := mustGet(t, s, fmt.Sprint("m", n)); got.ResourceVersion != fmt.Sprint(d.Revision) {
				t.Fatalf("write %d answered %d, it is at %s", n, d.Revision, got.ResourceVersion)
			}
			seen[d.Revision] = true
		}
		if len(seen) != revisions {
			t.Fatalf("%d revisions, want %d", len(seen), revisions)
		}
	}
	done := s.Persist(t.Context(), many(mostWrites+1)...)
	check(done, 2)

	large := many(3)
	for n := range large {
		large[n].Expect = done[n].Revision
		large[n].Object.SetAnnotations(map[string]string{"a": strings.Repeat("x", mostBytes/2)})
	}
	check(s.Persist(t.Context(), large...), 3)

	mixed := []api.Write{
		{Object: configMap("new", "1")},
		{Object: configMap("m50", "2"), Expect: 1}, // it is at another revision
		{Object: configMap("m51", ""), Expect: done[51].Revision, Remove: true},
		{Object: configMap("m52", "2"), Expect: done[52].Revision},
	}
	got := s.Persist(t.Context(), mixed...)
	for n, g := range got {
		if n == 1 && !apierrors.IsConflict(g.Err) || n != 1 && g.Err != nil {
			t.Errorf("write %d: %v", n, g.Err)
		}
	}
	if v := mustGet(t, s, "m50").Data["n"]; v != "1" {
		t.Errorf("m50 is %s: written over in spite of the conflict", v)
	}
	if v := mustGet(t, s, "m52").Data["n"]; v != "2" {
		t.Errorf("m52 is %s, want 2", v)
	}
	if _, err := s.Get(t.Context(), api.ConfigMaps, "a", "m51"); !apierrors.IsNotFound(err) {
		t.Errorf("m51: %v, want NotFound", err)
	}
}

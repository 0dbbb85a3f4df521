package history

import (
	"fmt"
	"testing"

	"github.com/podsnap/podsnap/internal/openfaas"
)

func TestRing(t *testing.T) {
	r := New(3)
	add := func(id string, status int) { r.Add(openfaas.Call{ID: id, Status: status}) }
	want := func(what string, ids ...string) {
		t.Helper()
		var got []string
		for _, c := range r.Recent(10, nil) {
			got = append(got, c.ID)
		}
		if fmt.Sprint(got) != fmt.Sprint(ids) {
			t.Errorf("%s: %v, want %v", what, got, ids)
		}
	}
	want("empty")
	add("a", 1)
	add("b", 2)
	want("two", "b", "a")
	add("a", 3)
	want("an id again", "a", "b", "a")
	if c, ok := r.Get("a"); !ok || c.Status != 3 {
		t.Errorf("the newest: %+v %v", c, ok)
	}
	add("c", 4) // the first "a" goes, the second stays known
	want("full", "c", "a", "b")
	if c, ok := r.Get("a"); !ok || c.Status != 3 {
		t.Errorf("after the older one of the same id: %+v %v", c, ok)
	}
	add("d", 5)
	add("e", 6)
	want("all new", "e", "d", "c")
	if _, ok := r.Get("a"); ok {
		t.Error("what is gone is found")
	}
	if got := r.Recent(1, func(c *openfaas.Call) bool { return c.Status < 6 }); len(got) != 1 || got[0].ID != "d" {
		t.Errorf("selected: %+v", got)
	}
}

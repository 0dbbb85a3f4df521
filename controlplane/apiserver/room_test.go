package apiserver

import (
	"fmt"
	"testing"

	"github.com/podsnap/podsnap/controlplane/access"
)

// Nodes take no places of others, nor of one another.
func TestRoom(t *testing.T) {
	r := newRoom(2)
	r.ofNode = 3
	person := access.User{Name: "jane"}
	node := func(n int) access.User {
		return access.User{Name: access.NodeUser(fmt.Sprint("n", n)), Groups: []string{access.Nodes}}
	}
	var leave []func()
	enter := func(u access.User, want bool) {
		t.Helper()
		l, ok := r.enter(u)
		if ok != want {
			t.Fatalf("%s enters: %t, want %t", u.Name, ok, want)
		}
		if ok {
			leave = append(leave, l)
		}
	}
	for n := range 10 {
		for range 3 {
			enter(node(n), true)
		}
		enter(node(n), false)
	}
	enter(person, true)
	enter(person, true)
	enter(person, false)
	leave[len(leave)-1]()
	leave = leave[:len(leave)-1]
	enter(person, true)
	enter(node(3), false)
	for _, l := range leave {
		l()
	}
	if r.taken != 0 || len(r.nodes) != 0 {
		t.Errorf("all have left, and %d places and %v are taken", r.taken, r.nodes)
	}
}

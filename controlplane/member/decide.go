package member

import (
	"fmt"
	"net/netip"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/podsnap/podsnap/internal/join"
)

// most is how many members there may be: each write waits for most of them.
const most = 5

// voter is a member as etcd knows it.
type voter struct {
	id      uint64
	address string
	learner bool // it has no vote yet
	begun   bool // it has had data of this cluster
}

var resource = schema.GroupResource{Group: "podsnap.dev", Resource: "servers"}

func refuse(name, format string, a ...any) error {
	return apierrors.NewConflict(resource, name, fmt.Errorf(format, a...))
}

// step is what is to be done so that a server can begin as a member.
type step int

const (
	enter     step = iota // it is added
	again                 // it is one already, which has not begun
	forgotten             // it has begun without a vote, and has lost what it knew: it is taken out and added
)

// admit decides about a newcomer, which has no data.
func admit(n join.Newcomer, all []voter, known []Record) (step, error) {
	if a, err := netip.ParseAddr(n.Address); err != nil || a.IsUnspecified() {
		return 0, apierrors.NewBadRequest("address " + n.Address + ": it must be an IP address at which the other servers reach this one")
	}
	if n.Name == "" {
		return 0, apierrors.NewBadRequest("the server says no name")
	}
	for _, k := range known {
		if k.Name == n.Name && k.Address != n.Address && slices.ContainsFunc(all, func(v voter) bool { return v.address == k.Address }) {
			return 0, refuse(n.Name, "there is a server %s at %s: if it is lost, `faas server remove %s` first; else choose another --node-name", k.Name, k.Address, k.Name)
		}
	}
	i := slices.IndexFunc(all, func(v voter) bool { return v.address == n.Address })
	switch {
	case i < 0 && len(all) >= most:
		return 0, refuse(n.Name, "there are %d servers already, and more would only be slower: `faas server remove` one first", len(all))
	case i < 0:
		return enter, nil
	case !all[i].begun:
		return again, nil
	case all[i].learner:
		return forgotten, nil
	}
	return 0, refuse(n.Name, "the server at %s is a member, whose data this machine does not have: `faas server remove %s` first, so that it may begin anew", n.Address, n.Address)
}

// leave decides which member goes when a person names one. running are the addresses
// of those that run. A record without a member is of one that is half gone.
func leave(name string, all []voter, known []Record, running []string) (Record, error) {
	var out Record
	for _, k := range known {
		if k.Name == name || k.Address == name {
			out = k
		}
	}
	if out.Address == "" {
		if i := slices.IndexFunc(all, func(v voter) bool { return v.address == name }); i >= 0 {
			out = Record{Address: all[i].address}
		}
	}
	votes := 0
	for _, v := range all {
		if !v.learner {
			votes++
		}
	}
	i := slices.IndexFunc(all, func(v voter) bool { return v.address == out.Address })
	switch {
	case out.Address == "":
		return out, apierrors.NewNotFound(resource, name)
	case slices.Contains(running, out.Address):
		return out, refuse(name, "it runs: `faas server stop` it first")
	case i >= 0 && !all[i].learner && votes <= 2:
		return out, refuse(name, "with it there are two members, and one alone loses everything with its disk: let another one join first, with `faas server --join`")
	}
	return out, nil
}

// Copies is how many copies of something there are to be, and which servers of NATS
// have one that is whole.
type Copies struct {
	Want int
	On   []string
}

// status tells what a member is.
func status(v voter, runs bool, nats string, copies []Copies) string {
	lacks := func(c Copies) bool { return len(c.On) < c.Want && !slices.Contains(c.On, nats) }
	switch {
	case v.learner:
		return join.MemberJoining
	case !runs:
		return join.MemberLost
	case slices.ContainsFunc(copies, lacks):
		return join.MemberSyncing
	}
	return join.MemberReady
}

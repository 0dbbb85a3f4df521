package member

import (
	"fmt"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/internal/join"
)

func TestAdmit(t *testing.T) {
	a, b, c := voter{id: 1, address: "10.0.0.1", begun: true}, voter{id: 2, address: "10.0.0.2", begun: true}, voter{id: 3, address: "10.0.0.3"}
	slow := voter{id: 4, address: "10.0.0.4", learner: true, begun: true}
	known := []Record{{Name: "one", Address: "10.0.0.1"}, {Name: "gone", Address: "10.0.0.9"}}
	for _, k := range []struct {
		name, address string
		all           []voter
		want          string // a step, or what the error says
	}{
		{"two", "10.0.0.2", []voter{a}, "0"},
		{"gone", "10.0.0.2", []voter{a}, "0"}, // whose member is removed
		{"three", "10.0.0.3", []voter{a, b, c}, "1"},
		{"four", "10.0.0.4", []voter{a, b, slow}, "2"},
		{"one", "10.0.0.2", []voter{a}, "there is a server one at 10.0.0.1"},
		{"new", "10.0.0.2", []voter{a, b}, "whose data this machine does not have"},
		{"six", "10.0.0.6", []voter{a, b, c, slow, {id: 5, address: "10.0.0.5"}}, "5 servers already"},
		{"two", "here", []voter{a}, "must be an IP address"},
		{"two", "0.0.0.0", []voter{a}, "must be an IP address"},
		{"", "10.0.0.2", []voter{a}, "says no name"},
	} {
		got, err := admit(join.Newcomer{Name: k.name, Address: k.address}, k.all, known)
		if said := fmt.Sprint(got); err == nil && said != k.want || err != nil && !strings.Contains(err.Error(), k.want) {
			t.Errorf("%s at %s: %s, %v; want %s", k.name, k.address, said, err, k.want)
		}
	}
}

func TestLeave(t *testing.T) {
	a, b, c := voter{id: 1, address: "10.0.0.1", begun: true}, voter{id: 2, address: "10.0.0.2", begun: true}, voter{id: 3, address: "10.0.0.3", begun: true}
	learns := voter{id: 4, address: "10.0.0.4", learner: true}
	known := []Record{{Name: "one", Address: "10.0.0.1"}, {Name: "two", Address: "10.0.0.2", NATS: "n2"}, {Name: "half", Address: "10.0.0.9"}}
	for _, k := range []struct {
		name    string
		all     []voter
		running []string
		want    string // an address, or what the error says
	}{
		{"two", []voter{a, b, c}, nil, "10.0.0.2"},
		{"10.0.0.2", []voter{a, b, c}, []string{"10.0.0.1"}, "10.0.0.2"},
		{"10.0.0.3", []voter{a, b, c}, nil, "10.0.0.3"}, // which has never told its name
		{"half", []voter{a, b, c}, nil, "10.0.0.9"},     // etcd has removed it, NATS may not have
		{"10.0.0.4", []voter{a, b, learns}, nil, "10.0.0.4"},
		{"two", []voter{a, b, c}, []string{"10.0.0.2"}, "it runs"},
		{"two", []voter{a, b}, nil, "two members"},
		{"two", []voter{a, b, learns}, nil, "two members"},
		{"nobody", []voter{a, b, c}, nil, "not found"},
	} {
		got, err := leave(k.name, k.all, known, k.running)
		if err == nil && got.Address != k.want || err != nil && !strings.Contains(err.Error(), k.want) {
			t.Errorf("%s: %+v, %v; want %s", k.name, got, err, k.want)
		}
	}
}

func TestStatus(t *testing.T) {
	whole := []Copies{{Want: 3, On: []string{"a", "b", "c"}}, {Want: 1, On: []string{"b"}}}
	lacks := []Copies{{Want: 3, On: []string{"a", "b"}}}
	for _, k := range []struct {
		v      voter
		runs   bool
		nats   string
		copies []Copies
		want   string
	}{
		{voter{}, true, "a", whole, join.MemberReady},
		{voter{}, true, "e", whole, join.MemberReady}, // one of five
		{voter{}, true, "c", lacks, join.MemberSyncing},
		{voter{}, true, "a", lacks, join.MemberReady},
		{voter{}, false, "a", whole, join.MemberLost},
		{voter{learner: true}, false, "a", whole, join.MemberJoining},
	} {
		if got := status(k.v, k.runs, k.nats, k.copies); got != k.want {
			t.Errorf("%+v: %s, want %s", k, got, k.want)
		}
	}
}

package node

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// run plays seconds of a cluster, a look every half second. alive says whether a
// node renews in a second, up whether the store takes writes in it. It answers
// with the second in which each node was declared lost.
func run(seconds int, nodes []string, alive func(node string, second int) bool, up func(second int) bool) map[string]int {
	h := newHealth(4 * time.Second)
	lost := map[string]int{}
	for _, n := range nodes {
		h.register(n, false, begin)
	}
	for half := range seconds * 2 {
		now, second := begin.Add(time.Duration(half)*500*time.Millisecond), half/2
		for i, n := range nodes {
			if half%2 == i%2 && up(second) && alive(n, second) {
				if h.renewed(n, fmt.Sprint(half), 0, now) {
					delete(lost, n)
				}
			}
		}
		if h.silent(now) {
			h.evidence(up(second), now)
		}
		names, _ := h.due(now)
		for _, n := range names {
			h.lose(n)
			lost[n] = second
		}
	}
	return lost
}

func TestHealth(t *testing.T) {
	always := func(int) bool { return true }
	for name, tt := range map[string]struct {
		nodes []string
		alive func(string, int) bool
		up    func(int) bool
		want  map[string]int
	}{
		"all well": {[]string{"a", "b"}, func(string, int) bool { return true }, always, nil},
		"one dies": {[]string{"a", "b"}, func(n string, s int) bool { return n == "b" || s < 20 }, always, map[string]int{"a": 23}},
		"the only one dies": {
			[]string{"a"}, func(_ string, s int) bool { return s < 20 }, always, map[string]int{"a": 23},
		},
		"one never came": {[]string{"a", "b"}, func(n string, _ int) bool { return n == "b" }, always, map[string]int{"a": 4}},
		"all die":        {[]string{"a", "b"}, func(_ string, s int) bool { return s < 20 }, always, map[string]int{"a": 23, "b": 23}},
		"the store is away": {
			[]string{"a", "b"}, func(string, int) bool { return true }, func(s int) bool { return s < 10 || s > 20 }, nil,
		},
		"one dies while the store is away": {
			[]string{"a", "b"}, func(n string, s int) bool { return n == "b" || s < 12 }, func(s int) bool { return s < 10 || s >= 20 }, map[string]int{"a": 24},
		},
		"comes back": {[]string{"a"}, func(_ string, s int) bool { return s < 10 || s > 20 }, always, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := run(40, tt.nodes, tt.alive, tt.up)
			if fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("lost at %v, want %v", got, tt.want)
			}
		})
	}
}

// A node that renews whenever the store lets it is never lost, whatever the
// store does.
func TestLiveNodesAreNeverLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		up := rapid.SliceOfN(rapid.Bool(), 60, 60).Draw(t, "store")
		dead := rapid.IntRange(0, 60).Draw(t, "death of b")
		got := run(60, []string{"a", "b"}, func(n string, s int) bool { return n == "a" || s < dead }, func(s int) bool { return up[s] })
		if at, ok := got["a"]; ok {
			t.Fatalf("a was lost at %d s; the store was up %v", at, up)
		}
	})
}

func TestFrozenProcessLosesNoNode(t *testing.T) {
	h := newHealth(4 * time.Second)
	h.register("a", false, begin)
	h.renewed("a", "1", 0, begin)
	now := begin.Add(time.Minute) // nothing was looked at for so long
	h.evidence(true, now)
	if names, _ := h.due(now); len(names) > 0 {
		t.Errorf("%v lost right after a pause of our own", names)
	}
	for now.Before(begin.Add(64 * time.Second)) {
		now = now.Add(500 * time.Millisecond)
		h.evidence(true, now)
	}
	if names, _ := h.due(now); !slices.Equal(names, []string{"a"}) {
		t.Errorf("lost %v a grace period later, want a", names)
	}
}

func TestLostInAnEarlierLife(t *testing.T) {
	h := newHealth(4 * time.Second)
	h.register("a", true, begin)
	if h.renewed("a", "old", 0, begin) {
		t.Error("back by a lease that is only what it was")
	}
	if !h.lost("a") {
		t.Error("not lost any more")
	}
	if !h.renewed("a", "new", 0, begin.Add(time.Second)) || h.lost("a") {
		t.Error("a renewal brings it back")
	}
}

// A node that was told to end is waited for as long as it has said, but not for ever;
// and one that has renewed its lease since as long as any.
func TestAway(t *testing.T) {
	lostAfter := func(away time.Duration, again bool) time.Duration {
		h := newHealth(4 * time.Second)
		h.register("a", false, begin)
		h.evidence(true, begin)
		h.renewed("a", "1", away, begin)
		if again {
			h.renewed("a", "2", 0, begin)
		}
		for now := begin; now.Before(begin.Add(time.Hour)); now = now.Add(500 * time.Millisecond) {
			h.evidence(true, now)
			if names, _ := h.due(now); len(names) > 0 {
				return now.Sub(begin)
			}
		}
		return 0
	}
	for _, c := range []struct {
		away  time.Duration
		again bool
		want  time.Duration
	}{{0, false, 4 * time.Second}, {10 * time.Second, false, 10 * time.Second}, {time.Second, false, 4 * time.Second}, {time.Hour, false, longestAway}, {10 * time.Second, true, 4 * time.Second}} {
		if got := lostAfter(c.away, c.again); got != c.want {
			t.Errorf("away for %v, renewed again %v: lost after %v, want %v", c.away, c.again, got, c.want)
		}
	}
}

package autoscale

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

const mib = 1 << 20

func TestEvict(t *testing.T) {
	replicas := []Idle{
		{Pod: "likely", Memory: 100 * mib, Chance: 0.9},
		{Pod: "unlikely", Memory: 100 * mib, Chance: 0.01},
		{Pod: "large", Memory: 500 * mib, Chance: 0.2},
		{Pod: "slow", Memory: 100 * mib, Chance: 0.01, Cold: 2 * time.Second},
		{Pod: "small", Memory: 10 * mib, Chance: 0.02},
		{Pod: "nothing"},
	}
	for _, c := range []struct {
		need  uint64
		want  string
		freed uint64
	}{
		{0, "", 0},
		{1, "unlikely", 100 * mib},
		{100 * mib, "unlikely", 100 * mib},
		{101 * mib, "large", 500 * mib}, // it is enough alone: the other one may stay
		{550 * mib, "unlikely large", 600 * mib},
		{605 * mib, "unlikely large small", 610 * mib},
		{1 << 40, "unlikely large small likely slow", 810 * mib},
	} {
		got, freed := Evict(replicas, c.need)
		var names []string
		for _, e := range got {
			names = append(names, string(e.Pod))
			if e.Reason == "" {
				t.Errorf("%s goes without a reason", e.Pod)
			}
		}
		if s := strings.Join(names, " "); s != c.want || freed != c.freed {
			t.Errorf("%d MiB: %q with %d MiB, want %q with %d", c.need/mib, s, freed/mib, c.want, c.freed/mib)
		}
	}
	got, _ := Evict(replicas, 30*mib)
	if want := "30 MiB are needed: it holds 100 MiB, is needed within 10m0s with a chance of 0.01, and a start costs 4.8ms, the least for its memory"; got[0].Reason != want {
		t.Errorf("%q, want %q", got[0].Reason, want)
	}
}

// Enough is freed when that is possible, none of those chosen could stay, the
// order of the input does not matter, and nothing is chosen twice.
func TestEvictInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []Idle
		total := uint64(0)
		for i := range rapid.IntRange(0, 30).Draw(t, "replicas") {
			r := Idle{
				Pod: types.UID(fmt.Sprint(i)), Memory: rapid.Uint64Range(0, 50).Draw(t, "memory") * mib,
				Chance: rapid.Float64Range(0, 1).Draw(t, "chance"), Cold: time.Duration(rapid.IntRange(0, 2000).Draw(t, "cold")) * time.Millisecond,
			}
			total += r.Memory
			all = append(all, r)
		}
		before := slices.Clone(all)
		need := rapid.Uint64Range(0, 800).Draw(t, "need") * mib
		got, freed := Evict(all, need)
		if !slices.Equal(before, all) {
			t.Fatal("the input is another one")
		}
		sum, seen := uint64(0), map[types.UID]bool{}
		for _, e := range got {
			if seen[e.Pod] {
				t.Fatalf("%s goes twice", e.Pod)
			}
			seen[e.Pod] = true
			sum += e.Memory
		}
		if sum != freed || freed < min(need, total) {
			t.Fatalf("%d of %d needed are freed, by count %d; there are %d", freed, need, sum, total)
		}
		for _, e := range got {
			if freed >= need && freed-e.Memory >= need {
				t.Fatalf("%s with %d could stay: %d are freed, %d needed", e.Pod, e.Memory, freed, need)
			}
		}
		slices.Reverse(all)
		if again, _ := Evict(all, need); !reflect.DeepEqual(got, again) {
			t.Fatalf("%v, and the other way round %v", got, again)
		}
	})
}

func TestPressure(t *testing.T) {
	const g = 1 << 30
	for _, c := range []struct{ total, used, need uint64 }{
		{0, 0, 0}, {100 * g, 50 * g, 0}, {100 * g, 90 * g, 0}, {100 * g, 91 * g, 11 * g}, {100 * g, 120 * g, 40 * g},
	} {
		if got := (Pressure{c.total, c.used}).Need(); got != c.need {
			t.Errorf("%d of %d: %d, want %d", c.used, c.total, got, c.need)
		}
	}
}

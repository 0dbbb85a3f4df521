package balance_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/gateway/balance"
	"pgregory.net/rapid"
)

func first(int) int { return 0 }

func TestAcquire(t *testing.T) {
	for _, tt := range []struct {
		name   string
		limits []int  // of replicas a, b, c, …
		script string // "+" acquires, "-x" releases x, "!x" closes x, "^x" opens x
		want   string // what each + gave; "." is nothing
	}{
		{"empty", nil, "+", "."},
		{"one at a time, the last added first", []int{1, 1}, "+ + +", "b a ."},
		{"the most recently freed first", []int{1, 1, 1}, "+ + + -a -c -b + + + +", "c b a b c a ."},
		{"no limit, ties go round", []int{0, 0}, "+ + + +", "a b a b"},
		{"least in flight", []int{0, 0}, "+ + + -b + +", "a b a b b"},
		{"up to the limit", []int{2, 2}, "+ + + + + -b +", "a b a b . b"},
		{"a closed one is not chosen", []int{0, 0}, "!a + + ^a + +", "b b a a"},
		{"a closed single one that is freed is not chosen", []int{1}, "+ !a -a + ^a +", "a . a"},
		{"a full one opened again", []int{2}, "+ + !a ^a + -a +", "a a . a"},
		{"mixed limits", []int{1, 0}, "+ + +", "a b b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s balance.Set[string]
			rs := map[string]*balance.Replica[string]{}
			for i, l := range tt.limits {
				n := string(rune('a' + i))
				rs[n] = s.Add(n, l)
			}
			var got []string
			for op := range strings.FieldsSeq(tt.script) {
				r := rs[op[1:]]
				switch op[0] {
				case '+':
					if r := s.Acquire(first); r != nil {
						got = append(got, r.Value)
					} else {
						got = append(got, ".")
					}
				case '-':
					s.Release(r)
				case '!':
					s.SetOpen(r, false)
				case '^':
					s.SetOpen(r, true)
				}
			}
			if g := strings.Join(got, " "); g != tt.want {
				t.Errorf("got %q, want %q", g, tt.want)
			}
		})
	}
}

// TestInvariants lets a random machine run against a plain count: a slot is
// given exactly when an open replica has one, never above its limit.
func TestInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s balance.Set[int]
		seed := rand.New(rand.NewPCG(1, uint64(rapid.IntRange(0, 1000).Draw(t, "seed"))))
		limit := map[*balance.Replica[int]]int{}
		var taken []*balance.Replica[int]
		room := func() bool {
			for _, r := range s.All() {
				if r.Open() && (limit[r] == 0 || r.InFlight() < limit[r]) {
					return true
				}
			}
			return false
		}
		pick := func() *balance.Replica[int] {
			if len(s.All()) == 0 {
				t.Skip("no replica")
			}
			return s.All()[rapid.IntRange(0, len(s.All())-1).Draw(t, "replica")]
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				l := rapid.IntRange(0, 3).Draw(t, "limit")
				r := s.Add(len(limit), l)
				limit[r] = l
			},
			"remove": func(*rapid.T) { s.Remove(pick()) },
			"toggle": func(*rapid.T) { r := pick(); s.SetOpen(r, !r.Open()) },
			"limit": func(t *rapid.T) {
				r := pick()
				limit[r] = rapid.IntRange(0, 3).Draw(t, "limit")
				s.SetLimit(r, limit[r])
			},
			"acquire": func(t *rapid.T) {
				could := room()
				r := s.Acquire(seed.IntN)
				if (r != nil) != could {
					t.Fatalf("acquire gave %v, room is %v", r, could)
				}
				if r == nil {
					return
				}
				if !r.Open() || limit[r] > 0 && r.InFlight() > limit[r] {
					t.Fatalf("replica %d: open %v, %d in flight, limit %d", r.Value, r.Open(), r.InFlight(), limit[r])
				}
				taken = append(taken, r)
			},
			"release": func(t *rapid.T) {
				if len(taken) == 0 {
					t.Skip("nothing taken")
				}
				i := rapid.IntRange(0, len(taken)-1).Draw(t, "slot")
				s.Release(taken[i])
				taken = append(taken[:i], taken[i+1:]...)
			},
		})
	})
}

func BenchmarkAcquire(b *testing.B) {
	for _, n := range []int{1, 8, 100} {
		for _, limit := range []int{0, 1} {
			b.Run(fmt.Sprintf("replicas=%d,limit=%d", n, limit), func(b *testing.B) {
				var s balance.Set[int]
				for i := range n {
					s.Add(i, limit)
				}
				for b.Loop() {
					s.Release(s.Acquire(rand.IntN))
				}
			})
		}
	}
}

package address

import (
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A set never gives one thing to two owners whose writes succeed, and finds a
// free one as long as there is any.
func TestSetAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := addresses(netip.MustParsePrefix("10.0.0.0/28")) // 14 of them
		now := time.Unix(0, 0)
		stored := map[string]netip.Addr{}
		asked := map[string]netip.Addr{} // by writes under way
		has := func(ip netip.Addr, but string) string {
			for o, v := range stored {
				if v == ip && o != but {
					return o
				}
			}
			for o, v := range asked {
				if v == ip && o != but {
					return o
				}
			}
			return ""
		}
		owners := []string{"a", "b", "c", "d", "e", "f"}
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				o := rapid.SampledFrom(owners).Draw(t, "owner")
				if has(stored[o], "") == o || has(asked[o], "") == o {
					return // a write of the same object keeps its address
				}
				ip, ok := s.take(o, now, func(netip.Addr) bool { return true })
				if !ok {
					t.Fatalf("nothing is free, with %d stored and %d asked for", len(stored), len(asked))
				}
				if other := has(ip, o); other != "" {
					t.Fatalf("%s was given to %s, %s has it", ip, o, other)
				}
				asked[o] = ip
			},
			"ask": func(t *rapid.T) {
				o := rapid.SampledFrom(owners).Draw(t, "owner")
				if _, ok := stored[o]; ok {
					return
				}
				if _, ok := asked[o]; ok {
					return
				}
				ip := netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(1, 14).Draw(t, "ip"))})
				got, want := s.ask(ip, o, now), has(ip, o) == ""
				if got != want {
					t.Fatalf("%s asks for %s: %v, want %v", o, ip, got, want)
				}
				if got {
					asked[o] = ip
				}
			},
			"stored": func(t *rapid.T) {
				o := rapid.SampledFrom(owners).Draw(t, "owner")
				if ip, ok := asked[o]; ok {
					s.store(o, []netip.Addr{ip})
					stored[o] = ip
					delete(asked, o)
				}
			},
			"failed, long ago": func(*rapid.T) {
				clear(asked)
				now = now.Add(patience)
			},
			"deleted": func(t *rapid.T) {
				o := rapid.SampledFrom(owners).Draw(t, "owner")
				s.free(o)
				delete(stored, o)
			},
		})
	})
}

func TestNothingIsFree(t *testing.T) {
	now := time.Unix(0, 0)
	s, err := blocks(netip.MustParsePrefix("10.62.0.0/16"), 18)
	if err != nil {
		t.Fatal(err)
	}
	every := func(netip.Prefix) bool { return true }
	for i, want := range []string{"10.62.0.0/18", "10.62.64.0/18", "10.62.128.0/18", "10.62.192.0/18"} {
		b, ok := s.take(string(rune('a'+i)), now, every)
		if !ok || b.String() != want {
			t.Fatalf("%v %v, want %s", b, ok, want)
		}
	}
	if b, ok := s.take("e", now, every); ok {
		t.Errorf("%s was given twice", b)
	}
	if b, ok := s.take("c", now, every); !ok || b.String() != "10.62.128.0/18" {
		t.Errorf("an attempt that is repeated gets %v %v, want the same", b, ok)
	}
	if b, ok := s.take("e", now.Add(patience), every); !ok || b.String() != "10.62.0.0/18" {
		t.Errorf("%v %v, want the first of those whose writes have failed", b, ok)
	}
	if _, err := blocks(netip.MustParsePrefix("10.62.0.0/24"), 22); err == nil {
		t.Error("a block may not be larger than the network")
	}
}

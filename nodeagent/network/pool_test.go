package network

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPoolBounds(t *testing.T) {
	p, err := newPool(netip.MustParsePrefix("10.9.0.8/29"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, o := range []string{"a", "b", "c", "d", "e"} {
		a, err := p.take(o)
		if err != nil {
			t.Fatal(err)
		}
		got[a.String()] = true
	}
	for _, want := range []string{"10.9.0.10", "10.9.0.11", "10.9.0.12", "10.9.0.13", "10.9.0.14"} {
		if !got[want] {
			t.Errorf("%s was not handed out: %v", want, got)
		}
	}
	if _, err := p.take("f"); err == nil || !strings.Contains(err.Error(), "no free address") {
		t.Errorf("got %v, want an error about a full CIDR", err)
	}
	for _, bad := range []string{"10.9.0.8", "10.9.0.9", "10.9.0.15", "10.9.0.16", "::1"} {
		if err := p.reserve("x", netip.MustParseAddr(bad)); err == nil {
			t.Errorf("reserve %s: got no error", bad)
		}
	}
	if err := p.reserve("x", netip.MustParseAddr("10.9.0.10")); err == nil {
		t.Error("reserve of a taken address: got no error")
	}
	for _, bad := range []string{"10.0.0.0/30", "0.0.0.0/0", "fd00::/64"} {
		if _, err := newPool(netip.MustParsePrefix(bad)); err == nil {
			t.Errorf("newPool(%s): got no error", bad)
		}
	}
}

// An address has one owner, whatever the order of calls.
func TestPoolInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, err := newPool(netip.MustParsePrefix("10.9.0.0/28"))
		if err != nil {
			t.Fatal(err)
		}
		owners := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o"})
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				a, err := p.take(owners.Draw(t, "owner"))
				if err == nil && !p.usable(a) {
					t.Fatalf("handed out %s", a)
				}
				if err != nil && len(p.owner) != 13 {
					t.Fatalf("%v with %d of 13 taken", err, len(p.owner))
				}
			},
			"release": func(t *rapid.T) { p.release(owners.Draw(t, "owner")) },
			"reserve": func(t *rapid.T) {
				host := rapid.IntRange(0, 20).Draw(t, "host")
				_ = p.reserve(owners.Draw(t, "owner"), netip.AddrFrom4([4]byte{10, 9, 0, byte(host)}))
			},
			"": func(t *rapid.T) {
				if len(p.owner) != len(p.byOwner) {
					t.Fatalf("%d addresses, %d owners", len(p.owner), len(p.byOwner))
				}
				for a, o := range p.owner {
					if p.byOwner[o] != a {
						t.Fatalf("%s belongs to %s, who has %s", a, o, p.byOwner[o])
					}
				}
			},
		})
	})
}

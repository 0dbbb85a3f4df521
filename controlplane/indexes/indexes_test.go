package indexes_test

import (
	"strings"
	"testing"

	"github.com/podsnap/podsnap/controlplane/indexes"
	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "0": "0", "1,3-5,7": "1,3-5,7", "1,2": "1,2", "1,2,3": "1-3", "0-1": "0,1",
		"x": "no index", "1-x": "no index", "3-1": "above its beginning", "2-2": "above its beginning",
		"2,1": "ascending", "1,1": "ascending", "1-3,3": "ascending", "10": "not below", "8-10": "not below", "-1": "no index",
	} {
		s, err := indexes.Parse(text, 10)
		if err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %q", text, err, want)
			}
			continue
		}
		if got := s.String(); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
	if got := indexes.Below("1,3-8", 5).String(); got != "1,3,4" {
		t.Errorf("below 5: %s", got)
	}
}

// A set is what a map is, and its text says all of it.
func TestSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s indexes.Set
		model := map[int]bool{}
		for _, i := range rapid.SliceOf(rapid.IntRange(0, 40)).Draw(t, "indexes") {
			s.Add(i)
			model[i] = true
		}
		var even indexes.Set
		both := 0
		for i := range 41 {
			if s.Has(i) != model[i] {
				t.Fatalf("%v: Has(%d) is %t", s, i, s.Has(i))
			}
			if i%2 == 0 {
				even.Add(i)
				if model[i] {
					both++
				}
			}
		}
		gap := 0
		for model[gap] {
			gap++
		}
		if got := s.Gap(0); got != gap {
			t.Fatalf("the first gap of %q is %d, want %d", s, got, gap)
		}
		again, err := indexes.Parse(s.String(), 41)
		if err != nil || s.Len() != len(model) || again.String() != s.String() || s.Within(even) != both {
			t.Fatalf("%q, %d of %d, read again %q (%v), %d even ones of %d", s, s.Len(), len(model), again, err, s.Within(even), both)
		}
	})
}

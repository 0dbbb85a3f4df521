package cache

import "testing"

// FuzzToken: what a client makes of a continue token is refused or read as what it
// says.
func FuzzToken(f *testing.F) {
	for _, s := range []string{"", "x", token{Rev: 7, Namespace: "a", Name: "b"}.String(), token{Rev: -1, Name: "b"}.String(), "bnVsbA", "e30", "eyJydiI6MWU5OX0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		is, err := parseToken(text)
		if err != nil {
			return
		}
		if again, err := parseToken(is.String()); err != nil || again != is {
			t.Fatalf("%q is %+v, and that is %+v, %v", text, is, again, err)
		}
	})
}

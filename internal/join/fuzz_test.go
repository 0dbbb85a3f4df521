package join

import "testing"

// FuzzParse: a token is what it says, or refused with a hint.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", " ", "F1", "F1::", NewToken([]byte("ca")).String(), NewToken(nil).String() + "\n", "F1" + Digest(nil) + "::x.y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		is, err := Parse(text)
		if err != nil {
			if is != (Token{}) {
				t.Fatalf("%+v beside %v", is, err)
			}
			return
		}
		if again, err := Parse(is.String()); err != nil || again != is {
			t.Fatalf("%q is %+v, and then %+v, %v", text, is, again, err)
		}
	})
}

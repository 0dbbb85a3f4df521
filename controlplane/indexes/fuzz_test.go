package indexes

import "testing"

// FuzzParse: a set that is read and written is the same, and in the shortest form.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "0", "1,3-5,7", "1,2,3", "0-9223372036854775807", "1-", "-1", "3,1", "1-1", "00,1", "+1,2", "1,,2"} {
		f.Add(s, 10)
		f.Add(s, int(^uint(0)>>1))
	}
	f.Fuzz(func(t *testing.T, text string, limit int) {
		Below(text, limit)
		s, err := Parse(text, limit)
		if err != nil {
			return
		}
		again, err := Parse(s.String(), limit)
		if err != nil || again.String() != s.String() || again.Len() != s.Len() {
			t.Fatalf("%q is written as %q and read as %q, %v", text, s, again, err)
		}
	})
}

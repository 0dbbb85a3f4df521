package logfile

import (
	"bytes"
	"testing"
)

// FuzzParse: a line that is read and written is the same line.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"2026-11-30T04:00:00.000000001Z stdout F hello", "2026-11-30T04:00:00Z stderr P  two spaces\n", "2026-11-30T04:00:00+23:59 stdout F:x y",
		"", " ", "x stdout F y", "2026-11-30T04:00:00Z stdlog F y", "2026-11-30T04:00:00Z stdout G y", "0000-01-01T00:00:00+01:00 stdout F ",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Parse(b)
		if err != nil || bytes.IndexByte(l.Text, '\n') >= 0 { // a file's line has none
			return
		}
		if y := l.Time.UTC().Year(); y < 0 || y > 9999 {
			return // no clock says so
		}
		again, err := Parse(l.Append(nil))
		if err != nil || !again.Time.Equal(l.Time) || again.Stream != l.Stream || again.Partial != l.Partial || !bytes.Equal(again.Text, l.Text) {
			t.Fatalf("%q is %+v, and then %+v, %v", b, l, again, err)
		}
	})
}

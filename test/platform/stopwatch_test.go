package platform

import (
	"testing"
	"time"
)

func TestSpent(t *testing.T) {
	for _, c := range []struct{ elapsed, lost, want time.Duration }{
		{10, 0, 10},
		{10 * time.Second, 4 * time.Second, 7 * time.Second},
		{8 * time.Second, 8 * time.Second, 2 * time.Second},
		{8 * time.Second, 9 * time.Second, 2 * time.Second}, // the two clocks are not read at once
		{8 * time.Second, -time.Second, 8 * time.Second},
	} {
		if got := spent(c.elapsed, c.lost); got != c.want {
			t.Errorf("of %v, %v of it lost: %v, want %v", c.elapsed, c.lost, got, c.want)
		}
	}
}

func TestTotal(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"some avg10=95.91 avg60=98.21 avg300=98.64 total=39603532364\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n": 39603532364 * time.Microsecond,
		"":                          0,
		"some avg10=0.00 total=x\n": 0,
	} {
		if got := total(text); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

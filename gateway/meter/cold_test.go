package meter

import (
	"fmt"
	"testing"
	"time"
)

func TestColdStart(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(100, 0).Add(time.Duration(ms) * time.Millisecond) }
	whole := ColdStart{at(0), at(1), at(3), at(10), at(11), at(12), at(20)}
	for _, tt := range []struct {
		name   string
		change func(*ColdStart)
		want   string
	}{
		{"explained", func(*ColdStart) {}, "queued=11ms create=1ms place=2ms start=7ms hand_out=1ms connect=1ms first_byte=8ms "},
		{"not known", func(c *ColdStart) { c.Created = time.Time{} }, "queued=11ms connect=1ms first_byte=8ms "},
		{"made for somebody else", func(c *ColdStart) { c.Created = at(-1) }, "queued=11ms connect=1ms first_byte=8ms "},
		{"another clock", func(c *ColdStart) { c.Ready = at(12) }, "queued=11ms connect=1ms first_byte=8ms "},
	} {
		c := whole
		tt.change(&c)
		got := ""
		for stage, d := range c.Stages() {
			got += fmt.Sprintf("%s=%s ", stage, d)
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

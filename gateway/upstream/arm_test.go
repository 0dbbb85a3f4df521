package upstream

import (
	"net"
	"testing"
	"time"
)

// deadlines counts how often a deadline is set, and knows the last.
type deadlines struct {
	net.Conn
	set int
	at  time.Time
}

func (d *deadlines) SetDeadline(t time.Time) error {
	d.set++
	d.at = t
	return nil
}

// The deadline of a connection is moved seldom, never passes before patience is
// over or after the call's limit, and not long after.
func TestArm(t *testing.T) {
	d := &deadlines{}
	c := newConn(nil, d)
	now := time.Now()
	for i, s := range []struct {
		after, limit time.Duration // limit from then; 0 is none
		set          int
	}{
		{0, 0, 1},
		{time.Millisecond, 0, 1},
		{10 * time.Millisecond, time.Minute, 1},
		{4 * time.Millisecond, time.Minute, 1},
		{time.Millisecond, time.Minute, 2},
		{time.Second, 0, 3},
		{0, patience / 2, 4},
		{0, time.Minute, 5},
		{0, 3 * patience, 6},
		{patience, time.Minute, 6},
	} {
		now = now.Add(s.after)
		var limit time.Time
		if s.limit != 0 {
			limit = now.Add(s.limit)
		}
		if err := c.arm(now, limit); err != nil {
			t.Fatal(err)
		}
		least := now.Add(patience)
		if s.limit != 0 && s.limit < patience {
			least = limit
		}
		if d.set != s.set || d.at.Before(least) || d.at.After(now.Add(mostPatience)) || s.limit != 0 && d.at.After(limit) {
			t.Errorf("%d: set %d times, at last to %v from now", i, d.set, d.at.Sub(now))
		}
	}
}

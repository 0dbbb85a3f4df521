package crontab

import (
	"testing"
	"time"
)

// FuzzParse: a schedule that is accepted has a next run, later than now, or none.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"* * * * *", "0 3 * * MON-FRI", "*/5 0-6/2 1,15 JAN ?", "@hourly", "@every 1h30m", "@every -1s", "0 0 30 2 *", "TZ=UTC * * * * *", "CRON_TZ= ", "99999999999999999999 * * * *", "*/0 * * * *", "1-0 * * * *"} {
		f.Add(s, "Europe/Berlin")
	}
	f.Add("* * * * *", "../etc/passwd")
	f.Add("30 2 * * *", "America/New_York")
	f.Fuzz(func(t *testing.T, schedule, zone string) {
		s, err := Parse(schedule, zone)
		if err != nil {
			return
		}
		now := time.Date(2026, 3, 29, 0, 59, 59, 0, time.UTC)
		if next := s.Next(now); !next.IsZero() && !next.After(now) {
			t.Fatalf("%q: the next run after %s is at %s", schedule, now, next)
		}
		if last, n := s.Due(now.Add(-time.Hour), now); last.After(now) || (n == 0) != last.IsZero() {
			t.Fatalf("%q: %d runs, the last at %s", schedule, n, last)
		}
	})
}

package crontab_test

import (
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/controlplane/crontab"
)

func at(t *testing.T, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestNext(t *testing.T) {
	for _, c := range []struct{ schedule, zone, after, want string }{
		{"*/5 * * * *", "UTC", "2026-03-01T10:02:30Z", "2026-03-01T10:05:00Z"},
		{"*/5 * * * *", "UTC", "2026-03-01T10:05:00Z", "2026-03-01T10:10:00Z"},
		{"@hourly", "UTC", "2026-03-01T10:05:00Z", "2026-03-01T11:00:00Z"},
		{"0 9 * * MON", "UTC", "2026-03-01T10:00:00Z", "2026-03-02T09:00:00Z"},
		{"0 9 * * *", "Europe/Berlin", "2026-01-10T00:00:00Z", "2026-01-10T08:00:00Z"},
		{"0 9 * * *", "Europe/Berlin", "2026-07-10T00:00:00Z", "2026-07-10T07:00:00Z"},
		{"0 0 31 2 *", "UTC", "2026-01-01T00:00:00Z", ""}, // never
	} {
		s, err := crontab.Parse(c.schedule, c.zone)
		if err != nil {
			t.Fatal(err)
		}
		got := s.Next(at(t, c.after))
		if c.want == "" {
			if !got.IsZero() {
				t.Errorf("%+v: %v, want never", c, got)
			}
		} else if !got.Equal(at(t, c.want)) {
			t.Errorf("%+v: %v", c, got.UTC())
		}
	}
}

func TestDue(t *testing.T) {
	for _, c := range []struct {
		schedule, since, now, last string
		missed                     int
	}{
		{"0 * * * *", "2026-03-01T10:30:00Z", "2026-03-01T10:59:59Z", "", 0},
		{"0 * * * *", "2026-03-01T10:30:00Z", "2026-03-01T11:00:00Z", "2026-03-01T11:00:00Z", 1},
		{"0 * * * *", "2026-03-01T10:00:00Z", "2026-03-01T12:59:00Z", "2026-03-01T12:00:00Z", 2},
		{"* * * * *", "2026-03-01T00:00:00Z", "2026-03-01T01:40:30Z", "2026-03-01T01:40:00Z", 100},
		{"* * * * *", "2025-03-01T00:00:00Z", "2026-03-01T01:41:30Z", "2026-03-01T01:41:00Z", 101},
		{"0 0 1 1 *", "1900-03-01T00:00:00Z", "2026-03-01T00:00:00Z", "2026-01-01T00:00:00Z", 101},
	} {
		s, err := crontab.Parse(c.schedule, "UTC")
		if err != nil {
			t.Fatal(err)
		}
		last, missed := s.Due(at(t, c.since), at(t, c.now))
		if missed != c.missed || c.last == "" != last.IsZero() || c.last != "" && !last.Equal(at(t, c.last)) {
			t.Errorf("%+v: %v, %d", c, last, missed)
		}
	}
}

func TestFaults(t *testing.T) {
	for _, c := range []struct{ schedule, zone, want string }{
		{"* * * *", "", "expected exactly 5 fields"},
		{"61 * * * *", "", "above maximum"},
		{"TZ=UTC * * * * *", "", "belongs in timeZone"},
		{"CRON_TZ=UTC * * * * *", "", "belongs in timeZone"},
		{"* * * * *", "Mars/Olympus", "not known"},
		{"* * * * *", "local", "no time zone"},
	} {
		if _, err := crontab.Parse(c.schedule, c.zone); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// Package crontab says when the runs of a CronJob are due. It knows no clock.
package crontab

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // a machine need not have the time zones

	"github.com/robfig/cron/v3"
)

// ManyMissed is how many missed runs make one doubt a clock.
const ManyMissed = 100

// Schedule is the times at which something is due.
type Schedule struct {
	spec cron.Schedule
	zone *time.Location
}

// Parse reads the five fields of a crontab, or a macro such as @hourly. They are
// read in the time zone of the name, of the IANA's list; "" is the machine's.
func Parse(schedule, zone string) (Schedule, error) {
	if strings.Contains(schedule, "TZ=") {
		return Schedule{}, errors.New("the time zone belongs in timeZone, not in the schedule")
	}
	spec, err := cron.ParseStandard(schedule)
	if err != nil {
		return Schedule{}, err
	}
	z, err := Zone(zone)
	return Schedule{spec, z}, err
}

// Zone finds a time zone by its name; "" is the machine's.
func Zone(name string) (*time.Location, error) {
	switch {
	case name == "":
		return time.Local, nil
	case strings.EqualFold(name, "local"):
		return nil, errors.New(`"Local" is no time zone: leave it out, or name one such as Europe/Berlin`)
	}
	z, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("%q is not known; it must be a name of the IANA's list, such as Europe/Berlin", name)
	}
	return z, nil
}

// Next is the first time after t; the zero time when there is none.
func (s Schedule) Next(t time.Time) time.Time { return s.spec.Next(t.In(s.zone)) }

// Due is the last time after since that is not after now, and how many there are:
// counted up to one more than ManyMissed. It is the zero time when there is none.
func (s Schedule) Due(since, now time.Time) (last time.Time, missed int) {
	for t := s.Next(since); !t.IsZero() && !t.After(now); t = s.Next(t) {
		last, missed = t, missed+1
		if missed > ManyMissed {
			return s.lastBefore(t, now), missed
		}
	}
	return last, missed
}

// lastBefore finds the last time that is not after now by looking at ever shorter
// spans before it: from due on there may be a million.
func (s Schedule) lastBefore(due, now time.Time) time.Time {
	span := time.Minute
	for now.Add(-span).After(due) {
		if t := s.Next(now.Add(-span)); !t.IsZero() && !t.After(now) {
			break
		}
		span *= 2
	}
	from := now.Add(-span)
	if from.Before(due) {
		from = due
	}
	last := due
	for t := s.Next(from); !t.IsZero() && !t.After(now); t = s.Next(t) {
		last = t
	}
	return last
}

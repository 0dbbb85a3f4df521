package usage

import (
	"time"

	"github.com/podsnap/podsnap/controlplane/autoscale"
)

// sample is the CPU time that a replica has used until then.
type sample struct {
	at      time.Time
	seconds float64
}

// series is a replica's samples of the last autoscale.CPUWindow, oldest first,
// and the one before them.
type series struct{ samples []sample }

func (s *series) add(n sample) {
	if l := len(s.samples); l > 0 {
		switch last := s.samples[l-1]; {
		case n.seconds < last.seconds: // its container has begun anew
			s.samples = s.samples[:0]
		case !n.at.After(last.at):
			return
		}
	}
	s.samples = append(s.samples, n)
	for len(s.samples) > 2 && n.at.Sub(s.samples[1].at) >= autoscale.CPUWindow {
		s.samples = s.samples[1:]
	}
}

// rate is the use over the samples, in thousandths of a core; not known of a
// nil series, from fewer than two, or when the last one is older than stale.
func (s *series) rate(now time.Time, stale time.Duration) (milli float64, ok bool) {
	if s == nil || len(s.samples) < 2 {
		return 0, false
	}
	first, last := s.samples[0], s.samples[len(s.samples)-1]
	if now.Sub(last.at) > stale {
		return 0, false
	}
	return (last.seconds - first.seconds) / last.at.Sub(first.at).Seconds() * 1000, true
}

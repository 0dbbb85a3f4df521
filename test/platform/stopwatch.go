package platform

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// Stopwatch measures time by what the machine could do in it: that in which
// something waited for a processor counts for a quarter. So the same limit is
// meant on a quiet machine and on one that compiles beside.
type Stopwatch struct {
	begun   time.Time
	stalled time.Duration
}

// StartWatch starts one.
func StartWatch() Stopwatch { return Stopwatch{time.Now(), stalled()} }

// Spent is the time since the start.
func (s Stopwatch) Spent() time.Duration { return spent(time.Since(s.begun), stalled()-s.stalled) }

// spent is what counts of a time of which some was lost.
func spent(elapsed, lost time.Duration) time.Duration {
	return elapsed - min(max(lost, 0), elapsed)*3/4
}

// stalled is how long something has waited for a processor since the machine's start;
// 0 where the kernel does not tell.
func stalled() time.Duration {
	b, err := os.ReadFile("/proc/pressure/cpu")
	if err != nil {
		return 0
	}
	return total(string(b))
}

// total reads the first line of a file of pressure:
//
//	some avg10=0.00 avg60=0.00 avg300=0.00 total=12345
func total(text string) time.Duration {
	line, _, _ := strings.Cut(text, "\n")
	_, us, _ := strings.Cut(line, " total=")
	n, _ := strconv.ParseInt(us, 10, 64) // what can't be read is as if nothing had waited
	return time.Duration(n) * time.Microsecond
}

package invoke

import "time"

// pace is how fast a function's queue gets shorter: the mean time between two
// grants while requests wait. The zero value does not know.
type pace struct {
	mean time.Duration
	last time.Time // the last grant
}

const (
	paceWeight = 8                // of the newest interval: an eighth
	paceFresh  = 5 * time.Second  // an older pace tells nothing of now
	mostRetry  = 60 * time.Second // who is told to come back later than that does not
)

// granted notes that the head of the queue was served.
func (p *pace) granted(now time.Time) {
	if d := now.Sub(p.last); p.last.IsZero() || d > paceFresh {
		p.mean = 0 // a queue of another time
	} else if p.mean == 0 {
		p.mean = d
	} else {
		p.mean += (d - p.mean) / paceWeight
	}
	p.last = now
}

// wait is how long a request behind n others will wait, by the formula
// n · mean interval; false when there is nothing to tell it by.
func (p *pace) wait(n int, now time.Time) (time.Duration, bool) {
	if p.mean == 0 || now.Sub(p.last) > paceFresh {
		return 0, false
	}
	return time.Duration(n) * p.mean, true
}

// retry is what Retry-After says: when the queue of n will have gone, at least a
// second.
func (p *pace) retry(n int, now time.Time) time.Duration {
	d, _ := p.wait(n, now)
	return min(max(d, time.Second), mostRetry)
}

// hopeless tells whether a request behind n others would wait in vain: for more
// than twice its limit, at the pace of now. More replicas may be on their way,
// so a doubt is in its favour.
func (p *pace) hopeless(n int, limit time.Duration, now time.Time) (time.Duration, bool) {
	d, ok := p.wait(n, now)
	return d, ok && d > 2*limit
}

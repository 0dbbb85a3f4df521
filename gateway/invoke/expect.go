package invoke

import "time"

// pace is how fast a function's queue gets shorter: the mean time between two
// grants while requests wait all the time. The zero value does not know.
type pace struct {
	since time.Time // when requests began to wait; zero: none does
	last  time.Time // the last grant since
	mean  time.Duration
	count int // grants that mean is of
}

const (
	paceWeight = 8                // of the newest interval: an eighth
	paceLeast  = 8                // intervals that tell something
	paceFresh  = 5 * time.Second  // how old the last grant may be, or four intervals
	paceAge    = 10 * time.Second // of a queue whose function has had the time to get more replicas
	mostRetry  = 60 * time.Second // who is told to come back later than that does not
)

// begun notes that a request waits.
func (p *pace) begun(now time.Time) {
	if p.since.IsZero() {
		p.since = now
	}
}

// empty notes that none waits any more: what comes later is another queue.
func (p *pace) empty() { *p = pace{} }

// granted notes that the head of the queue was served.
func (p *pace) granted(now time.Time) {
	if d := now.Sub(p.last); !p.last.IsZero() {
		if p.count++; p.count == 1 {
			p.mean = d
		} else {
			p.mean += (d - p.mean) / paceWeight
		}
	}
	p.last = now
}

// wait is how long a request behind n others will wait, by the formula
// n · mean interval; false when there is nothing to tell it by.
func (p *pace) wait(n int, now time.Time) (time.Duration, bool) {
	if p.count < paceLeast || now.Sub(p.last) > max(paceFresh, 4*p.mean) {
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
// than twice its limit, at the pace of now. A queue that is young is not judged:
// replicas are on their way.
func (p *pace) hopeless(n int, limit time.Duration, now time.Time) (time.Duration, bool) {
	d, ok := p.wait(n, now)
	return d, ok && now.Sub(p.since) >= paceAge && d > 2*limit
}

package autoscale

import "time"

// slots of a second each are what a Window remembers of arrivals.
const slots = 64

// Window remembers what the decisions about one function need of the past. The
// zero value remembers nothing.
type Window struct {
	Gaps Gaps // between requests, which the keep-alive is learned from

	since   time.Time // when it began
	active  time.Time // the last moment with a request, or since
	busy    bool      // there was a request at the last decision
	asked   bool      // there was ever one
	arrived int       // requests since the last decision

	size  int       // replicas at the last decision
	sized time.Time // since when

	overruled time.Time // when somebody else last set the number of replicas

	firing  time.Time // since when the classic rule's rate is over its limit
	fired   time.Time // when it last was
	changed time.Time // when the classic rule last changed something
	lowered bool      // and whether that was downwards, without being over the limit since

	arrivals [slots]float32
	second   int64 // the newest slot, Unix time

	recommended []recommendation // falling Replicas, rising time: the highest of any window is the first in it
}

type recommendation struct {
	at       time.Time
	replicas int
}

func (w *Window) begin(now time.Time) {
	if w.since.IsZero() {
		w.since, w.active = now, now
	}
}

// touch notes that there is a request now.
func (w *Window) touch(now time.Time) {
	if w.asked && !w.busy {
		w.Gaps.Add(now.Sub(w.active))
	}
	w.asked, w.active = true, now
}

// fresh is how long what was seen of requests in flight is taken to go on.
const fresh = 3 * time.Second

// rest notes that there is no request any more: if there was one just before,
// it has ended only now.
func (w *Window) rest(now time.Time) {
	if w.busy && now.Sub(w.active) <= fresh {
		w.active = now
	}
}

// Idle is how long there has been no request, as far as was told; for Gaps.Soon.
func (w *Window) Idle(now time.Time) time.Duration {
	if w.busy || w.since.IsZero() {
		return 0
	}
	return max(0, now.Sub(w.active))
}

// kept is how long a replica has been kept for nothing: since the last request,
// or since somebody wanted it by hand.
func (w *Window) kept(now time.Time) time.Duration { return now.Sub(latest(w.active, w.overruled)) }

// resized notes how many replicas are wanted.
func (w *Window) resized(now time.Time, replicas int) {
	if replicas != w.size {
		w.size, w.sized = replicas, now
	}
}

// Arrived counts requests.
func (w *Window) Arrived(now time.Time, n uint64) {
	w.begin(now)
	if n == 0 {
		return
	}
	w.touch(now)
	w.turn(now)
	w.arrivals[w.second%slots] += float32(n)
	w.arrived += int(n) //nolint:gosec // of one report
}

// turn empties the slots that are new.
func (w *Window) turn(now time.Time) {
	s := now.Unix()
	if s-w.second >= slots || w.second == 0 {
		clear(w.arrivals[:])
		w.second = s
		return
	}
	for w.second < s {
		w.second++
		w.arrivals[w.second%slots] = 0
	}
}

// Rate is the number of requests a second over the last window, at most a
// minute. While the Window itself is younger, its age counts, but at least a
// second.
func (w *Window) Rate(now time.Time, window time.Duration) float64 {
	if w.second == 0 {
		return 0
	}
	w.turn(now)
	n := int64(min(window, (slots-2)*time.Second) / time.Second)
	sum := 0.0
	for i := range n {
		sum += float64(w.arrivals[(w.second-i+slots)%slots])
	}
	over := min(float64(n), max(now.Sub(w.since).Seconds(), 1))
	return sum / over
}

// recommend notes what would be right now.
func (w *Window) recommend(now time.Time, replicas int) {
	keep := len(w.recommended)
	for keep > 0 && w.recommended[keep-1].replicas <= replicas {
		keep--
	}
	w.recommended = append(w.recommended[:keep], recommendation{now, replicas})
}

// highest is the most that was recommended within window, and how long it will
// be so.
func (w *Window) highest(now time.Time, window time.Duration) (replicas int, until time.Duration) {
	for len(w.recommended) > 1 && now.Sub(w.recommended[0].at) >= window {
		w.recommended = w.recommended[1:]
	}
	if len(w.recommended) == 0 {
		return 0, 0
	}
	if len(w.recommended) == 1 {
		return w.recommended[0].replicas, 0
	}
	return w.recommended[0].replicas, window - now.Sub(w.recommended[0].at)
}

// forget drops what was recommended: the function is at zero.
func (w *Window) forget() { w.recommended = nil }

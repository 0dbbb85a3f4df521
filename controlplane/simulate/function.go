package simulate

import (
	"container/heap"
	"math"
	"time"

	"github.com/podsnap/podsnap/controlplane/autoscale"
)

// origin is when every trace begins: a Window asks for dates.
var origin = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

const never = time.Duration(math.MaxInt64)

// run is one function's simulation.
type run struct {
	p      Policy
	o      Options
	memory uint64
	end    time.Duration
	calls  []Call // those to come
	total  *totals

	window   autoscale.Window
	now      time.Duration
	look     time.Duration // when to decide again even if nothing happens
	wanted   int
	replicas []*replica // those that are there, oldest first
	busy     int        // of them
	inFlight int
	queue    []Call // those that wait, oldest first
	events   events
}

// replica is one. It leaves when it has nothing in flight any more.
type replica struct {
	ready    bool
	since    time.Duration // ready, if it is
	inFlight int
	leaving  bool
	gone     bool
}

func newRun(p Policy, o Options, f Function, calls []Call, end time.Duration, total *totals) *run {
	return &run{p: p, o: o, memory: f.Memory, end: end, calls: calls, total: total, look: never}
}

// event is a replica's: it becomes ready, or has finished a call.
type event struct {
	at    time.Duration
	order int // of two at the same time, the first one made
	r     *replica
	done  bool
}

type events struct {
	all  []event
	made int
}

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (e *events) Len() int { return len(e.all) }

func (e *events) Less(i, j int) bool {
	a, b := e.all[i], e.all[j]
	return a.at < b.at || a.at == b.at && a.order < b.order
}
func (e *events) Swap(i, j int) { e.all[i], e.all[j] = e.all[j], e.all[i] }
func (e *events) Push(x any)    { e.all = append(e.all, x.(event)) }
func (e *events) Pop() any {
	n := len(e.all) - 1
	x := e.all[n]
	e.all = e.all[:n]
	return x
}

func (r *run) later(d time.Duration, of *replica, done bool) {
	r.events.made++
	heap.Push(&r.events, event{at: r.now + d, order: r.events.made, r: of, done: done})
}

// run goes from event to event. Of those at the same time what ends comes
// before what begins.
func (r *run) run() {
	for {
		call, happens := never, never
		if len(r.calls) > 0 {
			call = r.calls[0].At
		}
		if r.events.Len() > 0 {
			happens = r.events.all[0].at
		}
		next := min(call, happens, r.look)
		if next >= r.end {
			r.pass(r.end)
			r.total.unserved += len(r.queue) + len(r.calls)
			return
		}
		r.pass(next)
		if happens <= call && next == happens {
			r.happen(heap.Pop(&r.events).(event))
		} else if next == call {
			r.arrive()
		}
		r.decide()
	}
}

// pass lets time go by.
func (r *run) pass(to time.Duration) {
	r.total.pass(r.now, to, r.memory, len(r.replicas), r.busy)
	r.now = to
}

func (r *run) happen(e event) {
	if e.r.gone {
		return // ended before it was ready
	}
	if e.done {
		e.r.inFlight--
		r.inFlight--
		if e.r.inFlight == 0 {
			r.busy--
		}
	} else {
		e.r.ready, e.r.since = true, r.now
	}
	r.serve()
	if e.r.leaving && e.r.inFlight == 0 {
		r.remove(e.r)
	}
}

func (r *run) arrive() {
	r.queue = append(r.queue, r.calls[0])
	r.calls = r.calls[1:]
	r.window.Arrived(origin.Add(r.now), 1)
	r.serve()
}

// serve gives the oldest calls to free replicas, the busiest of them first, so
// that others become idle.
func (r *run) serve() {
	for len(r.queue) > 0 {
		var to *replica
		for _, x := range r.replicas {
			free := x.ready && !x.leaving && (r.p.Concurrency == 0 || x.inFlight < r.p.Concurrency)
			if free && (to == nil || x.inFlight > to.inFlight) {
				to = x
			}
		}
		if to == nil {
			return
		}
		c := r.queue[0]
		r.queue = r.queue[1:]
		r.total.waits = append(r.total.waits, r.now-c.At)
		if to.since > c.At || to.since == r.now && r.now > c.At {
			r.total.cold++
		}
		if to.inFlight == 0 {
			r.busy++
		}
		to.inFlight++
		r.inFlight++
		r.later(c.Duration, to, true)
	}
}

// decide asks the autoscaler, as the fleet does on every report.
func (r *run) decide() {
	now := autoscale.Now{Time: origin.Add(r.now), Replicas: r.wanted, Queued: len(r.queue), InFlight: r.inFlight}
	for _, x := range r.replicas {
		if x.ready && !x.leaving {
			now.Ready++
		}
	}
	d := autoscale.Decide(r.p.Policy, &r.window, now)
	r.total.decided++
	for r.wanted < d.Replicas {
		r.start()
	}
	for r.wanted > d.Replicas {
		r.stop()
	}
	r.look = never
	if d.Again > 0 {
		r.look = r.now + d.Again
	}
}

func (r *run) start() {
	r.wanted++
	r.total.starts++
	x := &replica{}
	r.replicas = append(r.replicas, x)
	r.later(r.o.Cold, x, false)
}

// stop ends the one with the least to do, the newest of them.
func (r *run) stop() {
	r.wanted--
	var x *replica
	for _, c := range r.replicas {
		if !c.leaving && (x == nil || c.inFlight <= x.inFlight) {
			x = c
		}
	}
	if x.leaving = true; x.inFlight == 0 {
		r.remove(x)
	}
}

func (r *run) remove(x *replica) {
	x.gone = true
	for i, c := range r.replicas {
		if c == x {
			r.replicas = append(r.replicas[:i], r.replicas[i+1:]...)
			return
		}
	}
}

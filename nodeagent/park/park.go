// Package park keeps things ready that take long to make, such as the network
// namespace of a sandbox: a pool that is filled ahead of need, and to which what
// was used comes back when it is as good as new.
package park

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Config says what a pool keeps and how many. Make and Destroy are required.
type Config[T any] struct {
	Make    func(ctx context.Context) (T, error)
	Recycle func(T) (T, error) // nil: nothing is used twice. What cannot be, with its error, is destroyed
	Destroy func(T)

	Least int // ready at any time; 0 is 32, negative is none: Take makes each
	Most  int // 0 is 256
	// AtOnce is how many are made, recycled or destroyed at a time; 0 is 4.
	// Namespaces of Linux get slower, all together, above a few a core.
	AtOnce int

	Failed func(what string, err error) // told of faults in the background; nil is nobody
	Made   func(d time.Duration)        // told how long one took; nil is nobody
}

// Pool is a pool. Run fills it; without Run it is empty and Take makes each.
type Pool[T any] struct {
	c     Config[T]
	slots chan struct{}
	wake  chan struct{}
	work  sync.WaitGroup

	mu     sync.Mutex
	free   []T // the longest unused first
	coming int // being made or recycled for the pool
	demand demand
	taken  time.Time // the last one
	closed bool
}

// New makes an empty pool.
func New[T any](c Config[T]) *Pool[T] {
	if c.Least == 0 {
		c.Least = 32
	}
	if c.Most == 0 {
		c.Most = 256
	}
	if c.Most = max(c.Most, c.Least); c.Least < 0 {
		c.Least, c.Most = 0, 0
	}
	if c.AtOnce == 0 {
		c.AtOnce = 4
	}
	if c.Failed == nil {
		c.Failed = func(string, error) {}
	}
	if c.Made == nil {
		c.Made = func(time.Duration) {}
	}
	return &Pool[T]{c: c, slots: make(chan struct{}, c.AtOnce), wake: make(chan struct{}, 1)}
}

// Take answers with one from the pool, or makes one if it is empty: then pooled
// is false.
func (p *Pool[T]) Take(ctx context.Context) (one T, pooled bool, err error) {
	p.mu.Lock()
	p.taken = time.Now()
	p.demand.took(p.taken)
	if len(p.free) > 0 {
		one = p.free[0]
		p.free = p.free[1:]
		p.mu.Unlock()
		p.poke()
		return one, true, nil
	}
	p.mu.Unlock()
	p.poke()
	one, err = p.make(ctx)
	return one, false, err
}

// make makes one, when fewer than AtOnce are being made.
func (p *Pool[T]) make(ctx context.Context) (one T, err error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return one, context.Cause(ctx)
	}
	defer func() { <-p.slots }()
	begin := time.Now()
	one, err = p.c.Make(ctx)
	if err == nil {
		p.c.Made(time.Since(begin))
	}
	return one, err
}

// Give takes one back. It is made ready for the pool, if it is clean and the
// pool has use for it, or destroyed, in the background.
func (p *Pool[T]) Give(one T, clean bool) {
	p.mu.Lock()
	keep := clean && p.c.Recycle != nil && !p.closed && len(p.free)+p.coming < p.room()
	if keep {
		p.coming++
	}
	if !p.closed {
		p.work.Go(func() { p.takeBack(one, keep) })
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	p.c.Destroy(one)
}

func (p *Pool[T]) takeBack(one T, keep bool) {
	p.slots <- struct{}{}
	defer func() { <-p.slots }()
	if !keep {
		p.c.Destroy(one)
		return
	}
	again, err := p.c.Recycle(one)
	p.mu.Lock()
	p.coming--
	if err == nil && !p.closed {
		p.free = append(p.free, again)
		p.mu.Unlock()
		p.poke()
		return
	}
	p.mu.Unlock()
	if err != nil {
		p.c.Failed("recycle", err)
	}
	p.c.Destroy(one)
	p.poke()
}

// Put adds one that is ready, such as a former process left.
func (p *Pool[T]) Put(one T) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, one)
}

// Size is how many are ready, and how many should be.
func (p *Pool[T]) Size() (ready, target int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.free), p.target()
}

// Each calls f for all that are ready.
func (p *Pool[T]) Each(f func(T)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.free {
		f(one)
	}
}

// target is how many there should be: Least, or as many as the busiest second of
// late has taken.
func (p *Pool[T]) target() int {
	return min(p.c.Most, max(p.c.Least, p.demand.peak(time.Now())))
}

// room is how many are kept. It is more than the target: what was taken has been
// made good by the time it comes back, and to throw away what is there and make
// it anew would be all that the pool does.
func (p *Pool[T]) room() int {
	return min(p.c.Most, p.target()+p.demand.peak(time.Now()))
}

func (p *Pool[T]) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// linger is how long a pool keeps what a burst has left in it.
const linger = 10 * time.Second

// Run fills the pool until ctx is done, one after the other, and takes apart
// what is too much for a while; what is in it at the end stays there.
func (p *Pool[T]) Run(ctx context.Context) error {
	retry, rest := time.NewTimer(0), time.NewTimer(linger)
	defer retry.Stop()
	defer rest.Stop()
	wait := 10 * time.Millisecond
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		case <-retry.C:
		case <-rest.C:
			p.trim()
		}
		if ready, _ := p.Size(); ready > p.c.Least {
			rest.Reset(linger)
		}
		p.calm(ctx)
		for ctx.Err() == nil && p.promise() {
			if err := p.add(ctx); err != nil {
				if ctx.Err() == nil {
					p.c.Failed("make", err)
				}
				retry.Reset(wait)
				wait = min(2*wait, 5*time.Second)
				break
			}
			wait = 10 * time.Millisecond
		}
	}
}

// calm waits until nothing has been taken for a while, but not for long: what
// is being started comes first, and an empty pool is made good by Take.
func (p *Pool[T]) calm(ctx context.Context) {
	const pause, most = 20 * time.Millisecond, 200 * time.Millisecond
	for waited := time.Duration(0); waited < most; {
		p.mu.Lock()
		left := pause - time.Since(p.taken)
		p.mu.Unlock()
		if left <= 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(left):
		}
		waited += left
	}
}

// trim takes apart what there is no room for any more, the longest unused first.
func (p *Pool[T]) trim() {
	p.mu.Lock()
	surplus := max(0, len(p.free)-p.room())
	gone := p.free[:surplus]
	p.free = p.free[surplus:]
	p.mu.Unlock()
	for _, one := range gone {
		p.slots <- struct{}{}
		p.c.Destroy(one)
		<-p.slots
	}
}

// promise tells whether the pool has use for another one, and counts it as coming.
func (p *Pool[T]) promise() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.free)+p.coming >= p.target() {
		return false
	}
	p.coming++
	return true
}

// add keeps a promise.
func (p *Pool[T]) add(ctx context.Context) error {
	one, err := p.make(ctx)
	p.mu.Lock()
	p.coming--
	if err != nil {
		p.mu.Unlock()
		return err
	}
	if !p.closed {
		p.free = append(p.free, one)
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	p.c.Destroy(one)
	return nil
}

// Wait waits until everything that was given is dealt with. Nothing must be
// given meanwhile.
func (p *Pool[T]) Wait() { p.work.Wait() }

// Close destroys all that is in the pool and whatever comes back later. Run
// must have ended.
func (p *Pool[T]) Close() {
	p.mu.Lock()
	p.closed = true
	all := p.free
	p.free = nil
	p.mu.Unlock()
	p.work.Wait()
	for _, one := range all {
		p.c.Destroy(one)
	}
}

// memory is for how many minutes a pool keeps as many ready as were once taken
// in a second: load that came once comes again, and one that is parked costs
// little.
const memory = 10

// demand remembers the busiest second of each of the last minutes.
type demand struct {
	second, minute int64
	now            int // taken in the present second
	peaks          [memory]int
}

func (d *demand) roll(t time.Time) {
	if s := t.Unix(); s != d.second {
		d.second, d.now = s, 0
	}
	m := t.Unix() / 60
	for d.minute = max(d.minute, m-memory); d.minute < m; {
		d.minute++
		d.peaks[d.minute%memory] = 0
	}
}

func (d *demand) took(t time.Time) {
	d.roll(t)
	d.now++
	p := &d.peaks[d.minute%memory]
	*p = max(*p, d.now)
}

func (d *demand) peak(t time.Time) int {
	d.roll(t)
	return slices.Max(d.peaks[:])
}

package history

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podsnap/podsnap/api"
)

// Load is what clients do.
type Load struct {
	Objects []api.Objects // client n asks the n-th of them, modulo their number
	Clients int
	Keys    int  // that are in use at a time
	Each    int  // questions of a key before another one takes its place: so histories stay short enough to be judged
	NoReads bool // reads are not part of the history: for stores that may be behind one another
	Hasty   bool // some clients wait for some milliseconds only
	Most    int  // questions in all; 0 is no limit
	Seed    uint64
}

// Run has the clients ask until ctx ends or Most is reached, and then once more for
// every object.
func (c Load) Run(ctx context.Context, l *Log) {
	var asked atomic.Int64
	var wg sync.WaitGroup
	for n := range c.Clients {
		wg.Go(func() {
			cl := client{Load: c, n: n, o: c.Objects[n%len(c.Objects)], r: rand.New(rand.NewPCG(c.Seed, uint64(n))), seen: map[string]int64{}} //nolint:gosec // no secret
			for ctx.Err() == nil && (c.Most == 0 || int(asked.Load()) < c.Most) {
				cl.ask(context.WithoutCancel(ctx), l, cl.key(asked.Add(1)))
				runtime.Gosched() // else one of them does a lot while the others wait, where all is in memory
			}
		})
	}
	wg.Wait()
	if c.NoReads {
		return
	}
	last := int(asked.Load()) / (c.Keys * c.Each)
	for g := range last + 1 {
		for k := range c.Keys {
			l.Ask(context.WithoutCancel(ctx), c.Clients, c.Objects[0], Question{Verb: Get, Key: name(g, k)})
		}
	}
}

func name(generation, key int) string { return fmt.Sprintf("g%d-k%d", generation, key) }

// client is one of them.
type client struct {
	Load
	n    int
	o    api.Objects
	r    *rand.Rand
	seen map[string]int64 // the revision that it knows of an object
	made int
}

func (c *client) key(asked int64) string {
	return name(int(asked)/(c.Keys*c.Each), c.r.IntN(c.Keys))
}

// ask asks one question at random.
func (c *client) ask(ctx context.Context, l *Log, key string) {
	limit := 10 * time.Second
	if c.Hasty && c.r.IntN(20) == 0 {
		limit = time.Duration(c.r.IntN(8_000)) * time.Microsecond
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	q := Question{Key: key, Verb: Get}
	switch n := c.r.IntN(20); {
	case n < 4:
		q.Verb = Create
	case n < 10:
		q.Verb = Update
	case n < 12:
		q.Verb = Patch
	case n < 14:
		q.Verb = Delete
	}
	if q.Verb == Get && c.NoReads {
		if a := ask(ctx, c.o, q); a.Fate == Done {
			c.seen[key] = a.Rev
		}
		return
	}
	if (q.Verb == Update && c.r.IntN(4) > 0) || (q.Verb == Delete && c.r.IntN(2) > 0) {
		q.Expect = c.seen[key] // or 0, when it knows of none
	}
	if q.Verb != Get && q.Verb != Delete {
		c.made++
		q.Value = fmt.Sprintf("c%d-%d", c.n, c.made)
	}
	if a := l.Ask(ctx, c.n, c.o, q); a.Fate == Done {
		c.seen[key] = a.Rev
	}
}

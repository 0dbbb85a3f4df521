package main

import (
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	nameWarm       = "warm p50, gateway − direct (c=1)"
	nameWarmFloor  = "warm p50, bare TCP relay − direct (c=1, the floor of any hop)"
	nameWarmHop    = "warm p50, what the gateway adds ÷ what the bare relay adds"
	nameThroughput = "warm throughput, gateway ÷ direct (c=32)"
	nameWarmTail   = "warm p99 at 30 % of saturation, gateway ÷ direct (open loop)"
)

// pair connects n times to the gateway and to the function itself.
func (b *bench) pair(n int) (through, direct pool) {
	direct, err := open(b.ctx, get(b.direct(), "/"), n)
	b.must(err)
	through, err = open(b.ctx, get(b.gateway(), "/function/"+function), n)
	if err != nil {
		direct.close()
		b.Fatal(err)
	}
	return through, direct
}

// warm is what the gateway adds to a call of a running function.
func (b *bench) warm() []row {
	through, direct := b.pair(1)
	defer through.close()
	defer direct.close()
	at, stop := b.relayTo(direct[0].t.addr)
	defer stop()
	bare, err := open(b.ctx, get(at, "/"), 1)
	b.must(err)
	defer bare.close()
	one := func(w *wire) float64 {
		start := time.Now()
		b.must(w.call())
		return us(time.Since(start))
	}
	for range 500 { // caches
		one(direct[0])
		one(through[0])
		one(bare[0])
	}
	var ours, base, floor, added, least []float64
	b.each(func() {
		var o, d, f []float64
		for range 2000 {
			d = append(d, one(direct[0]))
			f = append(f, one(bare[0]))
			o = append(o, one(through[0]))
		}
		ours, base, floor = append(ours, median(o)), append(base, median(d)), append(floor, median(f))
		added, least = append(added, median(o)-median(d)), append(least, median(f)-median(d))
	})
	r, f := atMost(nameWarm, "µs", 60, ours, base), noGoal(nameWarmFloor, "µs", floor, base)
	r.Ratio, f.Ratio = r.Ours-r.Baseline, f.Ours-f.Baseline
	r.Pass = r.Ratio <= r.Goal
	return []row{r, f, noGoal(nameWarmHop, "µs", added, least)}
}

// throughput is the most that gets through, with 32 callers.
func (b *bench) throughput() []row {
	through, direct := b.pair(32)
	defer through.close()
	defer direct.close()
	var ours, base []float64
	b.each(func() {
		base = append(base, b.rate(direct))
		ours = append(ours, b.rate(through))
	})
	return []row{atLeast(nameThroughput, 0.40, ours, base)}
}

// rate is the most calls that get through in a second, over one.
func (b *bench) rate(p pool) float64 {
	r, err := p.closed(b.ctx, time.Second)
	b.must(err)
	return r
}

// warmTail is the latency at a load that the platform carries easily: 30 % of
// the most that gets through the gateway, on both ways.
func (b *bench) warmTail() []row {
	through, direct := b.pair(64)
	defer through.close()
	defer direct.close()
	saturation := b.rate(through[:32])
	rnd := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // the same load at every run
	var ours, base []float64
	b.each(func() {
		at := arrivals(0.3*saturation, 1500*time.Millisecond, rnd)
		for _, side := range []struct {
			pool
			out *[]float64
		}{{direct, &base}, {through, &ours}} {
			l, err := side.open(b.ctx, at)
			b.must(err)
			*side.out = append(*side.out, quantile(l, 0.99))
			b.note("%s: %.0f calls/s: p50 %.0f µs, p99 %.0f µs", side.pool[0].t.addr, 0.3*saturation, median(l), quantile(l, 0.99))
		}
	})
	return []row{atMost(nameWarmTail, "µs", 2.5, ours, base)}
}

// note prints a figure of one round, when asked for.
func (b *bench) note(format string, a ...any) {
	if b.verbose {
		b.Logf("  %s", fmt.Sprintf(format, a...))
	}
}

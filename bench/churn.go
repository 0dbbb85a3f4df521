package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	nameChurn     = "gateway p99 at 500 calls/s under churn ÷ quiet (open loop)"
	nameChurnRate = "churn that took place: cold starts/s ÷ 50 wanted"
)

const (
	warmRate   = 500 // calls a second to the warm function
	coldWanted = 50  // cold starts a second, each followed by its pod's deletion
	newWanted  = 10  // deploys a second, each followed by the function's deletion
	churnTime  = 3 * time.Second
)

// churned is what took place in one round.
type churned struct{ colds, deletes, deploys, skipped atomic.Int64 }

// churn is the latency of calls to a warm function, open loop, while others are
// started, deleted and deployed, against the same load without them.
func (b *bench) churn() []row {
	names := b.colds(most)
	warm, err := open(b.ctx, get(b.gateway(), "/function/"+function), 64)
	b.must(err)
	defer warm.close()
	rnd := rand.New(rand.NewPCG(2, 2)) //nolint:gosec // the same load at every run
	var busy, quiet, rate, wanted []float64
	var deploys, deletes, skipped int64
	all := 0.0 // seconds of churn
	before := b.stages()
	b.each(func() {
		at := arrivals(warmRate, churnTime, rnd)
		l, err := warm.open(b.ctx, at)
		b.must(err)
		quiet = append(quiet, quantile(l, 0.99))
		var did churned
		ctx, cancel := context.WithCancel(b.ctx)
		ended, begun := make(chan error, 1), time.Now()
		go func() { ended <- b.stir(ctx, names, &did) }()
		l, err = warm.open(b.ctx, at)
		took := time.Since(begun).Seconds() // longer than planned when calls waited
		cancel()
		b.must(errors.Join(err, <-ended))
		all += took
		busy = append(busy, quantile(l, 0.99))
		rate, wanted = append(rate, float64(did.colds.Load())/took), append(wanted, coldWanted)
		deploys, deletes, skipped = deploys+did.deploys.Load(), deletes+did.deletes.Load(), skipped+did.skipped.Load()
		b.must(b.watched.gone(b.ctx, names...))
		b.note("churn: p99 %.0f µs, quiet %.0f µs; %d cold starts, %d deletions, %d deploys", busy[len(busy)-1], quiet[len(quiet)-1], did.colds.Load(), did.deletes.Load(), did.deploys.Load())
	})
	p99 := atMost(nameChurn, "µs", 3, busy, quiet)
	p99.Hint = fmt.Sprintf("meanwhile a second saw %.1f cold starts, %.1f deletions of pods, %.1f deploys", median(rate), float64(deletes)/all, float64(deploys)/all)
	got := atLeast(nameChurnRate, 0.9, rate, wanted)
	got.Hint = fmt.Sprintf("%.1f a second were due while all %d functions were still starting or ending\n%s", float64(skipped)/all, len(names), b.stagesSince(before))
	// Less churn than was asked for shows nothing.
	p99.Pass = p99.Pass && got.Pass
	return []row{p99, got}
}

// stir keeps starting, deleting and deploying at fixed times, whether or not
// what came before has ended, until ctx is done, and waits for what it began.
// Any failure of what it does is an error.
func (b *bench) stir(ctx context.Context, names []string, did *churned) error {
	c := client()
	defer c.CloseIdleConnections()
	idle := make(chan string, len(names))
	for _, n := range names {
		idle <- n
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var fault error
	do := func(f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				mu.Lock()
				fault = cmp.Or(fault, err) // the first: a hundred alike help nobody
				mu.Unlock()
			}
		})
	}
	cold := func(name string) error {
		defer func() { idle <- name }()
		if _, err := b.call(c, name); err != nil { //nolint:contextcheck // a call that has begun is not cut off
			return err
		}
		if ctx.Err() == nil { // what comes later is not in the measured time
			did.colds.Add(1)
		}
		if err := b.cool(name); err != nil { //nolint:contextcheck // as above
			return err
		}
		if ctx.Err() == nil {
			did.deletes.Add(1)
		}
		return nil
	}
	deploy := func(n int) error {
		name := fmt.Sprintf("churn-%d", n)
		if err := b.create(name, coldLabels()); err != nil { //nolint:contextcheck // as above
			return err
		}
		if ctx.Err() == nil {
			did.deploys.Add(1)
		}
		return b.platform().Client.Delete(b.ctx, "", name) //nolint:contextcheck // as above
	}
	tick := time.NewTicker(time.Second / coldWanted)
	defer tick.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		if n%(coldWanted/newWanted) == 0 {
			do(func() error { return deploy(n) })
		}
		select {
		case name := <-idle:
			do(func() error { return cold(name) })
		default:
			did.skipped.Add(1)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	wg.Wait()
	return fault
}

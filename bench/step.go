package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/openfaas"
	"k8s.io/apimachinery/pkg/fields"
)

const (
	nameStep     = "autoscaler, step 1 → 16, all ready ÷ burst of 15 cold functions"
	nameDecision = "autoscaler, step 1 → 16, decision stored ÷ goal"
)

// step puts 16 requests at once on a function that has one replica and wants
// one for each request in flight.
func (b *bench) step() []row {
	const name, wide = "step", 16
	names, objects := b.colds(wide-1), b.objects()
	labels := map[string]string{
		"com.openfaas.scale.min": "1", "com.openfaas.scale.max": "16", "com.openfaas.scale.type": "capacity",
		"com.openfaas.scale.target": "1", "com.openfaas.scale.target-proportion": "1",
	}
	var ready, decided, burst, goal []float64
	before := b.stages()
	b.each(func() {
		burst = append(burst, b.burstOf(names))
		b.must(b.create(name, labels))
		b.must(b.watched.ready(b.ctx, name, 1))
		w, err := objects.Watch(b.ctx, api.Deployments, api.WatchOptions{
			Namespace: openfaas.DefaultNamespace, Fields: fields.OneTermEqualSelector("metadata.name", name),
		})
		b.must(err)
		defer w.Stop()
		ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
		defer cancel()
		start := time.Now()
		release := b.hold(name, wide)
		defer func() { _ = release() }() // it was asked for its error below
		b.must(wanted(ctx, w, wide))
		decided = append(decided, ms(time.Since(start)))
		b.must(b.watched.ready(ctx, name, wide))
		ready, goal = append(ready, ms(time.Since(start))), append(goal, 20)
		b.note("step: decided after %.4g ms, ready after %.4g ms, a burst takes %.4g ms", decided[len(decided)-1], ready[len(ready)-1], burst[len(burst)-1])
		b.must(release())
		b.remove(name)
	})
	rows := []row{atMost(nameStep, "ms", 1.5, ready, burst), atMost(nameDecision, "ms", 1, decided, goal)}
	rows[0].Hint = b.stagesSince(before)
	return rows
}

// hold has n calls of a function in flight until release is called, which may
// be done again; a call that ended before that is an error.
func (b *bench) hold(name string, n int) (release func() error) {
	c, url := client(), b.platform().URL+"/function/"+name+"/hold"
	ctx, cancel := context.WithCancel(b.ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- together(n, func(int) error {
			err := fetch(ctx, c, url)
			if ctx.Err() != nil {
				return nil // released
			}
			return fmt.Errorf("a call that was to be held ended: %w", cmp.Or(err, errors.New("it was answered")))
		})
	}()
	return sync.OnceValue(func() error {
		cancel()
		err := <-ended
		c.CloseIdleConnections()
		return err
	})
}

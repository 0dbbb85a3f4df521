package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	nameCold       = "cold start p50 ÷ runc run"
	nameColdTail   = "cold start p99 ÷ runc run"
	nameColdFloor  = "cold start p50 ÷ fork/exec of the same binary on the host (the floor)"
	nameColdEmpty  = "cold start p50, no parked sandboxes ÷ runc run"
	nameThaw       = "frozen replica, first byte p50 ÷ runc run"
	nameColdRate   = "cold starts/s, served and torn down ÷ runc run"
	nameBurst      = "burst of 64 cold functions, last byte ÷ 64 runc run at once"
	nameDeploy     = "deploy → first 200 ÷ goal"
	nameDeployCold = "deploy → first 200 ÷ cold start"
)

// cold is a call at zero replicas against `runc run` of the same root file
// system, and against the program alone as a child of this process: all to the
// first byte.
func (b *bench) cold() []row {
	r := b.coldRounds(8, true)
	// The tail is one of all rounds: a round alone is too few.
	tail := atMost(nameColdTail, "ms", 0.50, []float64{quantile(r.ours, 0.99)}, []float64{quantile(r.runc, 0.99)})
	tail.Low, tail.High = slices.Min(r.ours), slices.Max(r.ours)
	p50 := atMost(nameCold, "ms", 0.35, r.oursP50, r.runcP50)
	p50.Hint = r.stages
	return []row{p50, tail, noGoal(nameColdFloor, "ms", r.oursP50, r.floorP50)}
}

// coldEmpty is cold on a platform that has no sandbox parked.
func (b *bench) coldEmpty() []row {
	rc := b.baseline()
	other := b.another("--parked-sandboxes=-1")
	defer b.end(other)
	other.runc = rc
	r := other.coldRounds(4, false)
	p50 := atMost(nameColdEmpty, "ms", 0.8, r.oursP50, r.runcP50)
	p50.Hint = r.stages
	return []row{p50}
}

// thaw is a call of a function whose only replica is frozen.
func (b *bench) thaw() []row {
	const each = 8 // functions, frozen together: each is idle for seconds before it is
	names, rc, c := b.colds(each), b.baseline(), client()
	defer c.CloseIdleConnections()
	var ours, base []float64
	before := b.stages()
	b.each(func() {
		for _, f := range names {
			_, err := b.call(c, f)
			b.must(err)
		}
		b.must(b.watched.frozen(b.ctx, names...))
		var o, d []float64
		for _, f := range names {
			took, err := b.call(c, f)
			b.must(err)
			o = append(o, took)
			d = append(d, b.runOne(rc))
		}
		b.note("frozen %.4g ms, runc run %.4g ms", o, d)
		ours, base = append(ours, median(o)), append(base, median(d))
	})
	for _, f := range names {
		b.must(b.cool(f))
	}
	r := noGoal(nameThaw, "ms", ours, base)
	r.Hint = b.stagesSince(before)
	return []row{r}
}

// frozen waits until each of these functions has a pod, and it is frozen.
func (w *pods) frozen(ctx context.Context, names ...string) error {
	return w.until(ctx, fmt.Sprintf("the pods of %v to be frozen", names), func(all map[types.UID]pod) bool {
		is := map[string]bool{}
		for _, p := range all {
			if p.frozen {
				is[p.function] = true
			}
		}
		return !slices.ContainsFunc(names, func(n string) bool { return !is[n] })
	})
}

// colds of one part, ms: all of ours and of the baseline, and medians a round.
type coldTimes struct {
	ours, runc                 []float64
	oursP50, runcP50, floorP50 []float64
	stages                     string // the platform's own account of ours
}

func (b *bench) coldRounds(each int, floor bool) (r coldTimes) {
	f, rc, c := b.colds(1)[0], b.baseline(), client()
	defer c.CloseIdleConnections()
	one := func() float64 {
		b.must(b.cool(f))
		took, err := b.call(c, f)
		b.must(err)
		return took
	}
	one() // the image is unpacked, whoever comes first
	before := b.stages()
	b.each(func() {
		var o, d, fl []float64
		for range each {
			o = append(o, one())
			d = append(d, b.runOne(rc))
			if floor {
				took, err := rc.plain(b.ctx)
				b.must(err)
				fl = append(fl, ms(took))
			}
		}
		b.note("cold starts %.4g ms, runc run %.4g ms, fork/exec %.4g ms", o, d, fl)
		r.ours, r.runc = append(r.ours, o...), append(r.runc, d...)
		r.oursP50, r.runcP50, r.floorP50 = append(r.oursP50, median(o)), append(r.runcP50, median(d)), append(r.floorP50, median(fl))
	})
	b.must(b.cool(f))
	r.stages = b.stagesSince(before)
	return r
}

// stages are the sums and counts of what the platform says that parts of starts
// take, by metric and label.
func (b *bench) stages() map[string]float64 {
	raw, err := b.metrics()
	b.must(err)
	out := map[string]float64{}
	for l := range strings.Lines(raw) {
		f := strings.Fields(l)
		for _, m := range []string{"faas_cold_start_stage_seconds", "faas_pod_start_stage_seconds", "faas_cold_start_seconds", "faas_gateway_thaw_seconds", "faas_pod_thaw_seconds"} {
			if strings.HasPrefix(l, m+"_sum") || strings.HasPrefix(l, m+"_count") {
				out[f[0]], _ = strconv.ParseFloat(f[len(f)-1], 64)
			}
		}
	}
	return out
}

// stagesSince are the means since before, one a line.
func (b *bench) stagesSince(before map[string]float64) string {
	now := b.stages()
	var out []string
	for _, k := range slices.Sorted(maps.Keys(now)) {
		if sum := strings.Replace(k, "_count", "_sum", 1); sum != k && now[k] > before[k] {
			name := strings.Replace(k, "_seconds_count", "", 1)
			out = append(out, fmt.Sprintf("%s: mean %.2f ms, %.0f times", name, 1000*(now[sum]-before[sum])/(now[k]-before[k]), now[k]-before[k]))
		}
	}
	return strings.Join(out, "\n")
}

func (b *bench) runOne(rc *runc) float64 {
	took, stop, err := rc.start(b.ctx, 0, 0)
	b.must(err)
	b.must(stop())
	return ms(took)
}

// deploy is a function's way from nothing, its image being on the node, to its
// first answer: it is called at once.
func (b *bench) deploy() []row {
	f, c := b.colds(1)[0], client()
	defer c.CloseIdleConnections()
	var ours, base, goal []float64
	n, before := 0, b.stages()
	b.each(func() {
		var o, d []float64
		for range 3 {
			n++
			name := fmt.Sprintf("new-%02d", n)
			start := time.Now()
			b.must(b.create(name, nil))
			created := ms(time.Since(start))
			_, err := b.call(c, name)
			b.must(err)
			o = append(o, ms(time.Since(start)))
			b.note("deploy: answer to the deploy call after %.3g ms, first 200 after %.4g ms", created, o[len(o)-1])
			b.remove(name)
			took, err := b.call(c, f)
			b.must(err)
			d = append(d, took)
			b.must(b.cool(f))
		}
		ours, base, goal = append(ours, median(o)), append(base, median(d)), append(goal, 60)
	})
	rows := []row{atMost(nameDeploy, "ms", 1, ours, goal), atMost(nameDeployCold, "ms", 3, ours, base)}
	rows[0].Hint = b.stagesSince(before)
	return rows
}

// coldRate is how many full cycles (start, serve, tear down) get done in a
// second, 8 under way at a time.
func (b *bench) coldRate() []row {
	const wide, cycles = 8, 32
	names, rc, c := b.colds(wide), b.baseline(), client()
	defer c.CloseIdleConnections()
	var ours, base []float64
	before := b.stages()
	b.each(func() {
		ours = append(ours, b.cycles(wide, cycles, func(i int) error {
			if _, err := b.call(c, names[i]); err != nil {
				return err
			}
			return b.cool(names[i])
		}))
		base = append(base, b.cycles(wide, cycles, func(i int) error {
			_, stop, err := rc.start(b.ctx, i, wide)
			if err != nil {
				return err
			}
			return stop()
		}))
		b.note("%.3g cold starts/s, %.3g runc run/s", ours[len(ours)-1], base[len(base)-1])
	})
	r := atLeast(nameColdRate, 2.5, ours, base)
	r.Hint = b.stagesSince(before)
	return []row{r}
}

// cycles calls f n times, wide at a time, each place with its own number, and
// answers with the calls in a second.
func (b *bench) cycles(wide, n int, f func(place int) error) float64 {
	todo := make(chan struct{}, n)
	for range n {
		todo <- struct{}{}
	}
	close(todo)
	start := time.Now()
	b.must(together(wide, func(i int) error {
		for range todo {
			if err := f(i); err != nil {
				return err
			}
		}
		return nil
	}))
	return float64(n) / time.Since(start).Seconds()
}

// burst calls 64 cold functions at once and waits for the last answer.
func (b *bench) burst() []row {
	names, rc := b.colds(most), b.baseline()
	var ours, base []float64
	before := b.stages()
	b.each(func() {
		ours = append(ours, b.burstOf(names))
		start := time.Now()
		stops := make([]func() error, most)
		took := make([]time.Duration, most)
		err := together(most, func(i int) (err error) {
			_, stops[i], err = rc.start(b.ctx, i, most)
			took[i] = time.Since(start)
			return err
		})
		last := 0.0
		for i, stop := range stops {
			last = max(last, ms(took[i]))
			if stop != nil {
				err = errors.Join(err, stop())
			}
		}
		b.must(err)
		base = append(base, last)
		b.note("burst: ours %.4g ms, runc run %.4g ms", ours[len(ours)-1], last)
	})
	r := atMost(nameBurst, "ms", 0.30, ours, base)
	r.Hint = b.stagesSince(before)
	return []row{r}
}

// burstOf calls cold functions at once, for the time to the last answer in ms,
// and leaves them cold.
func (b *bench) burstOf(names []string) float64 {
	c := client()
	defer c.CloseIdleConnections()
	start := time.Now()
	b.must(together(len(names), func(i int) error {
		_, err := b.call(c, names[i])
		return err
	}))
	took := ms(time.Since(start))
	b.must(together(len(names), func(i int) error { return b.cool(names[i]) }))
	return took
}

// together runs f n times at once.
func together(n int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

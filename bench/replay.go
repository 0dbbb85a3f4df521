package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/openfaas"
)

const (
	nameSlowdown     = "Azure-100 replay, slowdown of functions, p50"
	nameSlowdownTail = "Azure-100 replay, slowdown of functions, p99"
	nameIdleShare    = "Azure-100 replay, idle memory·time ÷ all"
)

// longestCall bounds the durations of the trace, so that the bench ends.
const longestCall = 20 * time.Second

// replayed is a platform on which the trace's functions are deployed, all at
// zero replicas.
type replayed struct {
	*bench
	functions []traced
	calls     []traceCall

	mu   sync.Mutex // of idle
	idle []*wire
}

// onTrace prepares it, at the first call. One replica serves one call at a time.
func (b *bench) onTrace() *replayed {
	if b.traced != nil {
		return b.traced
	}
	all := b.trace()
	r := &replayed{bench: b.another(), functions: all}
	b.Cleanup(func() { b.end(r.bench) })
	// The seed that others replay the sample with.
	r.calls = plan(all, b.traceMinutes, b.traceSpeed, rand.New(rand.NewPCG(42, 42))) //nolint:gosec // the same load at every run
	r.prepare()
	labels := coldLabels()
	for k, v := range map[string]string{"max": "50", "type": "capacity", "target": "1", "target-proportion": "1"} {
		labels["com.openfaas.scale."+k] = v
	}
	if keep := time.Duration(float64(b.traceKeep) / b.traceSpeed); keep > 0 {
		labels["com.openfaas.scale.zero-duration"] = keep.String()
		labels["com.openfaas.scale.down.window"] = keep.String()
	}
	b.must(together(4, func(w int) error {
		for i := w; i < len(all); i += 4 {
			err := r.platform().Client.Create(b.ctx, openfaas.FunctionDeployment{
				Service: r.name(i), Image: r.image, Labels: labels,
				Annotations: map[string]string{api.AnnotationConcurrency: "1"},
				EnvVars:     map[string]string{"exec_timeout": "1m", "write_timeout": "1m", "read_timeout": "1m"},
			})
			if err != nil {
				return err
			}
		}
		return nil
	}))
	b.traced = r
	return r
}

func (*replayed) name(i int) string { return fmt.Sprintf("azure-%03d", i) }

// heard is what came of one call.
type heard struct {
	traceCall
	took time.Duration // since it was due
	err  error
}

// play makes calls when they are due, whether or not earlier ones were
// answered, until ctx is done, and waits for the answers.
func (r *replayed) play(ctx context.Context, calls []traceCall) []heard {
	at := make([]time.Duration, len(calls))
	for i, c := range calls {
		at[i] = c.at
	}
	out := make([]heard, 0, len(calls))
	var wg sync.WaitGroup
	var mu sync.Mutex
	n := 0
	for due := range clock(ctx, at) {
		c := calls[n]
		n++
		wg.Go(func() { //nolint:contextcheck // a call that has begun is not cut off
			err := r.one(c)
			took := time.Since(due)
			mu.Lock()
			out = append(out, heard{c, took, err})
			mu.Unlock()
		})
	}
	wg.Wait()
	return out
}

// one makes a call on a connection that is free, or a new one.
func (r *replayed) one(c traceCall) error {
	t := get(r.gateway(), fmt.Sprintf("/function/%s/sleep/%s", r.name(c.function), min(c.want, longestCall)))
	r.mu.Lock()
	var w *wire
	if last := len(r.idle) - 1; last >= 0 {
		w, r.idle = r.idle[last], r.idle[:last]
	}
	r.mu.Unlock()
	if w == nil {
		var err error
		if w, err = dial(r.ctx, t); err != nil {
			return err
		}
	}
	w.t = t
	if err := w.call(); err != nil {
		w.conn.Close()
		return err
	}
	r.mu.Lock()
	r.idle = append(r.idle, w)
	r.mu.Unlock()
	return nil
}

// forget closes the connections, which a restart of the server has broken.
func (r *replayed) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	pool(r.idle).close()
	r.idle = nil
}

// replay plays minutes of the Azure sample. Calls arrive faster than in the
// trace, by a factor, and idle replicas are kept for a time that is shorter by
// it; durations are those of the trace (up to a bound), so that slowdowns are
// comparable. Idle time is counted times the factor, which makes it the
// trace's.
func (b *bench) replay() []row {
	r := b.onTrace()
	before, start := r.stages(), time.Now()
	got := r.play(b.ctx, r.calls)
	defer r.forget()
	lived := r.watched.lived(start)
	logs, counts := make([]float64, len(r.functions)), make([]float64, len(r.functions))
	busy, alive := 0.0, 0.0
	var faults []error
	for _, h := range got {
		if h.err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", r.name(h.function), h.err))
			continue
		}
		want := min(h.want, longestCall)
		logs[h.function] += math.Log(float64(h.took) / float64(want))
		counts[h.function]++
		busy += r.functions[h.function].mb * want.Seconds()
	}
	if len(faults) > 0 {
		b.Fatalf("%d of %d calls failed, such as %w", len(faults), len(got), errors.Join(faults[:min(3, len(faults))]...))
	}
	var slow []float64
	for i, n := range counts {
		if n > 0 {
			slow = append(slow, math.Exp(logs[i]/n))
		}
		alive += r.functions[i].mb * lived[r.name(i)].Seconds()
	}
	idle := max(0, alive-busy) * b.traceSpeed
	share := 100 * idle / (idle + busy)
	one := []float64{1}
	p50 := atMost(nameSlowdown, "×", 1.15, []float64{quantile(slow, 0.5)}, one)
	p99 := atMost(nameSlowdownTail, "×", 20, []float64{quantile(slow, 0.99)}, one)
	mem := atMost(nameIdleShare, "%", 0.80, []float64{share}, []float64{100})
	said := fmt.Sprintf("%d calls of %d functions in %.0f s: %d minutes of the trace, %g times faster, replicas kept for %s of its time", len(got), len(slow), time.Since(start).Seconds(), b.traceMinutes, b.traceSpeed, b.traceKeep)
	for _, row := range []*row{&p50, &p99} {
		row.Low, row.High = quantile(slow, 0), quantile(slow, 1)
		row.Hint = said + "\n" + r.stagesSince(before)
	}
	mem.Hint = said
	b.note("%s", p50.Hint)
	return []row{p50, p99, mem}
}

// get200 calls a path once.
func (r *replayed) get200(c *http.Client, path string) error {
	return fetch(r.ctx, c, strings.TrimSuffix(r.platform().URL, "/")+path)
}

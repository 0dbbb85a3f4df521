package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/gateway/route"
	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
	"k8s.io/apimachinery/pkg/types"
)

const (
	nameFunctionRSS = "registered functions, server's RSS for each ÷ goal"
	nameLookup      = "registered functions, lookup among 100k ÷ among 100"
	nameRegWarm     = "registered functions, warm gateway ÷ direct, with them ÷ with 100"
	nameRestart     = "registered functions, restart to serving ÷ goal"
	nameRestartCPU  = "registered functions, processor time of a restart to serving"
)

const (
	few          = 100
	settleLimit  = 2 * time.Minute
	patience     = 5 * time.Minute // with a start
	functionGoal = 4.0             // kB
	restartGoal  = 10_000.0
)

// registered is what functions cost that nobody calls: they are deployed over
// the API of a platform of their own, at zero replicas, until there are as many
// as asked for or the time is over; those that are missing then are put into its
// store while it does not run.
func (b *bench) registered() []row {
	other := b.another()
	defer b.end(other)
	p := other.platform()
	direct := other.direct() // it stays: restarts do not touch what runs
	deploy := func(from, to int, limit time.Duration) int {
		ctx, cancel := context.WithTimeout(b.ctx, limit)
		defer cancel()
		var next, done atomic.Int64
		next.Store(int64(from))
		b.must(together(32, func(int) error {
			for ctx.Err() == nil {
				i := next.Add(1) - 1
				if i >= int64(to) {
					return nil
				}
				err := p.Client.Create(b.ctx, openfaas.FunctionDeployment{Service: registeredName(int(i)), Image: other.image, Labels: coldLabels()}) //nolint:contextcheck // one that has begun is not cut off
				if err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		}))
		return int(done.Load())
	}
	p.Patience = patience
	// begin answers with the time until the warm function is served, and with what
	// all processes have run by then, ms.
	begin := func() (wall, used float64) {
		start := time.Now()
		p.Start()
		platform.Eventually(b, patience, other.callWarm)
		return ms(time.Since(start)), ms(cpu(family(p.Pid())))
	}
	restart := func() (wall, used float64) {
		p.Terminate()
		return begin()
	}
	deploy(0, few, b.deployFor)
	other.settle()
	_, lessUsed := restart()
	other.settle()
	less, lessWarm := rss(p.Pid()), other.warmRatio(direct)

	start := time.Now()
	deployed := deploy(few, b.functions, b.deployFor)
	took := time.Since(start)
	settled := other.settle()
	n := max(b.functions, few)
	if few+deployed < n {
		p.Terminate()
		other.seed(few+deployed, n)
		begin()
	}
	var again, used []float64
	for range 2 {
		other.settle()
		wall, cpu := restart()
		again, used = append(again, wall), append(used, cpu)
	}
	settledAgain := other.settle()
	more, moreWarm := rss(p.Pid()), other.warmRatio(direct)

	each := (more - less) * 1000 / float64(n-few)
	size := atMost(nameFunctionRSS, "kB", 1, []float64{each}, []float64{functionGoal})
	size.Hint = fmt.Sprintf("%d functions were deployed in %.0f s (%.0f/s), the others stored; the server has %.0f MB with all and %.0f MB with %d; it was at rest %.0f s after the deploys, %.0f s after the restart\neach is a Function, a Deployment, a ReplicaSet, a Service and its Endpoints and EndpointSlice in the caches and mirrors", deployed, took.Seconds(), float64(deployed)/took.Seconds(), more, less, few, settled.Seconds(), settledAgain.Seconds())
	back := atMost(nameRestart, "ms", 1, again, []float64{restartGoal})
	back.Hint = fmt.Sprintf("with %d functions", n)
	return []row{size, b.lookup(), noGoal(nameRegWarm, "×", moreWarm, lessWarm), back, noGoal(nameRestartCPU, "ms", used, []float64{lessUsed})}
}

func (b *bench) callWarm() error {
	return fetch(b.ctx, client(), b.platform().URL+"/function/"+function)
}

// settle waits until the server has little to do, for some time at most, and
// answers with how long that took.
func (b *bench) settle() time.Duration {
	start := time.Now()
	for time.Since(start) < settleLimit {
		pids := map[int]bool{b.platform().Pid(): true}
		before, at := cpu(pids), time.Now()
		b.pause(time.Second)
		if used := cpu(pids) - before; used < time.Since(at)/10 {
			break
		}
	}
	return time.Since(start)
}

// warmRatio is how much longer a call through the gateway takes than one
// straight to the function, for each round.
func (b *bench) warmRatio(at string) []float64 {
	direct, err := open(b.ctx, get(at, "/"), 1)
	b.must(err)
	defer direct.close()
	through, err := open(b.ctx, get(b.gateway(), "/function/"+function), 1)
	b.must(err)
	var out []float64
	b.each(func() {
		var o, d []float64
		for range 500 {
			for _, side := range []struct {
				w   *wire
				out *[]float64
			}{{direct[0], &d}, {through[0], &o}} {
				start := time.Now()
				b.must(side.w.call())
				*side.out = append(*side.out, us(time.Since(start)))
			}
		}
		out = append(out, median(o)/median(d))
	})
	return out
}

// lookup is the way from a request's path to what the gateway knows of the
// function, in process.
func (b *bench) lookup() row {
	const many, lookups = 100_000, 200_000
	tables, paths := map[int]*route.Table[*int]{}, map[int][]*url.URL{}
	rnd := rand.New(rand.NewPCG(3, 3)) //nolint:gosec // the same order at every run
	for _, n := range []int{few, many} {
		t := route.NewTable[*int]()
		urls := make([]*url.URL, n)
		for i := range n {
			name := registeredName(i)
			t.GetOrAdd(types.NamespacedName{Namespace: api.FunctionNamespace, Name: name}, func() *int { return new(i) })
			urls[i] = &url.URL{Path: "/function/" + name}
		}
		tables[n] = t
		for range lookups {
			paths[n] = append(paths[n], urls[rnd.IntN(n)])
		}
	}
	one := func(n int) float64 {
		runtime.GC() // none of the preparation's is due in the measured time
		start := time.Now()
		for _, u := range paths[n] {
			target, err := route.Parse(u, "/function/")
			if _, ok := tables[n].Get(target.Function); !ok || err != nil {
				b.Fatal("a function was not found", errors.Join(err))
			}
		}
		return float64(time.Since(start).Nanoseconds()) / lookups
	}
	var ours, base []float64
	b.each(func() { base, ours = append(base, one(few)), append(ours, one(many)) })
	return atMost(nameLookup, "ns", 1.1, ours, base)
}

// Package invoke is the way of an invocation through the gateway: it finds the
// function, takes a slot on a replica or waits in the function's queue for one,
// and forwards the request, streaming both ways.
//
// It tells the control plane what is asked for, and learns from it which
// replicas there are, through api.Capacity only.
package invoke

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/gateway/meter"
	"github.com/podsnap/podsnap/gateway/route"
	"github.com/podsnap/podsnap/internal/openfaas"
	"k8s.io/apimachinery/pkg/types"
)

// Config says how to invoke. Capacity and Gateway are required.
type Config struct {
	Capacity api.Capacity
	Gateway  string // this gateway's name, different from every other one's

	// Lookup asks for a function that is not in the table: it may have been
	// deployed a moment ago through another gateway. NotFound when there is
	// none; nil: the table is all there is.
	Lookup func(context.Context, types.NamespacedName) (Spec, error)
	// Synced is closed when the table is first complete; until then unknown
	// functions wait. nil is complete from the start.
	Synced <-chan struct{}

	// Thaw has a node's agent let a frozen pod go on, and end the round: see
	// api.Agent.SetFrozen. nil: nothing is frozen.
	Thaw func(ctx context.Context, node string, pod types.UID, round uint64) error

	Timeout   time.Duration // of an invocation, when the function says nothing; 0 is 60 s
	ColdStart time.Duration // the least time that a request waits for a replica; 0 is 30 s
	FailFast  time.Duration // the same for a function whose last start failed; 0 is 1 s
	MaxQueue  int           // requests that may wait for one function; 0 is 10,000
	MaxBody   int64         // bytes of a request's body; 0 is 256 MiB
	Report    time.Duration // between reports of demand while a function has traffic; 0 is 500 ms
	Drain     time.Duration // the longest that Run waits for what is in flight at its end; 0 is 30 s

	// Called is told of each call, with the time at which it came; nil: nobody
	// is. Calls wait for it.
	Called func(time.Time)

	// Remember is given each call that was cold, failed or took at least Slow.
	Remember func(openfaas.Call)
	Slow     time.Duration // 0 is 1 s

	Log   *slog.Logger // nil discards
	Meter *meter.Meter // nil: not registered anywhere
}

func (c *Config) setDefaults() {
	if c.Timeout == 0 {
		c.Timeout = 60 * time.Second
	}
	if c.ColdStart == 0 {
		c.ColdStart = 30 * time.Second
	}
	if c.FailFast == 0 {
		c.FailFast = time.Second
	}
	if c.MaxQueue == 0 {
		c.MaxQueue = 10_000
	}
	if c.MaxBody == 0 {
		c.MaxBody = 256 << 20
	}
	if c.Report == 0 {
		c.Report = 500 * time.Millisecond
	}
	if c.Slow == 0 {
		c.Slow = time.Second
	}
	if c.Drain == 0 {
		c.Drain = 30 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Meter == nil {
		c.Meter = meter.New(nil)
	}
}

// Spec is what a function's deployment says about its invocations.
type Spec struct {
	UID        types.UID     // of the deployment
	Generation int64         // of the deployment: a new one forgets an old failure
	Timeout    time.Duration // 0 is Config.Timeout
	MaxBody    int64         // 0 is Config.MaxBody
	MaxQueue   int           // requests that may wait; 0, or more than it, is Config.MaxQueue
	Wait       time.Duration // the longest that one waits for a replica; 0 is the longer of Timeout and Config.ColdStart
}

// Invoker is the handler of invocations.
type Invoker struct {
	c      Config
	table  *route.Table[*function]
	demand *reporter
	drains *drainer
	lookup chan struct{} // one token per Lookup that may run at once

	change sync.Mutex // of what functions and endpoints there are

	active   atomic.Int64  // requests being handled
	draining atomic.Bool   // Run waits for active to become 0
	idle     chan struct{} // told then
	buffers  sync.Pool     // of *copyBuffer
	calls    sync.Pool     // of *call

	thaws sync.WaitGroup // under way

	joined   sync.Mutex
	upgraded map[*joint]struct{} // connections that outlive any time limit
}

// New makes an Invoker. It serves once Run runs.
func New(c Config) *Invoker {
	c.setDefaults()
	v := &Invoker{c: c, table: route.NewTable[*function](), lookup: make(chan struct{}, 16), idle: make(chan struct{}, 1)}
	v.upgraded = map[*joint]struct{}{}
	v.demand = newReporter(v)
	v.drains = newDrainer(v)
	return v
}

// Run keeps the table and the demand flowing until ctx is done; then it waits
// for the requests in flight, at most Config.Drain long.
func (v *Invoker) Run(ctx context.Context) error {
	inner, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var wg sync.WaitGroup
	wg.Go(func() { v.demand.run(inner) })
	wg.Go(func() { v.drains.run(inner) })
	wg.Go(func() { v.follow(inner) })
	<-ctx.Done()
	v.endUpgraded()
	v.waitIdle(inner)
	end()
	wg.Wait()
	v.thaws.Wait()
	for _, f := range v.table.All() {
		f.close()
	}
	return nil
}

// waitIdle returns when no request is in flight, or Config.Drain is over.
func (v *Invoker) waitIdle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, v.c.Drain)
	defer cancel()
	v.draining.Store(true)
	for v.active.Load() > 0 {
		select {
		case <-v.idle:
		case <-ctx.Done():
			v.c.Log.Warn("requests still in flight at the end", slog.Int64("count", v.active.Load()))
			return
		}
	}
}

func (v *Invoker) enter() { v.active.Add(1) }

func (v *Invoker) leave() {
	if v.active.Add(-1) == 0 && v.draining.Load() {
		select {
		case v.idle <- struct{}{}:
		default:
		}
	}
}

// SetFunction makes a function callable, or takes in what changed about it.
func (v *Invoker) SetFunction(key types.NamespacedName, s Spec) {
	v.change.Lock()
	defer v.change.Unlock()
	v.function(key).deploy(s)
}

// DeleteFunction makes it unknown, unless the one that is known has another
// UID: who waits for it is told so. What is in flight goes on.
func (v *Invoker) DeleteFunction(key types.NamespacedName, uid types.UID) {
	v.change.Lock()
	defer v.change.Unlock()
	f, ok := v.table.Get(key)
	if !ok {
		return
	}
	if s := f.spec.Load(); s == nil || s.UID != uid {
		return
	}
	f.undeploy()
	v.prune(f)
}

// function is to be called with v.change held.
func (v *Invoker) function(key types.NamespacedName) *function {
	return v.table.GetOrAdd(key, func() *function { return newFunction(v, key) })
}

// prune forgets a function that is neither deployed nor has replicas left. It
// is to be called with v.change held.
func (v *Invoker) prune(f *function) {
	if f.spec.Load() == nil && !f.hasEndpoints() {
		v.table.Delete(f.key)
		v.c.Meter.Forget(f.meter.Label())
	}
}

// Load is what one function has to do now.
type Load struct {
	InFlight, Queued int
	Invocations      uint64 // that are over, since the gateway started
}

// Load looks a function up; zeros when it is not known.
func (v *Invoker) Load(key types.NamespacedName) Load {
	f, ok := v.table.Get(key)
	if !ok {
		return Load{}
	}
	d := f.snapshot()
	return Load{InFlight: d.InFlight, Queued: d.Queued, Invocations: f.meter.Count()}
}

func random(n int) int { return rand.IntN(n) }

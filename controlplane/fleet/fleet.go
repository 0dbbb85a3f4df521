// Package fleet is the control plane's side of the Capacity seam: it takes the
// gateways' demand, has package autoscale decide, writes the number of replicas
// into the functions' Deployments, and tells the gateways which pods answer.
package fleet

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/autoscale"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/podsnap/podsnap/internal/mirror"
	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
)

// stale is the age over which a gateway's report counts as zero.
const stale = 3 * time.Second

// Config says what a fleet stands on.
type Config struct {
	Objects api.Objects
	// Policy reads how a function scales from its Deployment.
	Policy func(*appsv1.Deployment) autoscale.Policy
	// CPU is what a function's replicas use; Look has a new value looked at.
	// nil: it is not known.
	CPU func(types.NamespacedName) autoscale.CPU
	// Agents finds the agent of a node; nil: nothing is frozen, and nothing
	// evicted.
	Agents func(ctx context.Context, node string) (api.Agent, error)
	// Settle is how long after the start nothing is scaled down, because what
	// was asked before is not known; 0 is 10 s.
	Settle time.Duration
	// Comeback is how long after the start gateways that are not connected may
	// still have requests in flight on pods that were deleted meanwhile: they
	// ask for endpoints again at least every 2 s. 0 is 3 s.
	Comeback time.Duration
	Log      *slog.Logger // nil discards
	Metrics  prometheus.Registerer
}

// Fleet implements api.Capacity.
type Fleet struct {
	c           Config
	deployments *mirror.Mirror[*appsv1.Deployment]
	pods        *mirror.Mirror[*corev1.Pod]
	scale       *loop.Loop[types.NamespacedName]
	drains      *loop.Loop[podKey]
	freezes     *loop.Loop[podKey]
	nodes       *mirror.Mirror[*corev1.Node]
	shortages   *loop.Loop[string] // by node
	metrics     *metrics
	started     time.Time

	mu        sync.Mutex
	functions map[types.NamespacedName]*function
	streams   map[*stream]bool
	drained   map[types.UID]map[string]bool      // gateways that have answered, by pod
	starts    map[types.UID]api.Start            // of pods
	away      map[string]time.Time               // gateways that were connected, since when they are not
	asked     map[types.UID]types.NamespacedName // functions of the pods for which gateways are to give leave
	rounds    map[types.UID]uint64               // the last ones of pods, as told to gateways
	round     uint64                             // the last of all
}

var _ api.Capacity = (*Fleet)(nil)

type podKey struct {
	types.NamespacedName
	UID types.UID
}

// function is what the fleet remembers of one.
type function struct {
	window    autoscale.Window
	demand    map[string]reported // by gateway
	decisions autoscale.History
	failing   string // the reason told last
	wrote     int    // the number that the fleet wrote last, noReplicas once somebody else has
	endpoints map[types.UID]state
}

// noReplicas is no number of replicas.
const noReplicas = -1

type reported struct {
	api.Demand
	at time.Time
}

// New makes a fleet; Run has it work.
func New(c Config) (*Fleet, error) {
	if c.Objects == nil || c.Policy == nil {
		return nil, errors.New("fleet: Objects and Policy are required")
	}
	if c.CPU == nil {
		c.CPU = func(types.NamespacedName) autoscale.CPU { return autoscale.CPU{} }
	}
	if c.Settle == 0 {
		c.Settle = 10 * time.Second
	}
	if c.Comeback == 0 {
		c.Comeback = 3 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	isFunction, err := labels.NewRequirement(api.LabelFunction, selection.Exists, nil)
	if err != nil {
		return nil, err
	}
	o := mirror.Options{Labels: labels.NewSelector().Add(*isFunction), Log: c.Log}
	f := &Fleet{
		c:           c,
		deployments: mirror.New[*appsv1.Deployment](c.Objects, api.Deployments, o),
		pods:        mirror.New[*corev1.Pod](c.Objects, api.Pods, o),
		metrics:     newMetrics(c.Metrics),
		functions:   map[types.NamespacedName]*function{},
		starts:      map[types.UID]api.Start{},
		streams:     map[*stream]bool{},
		drained:     map[types.UID]map[string]bool{},
		away:        map[string]time.Time{},
		rounds:      map[types.UID]uint64{},
		asked:       map[types.UID]types.NamespacedName{},
	}
	f.pods.Index("function", func(p *corev1.Pod) []string { return []string{p.Namespace + "/" + p.Labels[api.LabelFunction]} })
	f.deployments.OnChange(f.deploymentChanged)
	f.pods.OnChange(f.podChanged)
	f.scale = loop.New(loop.Config{Name: "autoscale", Workers: 4, Log: c.Log, Metrics: c.Metrics}, f.reconcile)
	f.drains = loop.New(loop.Config{Name: "drain", Workers: 4, Log: c.Log, Metrics: c.Metrics}, f.reconcileDrain)
	f.nodes = mirror.New[*corev1.Node](c.Objects, api.Nodes, mirror.Options{Log: c.Log})
	f.nodes.OnChange(f.nodeChanged)
	f.shortages = loop.New(loop.Config{Name: "evict", Workers: 1, Log: c.Log, Metrics: c.Metrics}, f.reconcileShortage)
	f.freezes = loop.New(loop.Config{Name: "freeze", Workers: 4, Log: c.Log, Metrics: c.Metrics}, f.reconcileFreeze)
	return f, nil
}

// Run works until ctx is done.
func (f *Fleet) Run(ctx context.Context) error {
	f.mu.Lock()
	f.started = time.Now()
	f.mu.Unlock()
	var wg sync.WaitGroup
	mirrors := []func(context.Context) error{f.deployments.Run, f.pods.Run}
	if f.c.Agents != nil {
		mirrors = append(mirrors, f.nodes.Run)
	}
	for _, run := range mirrors {
		wg.Go(func() { _ = run(ctx) }) // they return nil
	}
	for _, run := range []func(context.Context, ...<-chan struct{}) error{f.scale.Run, f.drains.Run, f.freezes.Run, f.shortages.Run} {
		wg.Go(func() { _ = run(ctx, f.deployments.Synced(), f.pods.Synced()) })
	}
	<-ctx.Done()
	wg.Wait()
	f.cutAll(context.Cause(ctx))
	return nil
}

// of finds or makes a function's memory; f.mu is held.
func (f *Fleet) of(k types.NamespacedName) *function {
	fn := f.functions[k]
	if fn == nil {
		fn = &function{wrote: noReplicas, demand: map[string]reported{}, endpoints: map[types.UID]state{}}
		f.functions[k] = fn
	}
	return fn
}

// Report implements api.Capacity.
func (f *Fleet) Report(_ context.Context, gateway string, demand []api.Demand) error {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range demand {
		fn := f.of(d.Function)
		before, known := fn.demand[gateway]
		if n := d.Arrived - before.Arrived; known && d.Arrived >= before.Arrived {
			fn.window.Arrived(now, n)
		} else {
			// The first report, or a gateway that has begun to count anew: how
			// many of them came just now is not known, but those that are here.
			fn.window.Arrived(now, uint64(d.Queued+d.InFlight)) //nolint:gosec // not negative
		}
		fn.demand[gateway] = reported{d, now}
		f.scale.Add(d.Function)
	}
	return nil
}

func (f *Fleet) deploymentChanged(t api.EventType, old, now *appsv1.Deployment) {
	if t == api.Deleted {
		f.mu.Lock()
		f.forget(keyOf(old))
		f.mu.Unlock()
		return
	}
	if old != nil && wanted(old) != wanted(now) {
		f.mu.Lock()
		f.overruled(keyOf(now), wanted(now))
		f.mu.Unlock()
	}
	if why := replicaFailure(now); why != "" && (old == nil || replicaFailure(old) != why) {
		f.mu.Lock()
		if fn := f.functions[keyOf(now)]; fn != nil {
			f.tellFailing(keyOf(now), fn)
		}
		f.mu.Unlock()
	}
	if old != nil && old.Generation == now.Generation && old.Status.ReadyReplicas == now.Status.ReadyReplicas &&
		maps.Equal(old.Labels, now.Labels) && maps.Equal(old.Annotations, now.Annotations) {
		return // nothing that a decision is made of
	}
	f.scale.Add(keyOf(now))
}

// overruled has a number of replicas that somebody else wrote count for more
// than what was asked before: who scales a function to zero does not want it
// back for a request that was answered meanwhile. What waits still is reported
// again. f.mu is held.
func (f *Fleet) overruled(k types.NamespacedName, replicas int) {
	fn := f.functions[k]
	if fn == nil || fn.wrote == replicas {
		return
	}
	fn.wrote = noReplicas
	if replicas != 0 {
		return
	}
	for g, r := range fn.demand {
		r.Queued = 0
		fn.demand[g] = r
	}
}

// forget drops what is remembered of a function that is not there any more,
// when its last pod is gone too; f.mu is held.
func (f *Fleet) forget(k types.NamespacedName) {
	if _, ok := f.deployments.Get(k.Namespace, k.Name); !ok && f.functions[k] != nil && len(f.functions[k].endpoints) == 0 {
		delete(f.functions, k)
	}
}

func keyOf(d *appsv1.Deployment) types.NamespacedName {
	return types.NamespacedName{Namespace: d.Namespace, Name: d.Name}
}

// reconcile decides on one function and writes the number of its replicas.
func (f *Fleet) reconcile(ctx context.Context, k types.NamespacedName) (time.Duration, error) {
	d, ok := f.deployments.Get(k.Namespace, k.Name)
	if !ok {
		return f.unknown(k), nil
	}
	if d.DeletionTimestamp != nil {
		return 0, nil
	}
	dec, now := f.decide(k, d)
	if dec.Replicas == now.Replicas {
		f.keep(k, dec)
		f.rest(k, dec, now)
		return dec.Again, nil
	}
	f.mu.Lock()
	f.of(k).wrote = dec.Replicas // before its event
	f.mu.Unlock()
	_, err := api.Mutate(ctx, f.c.Objects, api.Deployments, k.Namespace, k.Name, api.UpdateOptions{}, func(have *appsv1.Deployment) (bool, error) {
		if wanted(have) != now.Replicas {
			return false, nil // somebody else was faster: the event brings us back
		}
		n := int32(dec.Replicas) //nolint:gosec // bounded by the policy
		have.Spec.Replicas = &n
		return true, nil
	})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	f.note(k, now, dec)
	return dec.Again, nil
}

// unknown keeps the demand for a function that is not there for as long as it
// counts: it may have been deployed just now. It answers when to look again; 0
// is never, because nothing is left.
func (f *Fleet) unknown(k types.NamespacedName) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn := f.functions[k]
	if fn == nil {
		return 0
	}
	if fn.drop(time.Now()); len(fn.demand) > 0 {
		return stale + time.Millisecond // then it is over
	}
	f.forget(k)
	return 0
}

// drop forgets the reports that are too old.
func (fn *function) drop(now time.Time) {
	for g, r := range fn.demand {
		if now.Sub(r.at) > stale {
			delete(fn.demand, g)
		}
	}
}

func wanted(d *appsv1.Deployment) int {
	if d.Spec.Replicas == nil {
		return 1
	}
	return int(*d.Spec.Replicas)
}

// decide asks autoscale with what is known now.
func (f *Fleet) decide(k types.NamespacedName, d *appsv1.Deployment) (autoscale.Decision, autoscale.Now) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn := f.of(k)
	t := time.Now()
	now := autoscale.Now{Time: t, Replicas: wanted(d), Ready: int(d.Status.ReadyReplicas), Settling: t.Sub(f.started) < f.c.Settle, CPU: f.c.CPU(k)}
	fn.drop(t)
	for _, r := range fn.demand {
		now.Queued += r.Queued
		now.InFlight += r.InFlight
		now.Pending = max(now.Pending, r.Pending)
	}
	dec := autoscale.Decide(f.c.Policy(d), &fn.window, now)
	if now.Settling {
		// What was put off is looked at when the past is known.
		if left := f.c.Settle - t.Sub(f.started) + time.Millisecond; dec.Again == 0 || left < dec.Again {
			dec.Again = left
		}
	}
	return dec, now
}

func (f *Fleet) note(k types.NamespacedName, now autoscale.Now, dec autoscale.Decision) {
	f.keep(k, dec)
	direction := "up"
	if dec.Replicas < now.Replicas {
		direction = "down"
	}
	f.metrics.decisions.WithLabelValues(direction).Inc()
	f.metrics.decided.Observe(time.Since(now.Time).Seconds())
	f.c.Log.Info("scaled", slog.String("function", k.String()), slog.Int("from", now.Replicas), slog.Int("to", dec.Replicas),
		slog.Int("queued", now.Queued), slog.Int("in_flight", now.InFlight), slog.String("reason", dec.Reason))
}

// keep puts a decision into the function's history.
func (f *Fleet) keep(k types.NamespacedName, dec autoscale.Decision) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fn := f.functions[k]; fn != nil { // else it has just been deleted
		fn.decisions.Add(dec.Record)
	}
}

// Decisions implements api.Capacity.
func (f *Fleet) Decisions(_ context.Context, k types.NamespacedName) ([]api.ScaleDecision, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fn := f.functions[k]; fn != nil {
		return fn.decisions.All(), nil
	}
	return nil, nil
}

// Look decides on a function again: something that the policy reads has
// changed.
func (f *Fleet) Look(k types.NamespacedName) { f.scale.Add(k) }

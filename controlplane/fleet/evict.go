package fleet

import (
	"context"
	"log/slog"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/autoscale"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// evictPause is the time between two evictions on a node: a replica ends,
	// and the agent looks at its memory again.
	evictPause = 2 * time.Second
	// statsLimit is how long the agent may take to tell its use of memory.
	statsLimit = 5 * time.Second
	// cheapest is the deletion cost that makes a set end this pod before others.
	cheapest = "-2147483647"
)

func (f *Fleet) nodeChanged(t api.EventType, _, now *corev1.Node) {
	if t != api.Deleted && short(now) {
		f.shortages.Add(now.Name)
	}
}

// short reports whether a node says that it runs out of memory.
func short(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeMemoryPressure {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// reconcileShortage ends the idle replica of a node that is missed least, one
// after the other while the node is short of memory.
func (f *Fleet) reconcileShortage(ctx context.Context, node string) (time.Duration, error) {
	n, ok := f.nodes.Get("", node)
	if !ok || !short(n) {
		return 0, nil
	}
	f.mu.Lock()
	left := f.c.Settle - time.Since(f.started)
	f.mu.Unlock()
	if left > 0 {
		return left, nil // what is idle is not known yet
	}
	ask, cancel := context.WithTimeout(ctx, statsLimit)
	defer cancel()
	a, err := f.c.Agents(ask, node)
	if err != nil {
		return 0, err
	}
	stats, err := a.Stats(ask)
	if err != nil {
		return 0, err
	}
	total := n.Status.Capacity[corev1.ResourceMemory]
	p := autoscale.Pressure{Total: uint64(max(total.Value(), 0)), Used: stats.Memory} //nolint:gosec // not negative
	// Short it is, whatever the numbers say: tasks wait for memory.
	out, _ := autoscale.Evict(f.idle(node, stats), max(p.Need(), 1))
	if len(out) == 0 {
		return evictPause, nil
	}
	return evictPause, f.evict(ctx, node, out[0])
}

// idle lists the replicas on a node that may be ended: of functions that nothing
// is asked of now or is expected to be, as far as those may have fewer.
func (f *Fleet) idle(node string, stats api.NodeStats) (out []autoscale.Idle) {
	memory := map[types.UID]uint64{}
	for _, p := range stats.Pods {
		for _, c := range p.Containers {
			memory[p.UID] += c.Memory
		}
	}
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, fn := range f.functions {
		d, ok := f.deployments.Get(k.Namespace, k.Name)
		if !ok || len(fn.endpoints) == 0 || !f.mayLose(d, fn, now) {
			continue
		}
		chance := fn.window.Gaps.Soon(fn.window.Idle(now), autoscale.EvictHorizon)
		for uid, s := range fn.endpoints {
			if own, known := memory[uid]; known && s.endpoint.Node == node && !s.draining {
				_, held := autoscale.TierFrozen.Cost(own)
				out = append(out, autoscale.Idle{Pod: uid, Function: k, Tier: autoscale.TierFrozen, Memory: held, Chance: chance})
			}
		}
	}
	return out
}

// mayLose reports whether a function may do with a replica less; f.mu is held.
func (f *Fleet) mayLose(d *appsv1.Deployment, fn *function, now time.Time) bool {
	fn.drop(now)
	for _, r := range fn.demand {
		if r.Queued+r.InFlight+r.Pending > 0 {
			return false
		}
	}
	p := f.c.Policy(d)
	return wanted(d) > p.Least() && !p.Expected(&fn.window, now)
}

// evict ends one replica: its function wants one less, and the set ends this one.
func (f *Fleet) evict(ctx context.Context, node string, e autoscale.Eviction) error {
	k := e.Function
	f.mu.Lock()
	s, served := f.functions[k].served(e.Pod)
	d, ok := f.deployments.Get(k.Namespace, k.Name)
	if !ok || !served || !f.mayLose(d, f.functions[k], time.Now()) {
		f.mu.Unlock()
		return nil // it is called now
	}
	from := wanted(d)
	fn := f.functions[k]
	fn.wrote = from - 1 // before its event
	record := api.ScaleDecision{
		Time: time.Now(), From: from, To: from - 1, Rule: autoscale.RuleEvict, Reason: "node " + node + " is short of memory. " + e.Reason,
		Inputs: api.ScaleInputs{Min: f.c.Policy(d).Min, Max: f.c.Policy(d).Max, Ready: int(d.Status.ReadyReplicas), IdleSeconds: fn.window.Idle(time.Now()).Seconds()},
		Idle:   api.IdlePlan{Tier: string(autoscale.TierNone)},
	}
	f.mu.Unlock()
	_, err := api.Mutate(ctx, f.c.Objects, api.Pods, k.Namespace, s.endpoint.Name, api.UpdateOptions{}, func(p *corev1.Pod) (bool, error) {
		if p.UID != e.Pod || p.Annotations[corev1.PodDeletionCost] == cheapest {
			return false, nil
		}
		if p.Annotations == nil {
			p.Annotations = map[string]string{}
		}
		p.Annotations[corev1.PodDeletionCost] = cheapest
		return true, nil
	})
	if err != nil {
		return ignoreNotFound(err)
	}
	written := false
	_, err = api.Mutate(ctx, f.c.Objects, api.Deployments, k.Namespace, k.Name, api.UpdateOptions{}, func(have *appsv1.Deployment) (bool, error) {
		if written = wanted(have) == from; !written {
			return false, nil // somebody else was faster
		}
		n := int32(from - 1) //nolint:gosec // less than there was
		have.Spec.Replicas = &n
		return true, nil
	})
	if err != nil || !written {
		return ignoreNotFound(err)
	}
	f.mu.Lock()
	if fn := f.functions[k]; fn != nil {
		fn.decisions.Add(record)
	}
	f.mu.Unlock()
	f.metrics.decisions.WithLabelValues("down").Inc()
	f.metrics.evictions.Inc()
	f.c.Log.Info("evicted", slog.String("function", k.String()), slog.String("pod", s.endpoint.Name), slog.String("node", node), slog.String("reason", record.Reason))
	return nil
}

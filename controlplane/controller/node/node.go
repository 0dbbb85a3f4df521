// Package node keeps nodes' life cycle: a node whose lease is not renewed is
// lost, tainted and emptied; one that returns is used again.
package node

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/disruption"
	"github.com/podsnap/podsnap/controlplane/view"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/podsnap/podsnap/internal/record"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// probeLease is written to see whether the store takes writes.
const probeLease = "node-lifecycle"

// Config says when a node is lost and what becomes of its pods.
type Config struct {
	Objects api.Objects
	View    *view.View
	Record  *record.Recorder // nil: no events
	// Grace is how long a node's lease (in api.SystemNamespace, named as the
	// node) may go without renewal; 0 is 4 s. Agents renew each quarter of it.
	Grace time.Duration
	// EvictAfter is how long pods stay on a node that says that it is not
	// ready, unless they tolerate it for longer; 0 is 2 s. LostAfter is the same
	// for a node that is lost, of which nothing was heard for the whole grace
	// already; 0 is at once.
	EvictAfter, LostAfter time.Duration
	Log                   *slog.Logger // nil discards
	Metrics               prometheus.Registerer
}

// Controller looks after all nodes.
type Controller struct {
	c    Config
	loop *loop.Loop[string]

	mu     sync.Mutex
	health *health
	before map[string]corev1.ConditionStatus // what Ready was when the node was lost
	begun  time.Time                         // when Run began
}

// New makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func New(c Config) *Controller {
	if c.Grace == 0 {
		c.Grace = 4 * time.Second
	}
	if c.EvictAfter == 0 {
		c.EvictAfter = 2 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Controller{c: c, health: newHealth(c.Grace), before: map[string]corev1.ConditionStatus{}}
	r.loop = loop.New(loop.Config{Name: "node", Workers: 4, BackoffMax: c.Grace, Log: c.Log, Metrics: c.Metrics}, r.reconcile)
	c.View.Nodes.OnChange(r.nodeChanged)
	c.View.Leases.OnChange(func(t api.EventType, _, now *coordinationv1.Lease) {
		if t != api.Deleted && now.Namespace == api.SystemNamespace {
			r.leased(now)
		}
	})
	c.View.Pods.OnChange(func(t api.EventType, _, now *corev1.Pod) {
		if t == api.Deleted || now.Spec.NodeName == "" {
			return
		}
		if n, ok := c.View.Nodes.Get("", now.Spec.NodeName); ok && len(n.Spec.Taints) > 0 {
			r.loop.Add(n.Name)
		}
	})
	return r
}

// Run looks after the nodes until ctx is done and returns nil then. The view
// must have synced.
func (r *Controller) Run(ctx context.Context) error {
	r.mu.Lock()
	r.begun = time.Now()
	r.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.loop.Run(ctx) })
	g.Go(func() error { return r.listen(ctx) })
	return g.Wait()
}

func (r *Controller) nodeChanged(t api.EventType, old, now *corev1.Node) {
	r.mu.Lock()
	if t == api.Deleted {
		r.health.forget(old.Name)
		delete(r.before, old.Name)
		r.mu.Unlock()
		return
	}
	if old != nil && old.UID != now.UID {
		r.health.forget(now.Name)
	}
	r.health.register(now.Name, wasLost(now), time.Now())
	r.mu.Unlock()
	if l, ok := r.c.View.Leases.Get(api.SystemNamespace, now.Name); ok {
		r.leased(l)
	}
	r.loop.Add(now.Name)
}

// leased takes in a lease and reports whether its node came back by it.
func (r *Controller) leased(l *coordinationv1.Lease) {
	r.mu.Lock()
	back := r.health.renewed(l.Name, mark(l), away(l), time.Now())
	r.mu.Unlock()
	if back {
		r.c.Log.Info("node is back", slog.String("node", l.Name))
		r.loop.Add(l.Name)
	}
}

// listen waits for silence. It looks at clocks only; the store is asked when a
// node has missed a renewal.
func (r *Controller) listen(ctx context.Context) error {
	timer := time.NewTimer(r.health.tick())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		r.mu.Lock()
		silent := r.health.silent(time.Now())
		r.mu.Unlock()
		if silent {
			err := r.probe(ctx)
			r.mu.Lock()
			r.health.evidence(err == nil, time.Now())
			r.mu.Unlock()
			if err != nil && ctx.Err() == nil {
				r.c.Log.Warn("the store takes no writes, no node is declared lost", slog.Any("error", err))
			}
		}
		r.mu.Lock()
		names, next := r.health.due(time.Now())
		r.mu.Unlock()
		for _, name := range names {
			r.judge(ctx, name)
		}
		timer.Reset(max(next, time.Millisecond))
	}
}

// probe writes a lease of our own.
func (r *Controller) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.health.gap())
	defer cancel()
	now := metav1.NowMicro()
	_, err := api.Mutate(ctx, r.c.Objects, api.Leases, api.SystemNamespace, probeLease, api.UpdateOptions{}, func(l *coordinationv1.Lease) (bool, error) {
		l.Spec.RenewTime = &now
		return true, nil
	})
	if !apierrors.IsNotFound(err) {
		return err
	}
	_, err = r.c.Objects.Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: api.SystemNamespace, Name: probeLease},
		Spec:       coordinationv1.LeaseSpec{RenewTime: &now},
	})
	return err
}

// judge asks the store once more about a node that seems lost: the watch may be
// behind.
func (r *Controller) judge(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, r.health.gap())
	defer cancel()
	l, err := api.Get[*coordinationv1.Lease](ctx, r.c.Objects, api.Leases, api.SystemNamespace, name)
	if apierrors.IsNotFound(err) && r.lend(ctx, name) {
		return // from now on it has the usual time to renew it
	}
	now := time.Now()
	r.mu.Lock()
	switch {
	case err == nil && r.health.beats[name].mark != mark(l):
		r.health.renewed(name, mark(l), away(l), now)
		r.mu.Unlock()
		return
	case err != nil && !apierrors.IsNotFound(err):
		r.health.evidence(false, now)
		r.mu.Unlock()
		return
	}
	r.health.lose(name)
	r.mu.Unlock()
	r.c.Log.Warn("node is lost", slog.String("node", name), slog.Duration("grace", r.c.Grace))
	r.loop.Add(name)
}

// lend makes the lease of a node that has none: a first lease is stored behind, and
// may be lost with the server that took the node in; a node itself may renew one
// only. It reports whether there is one now that was not there.
func (r *Controller) lend(ctx context.Context, name string) bool {
	if _, there := r.c.View.Nodes.Get("", name); !there {
		return false
	}
	now := metav1.NowMicro()
	_, err := r.c.Objects.Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: api.SystemNamespace, Name: name},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, RenewTime: &now},
	})
	return err == nil
}

func (r *Controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	n, ok := r.c.View.Nodes.Get("", name)
	if !ok || n.DeletionTimestamp != nil {
		return 0, nil
	}
	r.mu.Lock()
	lost := r.health.lost(name)
	before, known := r.before[name]
	if lost && !known && !wasLost(n) {
		before, known = readiness(n), true
		r.before[name] = before
	}
	if !known {
		before = corev1.ConditionTrue
	}
	young := r.c.Grace - time.Since(r.begun)
	r.mu.Unlock()
	n, err := r.mark(ctx, n, lost, before)
	if err != nil || n == nil {
		return 0, err
	}
	if !lost {
		r.mu.Lock()
		delete(r.before, name)
		r.mu.Unlock()
	}
	pods := r.c.View.Pods.By(view.Node, name)
	if err := r.readyPods(ctx, pods, lost); err != nil {
		return 0, err
	}
	if lost && young > 0 {
		return young, nil // lost in an earlier life of ours: it may be back in a moment
	}
	out, again := evictions(n, pods, r.c.EvictAfter, r.c.LostAfter, time.Now())
	return again, r.evict(ctx, n, out)
}

// mark writes the node's conditions and taints and answers with the result;
// nil when the node is gone.
func (r *Controller) mark(ctx context.Context, n *corev1.Node, lost bool, before corev1.ConditionStatus) (*corev1.Node, error) {
	if conditions(n.DeepCopy(), lost, before, time.Now()) {
		got, err := api.Mutate(ctx, r.c.Objects, api.Nodes, "", n.Name, api.UpdateOptions{Subresource: "status"}, func(o *corev1.Node) (bool, error) {
			return conditions(o, lost, before, time.Now()), nil
		})
		if err != nil {
			return nil, gone(err)
		}
		n = got
		reason, say := "NodeNotReady", "Node %s is unreachable"
		if !lost {
			reason, say = "NodeReady", "Node %s is reachable again"
		}
		r.c.Record.Eventf(n, corev1.EventTypeNormal, reason, say, n.Name)
	}
	if taints(n.DeepCopy(), time.Now()) {
		got, err := api.Mutate(ctx, r.c.Objects, api.Nodes, "", n.Name, api.UpdateOptions{}, func(o *corev1.Node) (bool, error) {
			return taints(o, time.Now()), nil
		})
		if err != nil {
			return nil, gone(err)
		}
		n = got
	}
	return n, nil
}

// readyPods takes pods of a lost node out of service at once, before they are
// evicted, and back into it when the node returns.
func (r *Controller) readyPods(ctx context.Context, pods []*corev1.Pod, lost bool) error {
	var g errgroup.Group
	g.SetLimit(16)
	for _, p := range pods {
		if !unready(p.DeepCopy(), lost, time.Now()) {
			continue
		}
		g.Go(func() error {
			_, err := api.Mutate(ctx, r.c.Objects, api.Pods, p.Namespace, p.Name, api.UpdateOptions{Subresource: "status"}, func(o *corev1.Pod) (bool, error) {
				return o.UID == p.UID && unready(o, lost, time.Now()), nil
			})
			return gone(err)
		})
	}
	return g.Wait()
}

func (r *Controller) evict(ctx context.Context, n *corev1.Node, out []eviction) error {
	var g errgroup.Group
	g.SetLimit(16)
	for _, e := range out {
		g.Go(func() error {
			o := api.DeleteOptions{UID: e.pod.UID}
			if e.force {
				o.GracePeriodSeconds = new(int64)
			}
			if disruption.OfJob(e.pod) {
				if err := disruption.Mark(ctx, r.c.Objects, e.pod, e.force, disruption.ByTaint, "Taint manager: deleting due to NoExecute taint"); err != nil {
					return fmt.Errorf("mark pod %s: %w", view.Key(e.pod), err)
				}
			}
			_, err := r.c.Objects.Delete(ctx, api.Pods, e.pod.Namespace, e.pod.Name, o)
			if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("evict pod %s from node %s: %w", view.Key(e.pod), n.Name, err)
			}
			r.c.Log.Info("pod evicted", slog.String("pod", view.Key(e.pod).String()), slog.String("node", n.Name), slog.String("taint", e.taint.Key), slog.Bool("force", e.force))
			r.c.Record.Eventf(e.pod, corev1.EventTypeNormal, "TaintManagerEviction", "Deleted from node %s, which has taint %s", n.Name, e.taint.Key)
			return nil
		})
	}
	return g.Wait()
}

// wasLost reports whether this controller declared the node lost, in this life
// or an earlier one.
func wasLost(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionUnknown && c.Reason == reasonLost
		}
	}
	return false
}

// mark is what changes with each renewal.
func mark(l *coordinationv1.Lease) string {
	if l.Spec.RenewTime == nil {
		return l.ResourceVersion
	}
	return strconv.FormatInt(l.Spec.RenewTime.UnixMicro(), 10)
}

// away is how long a node's agent has said to be silent; 0 if it has not.
func away(l *coordinationv1.Lease) time.Duration {
	d, err := time.ParseDuration(l.Annotations[api.AnnotationAway])
	if err != nil {
		return 0
	}
	return d
}

func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

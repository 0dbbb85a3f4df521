// Package scheduler binds pods to nodes: it keeps schedule's model of the
// cluster up to date from watches, takes pods without a node in the order of
// their arrival, and writes each decision as spec.nodeName. A pod that fits
// nowhere is told why and is tried again when a node or a departure of another
// pod may have changed that.
package scheduler

import (
	"context"
	"log/slog"
	"maps"
	"reflect"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/schedule"
	"github.com/podsnap/podsnap/controlplane/storage"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/podsnap/podsnap/internal/mirror"
	"github.com/podsnap/podsnap/internal/record"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// Name is the scheduler's own in events and in spec.schedulerName.
const Name = "default-scheduler"

// Config says how pods are scheduled.
type Config struct {
	Objects    api.Objects
	Workers    int           // binds in flight; 0 is 16
	Resync     time.Duration // a pod that fits nowhere is tried again at least so often; 0 is 1 min
	BackoffMax time.Duration // and at most so often after many failures; 0 is 10 s
	Log        *slog.Logger  // nil discards
	Metrics    prometheus.Registerer
}

// Scheduler decides for all pods without a node.
type Scheduler struct {
	c          Config
	pods       *mirror.Mirror[*corev1.Pod]
	nodes      *mirror.Mirror[*corev1.Node]
	namespaces *mirror.Mirror[*corev1.Namespace]
	disks      disks
	loop       *loop.Loop[types.NamespacedName]
	record     *record.Recorder
	m          meters

	mu      sync.Mutex
	cluster *schedule.Cluster
	waiting map[types.NamespacedName]*wait
	woken   map[int32]int // by priority, how many of them are about to be tried again
	held    map[types.NamespacedName]hold
	seq     uint64
}

// New makes a scheduler.
func New(c Config) *Scheduler {
	if c.Workers == 0 {
		c.Workers = 16
	}
	if c.Resync == 0 {
		c.Resync = time.Minute
	}
	if c.BackoffMax == 0 {
		c.BackoffMax = 10 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	o := mirror.Options{Log: c.Log}
	s := &Scheduler{
		c:          c,
		pods:       mirror.New[*corev1.Pod](c.Objects, api.Pods, o),
		nodes:      mirror.New[*corev1.Node](c.Objects, api.Nodes, o),
		namespaces: mirror.New[*corev1.Namespace](c.Objects, api.Namespaces, o),
		record:     record.New(record.Config{Objects: c.Objects, Component: Name, Log: c.Log}),
		cluster:    schedule.NewCluster(),
		waiting:    map[types.NamespacedName]*wait{},
		woken:      map[int32]int{},
		held:       map[types.NamespacedName]hold{},
		disks:      newDisks(c.Objects, o),
	}
	s.loop = loop.NewRanked(loop.Config{Name: "scheduler", Workers: c.Workers, BackoffMax: c.BackoffMax, Log: c.Log, Metrics: c.Metrics}, s.rank, s.schedule)
	s.m = newMeters(c.Metrics, s.pending)
	s.pods.OnChange(s.podChanged)
	s.nodes.OnChange(s.nodeChanged)
	s.namespaces.OnChange(s.namespaceChanged)
	s.watchDisks()
	return s
}

// Run schedules until ctx is done and returns nil then.
func (s *Scheduler) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.namespaces.Run(ctx) })
	g.Go(func() error { return s.nodes.Run(ctx) })
	g.Go(func() error { return s.pods.Run(ctx) })
	g.Go(func() error { return s.record.Run(ctx) })
	g.Go(func() error { return s.disks.run(ctx) })
	g.Go(func() error {
		return s.loop.Run(ctx, append(s.disks.synced(), s.namespaces.Synced(), s.nodes.Synced(), s.pods.Synced())...)
	})
	return g.Wait()
}

func (s *Scheduler) podChanged(t api.EventType, old, now *corev1.Pod) {
	if t == api.Deleted {
		s.drop(old)
		return
	}
	if old != nil && old.UID != now.UID { // another pod of the same name
		s.drop(old)
		old = nil
	}
	if now.Spec.NodeName != "" {
		s.mu.Lock()
		s.cluster.Remove(reserved(keyOf(now)))
		s.cluster.Assign(now, now.Spec.NodeName)
		s.forget(keyOf(now))
		delete(s.held, keyOf(now))
		switch {
		case ended(now) && (old == nil || !ended(old)): // it leaves room
			s.wake(all)
		case old != nil && old.Spec.NodeName != "" && !maps.Equal(old.Labels, now.Labels): // another neighbour
			s.wake(all)
		case old == nil || old.Spec.NodeName == "": // a neighbour
			s.wake(sociable)
		}
		s.mu.Unlock()
		return
	}
	if old == nil && now.Status.NominatedNodeName != "" { // by the scheduler before this one
		s.mu.Lock()
		s.cluster.Nominate(now, now.Status.NominatedNodeName)
		s.mu.Unlock()
	}
	if ours(now) && (old == nil || !equality.Semantic.DeepEqual(old.Spec, now.Spec) || !reflect.DeepEqual(old.Labels, now.Labels)) {
		s.loop.Add(keyOf(now))
	}
}

// drop takes out a pod that is no more. It may have had room before its mirror
// showed a node.
func (s *Scheduler) drop(pod *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, placed := s.cluster.Where(pod.UID)
	room := placed || pod.Spec.NodeName != "" || s.cluster.Nominated(pod.UID) != ""
	s.cluster.Remove(pod.UID)
	s.cluster.Withdraw(pod.UID)
	s.forget(keyOf(pod))
	delete(s.held, keyOf(pod))
	if room {
		s.wake(all)
	}
}

func (s *Scheduler) nodeChanged(t api.EventType, old, now *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t == api.Deleted {
		s.cluster.RemoveNode(old.Name)
		return
	}
	s.cluster.SetNode(now)
	if old == nil || schedule.Ready(old) != schedule.Ready(now) ||
		!equality.Semantic.DeepEqual(old.Spec, now.Spec) || !reflect.DeepEqual(old.Labels, now.Labels) ||
		!equality.Semantic.DeepEqual(old.Status.Allocatable, now.Status.Allocatable) {
		s.wake(all)
	}
}

func (s *Scheduler) namespaceChanged(t api.EventType, old, now *corev1.Namespace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t == api.Deleted {
		s.cluster.SetNamespace(old.Name, nil)
		return
	}
	if now.Labels == nil {
		s.cluster.SetNamespace(now.Name, map[string]string{})
	} else {
		s.cluster.SetNamespace(now.Name, now.Labels)
	}
	if old == nil || !maps.Equal(old.Labels, now.Labels) {
		s.wake(selective)
	}
}

// schedule takes one decision and writes it.
func (s *Scheduler) schedule(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	pod, ok := s.pods.Get(key.Namespace, key.Name)
	if !ok || pod.Spec.NodeName != "" || !ours(pod) {
		s.mu.Lock()
		s.rouse(s.waiting[key], false)
		s.repay(s.waiting[key])
		s.mu.Unlock()
		return 0, nil
	}
	if s.yields(key, pod) {
		return time.Millisecond, nil
	}
	start := time.Now()
	node, why, w, unbound := s.decide(key, pod, start)
	if w == nil {
		return 0, nil // decided already; the mirror is about to show it
	}
	if len(unbound) > 0 {
		return holdAtMost, s.prepare(ctx, unbound, node)
	}
	s.m.algorithm.Observe(time.Since(start).Seconds())
	if node == "" {
		s.m.attempt("unschedulable", start)
		said, nominated, err := s.makeWay(ctx, pod, why.String())
		if err != nil {
			return 0, err
		}
		s.record.Event(pod, corev1.EventTypeWarning, "FailedScheduling", said)
		return s.c.Resync, s.tell(ctx, pod, said, nominated)
	}
	bound := pod.DeepCopy()
	bound.Spec.NodeName = node
	got, err := api.Update(ctx, s.c.Objects, bound, api.UpdateOptions{})
	if err != nil {
		s.unassume(key, pod.UID)
		s.m.attempt("error", start)
		switch {
		case apierrors.IsNotFound(err):
			return 0, nil
		case apierrors.IsConflict(err):
			return 2 * time.Millisecond, nil // until the mirror has what was newer
		}
		return 0, err
	}
	s.bound(key)
	s.m.attempt("scheduled", start)
	s.m.sli.Observe(time.Since(w.first).Seconds())
	s.record.Eventf(pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s to %s", key, node)
	s.c.Log.Info("pod scheduled", slog.String("pod", key.String()), slog.String("node", node), slog.Int("nodes", why.Nodes), slog.Int("feasible", why.Feasible), slog.Int64("score", why.Score))
	return 0, s.untell(ctx, got)
}

// bound says that a pod has got its node. Until the mirror shows it a change of its
// claims may have it looked at once more: were it held still, it would be written again,
// in vain, and its room given to others.
func (s *Scheduler) bound(key types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, key)
}

// decide picks a node and takes its room at once, before the decision is
// written, so that the next decision sees it; or it parks the pod. It answers
// with nil when the pod has a node already, and with claims when those have to be
// bound for that node before the pod is.
func (s *Scheduler) decide(key types.NamespacedName, pod *corev1.Pod, now time.Time) (string, schedule.Explanation, *wait, []*corev1.PersistentVolumeClaim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rouse(s.waiting[key], false)
	ask, never := storage.Of(pod, s.world())
	if h, ok := s.held[key]; ok && h.uid == pod.UID {
		unbound, ready, keep := s.heldFor(key, h, ask, never, now)
		switch {
		case ready || len(unbound) > 0:
			return h.node, schedule.Explanation{Nodes: s.cluster.Len(), Feasible: 1}, s.waiting[key], unbound
		case keep:
			return "", schedule.Explanation{}, nil, nil
		}
	}
	if _, ok := s.cluster.Where(pod.UID); ok {
		return "", schedule.Explanation{}, nil, nil
	}
	w := s.waiting[key]
	if w == nil {
		s.seq++
		w = &wait{key: key, first: now, seq: s.seq}
		s.waiting[key] = w
	}
	node, why := "", schedule.Nowhere(s.cluster, never)
	if never == "" {
		node, why = schedule.PickWith(pod, s.cluster, ask)
	}
	if node != "" {
		kept := s.cluster.Nominated(pod.UID)
		s.cluster.Assign(pod, node)
		w.owes = w.owes || kept != "" && kept != node
	}
	s.repay(w)
	w.tries++
	w.last, w.priority = now, schedule.Priority(pod)
	w.parked = node == ""
	w.sociable = pod.Spec.Affinity != nil && pod.Spec.Affinity.PodAffinity != nil || len(pod.Spec.TopologySpreadConstraints) > 0
	w.selective = pod.Spec.Affinity != nil
	w.stored = ask != nil || never != ""
	if node == "" {
		return "", why, w, nil
	}
	if ask == nil || len(ask.Unbound) == 0 {
		return node, why, w, nil
	}
	s.held[key] = hold{uid: pod.UID, node: node, since: now}
	return node, why, w, ask.Unbound
}

// unassume gives the room back, unless the pod was seen on a node meanwhile.
func (s *Scheduler) unassume(key types.NamespacedName, uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.pods.Get(key.Namespace, key.Name); ok && p.UID == uid && p.Spec.NodeName != "" {
		return
	}
	s.giveBack(key, uid)
}

// giveBack frees the room of a pod that has not got its node after all. Others get it
// when that pod has taken another decision, which it does first, or is gone. The lock
// is held.
func (s *Scheduler) giveBack(key types.NamespacedName, uid types.UID) {
	s.cluster.Remove(uid)
	delete(s.held, key)
	if w := s.waiting[key]; w != nil {
		w.owes = true
		return
	}
	s.wake(all)
}

func ours(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && !ended(pod) && len(pod.Spec.SchedulingGates) == 0 &&
		(pod.Spec.SchedulerName == "" || pod.Spec.SchedulerName == Name)
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func keyOf(pod *corev1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
}

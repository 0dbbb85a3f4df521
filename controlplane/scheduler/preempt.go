package scheduler

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/disruption"
	"github.com/podsnap/podsnap/controlplane/schedule"
	"github.com/podsnap/podsnap/controlplane/storage"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// rank orders the queue: by priority, then by arrival.
func (s *Scheduler) rank(key types.NamespacedName) int64 {
	p, ok := s.pods.Get(key.Namespace, key.Name)
	if !ok {
		return 0
	}
	return int64(schedule.Priority(p))
}

// yields tells whether a pod that waits has to let one of higher priority go first
// that was woken with it, and is on another worker.
func (s *Scheduler) yields(key types.NamespacedName, pod *corev1.Pod) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.waiting[key]; w == nil || !w.woken {
		return false
	}
	for p := range s.woken {
		if p > schedule.Priority(pod) {
			return true
		}
	}
	return false
}

// makeWay has pods of lower priority make way for one that fits nowhere, if that
// helps. It answers with what is to be said of the attempt, and with the node that
// is kept for the pod.
func (s *Scheduler) makeWay(ctx context.Context, pod *corev1.Pod, why string) (said, node string, err error) {
	s.mu.Lock()
	may, node := s.cluster.MayPreempt(pod), s.cluster.Nominated(pod.UID)
	ending := node != "" && s.cluster.Ending(pod, node)
	s.mu.Unlock()
	switch {
	case ending:
		return why, node, nil // it waits for those to be gone
	case !may:
		s.withdraw(pod)
		return why, "", nil
	}
	budgets, err := s.budgets(ctx)
	if err != nil {
		return "", "", err
	}
	s.mu.Lock()
	way, found := schedule.Preemption{}, false
	if ask, never := storage.Of(pod, s.world()); never == "" {
		way, found = schedule.Preempt(pod, s.cluster, ask, budgets)
	}
	if found {
		s.cluster.Nominate(pod, way.Node)
	}
	nodes := s.cluster.Len()
	s.mu.Unlock()
	if !found {
		s.withdraw(pod)
		return fmt.Sprintf("%s preemption: 0/%d nodes are available: %d No preemption victims found for incoming pod.", why, nodes, nodes), "", nil
	}
	s.c.Log.Info("pods make way", slog.String("for", keyOf(pod).String()), slog.String("node", way.Node), slog.Int("pods", len(way.Victims)), slog.Int("violations", way.Violations))
	// The node is written before the first of them goes, so that a scheduler after
	// this one keeps the room.
	if err := s.tell(ctx, pod, why, way.Node); err != nil {
		return "", "", err
	}
	for _, v := range way.Victims {
		if err := s.preempt(ctx, v, pod, way.Node); err != nil {
			return "", "", err
		}
	}
	return why, way.Node, nil
}

func (s *Scheduler) withdraw(pod *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cluster.Nominated(pod.UID) == "" {
		return
	}
	s.cluster.Withdraw(pod.UID)
	s.wake(all) // what was kept for it is for others
}

// budgets are all PodDisruptionBudgets, as they are now.
func (s *Scheduler) budgets(ctx context.Context) ([]schedule.Budget, error) {
	all, err := api.Items[*policyv1.PodDisruptionBudget](ctx, s.c.Objects, api.PodDisruptionBudgets, api.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list disruption budgets: %w", err)
	}
	out := make([]schedule.Budget, len(all))
	for i, b := range all {
		out[i] = schedule.Budget{
			Namespace: b.Namespace, Selector: disruption.Selector(b), Allowed: b.Status.DisruptionsAllowed,
			Counted: func(pod string) bool { _, ok := b.Status.DisruptedPods[pod]; return ok },
		}
	}
	return out, nil
}

// preempt ends one pod, with its grace period.
func (s *Scheduler) preempt(ctx context.Context, victim, pod *corev1.Pod, node string) error {
	message := fmt.Sprintf("%s: preempting to accommodate a higher priority pod", Name)
	if err := disruption.Mark(ctx, s.c.Objects, victim, false, corev1.PodReasonPreemptionByScheduler, message); err != nil {
		return fmt.Errorf("mark pod %s: %w", keyOf(victim), err)
	}
	_, err := s.c.Objects.Delete(ctx, api.Pods, victim.Namespace, victim.Name, api.DeleteOptions{UID: victim.UID})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s: %w", keyOf(victim), err)
	}
	s.record.Eventf(victim, corev1.EventTypeNormal, "Preempted", "Preempted by pod %s on node %s", pod.UID, node)
	return nil
}

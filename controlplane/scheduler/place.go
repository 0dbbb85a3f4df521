package scheduler

import (
	"log/slog"
	"time"

	"github.com/podsnap/podsnap/controlplane/schedule"
	"github.com/podsnap/podsnap/controlplane/storage"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Place picks a node for a pod that is about to be created with it: one write
// and one watch hop less than creating it first. Its room is kept until settle
// is called, which has to be, with the pod that was created or with nil when
// none was. It answers with "" for a pod that fits nowhere, that another
// scheduler is to place, that has claims, or while the cluster is not known yet: such a pod is
// created without a node, and everything else follows.
func (s *Scheduler) Place(pod *corev1.Pod) (node string, settle func(created *corev1.Pod)) {
	if pod.Spec.NodeName != "" || !ours(pod) || len(storage.Names(pod)) > 0 || !s.knows() {
		return "", func(*corev1.Pod) {}
	}
	start := time.Now()
	room := *pod
	room.UID = reserved(keyOf(pod))
	s.mu.Lock()
	node, why := schedule.Pick(&room, s.cluster)
	if node != "" {
		s.cluster.Assign(&room, node)
	}
	s.mu.Unlock()
	s.m.algorithm.Observe(time.Since(start).Seconds())
	if node == "" {
		return "", func(*corev1.Pod) {}
	}
	return node, func(created *corev1.Pod) {
		s.settle(room.UID, created)
		if created == nil {
			return
		}
		s.m.attempt("scheduled", start)
		s.m.sli.Observe(time.Since(start).Seconds())
		s.record.Eventf(created, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s to %s", keyOf(created), node)
		s.c.Log.Info("pod placed", slog.String("pod", keyOf(created).String()), slog.String("node", node), slog.Int("nodes", why.Nodes), slog.Int("feasible", why.Feasible), slog.Int64("score", why.Score))
	}
}

// settle gives the room that was kept to the pod that was created, or back. A mirror
// that was faster has given it to the pod already, which may be gone by now.
func (s *Scheduler) settle(room types.UID, created *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, kept := s.cluster.Where(room); !kept {
		return
	}
	s.cluster.Remove(room)
	if created != nil {
		s.cluster.Assign(created, created.Spec.NodeName)
		return
	}
	s.wake(all)
}

// reserved is what stands in for the uid of a pod that is not created yet.
func reserved(k types.NamespacedName) types.UID { return types.UID("placed " + k.String()) }

// knows tells whether the mirrors hold everything.
func (s *Scheduler) knows() bool {
	for _, synced := range []<-chan struct{}{s.namespaces.Synced(), s.nodes.Synced(), s.pods.Synced()} {
		select {
		case <-synced:
		default:
			return false
		}
	}
	return true
}

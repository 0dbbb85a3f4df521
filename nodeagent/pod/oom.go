package pod

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// outOfMemory names the containers that were killed for want of memory between
// two statuses. Statuses are compared, not exits, so that an agent that starts
// anew does not tell again what the stored status tells.
func outOfMemory(old, now *corev1.PodStatus) []string {
	var out []string
	for i, list := range [][]corev1.ContainerStatus{now.InitContainerStatuses, now.ContainerStatuses} {
		before := [][]corev1.ContainerStatus{old.InitContainerStatuses, old.ContainerStatuses}[i]
		for j := range list {
			t := newestEnd(&list[j])
			if t == nil || t.Reason != "OOMKilled" {
				continue
			}
			known := slices.ContainsFunc(before, func(s corev1.ContainerStatus) bool {
				was := newestEnd(&s)
				return s.Name == list[j].Name && was != nil && was.ContainerID == t.ContainerID
			})
			if !known {
				out = append(out, list[j].Name)
			}
		}
	}
	return out
}

func newestEnd(s *corev1.ContainerStatus) *corev1.ContainerStateTerminated {
	if s.State.Terminated != nil {
		return s.State.Terminated
	}
	return s.LastTerminationState.Terminated
}

// killedFor says why a container was killed for want of memory.
func (s *State) killedFor(name string) string {
	for _, list := range [][]corev1.Container{s.Pod.Spec.InitContainers, s.Pod.Spec.Containers} {
		if i := slices.IndexFunc(list, func(c corev1.Container) bool { return c.Name == name }); i >= 0 {
			if q := list[i].Resources.Limits.Memory(); !q.IsZero() {
				return fmt.Sprintf("Container %s was killed: it needed more memory than its limit of %s", name, q)
			}
		}
	}
	return fmt.Sprintf("Container %s was killed: the machine was out of memory", name)
}

package api

import corev1 "k8s.io/api/core/v1"

// IsFrozen reports whether a pod says that its processes are stopped: see
// ConditionFrozen.
func IsFrozen(s *corev1.PodStatus) bool {
	for i := range s.Conditions {
		if c := &s.Conditions[i]; c.Type == ConditionFrozen {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

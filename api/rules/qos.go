package rules

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// QOS is the pod's class of service: Guaranteed when every container has equal
// requests and limits for cpu and memory, BestEffort when none has any, else
// Burstable. Requests that are missing count as the limits.
func QOS(p *corev1.Pod) corev1.PodQOSClass {
	all, some := true, false
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			res := list[i].Resources
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				limit, limited := positive(res.Limits, name)
				request, requested := positive(res.Requests, name)
				some = some || limited || requested
				all = all && limited && (!requested || request.Cmp(limit) == 0)
			}
		}
	}
	switch {
	case !some:
		return corev1.PodQOSBestEffort
	case all:
		return corev1.PodQOSGuaranteed
	default:
		return corev1.PodQOSBurstable
	}
}

func positive(l corev1.ResourceList, name corev1.ResourceName) (resource.Quantity, bool) {
	q, ok := l[name]
	return q, ok && q.Sign() > 0
}

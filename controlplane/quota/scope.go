package quota

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
)

// Scopes are those that a quota may have.
func Scopes() []corev1.ResourceQuotaScope {
	return []corev1.ResourceQuotaScope{
		corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating,
		corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopePriorityClass,
	}
}

// Scoped tells whether a quota of a scope may bound a resource: scopes are of pods,
// and pods that ask for nothing can only be counted.
func Scoped(s corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	if name == corev1.ResourcePods || strings.Contains(string(name), "/") {
		return true
	}
	of := strings.TrimPrefix(strings.TrimPrefix(string(name), requests), limits)
	return s != corev1.ResourceQuotaScopeBestEffort && (of == string(corev1.ResourceCPU) || of == string(corev1.ResourceMemory))
}

// Matches tells whether an object counts for a quota.
func Matches(q *corev1.ResourceQuota, obj api.Object) bool {
	r := api.ResourceOf(obj)
	named := false
	for name := range q.Spec.Hard {
		if KindOf(name) == r {
			named = true
			break
		}
	}
	if !named {
		return false
	}
	pod, isPod := obj.(*corev1.Pod)
	for _, s := range q.Spec.Scopes {
		if !isPod || !inScope(pod, corev1.ScopedResourceSelectorRequirement{ScopeName: s, Operator: corev1.ScopeSelectorOpExists}) {
			return false
		}
	}
	if q.Spec.ScopeSelector == nil {
		return true
	}
	for _, e := range q.Spec.ScopeSelector.MatchExpressions {
		if !isPod || !inScope(pod, e) {
			return false
		}
	}
	return true
}

func inScope(p *corev1.Pod, e corev1.ScopedResourceSelectorRequirement) bool {
	switch e.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return p.Spec.ActiveDeadlineSeconds != nil
	case corev1.ResourceQuotaScopeNotTerminating:
		return p.Spec.ActiveDeadlineSeconds == nil
	case corev1.ResourceQuotaScopeBestEffort:
		return rules.QOS(p) == corev1.PodQOSBestEffort
	case corev1.ResourceQuotaScopeNotBestEffort:
		return rules.QOS(p) != corev1.PodQOSBestEffort
	case corev1.ResourceQuotaScopePriorityClass:
		class := p.Spec.PriorityClassName
		switch e.Operator {
		case corev1.ScopeSelectorOpExists:
			return class != ""
		case corev1.ScopeSelectorOpDoesNotExist:
			return class == ""
		case corev1.ScopeSelectorOpIn:
			return slices.Contains(e.Values, class)
		case corev1.ScopeSelectorOpNotIn:
			return !slices.Contains(e.Values, class)
		}
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity, corev1.ResourceQuotaScopeVolumeAttributesClass: // refused at the write
	}
	return false
}

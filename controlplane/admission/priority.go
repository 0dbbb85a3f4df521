package admission

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
)

// Prioritize gives a new pod the priority of its class: the one that it names, or
// the default one, or none, which is 0. A pod that says another priority itself is
// refused. find answers with nil for a class that is not there.
func Prioritize(p *corev1.Pod, find func(name string) *schedulingv1.PriorityClass, byDefault *schedulingv1.PriorityClass) error {
	value, policy := int32(0), corev1.PreemptLowerPriority
	class := byDefault
	if name := p.Spec.PriorityClassName; name != "" {
		if class = find(name); class == nil {
			return fmt.Errorf("no PriorityClass with name %v was found", name)
		}
	}
	if class != nil {
		value, p.Spec.PriorityClassName = class.Value, class.Name
		if class.PreemptionPolicy != nil {
			policy = *class.PreemptionPolicy
		}
	}
	if v := p.Spec.Priority; v != nil && *v != value {
		return fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *v, value)
	}
	if v := p.Spec.PreemptionPolicy; v != nil && *v != policy {
		return fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *v, policy)
	}
	p.Spec.Priority, p.Spec.PreemptionPolicy = &value, &policy
	return nil
}

// keepPriority carries over what was worked out when the pod was made.
func keepPriority(p, old *corev1.Pod) {
	if p.Spec.Priority == nil {
		p.Spec.Priority = old.Spec.Priority
	}
	if p.Spec.PreemptionPolicy == nil {
		p.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
	}
}

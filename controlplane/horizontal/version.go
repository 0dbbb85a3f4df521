package horizontal

import (
	"encoding/json"
	"maps"
	"slices"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
)

// What autoscaling/v1 has no field for stands in annotations, as Kubernetes writes
// them.
const (
	annotationMetrics    = "autoscaling.alpha.kubernetes.io/metrics"
	annotationCurrent    = "autoscaling.alpha.kubernetes.io/current-metrics"
	annotationConditions = "autoscaling.alpha.kubernetes.io/conditions"
	annotationBehavior   = "autoscaling.alpha.kubernetes.io/behavior"
)

// carries tells whether an annotation of an object of autoscaling/v1 stands for
// fields of its spec or status.
func carries(annotation string) bool {
	return slices.Contains([]string{annotationMetrics, annotationCurrent, annotationConditions, annotationBehavior}, annotation)
}

// ToV1 is an autoscaler as version 1 of the API has it. Nothing is lost: FromV1 makes
// the same of it, but for the order of the metrics.
func ToV1(a *autoscalingv2.HorizontalPodAutoscaler) *autoscalingv1.HorizontalPodAutoscaler {
	out := &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: *a.ObjectMeta.DeepCopy()}
	out.Spec = autoscalingv1.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(a.Spec.ScaleTargetRef), MinReplicas: a.Spec.MinReplicas, MaxReplicas: a.Spec.MaxReplicas,
	}
	out.Status = autoscalingv1.HorizontalPodAutoscalerStatus{
		ObservedGeneration: a.Status.ObservedGeneration, LastScaleTime: a.Status.LastScaleTime,
		CurrentReplicas: a.Status.CurrentReplicas, DesiredReplicas: a.Status.DesiredReplicas,
	}
	var more []autoscalingv1.MetricSpec
	for i := range a.Spec.Metrics {
		m := &a.Spec.Metrics[i]
		if u := cpuUtilization(m); u != nil && out.Spec.TargetCPUUtilizationPercentage == nil {
			out.Spec.TargetCPUUtilizationPercentage = u
			continue
		}
		more = append(more, metricToV1(m))
	}
	var current []autoscalingv1.MetricStatus
	for i := range a.Status.CurrentMetrics {
		m := &a.Status.CurrentMetrics[i]
		if m.Resource != nil && m.Resource.Name == corev1.ResourceCPU && m.Resource.Current.AverageUtilization != nil {
			out.Status.CurrentCPUUtilizationPercentage = m.Resource.Current.AverageUtilization
		}
		current = append(current, statusToV1(m))
	}
	var conditions []autoscalingv1.HorizontalPodAutoscalerCondition
	for _, c := range a.Status.Conditions {
		conditions = append(conditions, autoscalingv1.HorizontalPodAutoscalerCondition{
			Type: autoscalingv1.HorizontalPodAutoscalerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	carried := map[string]any{}
	if len(more) > 0 {
		carried[annotationMetrics] = more
	}
	if len(current) > 0 {
		carried[annotationCurrent] = current
	}
	if len(conditions) > 0 {
		carried[annotationConditions] = conditions
	}
	if a.Spec.Behavior != nil {
		carried[annotationBehavior] = a.Spec.Behavior
	}
	dropCarried(out)
	for k, v := range carried {
		text, err := json.Marshal(v)
		if err != nil {
			panic(err) // API types always encode
		}
		if out.Annotations == nil {
			out.Annotations = map[string]string{}
		}
		out.Annotations[k] = string(text)
	}
	return out
}

// FromV1 is the reverse of ToV1. Annotations that cannot be read are as if they were
// not there, as in Kubernetes.
func FromV1(a *autoscalingv1.HorizontalPodAutoscaler) *autoscalingv2.HorizontalPodAutoscaler {
	carried := a.Annotations
	a = a.DeepCopy()
	dropCarried(a)
	out := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: a.ObjectMeta}
	out.Spec = autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference(a.Spec.ScaleTargetRef), MinReplicas: a.Spec.MinReplicas, MaxReplicas: a.Spec.MaxReplicas,
	}
	for _, m := range read[[]autoscalingv1.MetricSpec](carried, annotationMetrics) {
		out.Spec.Metrics = append(out.Spec.Metrics, metricFromV1(&m))
	}
	if u := a.Spec.TargetCPUUtilizationPercentage; u != nil {
		out.Spec.Metrics = append(out.Spec.Metrics, autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
			Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: u},
		}})
	}
	if b := read[*autoscalingv2.HorizontalPodAutoscalerBehavior](carried, annotationBehavior); b != nil && *b != (autoscalingv2.HorizontalPodAutoscalerBehavior{}) {
		out.Spec.Behavior = b
	}
	out.Status = autoscalingv2.HorizontalPodAutoscalerStatus{
		ObservedGeneration: a.Status.ObservedGeneration, LastScaleTime: a.Status.LastScaleTime,
		CurrentReplicas: a.Status.CurrentReplicas, DesiredReplicas: a.Status.DesiredReplicas,
	}
	for _, m := range read[[]autoscalingv1.MetricStatus](carried, annotationCurrent) {
		out.Status.CurrentMetrics = append(out.Status.CurrentMetrics, statusFromV1(&m))
	}
	if u := a.Status.CurrentCPUUtilizationPercentage; u != nil && len(out.Status.CurrentMetrics) == 0 {
		out.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricStatus{
			Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageUtilization: u},
		}}}
	}
	for _, c := range read[[]autoscalingv1.HorizontalPodAutoscalerCondition](carried, annotationConditions) {
		out.Status.Conditions = append(out.Status.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{
			Type: autoscalingv2.HorizontalPodAutoscalerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return out
}

// dropCarried takes the annotations out of an object of the caller's own.
func dropCarried(a *autoscalingv1.HorizontalPodAutoscaler) {
	maps.DeleteFunc(a.Annotations, func(k, _ string) bool { return carries(k) })
	if len(a.Annotations) == 0 {
		a.Annotations = nil
	}
}

func read[T any](annotations map[string]string, key string) (v T) {
	if err := json.Unmarshal([]byte(annotations[key]), &v); err != nil {
		var none T
		return none
	}
	return v
}

// cpuUtilization is the target of the one metric that version 1 has a field for.
func cpuUtilization(m *autoscalingv2.MetricSpec) *int32 {
	if m.Type != autoscalingv2.ResourceMetricSourceType || m.Resource == nil || m.Resource.Name != corev1.ResourceCPU {
		return nil
	}
	return m.Resource.Target.AverageUtilization
}

// Of metrics there are those of pods' and containers' resources alone (see package
// admission); of the others the type is handed on, so that it is refused.

func metricToV1(m *autoscalingv2.MetricSpec) autoscalingv1.MetricSpec {
	out := autoscalingv1.MetricSpec{Type: autoscalingv1.MetricSourceType(m.Type)}
	if r := m.Resource; r != nil {
		out.Resource = &autoscalingv1.ResourceMetricSource{Name: r.Name, TargetAverageUtilization: r.Target.AverageUtilization, TargetAverageValue: r.Target.AverageValue}
	}
	if r := m.ContainerResource; r != nil {
		out.ContainerResource = &autoscalingv1.ContainerResourceMetricSource{Name: r.Name, Container: r.Container, TargetAverageUtilization: r.Target.AverageUtilization, TargetAverageValue: r.Target.AverageValue}
	}
	return out
}

func metricFromV1(m *autoscalingv1.MetricSpec) autoscalingv2.MetricSpec {
	out := autoscalingv2.MetricSpec{Type: autoscalingv2.MetricSourceType(m.Type)}
	target := func(t autoscalingv2.MetricTarget) autoscalingv2.MetricTarget {
		t.Type = autoscalingv2.AverageValueMetricType
		if t.AverageUtilization != nil {
			t.Type = autoscalingv2.UtilizationMetricType
		}
		return t
	}
	if r := m.Resource; r != nil {
		out.Resource = &autoscalingv2.ResourceMetricSource{Name: r.Name, Target: target(autoscalingv2.MetricTarget{AverageUtilization: r.TargetAverageUtilization, AverageValue: r.TargetAverageValue})}
	}
	if r := m.ContainerResource; r != nil {
		out.ContainerResource = &autoscalingv2.ContainerResourceMetricSource{Name: r.Name, Container: r.Container, Target: target(autoscalingv2.MetricTarget{AverageUtilization: r.TargetAverageUtilization, AverageValue: r.TargetAverageValue})}
	}
	return out
}

func statusToV1(m *autoscalingv2.MetricStatus) autoscalingv1.MetricStatus {
	out := autoscalingv1.MetricStatus{Type: autoscalingv1.MetricSourceType(m.Type)}
	if r := m.Resource; r != nil {
		out.Resource = &autoscalingv1.ResourceMetricStatus{Name: r.Name, CurrentAverageUtilization: r.Current.AverageUtilization}
		if v := r.Current.AverageValue; v != nil {
			out.Resource.CurrentAverageValue = *v
		}
	}
	if r := m.ContainerResource; r != nil {
		out.ContainerResource = &autoscalingv1.ContainerResourceMetricStatus{Name: r.Name, Container: r.Container, CurrentAverageUtilization: r.Current.AverageUtilization}
		if v := r.Current.AverageValue; v != nil {
			out.ContainerResource.CurrentAverageValue = *v
		}
	}
	return out
}

func statusFromV1(m *autoscalingv1.MetricStatus) autoscalingv2.MetricStatus {
	out := autoscalingv2.MetricStatus{Type: autoscalingv2.MetricSourceType(m.Type)}
	if r := m.Resource; r != nil {
		out.Resource = &autoscalingv2.ResourceMetricStatus{Name: r.Name, Current: autoscalingv2.MetricValueStatus{AverageUtilization: r.CurrentAverageUtilization, AverageValue: &r.CurrentAverageValue}}
	}
	if r := m.ContainerResource; r != nil {
		out.ContainerResource = &autoscalingv2.ContainerResourceMetricStatus{Name: r.Name, Container: r.Container, Current: autoscalingv2.MetricValueStatus{AverageUtilization: r.CurrentAverageUtilization, AverageValue: &r.CurrentAverageValue}}
	}
	return out
}

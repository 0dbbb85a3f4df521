package admission

import (
	"fmt"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/podsnap/podsnap/api"
)

const (
	longestStabilization = 3600 // seconds
	longestPeriod        = 1800 // seconds
)

func defaultAutoscaler(a *autoscalingv2.HorizontalPodAutoscaler) {
	s := &a.Spec
	orNew(&s.MinReplicas, 1)
	if len(s.Metrics) == 0 {
		s.Metrics = []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
			Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: new(int32(80))},
		}}}
	}
	if s.Behavior == nil {
		return
	}
	if s.Behavior.ScaleUp == nil {
		s.Behavior.ScaleUp = &autoscalingv2.HPAScalingRules{}
	}
	if s.Behavior.ScaleDown == nil {
		s.Behavior.ScaleDown = &autoscalingv2.HPAScalingRules{}
	}
	orNew(&s.Behavior.ScaleUp.StabilizationWindowSeconds, 0)
	whole := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}
	four := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15}
	defaultRules(s.Behavior.ScaleUp, four, whole)
	defaultRules(s.Behavior.ScaleDown, whole)
}

func defaultRules(r *autoscalingv2.HPAScalingRules, policies ...autoscalingv2.HPAScalingPolicy) {
	orNew(&r.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if len(r.Policies) == 0 {
		r.Policies = policies
	}
}

func validateAutoscaler(a *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	spec := field.NewPath("spec")
	s := &a.Spec
	errs := atLeast(int64(s.MaxReplicas), 1, spec.Child("maxReplicas"))
	errs = append(errs, atLeast(int64(*s.MinReplicas), 1, spec.Child("minReplicas"))...)
	if s.MaxReplicas < *s.MinReplicas {
		errs = append(errs, field.Invalid(spec.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	errs = append(errs, validateTarget(&s.ScaleTargetRef, spec.Child("scaleTargetRef"))...)
	for i := range s.Metrics {
		errs = append(errs, validateMetric(&s.Metrics[i], spec.Child("metrics").Index(i))...)
	}
	if b := s.Behavior; b != nil {
		errs = append(errs, validateRules(b.ScaleUp, spec.Child("behavior", "scaleUp"))...)
		errs = append(errs, validateRules(b.ScaleDown, spec.Child("behavior", "scaleDown"))...)
	}
	return errs
}

func validateTarget(ref *autoscalingv2.CrossVersionObjectReference, p *field.Path) field.ErrorList {
	errs := append(required(ref.Kind, p.Child("kind")), required(ref.Name, p.Child("name"))...)
	if ref.Name != "" {
		errs = append(errs, invalid(p.Child("name"), ref.Name, validation.IsDNS1123Subdomain(ref.Name))...)
	}
	if ref.Kind == api.Functions.Kind && strings.HasPrefix(ref.APIVersion, api.FunctionGroup+"/") {
		errs = append(errs, field.Invalid(p.Child("kind"), ref.Kind, "a function scales itself: set its labels com.openfaas.scale.min, .max, .type and .target instead"))
	}
	return errs
}

func validateMetric(m *autoscalingv2.MetricSpec, p *field.Path) field.ErrorList {
	// Where those of the other types would come from nobody says here.
	errs := oneOf(m.Type, p.Child("type"), autoscalingv2.ResourceMetricSourceType, autoscalingv2.ContainerResourceMetricSourceType)
	if len(errs) > 0 {
		return errs
	}
	var name corev1.ResourceName
	var target *autoscalingv2.MetricTarget
	var at *field.Path
	switch {
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		name, target, at = m.Resource.Name, &m.Resource.Target, p.Child("resource")
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		name, target, at = m.ContainerResource.Name, &m.ContainerResource.Target, p.Child("containerResource")
		errs = append(errs, required(m.ContainerResource.Container, at.Child("container"))...)
	default:
		missing := "resource"
		if m.Type == autoscalingv2.ContainerResourceMetricSourceType {
			missing = "containerResource"
		}
		return field.ErrorList{field.Required(p.Child(missing), "must be populated as the metric's type is "+string(m.Type))}
	}
	errs = append(errs, oneOf(name, at.Child("name"), corev1.ResourceCPU, corev1.ResourceMemory)...)
	return append(errs, validateMetricTarget(target, at.Child("target"))...)
}

func validateMetricTarget(t *autoscalingv2.MetricTarget, p *field.Path) field.ErrorList {
	errs := oneOf(t.Type, p.Child("type"), autoscalingv2.UtilizationMetricType, autoscalingv2.AverageValueMetricType)
	if t.Value != nil {
		errs = append(errs, field.Forbidden(p.Child("value"), "a resource has an average over the pods: use averageUtilization or averageValue"))
	}
	switch {
	case t.AverageUtilization != nil && t.AverageValue != nil:
		errs = append(errs, field.Forbidden(p.Child("averageValue"), "may not be set when `averageUtilization` is"))
	case t.Type == autoscalingv2.UtilizationMetricType && t.AverageUtilization == nil:
		errs = append(errs, field.Required(p.Child("averageUtilization"), "must specify a positive target"))
	case t.Type == autoscalingv2.AverageValueMetricType && t.AverageValue == nil:
		errs = append(errs, field.Required(p.Child("averageValue"), "must specify a positive target"))
	}
	if u := t.AverageUtilization; u != nil {
		errs = append(errs, atLeast(int64(*u), 1, p.Child("averageUtilization"))...)
	}
	if v := t.AverageValue; v != nil && v.Sign() <= 0 {
		errs = append(errs, field.Invalid(p.Child("averageValue"), v.String(), "must be positive"))
	}
	return errs
}

func validateRules(r *autoscalingv2.HPAScalingRules, p *field.Path) field.ErrorList {
	errs := oneOf(*r.SelectPolicy, p.Child("selectPolicy"), autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect, autoscalingv2.DisabledPolicySelect)
	if w := r.StabilizationWindowSeconds; w != nil {
		errs = append(errs, between(*w, 0, longestStabilization, p.Child("stabilizationWindowSeconds"))...)
	}
	if t := r.Tolerance; t != nil {
		errs = append(errs, notNegative(*t, p.Child("tolerance"))...)
	}
	for i, policy := range r.Policies {
		at := p.Child("policies").Index(i)
		errs = append(errs, oneOf(policy.Type, at.Child("type"), autoscalingv2.PodsScalingPolicy, autoscalingv2.PercentScalingPolicy)...)
		errs = append(errs, atLeast(int64(policy.Value), 1, at.Child("value"))...)
		errs = append(errs, between(policy.PeriodSeconds, 1, longestPeriod, at.Child("periodSeconds"))...)
	}
	return errs
}

func between(v, least, most int32, p *field.Path) field.ErrorList {
	if v >= least && v <= most {
		return nil
	}
	return field.ErrorList{field.Invalid(p, v, fmt.Sprintf("must be between %d and %d", least, most))}
}

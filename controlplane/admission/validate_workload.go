package admission

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateReplicationController(c *corev1.ReplicationController) field.ErrorList {
	spec := field.NewPath("spec")
	s := &c.Spec
	errs := validateReplicas(s.Replicas, spec)
	errs = append(errs, atLeast(int64(s.MinReadySeconds), 0, spec.Child("minReadySeconds"))...)
	if len(s.Selector) == 0 {
		errs = append(errs, field.Required(spec.Child("selector"), "a controller without one would own every pod"))
	}
	if s.Template == nil {
		return append(errs, field.Required(spec.Child("template"), ""))
	}
	if len(s.Selector) > 0 && !labels.SelectorFromSet(s.Selector).Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, mismatch(spec, s.Template.Labels))
	}
	return append(errs, validateTemplate(s.Template, spec.Child("template"))...)
}

func validateReplicaSet(rs *appsv1.ReplicaSet) field.ErrorList {
	spec := field.NewPath("spec")
	s := &rs.Spec
	errs := validateReplicas(s.Replicas, spec)
	errs = append(errs, atLeast(int64(s.MinReadySeconds), 0, spec.Child("minReadySeconds"))...)
	errs = append(errs, validateSelector(s.Selector, s.Template.Labels, spec)...)
	return append(errs, validateTemplate(&s.Template, spec.Child("template"))...)
}

func validateDeployment(d *appsv1.Deployment) field.ErrorList {
	spec := field.NewPath("spec")
	s := &d.Spec
	errs := validateReplicas(s.Replicas, spec)
	errs = append(errs, atLeast(int64(s.MinReadySeconds), 0, spec.Child("minReadySeconds"))...)
	if s.RevisionHistoryLimit != nil {
		errs = append(errs, atLeast(int64(*s.RevisionHistoryLimit), 0, spec.Child("revisionHistoryLimit"))...)
	}
	if s.ProgressDeadlineSeconds != nil && *s.ProgressDeadlineSeconds <= s.MinReadySeconds {
		errs = append(errs, field.Invalid(spec.Child("progressDeadlineSeconds"), *s.ProgressDeadlineSeconds, "must be greater than minReadySeconds"))
	}
	errs = append(errs, validateStrategy(&s.Strategy, spec.Child("strategy"))...)
	errs = append(errs, validateSelector(s.Selector, s.Template.Labels, spec)...)
	return append(errs, validateTemplate(&s.Template, spec.Child("template"))...)
}

func validateDaemonSet(d *appsv1.DaemonSet) field.ErrorList {
	spec := field.NewPath("spec")
	s := &d.Spec
	errs := atLeast(int64(s.MinReadySeconds), 0, spec.Child("minReadySeconds"))
	errs = append(errs, atLeast(int64(*s.RevisionHistoryLimit), 0, spec.Child("revisionHistoryLimit"))...)
	errs = append(errs, validateSelector(s.Selector, s.Template.Labels, spec)...)
	at := spec.Child("updateStrategy")
	errs = append(errs, oneOf(s.UpdateStrategy.Type, at.Child("type"), appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType)...)
	if r := s.UpdateStrategy.RollingUpdate; r != nil {
		at = at.Child("rollingUpdate")
		down, e1 := share(r.MaxUnavailable, at.Child("maxUnavailable"))
		up, e2 := share(r.MaxSurge, at.Child("maxSurge"))
		errs = append(append(errs, e1...), e2...)
		switch {
		case len(e1)+len(e2) > 0:
		case up > 0:
			errs = append(errs, field.NotSupported(at.Child("maxSurge"), r.MaxSurge.String(), []string{"0"}))
		case down == 0:
			errs = append(errs, field.Invalid(at.Child("maxUnavailable"), r.MaxUnavailable.String(), "cannot be 0 when `maxSurge` is 0"))
		case r.MaxUnavailable.Type == intstr.String && down > 100:
			errs = append(errs, field.Invalid(at.Child("maxUnavailable"), r.MaxUnavailable.String(), "must not be greater than 100%"))
		}
	}
	return append(errs, validateTemplate(&s.Template, spec.Child("template"))...)
}

func validateDisruptionBudget(b *policyv1.PodDisruptionBudget) field.ErrorList {
	spec := field.NewPath("spec")
	s := &b.Spec
	var errs field.ErrorList
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(spec, "", "minAvailable and maxUnavailable cannot be both set"))
	}
	for name, v := range map[string]*intstr.IntOrString{"minAvailable": s.MinAvailable, "maxUnavailable": s.MaxUnavailable} {
		if v == nil {
			continue
		}
		n, e := share(v, spec.Child(name))
		errs = append(errs, e...)
		if len(e) == 0 && v.Type == intstr.String && n > 100 {
			errs = append(errs, field.Invalid(spec.Child(name), v.String(), "must not be greater than 100%"))
		}
	}
	if p := s.UnhealthyPodEvictionPolicy; p != nil {
		errs = append(errs, oneOf(*p, spec.Child("unhealthyPodEvictionPolicy"), policyv1.IfHealthyBudget, policyv1.AlwaysAllow)...)
	}
	if s.Selector != nil {
		errs = append(errs, metavalidation.ValidateLabelSelector(s.Selector, metavalidation.LabelSelectorValidationOptions{}, spec.Child("selector"))...)
	}
	return errs
}

func validateReplicas(n *int32, spec *field.Path) field.ErrorList {
	if n == nil {
		return field.ErrorList{field.Required(spec.Child("replicas"), "")}
	}
	return atLeast(int64(*n), 0, spec.Child("replicas"))
}

func validateSelector(s *metav1.LabelSelector, template map[string]string, spec *field.Path) field.ErrorList {
	p := spec.Child("selector")
	if s == nil {
		return field.ErrorList{field.Required(p, "must match the template's labels")}
	}
	errs := metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, p)
	if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		return append(errs, field.Invalid(p, s, "an empty selector would own every pod"))
	}
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err == nil && !sel.Matches(labels.Set(template)) {
		errs = append(errs, mismatch(spec, template))
	}
	return errs
}

func mismatch(spec *field.Path, template map[string]string) *field.Error {
	return field.Invalid(spec.Child("template", "metadata", "labels"), template, "`selector` does not match template `labels`")
}

// validateTemplate is for pods that are to run for ever.
func validateTemplate(t *corev1.PodTemplateSpec, p *field.Path) field.ErrorList {
	spec := p.Child("spec")
	errs := validateAnyTemplate(t, p, corev1.RestartPolicyAlways)
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(spec.Child("activeDeadlineSeconds"), "a controller's pods have no deadline"))
	}
	return errs
}

func validateAnyTemplate(t *corev1.PodTemplateSpec, p *field.Path, allowed ...corev1.RestartPolicy) field.ErrorList {
	spec := p.Child("spec")
	errs := metavalidation.ValidateLabels(t.Labels, p.Child("metadata", "labels"))
	errs = append(errs, validatePodSpec(&t.Spec, spec)...)
	errs = append(errs, validateNetwork(&t.ObjectMeta, &t.Spec, p)...)
	if !slices.Contains(allowed, t.Spec.RestartPolicy) {
		errs = append(errs, field.NotSupported(spec.Child("restartPolicy"), t.Spec.RestartPolicy, allowed))
	}
	return errs
}

func validateStrategy(s *appsv1.DeploymentStrategy, p *field.Path) field.ErrorList {
	errs := oneOf(s.Type, p.Child("type"), appsv1.RollingUpdateDeploymentStrategyType, appsv1.RecreateDeploymentStrategyType)
	r := s.RollingUpdate
	at := p.Child("rollingUpdate")
	if s.Type == appsv1.RecreateDeploymentStrategyType && r != nil {
		return append(errs, field.Forbidden(at, "may not be specified when strategy `type` is 'Recreate'"))
	}
	if r == nil {
		return errs
	}
	down, e1 := share(r.MaxUnavailable, at.Child("maxUnavailable"))
	up, e2 := share(r.MaxSurge, at.Child("maxSurge"))
	errs = append(append(errs, e1...), e2...)
	if len(e1)+len(e2) == 0 && down == 0 && up == 0 {
		errs = append(errs, field.Invalid(at.Child("maxUnavailable"), r.MaxUnavailable.String(), "may not be 0 when `maxSurge` is 0: nothing could be replaced"))
	}
	if len(e1) == 0 && r.MaxUnavailable.Type == intstr.String && down > 100 {
		errs = append(errs, field.Invalid(at.Child("maxUnavailable"), r.MaxUnavailable.String(), "must not be greater than 100%"))
	}
	return errs
}

// share reads a count or a percentage.
func share(v *intstr.IntOrString, p *field.Path) (int, field.ErrorList) {
	if v == nil {
		return 0, field.ErrorList{field.Required(p, "")}
	}
	if v.Type == intstr.Int {
		return v.IntValue(), atLeast(int64(v.IntValue()), 0, p)
	}
	if msgs := validation.IsValidPercent(v.StrVal); len(msgs) > 0 {
		return 0, field.ErrorList{field.Invalid(p, v.StrVal, "must be a number (e.g. '5') or a percentage (e.g. '25%')")}
	}
	n, err := strconv.Atoi(strings.TrimSuffix(v.StrVal, "%"))
	if err != nil {
		return 0, field.ErrorList{field.Invalid(p, v.StrVal, fmt.Sprintf("is out of range: %v", err))}
	}
	return n, nil
}

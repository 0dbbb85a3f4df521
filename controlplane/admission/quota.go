package admission

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/podsnap/podsnap/controlplane/quota"
)

func validateResourceQuota(q *corev1.ResourceQuota) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	for name, hard := range q.Spec.Hard {
		p := spec.Child("hard").Key(string(name))
		if faults := invalid(p, name, validation.IsQualifiedName(string(name))); len(faults) > 0 {
			errs = append(errs, faults...)
			continue
		}
		if !quota.Known(name) {
			errs = append(errs, field.Invalid(p, name, "must be a standard resource for quotas"))
		}
		errs = append(errs, notNegative(hard, p)...)
		if quota.Whole(name) && hard.MilliValue()%1000 != 0 {
			errs = append(errs, field.Invalid(p, hard.String(), "must be an integer"))
		}
	}
	return append(errs, validateScopes(q, spec)...)
}

func validateScopes(q *corev1.ResourceQuota, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	check := func(scopes []corev1.ResourceQuotaScope, p *field.Path) {
		for _, s := range scopes {
			if !slices.Contains(quota.Scopes(), s) {
				errs = append(errs, field.Invalid(p, s, fmt.Sprintf("unsupported scope: supported values: %s", strings.Join(words(quota.Scopes()), ", "))))
				continue
			}
			for name := range q.Spec.Hard {
				if !quota.Scoped(s, name) {
					errs = append(errs, field.Invalid(p, q.Spec.Scopes, "unsupported scope applied to resource: "+string(s)+" does not go with "+string(name)))
				}
			}
		}
		for _, pair := range [][2]corev1.ResourceQuotaScope{{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort}, {corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating}} {
			if slices.Contains(scopes, pair[0]) && slices.Contains(scopes, pair[1]) {
				errs = append(errs, field.Invalid(p, scopes, "conflicting scopes"))
			}
		}
	}
	check(q.Spec.Scopes, spec.Child("scopes"))
	if q.Spec.ScopeSelector == nil {
		return errs
	}
	at := spec.Child("scopeSelector", "matchExpressions")
	var named []corev1.ResourceQuotaScope
	for i, e := range q.Spec.ScopeSelector.MatchExpressions {
		named = append(named, e.ScopeName)
		errs = append(errs, validateScopeRequirement(e, at.Index(i))...)
	}
	check(named, at)
	return errs
}

func validateScopeRequirement(e corev1.ScopedResourceSelectorRequirement, p *field.Path) field.ErrorList {
	errs := oneOf(e.Operator, p.Child("operator"), corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn, corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist)
	if e.ScopeName != corev1.ResourceQuotaScopePriorityClass && e.Operator != corev1.ScopeSelectorOpExists {
		errs = append(errs, field.Invalid(p.Child("operator"), e.Operator, fmt.Sprintf("must be '%s' only operator when scope is any of %s", corev1.ScopeSelectorOpExists, strings.Join(words(quota.Scopes()), ", "))))
	}
	switch e.Operator {
	case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
		if len(e.Values) == 0 {
			errs = append(errs, field.Required(p.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
		}
	case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
		if len(e.Values) > 0 {
			errs = append(errs, field.Invalid(p.Child("values"), e.Values, "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector"))
		}
	}
	return errs
}

func words[T ~string](all []T) []string {
	out := make([]string, len(all))
	for i, v := range all {
		out[i] = string(v)
	}
	return out
}

func validateResourceQuotaUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	errs := immutable(q.Spec.Scopes, old.Spec.Scopes, field.NewPath("spec", "scopes"))
	return append(errs, immutable(q.Spec.ScopeSelector, old.Spec.ScopeSelector, field.NewPath("spec", "scopeSelector"))...)
}

package admission

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/podsnap/podsnap/api"
)

// defaultBinding fills the groups that the kinds of a binding imply.
func defaultBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	or(&ref.APIGroup, rbacv1.GroupName)
	for i := range subjects {
		if k := subjects[i].Kind; k == rbacv1.UserKind || k == rbacv1.GroupKind {
			or(&subjects[i].APIGroup, rbacv1.GroupName)
		}
	}
}

func validatePolicyRules(rules []rbacv1.PolicyRule, namespaced bool) field.ErrorList {
	var errs field.ErrorList
	for i := range rules {
		errs = append(errs, validatePolicyRule(&rules[i], namespaced, field.NewPath("rules").Index(i))...)
	}
	return errs
}

func validatePolicyRule(r *rbacv1.PolicyRule, namespaced bool, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Verbs) == 0 {
		errs = append(errs, field.Required(p.Child("verbs"), "verbs must contain at least one value"))
	}
	if len(r.NonResourceURLs) > 0 {
		at := p.Child("nonResourceURLs")
		if namespaced {
			errs = append(errs, field.Invalid(at, r.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs"))
		}
		if len(r.APIGroups) > 0 || len(r.Resources) > 0 || len(r.ResourceNames) > 0 {
			errs = append(errs, field.Invalid(at, r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
		}
		for i, u := range r.NonResourceURLs {
			if u != rbacv1.NonResourceAll && !strings.HasPrefix(u, "/") || strings.Contains(strings.TrimSuffix(u, "*"), "*") {
				errs = append(errs, field.Invalid(at.Index(i), u, "must be a path such as /healthz, which may end with *, or * alone"))
			}
		}
		return errs
	}
	if len(r.APIGroups) == 0 {
		errs = append(errs, field.Required(p.Child("apiGroups"), "resource rules must supply at least one api group"))
	}
	if len(r.Resources) == 0 {
		errs = append(errs, field.Required(p.Child("resources"), "resource rules must supply at least one resource"))
	}
	return errs
}

func validateClusterRole(r *rbacv1.ClusterRole) field.ErrorList {
	errs := validatePolicyRules(r.Rules, false)
	if r.AggregationRule == nil {
		return errs
	}
	at := field.NewPath("aggregationRule", "clusterRoleSelectors")
	if len(r.AggregationRule.ClusterRoleSelectors) == 0 {
		errs = append(errs, field.Required(at, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
	}
	for i := range r.AggregationRule.ClusterRoleSelectors {
		errs = append(errs, metavalidation.ValidateLabelSelector(&r.AggregationRule.ClusterRoleSelectors[i], metavalidation.LabelSelectorValidationOptions{}, at.Index(i))...)
	}
	return errs
}

// validateBinding checks a binding of a namespace, or of the cluster.
func validateBinding(ref rbacv1.RoleRef, subjects []rbacv1.Subject, namespaced bool) field.ErrorList {
	p := field.NewPath("roleRef")
	errs := oneOf(ref.APIGroup, p.Child("apiGroup"), rbacv1.GroupName)
	if namespaced {
		errs = append(errs, oneOf(ref.Kind, p.Child("kind"), "ClusterRole", "Role")...)
	} else {
		errs = append(errs, oneOf(ref.Kind, p.Child("kind"), "ClusterRole")...)
	}
	errs = append(errs, required(ref.Name, p.Child("name"))...)
	for i := range subjects {
		errs = append(errs, validateSubject(&subjects[i], namespaced, field.NewPath("subjects").Index(i))...)
	}
	return errs
}

func validateSubject(s *rbacv1.Subject, namespaced bool, p *field.Path) field.ErrorList {
	errs := required(s.Name, p.Child("name"))
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		if s.Name != "" {
			errs = append(errs, invalid(p.Child("name"), s.Name, validation.IsDNS1123Subdomain(s.Name))...)
		}
		if s.APIGroup != "" {
			errs = append(errs, field.NotSupported(p.Child("apiGroup"), s.APIGroup, []string{""}))
		}
		if !namespaced {
			errs = append(errs, required(s.Namespace, p.Child("namespace"))...)
		}
	case rbacv1.UserKind, rbacv1.GroupKind:
		errs = append(errs, oneOf(s.APIGroup, p.Child("apiGroup"), rbacv1.GroupName)...)
	default:
		errs = append(errs, field.NotSupported(p.Child("kind"), s.Kind, []string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
	}
	return errs
}

// roleRefStays says that a binding is of one role as long as it lives: who may
// change its subjects would else choose what they may.
func roleRefStays(ref, old rbacv1.RoleRef) field.ErrorList {
	if ref == old {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("roleRef"), ref, "cannot change roleRef")}
}

// defaultAccount gives a new pod the service account of pods that name none.
// Stored pods are left alone: their account cannot change.
func defaultAccount(p *corev1.Pod) {
	or(&p.Spec.ServiceAccountName, api.DefaultAccount)
	p.Spec.DeprecatedServiceAccount = p.Spec.ServiceAccountName
}

// keepAccount is for an update that does not name the account.
func keepAccount(p, old *corev1.Pod) {
	if p.Spec.ServiceAccountName == "" {
		p.Spec.ServiceAccountName = old.Spec.ServiceAccountName
	}
	if p.Spec.DeprecatedServiceAccount == "" {
		p.Spec.DeprecatedServiceAccount = old.Spec.DeprecatedServiceAccount
	}
}

// Longest and shortest life of a token of a service account, in seconds.
const (
	minTokenLife = 10 * 60
	maxTokenLife = 1 << 32
)

func validateTokenProjection(t *corev1.ServiceAccountTokenProjection, p *field.Path) field.ErrorList {
	errs := required(t.Path, p.Child("path"))
	if s := t.ExpirationSeconds; s != nil && (*s < minTokenLife || *s > maxTokenLife) {
		errs = append(errs, field.Invalid(p.Child("expirationSeconds"), *s, "must be between 600 and 2^32"))
	}
	return errs
}

package rules

import (
	"github.com/podsnap/podsnap/api"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validate judges the metadata of a new object.
func validate(r *api.Resource, obj api.Object) error {
	faults := validation.ValidateObjectMetaAccessor(obj, r.Namespaced, nameRule(r), field.NewPath("metadata"))
	return invalid(r, obj, faults)
}

// validateUpdate judges changed metadata. Finalizers may only go once an object
// is being deleted: else its end could be put off for ever.
func validateUpdate(r *api.Resource, old, next api.Object) error {
	path := field.NewPath("metadata")
	faults := validation.ValidateObjectMetaAccessor(next, r.Namespaced, nameRule(r), path)
	if old.GetDeletionTimestamp() != nil && !equality.Semantic.DeepEqual(old.GetFinalizers(), next.GetFinalizers()) {
		faults = append(faults, validation.ValidateNoNewFinalizers(next.GetFinalizers(), old.GetFinalizers(), path.Child("finalizers"))...)
	}
	return invalid(r, next, faults)
}

func invalid(r *api.Resource, obj api.Object, faults field.ErrorList) error {
	if len(faults) == 0 {
		return nil
	}
	return apierrors.NewInvalid(r.GVK().GroupKind(), obj.GetName(), faults)
}

// nameRule says what a name of the kind looks like. A Service's name is a DNS
// label and may begin with a digit (Kubernetes' relaxed rule): functions are
// named so, and each has a Service of its name.
func nameRule(r *api.Resource) validation.ValidateNameFunc {
	switch r {
	case api.Namespaces, api.Services, api.Functions:
		return validation.NameIsDNSLabel
	case api.Roles, api.RoleBindings, api.ClusterRoles, api.ClusterRoleBindings:
		return func(name string, _ bool) []string { return content.IsPathSegmentName(name) } // such as system:node
	default:
		return validation.NameIsDNSSubdomain
	}
}

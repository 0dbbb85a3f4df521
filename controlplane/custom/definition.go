package custom

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/podsnap/podsnap/api"
)

// Finalizer keeps a definition until all objects of its kind are gone.
const Finalizer = apiextensionsv1.CustomResourceCleanupFinalizer

// DefaultDefinition fills in what a definition leaves open.
func DefaultDefinition(crd *apiextensionsv1.CustomResourceDefinition) {
	n := &crd.Spec.Names
	if n.Singular == "" {
		n.Singular = strings.ToLower(n.Kind)
	}
	if n.ListKind == "" && n.Kind != "" {
		n.ListKind = n.Kind + "List"
	}
	if crd.Spec.Conversion == nil {
		crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{}
	}
	if crd.Spec.Conversion.Strategy == "" {
		crd.Spec.Conversion.Strategy = apiextensionsv1.NoneConverter
	}
	if crd.DeletionTimestamp == nil && !slices.Contains(crd.Finalizers, Finalizer) {
		crd.Finalizers = append(crd.Finalizers, Finalizer)
	}
}

// ValidateDefinition checks one that has its defaults.
func ValidateDefinition(crd *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	spec, path := &crd.Spec, field.NewPath("spec")
	var errs field.ErrorList
	if want := spec.Names.Plural + "." + spec.Group; crd.Name != want {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), crd.Name, `must be spec.names.plural+"."+spec.group`))
	}
	errs = append(errs, validateGroup(crd, path.Child("group"))...)
	errs = append(errs, validateNames(&spec.Names, path.Child("names"))...)
	switch spec.Scope {
	case apiextensionsv1.ClusterScoped, apiextensionsv1.NamespaceScoped:
	case "":
		errs = append(errs, field.Required(path.Child("scope"), ""))
	default:
		errs = append(errs, field.NotSupported(path.Child("scope"), spec.Scope, []apiextensionsv1.ResourceScope{apiextensionsv1.ClusterScoped, apiextensionsv1.NamespaceScoped}))
	}
	if spec.PreserveUnknownFields {
		errs = append(errs, field.Invalid(path.Child("preserveUnknownFields"), true, "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"))
	}
	if c := spec.Conversion; c.Strategy != apiextensionsv1.NoneConverter {
		errs = append(errs, field.NotSupported(path.Child("conversion", "strategy"), c.Strategy, []apiextensionsv1.ConversionStrategyType{apiextensionsv1.NoneConverter}))
	} else if c.Webhook != nil {
		errs = append(errs, field.Forbidden(path.Child("conversion", "webhook"), "should not be set when strategy is not set to Webhook"))
	}
	return append(errs, validateVersions(spec.Versions, path.Child("versions"))...)
}

// validateGroup refuses groups that others take care of: those of this API, whose
// kinds are what they are, and those of Kubernetes unless its own people agree.
func validateGroup(crd *apiextensionsv1.CustomResourceDefinition, path *field.Path) field.ErrorList {
	group := crd.Spec.Group
	switch faults := validation.IsDNS1123Subdomain(group); {
	case group == "":
		return field.ErrorList{field.Required(path, "")}
	case len(faults) > 0:
		return field.ErrorList{field.Invalid(path, group, strings.Join(faults, ","))}
	case slices.ContainsFunc(slices.Concat(api.Resources, api.Vacant), func(r *api.Resource) bool { return r.Group == group }) || group == "metrics.k8s.io" || group == "events.k8s.io":
		return field.ErrorList{field.Forbidden(path, fmt.Sprintf("the kinds of the group %q are built in: a definition must have a group of its own", group))}
	case !strings.Contains(group, "."):
		return field.ErrorList{field.Invalid(path, group, "should be a domain with at least one dot")}
	}
	const approved = "api-approved.kubernetes.io"
	protected := strings.HasSuffix(group, ".k8s.io") || strings.HasSuffix(group, ".kubernetes.io")
	if protected && crd.Annotations[approved] == "" {
		return field.ErrorList{field.Required(field.NewPath("metadata", "annotations").Key(approved), "protected groups must have approval annotation \""+approved+"\"")}
	}
	return nil
}

func validateNames(n *apiextensionsv1.CustomResourceDefinitionNames, path *field.Path) (errs field.ErrorList) {
	label := func(at *field.Path, v, prefix string) {
		if v == "" {
			errs = append(errs, field.Required(at, ""))
		} else if faults := validation.IsDNS1035Label(strings.ToLower(v)); len(faults) > 0 {
			errs = append(errs, field.Invalid(at, v, prefix+strings.Join(faults, ",")))
		} else if prefix == "" && v != strings.ToLower(v) {
			errs = append(errs, field.Invalid(at, v, "must be lower case"))
		}
	}
	const mixed = "may have mixed case, but should otherwise match: "
	label(path.Child("plural"), n.Plural, "")
	label(path.Child("singular"), n.Singular, "")
	label(path.Child("kind"), n.Kind, mixed)
	label(path.Child("listKind"), n.ListKind, mixed)
	if n.Kind != "" && n.Kind == n.ListKind {
		errs = append(errs, field.Invalid(path.Child("listKind"), n.ListKind, "kind and listKind may not be the same"))
	}
	for i, s := range n.ShortNames {
		label(path.Child("shortNames").Index(i), s, "")
	}
	for i, c := range n.Categories {
		label(path.Child("categories").Index(i), c, "")
	}
	return errs
}

func validateVersions(versions []apiextensionsv1.CustomResourceDefinitionVersion, path *field.Path) (errs field.ErrorList) {
	seen, storage := sets.New[string](), 0
	for i := range versions {
		v, at := &versions[i], path.Index(i)
		if faults := validation.IsDNS1035Label(v.Name); len(faults) > 0 {
			errs = append(errs, field.Invalid(at.Child("name"), v.Name, strings.Join(faults, ",")))
		} else if seen.Has(v.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), v.Name))
		}
		seen.Insert(v.Name)
		if v.Storage {
			storage++
		}
		errs = append(errs, validateVersion(v, at)...)
	}
	if storage != 1 {
		names := make([]string, len(versions))
		for i := range versions {
			names[i] = versions[i].Name
		}
		errs = append(errs, field.Invalid(path, names, "must have exactly one version marked as storage version"))
	}
	return errs
}

func validateVersion(v *apiextensionsv1.CustomResourceDefinitionVersion, path *field.Path) (errs field.ErrorList) {
	if v.DeprecationWarning != nil && !v.Deprecated {
		errs = append(errs, field.Invalid(path.Child("deprecationWarning"), *v.DeprecationWarning, "can only be set for deprecated versions"))
	}
	if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
		errs = append(errs, field.Required(path.Child("schema", "openAPIV3Schema"), "schemas are required"))
	} else {
		s := v.Schema.OpenAPIV3Schema
		errs = append(errs, validateSchema(s, path.Child("schema", "openAPIV3Schema"))...)
		errs = append(errs, validateSelectable(v.SelectableFields, s, path.Child("selectableFields"))...)
	}
	for i := range v.AdditionalPrinterColumns {
		errs = append(errs, validateColumn(&v.AdditionalPrinterColumns[i], path.Child("additionalPrinterColumns").Index(i))...)
	}
	if v.Subresources != nil && v.Subresources.Scale != nil {
		errs = append(errs, validateScale(v.Subresources.Scale, path.Child("subresources", "scale"))...)
	}
	return errs
}

var (
	columnTypes   = []string{"boolean", "date", "integer", "number", "string"}
	columnFormats = []string{"byte", "date", "date-time", "double", "float", "int32", "int64", "password"}
)

func validateColumn(c *apiextensionsv1.CustomResourceColumnDefinition, path *field.Path) (errs field.ErrorList) {
	if c.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	if !slices.Contains(columnTypes, c.Type) {
		errs = append(errs, field.NotSupported(path.Child("type"), c.Type, columnTypes))
	}
	if c.Format != "" && !slices.Contains(columnFormats, c.Format) {
		errs = append(errs, field.NotSupported(path.Child("format"), c.Format, columnFormats))
	}
	if err := checkPath(c.JSONPath); err != nil {
		errs = append(errs, field.Invalid(path.Child("jsonPath"), c.JSONPath, err.Error()))
	}
	return errs
}

// plainPath is a path without indexes or filters, at which something can be written.
var plainPath = regexp.MustCompile(`^(\.[A-Za-z_][A-Za-z0-9_-]*)+$`)

func validateScale(s *apiextensionsv1.CustomResourceSubresourceScale, path *field.Path) (errs field.ErrorList) {
	check := func(name, value string, below ...string) {
		at := path.Child(name)
		ok := slices.ContainsFunc(below, func(b string) bool { return strings.HasPrefix(value, b+".") })
		switch {
		case value == "":
			errs = append(errs, field.Required(at, ""))
		case !plainPath.MatchString(value) || !ok:
			errs = append(errs, field.Invalid(at, value, "should be a json path under "+strings.Join(below, " or ")))
		}
	}
	check("specReplicasPath", s.SpecReplicasPath, ".spec")
	check("statusReplicasPath", s.StatusReplicasPath, ".status")
	if s.LabelSelectorPath != nil && *s.LabelSelectorPath != "" {
		check("labelSelectorPath", *s.LabelSelectorPath, ".spec", ".status")
	}
	return errs
}

func validateSelectable(all []apiextensionsv1.SelectableField, root *apiextensionsv1.JSONSchemaProps, path *field.Path) (errs field.ErrorList) {
	const most = 8
	if len(all) > most {
		errs = append(errs, field.TooMany(path, len(all), most))
	}
	seen := map[string]bool{}
	for i, f := range all {
		at := path.Index(i).Child("jsonPath")
		switch s := schemaAt(root, f.JSONPath); {
		case f.JSONPath == "":
			errs = append(errs, field.Required(at, ""))
		case !plainPath.MatchString(f.JSONPath):
			errs = append(errs, field.Invalid(at, f.JSONPath, "is an invalid path: it must be field names, each after a dot"))
		case strings.HasPrefix(f.JSONPath, ".metadata."):
			errs = append(errs, field.Invalid(at, f.JSONPath, "must not point to fields in metadata"))
		case s == nil || !slices.Contains([]string{"string", "boolean", "integer"}, s.Type):
			errs = append(errs, field.Invalid(at, f.JSONPath, "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."))
		case seen[f.JSONPath]:
			errs = append(errs, field.Duplicate(at, f.JSONPath))
		}
		seen[f.JSONPath] = true
	}
	return errs
}

func schemaAt(s *apiextensionsv1.JSONSchemaProps, path string) *apiextensionsv1.JSONSchemaProps {
	for _, name := range steps(path) {
		p, ok := s.Properties[name]
		if !ok {
			return nil
		}
		s = &p
	}
	return s
}

// ValidateDefinitionUpdate checks what may not change. What a kind is called and
// where its objects lie is settled as long as it exists, for both are in the names
// under which they are stored.
func ValidateDefinitionUpdate(crd, old *apiextensionsv1.CustomResourceDefinition) (errs field.ErrorList) {
	path := field.NewPath("spec")
	fixed := func(now, was string, at *field.Path) {
		if now != was {
			errs = append(errs, field.Invalid(at, now, "field is immutable"))
		}
	}
	fixed(crd.Spec.Group, old.Spec.Group, path.Child("group"))
	fixed(crd.Spec.Names.Plural, old.Spec.Names.Plural, path.Child("names", "plural"))
	fixed(string(crd.Spec.Scope), string(old.Spec.Scope), path.Child("scope"))
	if IsTrue(old, apiextensionsv1.Established) {
		fixed(crd.Spec.Names.Kind, old.Spec.Names.Kind, path.Child("names", "kind"))
	}
	return append(errs, ValidateStored(crd)...)
}

// ValidateStored holds the versions in which objects may be stored against those
// that there are.
func ValidateStored(crd *apiextensionsv1.CustomResourceDefinition) (errs field.ErrorList) {
	for i, name := range crd.Status.StoredVersions {
		if !slices.ContainsFunc(crd.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool { return v.Name == name }) {
			errs = append(errs, field.Invalid(field.NewPath("status", "storedVersions").Index(i), name,
				"missing from spec.versions; "+name+" was previously a storage version, and must remain in spec.versions until all objects are stored anew and it is removed from status.storedVersions"))
		}
	}
	return errs
}

// Warnings are what the writer of a definition should know.
func Warnings(crd *apiextensionsv1.CustomResourceDefinition) (out []string) {
	for _, v := range crd.Spec.Versions {
		if v.Schema != nil && v.Schema.OpenAPIV3Schema != nil && hasRules(v.Schema.OpenAPIV3Schema) {
			out = append(out, fmt.Sprintf("the rules in x-kubernetes-validations of %s %s are kept, but not evaluated: nothing is refused because of them", crd.Name, v.Name))
		}
	}
	return out
}

func hasRules(s *apiextensionsv1.JSONSchemaProps) bool {
	if len(s.XValidations) > 0 {
		return true
	}
	found := false
	below(s, func(c *apiextensionsv1.JSONSchemaProps, _ place) { found = found || hasRules(c) })
	return found
}

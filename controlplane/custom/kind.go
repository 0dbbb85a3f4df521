package custom

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/openapi"
)

// Kind is a custom kind in one version. It is what the Definition of its Resource is.
type Kind struct {
	resource *api.Resource
	crd      *apiextensionsv1.CustomResourceDefinition
	version  *apiextensionsv1.CustomResourceDefinitionVersion

	// Made when first asked for: many a kind is defined and never used.
	schema  func() (*node, error)
	merging func() typed.ParseableType
}

var _ api.Definition = (*Kind)(nil)

// Of is the kind of a resource; nil for one that no definition has made.
func Of(r *api.Resource) *Kind {
	k, _ := r.Definition.(*Kind)
	return k
}

func newKind(crd *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) *Kind {
	names := crd.Status.AcceptedNames
	k := &Kind{crd: crd, version: v}
	k.resource = &api.Resource{
		Group: crd.Spec.Group, Version: v.Name, Kind: crd.Spec.Names.Kind, Plural: crd.Spec.Names.Plural, Singular: crd.Spec.Names.Singular,
		Short: names.ShortNames, Namespaced: crd.Spec.Scope == apiextensionsv1.NamespaceScoped,
		Status: v.Subresources != nil && v.Subresources.Status != nil, Scale: v.Subresources != nil && v.Subresources.Scale != nil,
		Definition: k,
	}
	k.resource.New = func() api.Object { return api.NewCustom(k.resource) }
	k.resource.NewList = func() runtime.Object { return &api.CustomList{} }
	k.schema = sync.OnceValues(func() (*node, error) { return compile(rootOf(v)) })
	k.merging = sync.OnceValue(func() typed.ParseableType { return openapi.CustomType(rootOf(v)) })
	return k
}

// rootOf is what a version says of its objects. A version without a schema, which
// only other programs than this one can have stored, lets everything be.
func rootOf(v *apiextensionsv1.CustomResourceDefinitionVersion) *apiextensionsv1.JSONSchemaProps {
	if v.Schema != nil && v.Schema.OpenAPIV3Schema != nil {
		return v.Schema.OpenAPIV3Schema
	}
	return &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: new(true)}
}

// Schema is what the version says of its objects. It is shared and immutable.
func (k *Kind) Schema() *apiextensionsv1.JSONSchemaProps { return rootOf(k.version) }

// MergeType is by what objects are merged and compared, field by field.
func (k *Kind) MergeType() typed.ParseableType { return k.merging() }

// Categories are the groups of kinds that kubectl gets at once.
func (k *Kind) Categories() []string { return k.crd.Status.AcceptedNames.Categories }

// ListKind is what a list of objects is called.
func (k *Kind) ListKind() string { return k.crd.Spec.Names.ListKind }

// Deprecated is the warning that goes with every answer in this version, "" for none.
func (k *Kind) Deprecated() string {
	switch {
	case !k.version.Deprecated:
		return ""
	case k.version.DeprecationWarning != nil:
		return *k.version.DeprecationWarning
	}
	return fmt.Sprintf("%s %s is deprecated", k.resource.GVK().GroupVersion(), k.resource.Kind)
}

// Served tells whether a version of the kind, by its name, is served.
func (k *Kind) Served(version string) bool {
	return slices.ContainsFunc(k.crd.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool { return v.Name == version && v.Served })
}

// Prune takes out of an object of the caller's own what the kind does not know, and
// answers with the paths of that, in order.
func (k *Kind) Prune(obj *api.CustomObject) []string {
	n, err := k.schema()
	if err != nil {
		return nil
	}
	m := obj.Fields()
	var unknown []string
	root(m, func() { unknown = n.prune(m, "") })
	obj.SetFields(m)
	slices.Sort(unknown)
	return unknown
}

// Default fills in what an object of the caller's own leaves open.
func (k *Kind) Default(obj *api.CustomObject) {
	n, err := k.schema()
	if err != nil || !n.fills {
		return
	}
	m := obj.Fields()
	root(m, func() { n.fill(m) })
	obj.SetFields(m)
}

// root has f work on the fields of an object, of which a schema may speak as if
// those of every object were among them.
func root(m map[string]any, f func()) {
	f()
	for _, name := range []string{"apiVersion", "kind", "metadata"} {
		delete(m, name)
	}
}

// Adopt implements api.Definition.
func (k *Kind) Adopt(obj *api.CustomObject) *api.CustomObject {
	out := obj.DeepCopy()
	out.Of = k.resource
	out.SetGroupVersionKind(k.resource.GVK())
	k.Prune(out)
	k.Default(out)
	return out
}

// Fields implements api.Definition.
func (k *Kind) Fields(obj *api.CustomObject) fields.Set {
	set := fields.Set{"metadata.name": obj.GetName(), "metadata.namespace": obj.GetNamespace()}
	for _, f := range k.version.SelectableFields {
		path := strings.Split(strings.TrimPrefix(f.JSONPath, "."), ".")
		set[strings.Join(path, ".")] = ""
		if v, ok := lookUp(obj.Fields(), path); ok {
			set[strings.Join(path, ".")] = fmt.Sprint(v)
		}
	}
	return set
}

func lookUp(v any, path []string) (any, bool) {
	for _, name := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = m[name]; !ok {
			return nil, false
		}
	}
	return v, v != nil
}

// Admit implements api.Definition.
func (k *Kind) Admit(old, next *api.CustomObject, _ string) error {
	n, err := k.schema()
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("the schema of %s %s: %w", k.resource, k.resource.Version, err))
	}
	if old == nil && k.crd.DeletionTimestamp != nil {
		return api.EndingKind()
	}
	k.Prune(next)
	k.Default(next)
	errs := faults(n, next)
	if len(errs) > 0 && old != nil {
		known := map[string]bool{}
		for _, e := range faults(n, old) {
			known[e.Error()] = true
		}
		// The schema may have become stricter since: what is not touched may stay.
		errs = slices.DeleteFunc(errs, func(e *field.Error) bool { return known[e.Error()] })
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(k.resource.GVK().GroupKind(), next.Name, errs)
}

// faults judges an object. Of what every object has a schema may demand that it
// is there, and how the name looks.
func faults(n *node, obj *api.CustomObject) field.ErrorList {
	m := obj.Fields()
	m["apiVersion"], m["kind"] = obj.APIVersion, obj.Kind
	meta := map[string]any{"name": obj.Name}
	if obj.GenerateName != "" {
		meta["generateName"] = obj.GenerateName
	}
	m["metadata"] = meta
	return n.judge(m, nil)
}

// Names are those that a definition takes in its group: by them kinds are asked for.
func Names(n apiextensionsv1.CustomResourceDefinitionNames) []string {
	names := map[string]bool{n.Plural: true, n.Singular: true, strings.ToLower(n.Kind): true}
	for _, s := range n.ShortNames {
		names[s] = true
	}
	delete(names, "")
	return slices.Sorted(maps.Keys(names))
}

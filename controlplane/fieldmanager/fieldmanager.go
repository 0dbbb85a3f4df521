// Package fieldmanager keeps metadata.managedFields, which says who has set
// which field of an object, and merges server-side applies by it. It stands
// before an api.Objects: what goes by it is not tracked, and costs nothing.
package fieldmanager

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/openapi"
)

// Status is the part of an object that its status subresource changes. Scale
// changes the replicas of its spec.
const (
	Status = "status"
	Scale  = "scale"
)

// managerOf makes what merges and tracks objects of a kind, as they are written
// through the subresource. Objects are defaulted by fill.
func managerOf(r *api.Resource, subresource string, fill func(api.Object)) (*managedfields.FieldManager, error) {
	k := kind{r: r, fill: fill}
	gv := r.GVK().GroupVersion()
	m, err := managedfields.NewDefaultFieldManager(k, k, k, k, r.GVK(), gv, subresource, map[fieldpath.APIVersion]fieldpath.Filter{
		fieldpath.APIVersion(gv.String()): untouched(r, subresource),
	})
	if err != nil {
		return nil, fmt.Errorf("managed fields of %s: %w", r, err)
	}
	return m, nil
}

// untouched are the fields that a write through the subresource leaves as they
// are, whatever it says: nobody comes to own them by it.
func untouched(r *api.Resource, subresource string) fieldpath.Filter {
	s := fieldpath.NewSet()
	switch {
	case subresource == Status, subresource == api.Approval:
		s.Insert(fieldpath.MakePathOrDie("metadata"))
		s.Insert(fieldpath.MakePathOrDie("spec"))
	case r.Status:
		s.Insert(fieldpath.MakePathOrDie("status"))
	}
	return fieldpath.NewExcludeSetFilter(s)
}

// kind is what the library wants to know of one: its schema, how to make, to
// convert and to default objects. There is one version of each.
type kind struct {
	r    *api.Resource
	fill func(api.Object)
}

// ObjectToTyped implements managedfields.TypeConverter.
func (k kind) ObjectToTyped(obj runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	t := openapi.TypeFor(k.r)
	switch o := obj.(type) {
	case *unstructured.Unstructured:
		return t.FromUnstructured(o.Object, opts...)
	case *api.CustomObject:
		m, err := o.Unstructured()
		if err != nil {
			return nil, err
		}
		return t.FromUnstructured(m, opts...)
	}
	return t.FromStructured(obj, opts...)
}

// TypedToObject implements managedfields.TypeConverter.
func (k kind) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	m, ok := v.AsValue().Unstructured().(map[string]any)
	if !ok {
		return nil, fmt.Errorf("what was merged is no %s", k.r.Kind)
	}
	return &unstructured.Unstructured{Object: m}, nil
}

// ConvertToVersion implements runtime.ObjectConvertor. What comes out is typed.
func (k kind) ConvertToVersion(in runtime.Object, to runtime.GroupVersioner) (runtime.Object, error) {
	if out, ok := k.customTo(in, to); ok {
		return out, nil
	}
	if gvk, ok := to.KindForGroupVersionKinds([]schema.GroupVersionKind{k.r.GVK()}); !ok || gvk != k.r.GVK() {
		// The library drops what was managed as of a version that is not there any more.
		return nil, runtime.NewNotRegisteredErrForTarget("podsnap", nil, to)
	}
	u, ok := in.(*unstructured.Unstructured)
	if !ok {
		return in, nil
	}
	out := k.r.New()
	if c, ok := out.(*api.CustomObject); ok {
		err := c.SetUnstructured(u.Object)
		c.SetGroupVersionKind(k.r.GVK())
		return c, err
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, out); err != nil {
		return nil, err
	}
	out.GetObjectKind().SetGroupVersionKind(k.r.GVK())
	return out, nil
}

// versioned is a custom kind, of which several versions may be served.
type versioned interface{ Served(version string) bool }

// customTo is an object of a custom kind in another version: nothing but its name
// differs, so what a manager has set in one it has set in the other.
func (k kind) customTo(in runtime.Object, to runtime.GroupVersioner) (runtime.Object, bool) {
	v, ok := k.r.Definition.(versioned)
	gv, isGV := to.(schema.GroupVersion)
	if !ok || !isGV || gv == k.r.GVK().GroupVersion() || gv.Group != k.r.Group || !v.Served(gv.Version) {
		return nil, false
	}
	switch o := in.(type) {
	case *api.CustomObject:
		c := *o
		c.APIVersion = gv.String()
		return &c, true
	case *unstructured.Unstructured:
		c := o.DeepCopy()
		c.SetAPIVersion(gv.String())
		return c, true
	}
	return nil, false
}

// Convert implements runtime.ObjectConvertor; nobody converts into another object.
func (k kind) Convert(_, _, _ any) error {
	return fmt.Errorf("%s has one version", k.r)
}

// ConvertFieldLabel implements runtime.ObjectConvertor.
func (k kind) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

// Default implements runtime.ObjectDefaulter.
func (k kind) Default(in runtime.Object) {
	if obj, ok := in.(api.Object); ok {
		k.fill(obj)
	}
}

// New implements runtime.ObjectCreater.
func (k kind) New(schema.GroupVersionKind) (runtime.Object, error) { return empty(k.r), nil }

func empty(r *api.Resource) api.Object {
	obj := r.New()
	obj.GetObjectKind().SetGroupVersionKind(r.GVK())
	return obj
}

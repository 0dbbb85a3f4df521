package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"
)

// CustomResourceDefinitions are the kinds that somebody else has thought of.
var CustomResourceDefinitions = &Resource{
	Group: apiextensionsv1.GroupName, Version: "v1", Kind: "CustomResourceDefinition",
	Plural: "customresourcedefinitions", Singular: "customresourcedefinition", Short: []string{"crd", "crds"}, Status: true,
	New:     func() Object { return &apiextensionsv1.CustomResourceDefinition{} },
	NewList: func() runtime.Object { return &apiextensionsv1.CustomResourceDefinitionList{} },
}

// Definition is what a CustomResourceDefinition says of its kind in one version.
// All methods are safe for concurrent use.
type Definition interface {
	// Admit drops what next may not have and fills in defaults, then judges it.
	// next is the writer's own; old is nil for a creation, and of the same version.
	Admit(old, next *CustomObject, subresource string) error

	// Default fills in what an object of the caller's own leaves open.
	Default(obj *CustomObject)

	// Adopt is a copy of an object of another version, or of a former state of
	// this one, as this version has it.
	Adopt(obj *CustomObject) *CustomObject

	// Fields are those that a field selector may name, with their values in obj.
	Fields(obj *CustomObject) fields.Set
}

// Define is told each state of a CustomResourceDefinition, in order and before
// objects of its kind are read; crd is nil when there is none any more. It answers
// with the kind as which its objects are stored, nil when there is none.
type Define func(name string, crd *apiextensionsv1.CustomResourceDefinition) *Resource

// CustomObject is an object of a kind that a CustomResourceDefinition has made. It
// has the shape of all others: metadata with its types, a status, and the rest.
type CustomObject struct {
	metav1.TypeMeta
	metav1.ObjectMeta

	Content map[string]any // all fields but apiVersion, kind, metadata and status, as JSON has them
	Status  any            // nil is none
	Of      *Resource      // the kind, in the version in which this is
}

// NewCustom is an empty object of the kind.
func NewCustom(r *Resource) *CustomObject {
	c := &CustomObject{Of: r}
	c.SetGroupVersionKind(r.GVK())
	return c
}

// Fields are all of the object's but apiVersion, kind and metadata, in a map that is
// the caller's; the values are the object's.
func (c *CustomObject) Fields() map[string]any {
	m := make(map[string]any, len(c.Content)+4)
	maps.Copy(m, c.Content)
	if c.Status != nil {
		m["status"] = c.Status
	}
	return m
}

// SetFields is the reverse of Fields.
func (c *CustomObject) SetFields(m map[string]any) {
	c.Status = m["status"]
	delete(m, "status")
	c.Content = m
}

// Unstructured is the object as JSON has it. Its values are the object's, but
// those of its metadata.
func (c *CustomObject) Unstructured() (map[string]any, error) {
	meta, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&c.ObjectMeta)
	if err != nil {
		return nil, fmt.Errorf("metadata of %s %s: %w", c.Kind, c.Name, err)
	}
	m := c.Fields()
	m["apiVersion"], m["kind"], m["metadata"] = c.APIVersion, c.Kind, meta
	return m, nil
}

// SetUnstructured is the reverse of Unstructured.
func (c *CustomObject) SetUnstructured(m map[string]any) error {
	var meta metav1.ObjectMeta
	switch got := m["metadata"].(type) {
	case nil:
	case map[string]any:
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(got, &meta); err != nil {
			return fmt.Errorf("metadata: %w", err)
		}
	default:
		return fmt.Errorf("metadata must be an object")
	}
	c.ObjectMeta = meta
	c.APIVersion, _ = m["apiVersion"].(string)
	c.Kind, _ = m["kind"].(string)
	rest := maps.Clone(m)
	for _, k := range []string{"apiVersion", "kind", "metadata"} {
		delete(rest, k)
	}
	c.SetFields(rest)
	return nil
}

// MarshalJSON implements json.Marshaler.
func (c *CustomObject) MarshalJSON() ([]byte, error) {
	m := c.Fields()
	m["apiVersion"], m["kind"], m["metadata"] = c.APIVersion, c.Kind, c.ObjectMeta
	return json.Marshal(m)
}

// UnmarshalJSON implements json.Unmarshaler. Whole numbers stay what they are.
func (c *CustomObject) UnmarshalJSON(data []byte) error {
	var raw map[string]json.RawMessage
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &raw); err != nil {
		return err
	}
	rest := make(map[string]any, len(raw))
	for k, v := range raw {
		var err error
		switch k {
		case "apiVersion":
			err = kjson.UnmarshalCaseSensitivePreserveInts(v, &c.APIVersion)
		case "kind":
			err = kjson.UnmarshalCaseSensitivePreserveInts(v, &c.Kind)
		case "metadata":
			err = kjson.UnmarshalCaseSensitivePreserveInts(v, &c.ObjectMeta)
		default:
			var val any
			err = kjson.UnmarshalCaseSensitivePreserveInts(v, &val)
			rest[k] = val
		}
		if err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
	}
	c.SetFields(rest)
	return nil
}

// DeepCopyObject implements runtime.Object.
func (c *CustomObject) DeepCopyObject() runtime.Object { return c.DeepCopy() }

// DeepCopy is a copy that shares nothing but the kind.
func (c *CustomObject) DeepCopy() *CustomObject {
	out := &CustomObject{TypeMeta: c.TypeMeta, Of: c.Of, Content: runtime.DeepCopyJSON(c.Content), Status: runtime.DeepCopyJSONValue(c.Status)}
	c.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	return out
}

// SameContent tells whether two objects have the same fields besides metadata and
// status.
func (c *CustomObject) SameContent(o *CustomObject) bool {
	return len(c.Content) == 0 && len(o.Content) == 0 || reflect.DeepEqual(c.Content, o.Content)
}

// CustomList is a list of them.
type CustomList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []CustomObject `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (l *CustomList) DeepCopyObject() runtime.Object {
	out := &CustomList{TypeMeta: l.TypeMeta, Items: make([]CustomObject, len(l.Items))}
	l.ListMeta.DeepCopyInto(&out.ListMeta)
	for i := range l.Items {
		out.Items[i] = *l.Items[i].DeepCopy()
	}
	return out
}

// NoSuchKind is the answer to who asks for objects of a kind whose definition is gone.
func NoSuchKind(r *Resource) error {
	return apierrors.NewGenericServerResponse(http.StatusNotFound, "", r.GR(), "", "", 0, true)
}

// EndingKind is the answer to who creates an object of a kind whose definition is
// being deleted.
func EndingKind() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusMethodNotAllowed, Reason: metav1.StatusReasonMethodNotAllowed,
		Message: "create not allowed while custom resource definition is terminating",
	}}
}

// As is obj as an object of r: another version of a custom kind has other defaults,
// another name, and may know other fields. Every other object is what it is.
func (r *Resource) As(obj Object) Object {
	c, ok := obj.(*CustomObject)
	if !ok || c.Of == r || r.Definition == nil {
		return obj
	}
	return r.Definition.Adopt(c)
}

package openapi

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
)

// customName is a custom kind's name in the documents, as Kubernetes has it.
func customName(r *api.Resource) string {
	labels := strings.Split(r.Group, ".")
	slices.Reverse(labels)
	return strings.Join(labels, ".") + "." + r.Version + "." + r.Kind
}

// refsTo are where a kind and its list lie in the document.
func (d dialect) refsTo(r *api.Resource) (object, list *shape) {
	if r.Definition != nil {
		return &shape{Ref: d.refs + customName(r)}, &shape{Ref: d.refs + customName(r) + "List"}
	}
	return d.ref(typeOf(r)), d.ref(listOf(r))
}

// writeCustom writes the definitions of a custom kind and its list, behind others.
func (d dialect) writeCustom(w io.Writer, r *api.Resource) error {
	c, ok := r.Definition.(custom)
	if !ok {
		return nil
	}
	for name, s := range d.customShapes(r, c) {
		b, err := json.Marshal(s)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if d.v3 && name == customName(r) {
			if b, err = withSchema(s, c.Schema()); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		if _, err := fmt.Fprintf(w, ",%q:%s", name, b); err != nil {
			return err
		}
	}
	return nil
}

// withSchema is the definition of version 3, which says all that a schema does.
// Only the fields that every object has are described by the shape.
func withSchema(s *shape, of *apiextensionsv1.JSONSchemaProps) ([]byte, error) {
	full := of.DeepCopy()
	full.XValidations = nil
	b, err := json.Marshal(full)
	if err != nil {
		return nil, err
	}
	var doc map[string]any
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, err
	}
	props, _ := doc["properties"].(map[string]any)
	if props == nil {
		props = map[string]any{}
		doc["properties"] = props
	}
	for _, name := range everywhere {
		props[name] = s.Properties[name]
	}
	doc["x-kubernetes-group-version-kind"] = s.Kinds
	return json.Marshal(doc)
}

// everywhere are the fields that every object has.
var everywhere = []string{"apiVersion", "kind", "metadata"}

// customShapes are the definitions of a custom kind and its list, by name.
func (d dialect) customShapes(r *api.Resource, c custom) iter.Seq2[string, *shape] {
	docs := docsOf(reflect.TypeFor[metav1.TypeMeta]())
	head := func(meta reflect.Type) map[string]*shape {
		ref := d.ref(meta)
		if d.v3 {
			ref = &shape{AllOf: []*shape{ref}}
		}
		return map[string]*shape{
			"apiVersion": {Type: "string", Description: docs["apiVersion"]}, "kind": {Type: "string", Description: docs["kind"]}, "metadata": ref,
		}
	}
	gvk := r.GVK()
	object := customShape(c.Schema())
	if object.Properties == nil {
		object.Properties = map[string]*shape{}
	}
	maps.Copy(object.Properties, head(reflect.TypeFor[metav1.ObjectMeta]()))
	object.Kinds = []kindTag{kindTag(gvk)}
	list := &shape{Type: "object", Description: r.Kind + "List is a list of " + r.Kind, Properties: head(reflect.TypeFor[metav1.ListMeta]()), Required: []string{"items"}}
	one, _ := d.refsTo(r)
	list.Properties["items"] = &shape{Type: "array", Description: "List of " + r.Plural, Items: one}
	list.Kinds = []kindTag{kindTag(gvk.GroupVersion().WithKind(gvk.Kind + "List"))}
	return func(yield func(string, *shape) bool) {
		_ = yield(customName(r), object) && yield(customName(r)+"List", list)
	}
}

// customShape is what version 2 can say of a schema: no logic, and nothing of what
// may be null or unknown, for there what is said is all that there is.
func customShape(s *apiextensionsv1.JSONSchemaProps) *shape {
	out := &shape{Description: s.Description, Type: s.Type, Format: s.Format, Required: s.Required}
	if s.XPreserveUnknownFields != nil && *s.XPreserveUnknownFields || s.Nullable || s.XIntOrString {
		out.Type, out.Format, out.Required = "", "", nil
		if s.XIntOrString {
			out.Type, out.Format = "string", "int-or-string"
		}
		if s.Type == "object" && !s.Nullable {
			out.Type = "object"
		}
		return out
	}
	if s.Default != nil {
		out.Default = s.Default.Raw
	}
	for _, e := range s.Enum {
		var text string
		if json.Unmarshal(e.Raw, &text) == nil {
			out.Enum = append(out.Enum, text)
		}
	}
	if s.XListType != nil {
		out.ListType, out.ListMapKeys = *s.XListType, s.XListMapKeys
	}
	if s.XMapType != nil {
		out.MapType = *s.XMapType
	}
	if s.Items != nil && s.Items.Schema != nil {
		out.Items = customShape(s.Items.Schema)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		out.AdditionalProperties = customShape(s.AdditionalProperties.Schema)
	}
	if len(s.Properties) > 0 {
		out.Properties = make(map[string]*shape, len(s.Properties))
	}
	for name, p := range s.Properties {
		out.Properties[name] = customShape(&p)
	}
	return out
}

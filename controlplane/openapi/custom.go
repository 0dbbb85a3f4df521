package openapi

import (
	"reflect"
	"slices"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/podsnap/podsnap/api"
)

// custom is a kind that a definition has made; see package custom.
type custom interface {
	api.Definition
	Schema() *apiextensionsv1.JSONSchemaProps
	MergeType() typed.ParseableType
}

// metadataTypes are the types of an object's metadata, by which custom kinds are
// merged as well.
var metadataTypes = sync.OnceValue(func() []schema.TypeDef {
	types := map[string]reflect.Type{}
	reach(reflect.TypeFor[metav1.ObjectMeta](), types)
	return typeDefs(types)
})

// customRoot is the type of the objects in a custom kind's schema.
const customRoot = "object"

// CustomType is by what objects of a schema are merged and compared, field by field.
func CustomType(s *apiextensionsv1.JSONSchemaProps) typed.ParseableType {
	root := customAtom(s)
	if root.Map == nil {
		root = deduced()
	}
	m := &schema.Map{ElementType: root.Map.ElementType}
	m.Fields = slices.DeleteFunc(slices.Clone(root.Map.Fields), func(f schema.StructField) bool {
		return f.Name == "apiVersion" || f.Name == "kind" || f.Name == "metadata"
	})
	text := schema.TypeRef{Inlined: schema.Atom{Scalar: new(schema.String)}}
	m.Fields = append(m.Fields,
		schema.StructField{Name: "apiVersion", Type: text}, schema.StructField{Name: "kind", Type: text},
		schema.StructField{Name: "metadata", Type: named(nameOf(reflect.TypeFor[metav1.ObjectMeta]()))})
	p := &typed.Parser{}
	p.Schema.Types = append(slices.Clone(metadataTypes()), sch(customRoot, schema.Atom{Map: m}))
	return p.Type(customRoot)
}

// customAtom is the schema of a value.
func customAtom(s *apiextensionsv1.JSONSchemaProps) schema.Atom {
	preserve := s.XPreserveUnknownFields != nil && *s.XPreserveUnknownFields
	switch {
	case s.XIntOrString:
		return schema.Atom{Scalar: new(schema.Untyped)}
	case s.Type == "array" && s.Items != nil && s.Items.Schema != nil:
		return schema.Atom{List: customList(s)}
	case s.Type == "object":
		return schema.Atom{Map: customMap(s, preserve)}
	case s.Type == "string":
		return schema.Atom{Scalar: new(schema.String)}
	case s.Type == "boolean":
		return schema.Atom{Scalar: new(schema.Boolean)}
	case s.Type == "integer" || s.Type == "number":
		return schema.Atom{Scalar: new(schema.Numeric)}
	}
	return deduced()
}

func customList(s *apiextensionsv1.JSONSchemaProps) *schema.List {
	l := &schema.List{ElementType: customRef(s.Items.Schema), ElementRelationship: schema.Atomic}
	if t := s.XListType; t != nil && (*t == "set" || *t == "map") {
		l.ElementRelationship, l.Keys = schema.Associative, s.XListMapKeys
	}
	return l
}

func customMap(s *apiextensionsv1.JSONSchemaProps, preserve bool) *schema.Map {
	m := &schema.Map{}
	for name, p := range s.Properties {
		f := schema.StructField{Name: name, Type: customRef(&p)}
		if p.Default != nil {
			_ = utiljson.Unmarshal(p.Default.Raw, &f.Default) // what is no JSON is no default
		}
		m.Fields = append(m.Fields, f)
	}
	slices.SortFunc(m.Fields, func(a, b schema.StructField) int { return strings.Compare(a.Name, b.Name) })
	switch a := s.AdditionalProperties; {
	case a != nil && a.Schema != nil:
		m.ElementType = customRef(a.Schema)
	case a != nil && a.Allows, preserve, s.XEmbeddedResource:
		m.ElementType = schema.TypeRef{Inlined: deduced()}
	}
	if s.XMapType != nil && *s.XMapType == "atomic" {
		m.ElementRelationship = schema.Atomic
	}
	return m
}

func customRef(s *apiextensionsv1.JSONSchemaProps) schema.TypeRef {
	return schema.TypeRef{Inlined: customAtom(s)}
}

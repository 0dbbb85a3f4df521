package openapi

import (
	"maps"
	"reflect"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/podsnap/podsnap/api"
)

// anything is the type of what may be any JSON; it has one owner as a whole.
const anything = "__untyped_atomic_"

// something is the type of what may be any JSON, where each field of an object has
// an owner of its own.
const something = "__untyped_deduced_"

func deduced() schema.Atom {
	return schema.Atom{
		Scalar: new(schema.Untyped),
		List:   &schema.List{ElementType: named(anything), ElementRelationship: schema.Atomic},
		Map:    &schema.Map{ElementType: named(something), ElementRelationship: schema.Separable},
	}
}

var merging = sync.OnceValue(newMerging)

func newMerging() *typed.Parser {
	types := map[string]reflect.Type{}
	for _, r := range api.Resources {
		reach(typeOf(r), types)
	}
	return &typed.Parser{Schema: schema.Schema{Types: typeDefs(types)}}
}

// typeDefs are the schemas of named types, and of what may be anything.
func typeDefs(types map[string]reflect.Type) []schema.TypeDef {
	ref := named(anything)
	out := []schema.TypeDef{sch(anything, schema.Atom{
		Scalar: new(schema.Untyped),
		List:   &schema.List{ElementType: ref, ElementRelationship: schema.Atomic},
		Map:    &schema.Map{ElementType: ref, ElementRelationship: schema.Atomic},
	}), sch(something, deduced())}
	for _, name := range slices.Sorted(maps.Keys(types)) {
		out = append(out, sch(name, atomOf(types[name])))
	}
	return out
}

// TypeFor is by what objects of a kind are merged and compared, field by field.
// The schemas of all built-in kinds are made when the first is asked for.
func TypeFor(r *api.Resource) typed.ParseableType {
	if c, ok := r.Definition.(custom); ok {
		return c.MergeType()
	}
	return merging().Type(nameOf(typeOf(r)))
}

func sch(name string, a schema.Atom) schema.TypeDef { return schema.TypeDef{Name: name, Atom: a} }

func named(name string) schema.TypeRef { return schema.TypeRef{NamedType: &name} }

// atomOf is the schema of a named type.
func atomOf(t reflect.Type) schema.Atom {
	if s, ok := scalarOf(t); ok {
		return scalarAtom(s)
	}
	if free(t) && t != reflect.TypeFor[runtime.RawExtension]() {
		// What it is inside is nobody's business: it is one value.
		return schema.Atom{Map: &schema.Map{ElementType: named(anything), ElementRelationship: schema.Atomic}}
	}
	m := &schema.Map{}
	if t.NumField() == 0 || t == reflect.TypeFor[runtime.RawExtension]() {
		m.ElementType = schema.TypeRef{Inlined: deduced()}
	}
	if facts()[pathOf(t)].atomic {
		m.ElementRelationship = schema.Atomic
	}
	for _, f := range fieldsOf(t) {
		m.Fields = append(m.Fields, schema.StructField{Name: f.name, Type: f.ref(), Default: f.value()})
	}
	return schema.Atom{Map: m}
}

// value is the field's default as JSON has it; nil is none.
func (f field) value() any {
	var v any
	if len(f.fact.fallback) == 0 || utiljson.Unmarshal(f.fact.fallback, &v) != nil {
		return nil
	}
	return v
}

func (f field) ref() schema.TypeRef {
	ref := refOf(f.typ)
	switch {
	case ref.Inlined.List != nil && f.mergeable():
		l := ref.Inlined.List
		l.ElementRelationship = schema.Associative
		if l.Keys = f.fact.keys; len(l.Keys) == 0 && !f.fact.set && f.patchKey != "" {
			l.Keys = []string{f.patchKey}
		}
	case ref.Inlined.Map != nil && f.fact.atomic:
		ref.Inlined.Map.ElementRelationship = schema.Atomic
	case ref.NamedType != nil && f.fact.granular:
		ref.ElementRelationship = new(schema.Separable)
	case ref.NamedType != nil && f.fact.atomic:
		ref.ElementRelationship = new(schema.Atomic)
	}
	return ref
}

func refOf(t reflect.Type) schema.TypeRef {
	t = elem(t)
	if t == reflect.TypeFor[runtime.RawExtension]() || untyped(t) {
		return named(anything)
	}
	if t.Kind() == reflect.Struct {
		return named(nameOf(t))
	}
	if s, ok := scalarOf(t); ok {
		return schema.TypeRef{Inlined: scalarAtom(s)}
	}
	switch {
	case isList(t):
		return schema.TypeRef{Inlined: schema.Atom{List: &schema.List{ElementType: refOf(t.Elem()), ElementRelationship: schema.Atomic}}}
	case t.Kind() == reflect.Map:
		return schema.TypeRef{Inlined: schema.Atom{Map: &schema.Map{ElementType: refOf(t.Elem())}}}
	}
	return named(anything)
}

// scalarAtom is a value's schema. What may be written in several ways has no
// type: a number for a quantity is as good as a string.
func scalarAtom(s scalar) schema.Atom {
	kind := schema.Untyped
	switch {
	case len(s.oneOf) > 0 || s.format == "int-or-string" || s.format == "date-time":
	case s.typ == "string":
		kind = schema.String
	case s.typ == "boolean":
		kind = schema.Boolean
	case s.typ == "integer" || s.typ == "number":
		kind = schema.Numeric
	}
	return schema.Atom{Scalar: &kind}
}

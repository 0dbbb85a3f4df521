package openapi

import (
	"encoding/json"
	"reflect"
	"strings"
)

// shape is a schema of an OpenAPI document.
type shape struct {
	Description          string            `json:"description,omitempty"`
	Type                 string            `json:"type,omitempty"`
	Format               string            `json:"format,omitempty"`
	Default              json.RawMessage   `json:"default,omitempty"`
	Enum                 []string          `json:"enum,omitempty"`
	Ref                  string            `json:"$ref,omitempty"`
	Items                *shape            `json:"items,omitempty"`
	AdditionalProperties *shape            `json:"additionalProperties,omitempty"`
	Properties           map[string]*shape `json:"properties,omitempty"`
	Required             []string          `json:"required,omitempty"`
	AllOf                []*shape          `json:"allOf,omitempty"`
	OneOf                []*shape          `json:"oneOf,omitempty"`

	Kinds         []kindTag `json:"x-kubernetes-group-version-kind,omitempty"`
	ListType      string    `json:"x-kubernetes-list-type,omitempty"`
	ListMapKeys   []string  `json:"x-kubernetes-list-map-keys,omitempty"`
	MapType       string    `json:"x-kubernetes-map-type,omitempty"`
	PatchStrategy string    `json:"x-kubernetes-patch-strategy,omitempty"`
	PatchMergeKey string    `json:"x-kubernetes-patch-merge-key,omitempty"`
}

// kindTag says which kind something is about.
type kindTag struct {
	Group   string `json:"group"`
	Version string `json:"version"`
	Kind    string `json:"kind"`
}

// dialect is a version of OpenAPI.
type dialect struct {
	refs string // where schemas lie
	v3   bool
}

var (
	version2 = dialect{refs: "#/definitions/"}
	version3 = dialect{refs: "#/components/schemas/", v3: true}
)

// definition describes a named type.
func (d dialect) definition(t reflect.Type) *shape {
	doc := docsOf(t)[""]
	if s, ok := scalarOf(t); ok {
		out := d.scalar(s)
		out.Description = doc
		return out
	}
	out := &shape{Type: "object", Description: doc}
	if untyped(t) {
		out.Type = ""
	}
	if free(t) {
		return out
	}
	out.Properties = map[string]*shape{}
	for _, f := range fieldsOf(t) {
		out.Properties[f.name] = d.field(f)
		if f.required {
			out.Required = append(out.Required, f.name)
		}
	}
	if facts()[pathOf(t)].atomic {
		out.MapType = "atomic"
	}
	return out
}

func (d dialect) field(f field) *shape {
	s := d.value(f.typ)
	if d.v3 && s.Ref != "" {
		// Beside a reference nothing else counts.
		s = &shape{AllOf: []*shape{{Ref: s.Ref}}}
	}
	s.Description = f.doc
	s.Default = f.fact.fallback
	s.PatchStrategy, s.PatchMergeKey = f.patchStrategy, f.patchKey
	switch {
	case len(f.fact.keys) > 0:
		s.ListType, s.ListMapKeys = "map", f.fact.keys
	case f.fact.set:
		s.ListType = "set"
	case s.Type == "array" && (f.fact.atomic || f.patchStrategy == ""):
		s.ListType = "atomic"
	case f.fact.atomic:
		s.MapType = "atomic"
	}
	return s
}

// value describes what has a type.
func (d dialect) value(t reflect.Type) *shape {
	t = elem(t)
	if t.Kind() == reflect.Struct {
		return &shape{Ref: d.refs + nameOf(t)}
	}
	if s, ok := scalarOf(t); ok {
		out := d.scalar(s)
		out.Enum = facts()[pathOf(t)].enum
		return out
	}
	switch {
	case isList(t):
		return &shape{Type: "array", Items: d.value(t.Elem())}
	case t.Kind() == reflect.Map:
		return &shape{Type: "object", AdditionalProperties: d.value(t.Elem())}
	}
	return &shape{Type: "object"}
}

func (d dialect) scalar(s scalar) *shape {
	if !d.v3 || len(s.oneOf) == 0 {
		return &shape{Type: s.typ, Format: s.format}
	}
	out := &shape{Format: s.format}
	for _, t := range s.oneOf {
		out.OneOf = append(out.OneOf, &shape{Type: t})
	}
	return out
}

// ref is where a named type of the document lies.
func (d dialect) ref(t reflect.Type) *shape { return &shape{Ref: d.refs + nameOf(t)} }

// mergeable tells whether an apply merges the elements of a list.
func (f field) mergeable() bool {
	return len(f.fact.keys) > 0 || f.fact.set || strings.HasPrefix(f.patchStrategy, "merge") && !f.fact.atomic
}

package custom

import (
	"fmt"
	"maps"
	"regexp"
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// place is where in a schema another one stands.
type place int

const (
	atRoot place = iota
	inField
	inItems
	inAdditional
)

// below calls f with each schema that is a part of s's shape.
func below(s *apiextensionsv1.JSONSchemaProps, f func(*apiextensionsv1.JSONSchemaProps, place)) {
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		p := s.Properties[name]
		f(&p, inField)
	}
	if s.Items != nil && s.Items.Schema != nil {
		f(s.Items.Schema, inItems)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		f(s.AdditionalProperties.Schema, inAdditional)
	}
}

// checker collects what is wrong with a schema.
type checker struct {
	errs field.ErrorList
}

func (c *checker) forbid(wrong bool, path *field.Path, why string) {
	if wrong {
		c.errs = append(c.errs, field.Forbidden(path, why))
	}
}

func (c *checker) need(missing bool, path *field.Path, why string) {
	if missing {
		c.errs = append(c.errs, field.Required(path, why))
	}
}

func (c *checker) refuse(wrong bool, path *field.Path, value any, why string) {
	if wrong {
		c.errs = append(c.errs, field.Invalid(path, value, why))
	}
}

// validateSchema checks that a schema is structural: its shape says of each field
// what it is, and what is combined by logic says only what values are valid.
// Whether defaults fit is asked when the rest is sound.
func validateSchema(s *apiextensionsv1.JSONSchemaProps, path *field.Path) field.ErrorList {
	c := &checker{}
	c.shape(s, atRoot, path)
	c.forbid(s.Nullable, path.Child("nullable"), "nullable cannot be true at the root")
	c.root(s, path)
	if len(c.errs) == 0 {
		c.defaults(s, path)
	}
	return c.errs
}

// root checks what a schema says of what every object has.
func (c *checker) root(s *apiextensionsv1.JSONSchemaProps, path *field.Path) {
	for _, name := range []string{"apiVersion", "kind"} {
		p, ok := s.Properties[name]
		c.refuse(ok && p.Type != "string", path.Child("properties").Key(name).Child("type"), p.Type, "must be string")
	}
	meta, ok := s.Properties["metadata"]
	if !ok {
		return
	}
	at := path.Child("properties").Key("metadata")
	c.refuse(meta.Type != "object", at.Child("type"), meta.Type, "must be object")
	for name := range meta.Properties {
		c.forbid(name != "name" && name != "generateName", at, "must not specify anything other than name and generateName, but metadata is implicitly specified")
	}
}

var schemaTypes = []string{"array", "boolean", "integer", "number", "object", "string"}

func (c *checker) shape(s *apiextensionsv1.JSONSchemaProps, where place, path *field.Path) {
	preserve := s.XPreserveUnknownFields != nil && *s.XPreserveUnknownFields
	at := path.Child("type")
	switch {
	case s.Type != "" && !slices.Contains(schemaTypes, s.Type):
		c.errs = append(c.errs, field.NotSupported(at, s.Type, schemaTypes))
	case s.XIntOrString:
		c.refuse(s.Type != "", at, s.Type, "must be empty if x-kubernetes-int-or-string is true")
		c.refuse(preserve, path.Child("x-kubernetes-preserve-unknown-fields"), true, "must be false if x-kubernetes-int-or-string is true")
		c.refuse(s.XEmbeddedResource, path.Child("x-kubernetes-embedded-resource"), true, "must be false if x-kubernetes-int-or-string is true")
	case s.Type == "" && where == atRoot:
		c.need(true, at, "must not be empty at the root")
	case s.Type == "" && !preserve:
		c.need(true, at, map[place]string{
			inField: "must not be empty for specified object fields", inItems: "must not be empty for specified array items",
			inAdditional: "must not be empty for specified object fields",
		}[where])
	}
	if where == atRoot {
		c.refuse(s.Type != "" && s.Type != "object", at, s.Type, "must be object at the root")
		c.forbid(s.AdditionalProperties != nil, path.Child("additionalProperties"), "must not be used at the root")
	}
	if s.XEmbeddedResource {
		c.refuse(s.Type != "object", at, s.Type, "must be object if x-kubernetes-embedded-resource is true")
		c.forbid(s.AdditionalProperties != nil, path.Child("additionalProperties"), "must not be used if x-kubernetes-embedded-resource is set")
		c.need(len(s.Properties) == 0 && !preserve, path.Child("properties"), "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields")
	}
	c.refuse(s.XPreserveUnknownFields != nil && !preserve, path.Child("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined")
	c.need(s.Type == "array" && (s.Items == nil || s.Items.Schema == nil), path.Child("items"), "must be specified")
	c.unsupported(s, path)
	c.merging(s, path)
	c.rules(s, path)
	c.logic(s, s, path)
	c.parts(s, path)
}

func (c *checker) parts(s *apiextensionsv1.JSONSchemaProps, path *field.Path) {
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		p := s.Properties[name]
		c.shape(&p, inField, path.Child("properties").Key(name))
	}
	if s.Items != nil && s.Items.Schema != nil {
		c.shape(s.Items.Schema, inItems, path.Child("items"))
	}
	if a := s.AdditionalProperties; a != nil {
		c.forbid(len(s.Properties) > 0, path.Child("additionalProperties"), "additionalProperties and properties are mutual exclusive")
		c.forbid(a.Schema == nil && !a.Allows, path.Child("additionalProperties"), "additionalProperties cannot be set to false")
		if a.Schema != nil {
			c.shape(a.Schema, inAdditional, path.Child("additionalProperties"))
		}
	}
}

// unsupported finds what JSON schema knows and structural schemas do not.
func (c *checker) unsupported(s *apiextensionsv1.JSONSchemaProps, path *field.Path) {
	c.forbid(s.UniqueItems, path.Child("uniqueItems"), "uniqueItems cannot be set to true since the runtime complexity becomes quadratic")
	for name, there := range map[string]bool{
		"id": s.ID != "", "$ref": s.Ref != nil, "additionalItems": s.AdditionalItems != nil, "patternProperties": len(s.PatternProperties) > 0,
		"definitions": len(s.Definitions) > 0, "dependencies": len(s.Dependencies) > 0,
	} {
		c.forbid(there, path.Child(name), name+" is not supported")
	}
	c.forbid(s.Items != nil && len(s.Items.JSONSchemas) > 0, path.Child("items"), "items must be a schema object and not an array")
	if s.Pattern != "" {
		_, err := regexp.Compile(s.Pattern)
		c.refuse(err != nil, path.Child("pattern"), s.Pattern, fmt.Sprintf("must be a valid regular expression, but isn't: %v", err))
	}
	_, err := valueOf(s.Default)
	c.refuse(err != nil, path.Child("default"), "", "must be JSON")
	for i := range s.Enum {
		_, err := valueOf(&s.Enum[i])
		c.refuse(err != nil, path.Child("enum").Index(i), "", "must be JSON")
	}
}

// merging checks what is said of lists and maps for an apply.
func (c *checker) merging(s *apiextensionsv1.JSONSchemaProps, path *field.Path) {
	if m := s.XMapType; m != nil {
		c.refuse(s.Type != "object", path.Child("type"), s.Type, "must be object if x-kubernetes-map-type is specified")
		if *m != "atomic" && *m != "granular" {
			c.errs = append(c.errs, field.NotSupported(path.Child("x-kubernetes-map-type"), *m, []string{"atomic", "granular"}))
		}
	}
	keys := path.Child("x-kubernetes-list-map-keys")
	if s.XListType == nil {
		c.need(len(s.XListMapKeys) > 0, path.Child("x-kubernetes-list-type"), "must be map if x-kubernetes-list-map-keys is non-empty")
		return
	}
	kind := *s.XListType
	c.refuse(s.Type != "array", path.Child("type"), s.Type, "must be array if x-kubernetes-list-type is specified")
	switch kind {
	case "atomic", "set":
		c.refuse(len(s.XListMapKeys) > 0, path.Child("x-kubernetes-list-type"), kind, "must be map if x-kubernetes-list-map-keys is non-empty")
	case "map":
		c.need(len(s.XListMapKeys) == 0, keys, "must not be empty if x-kubernetes-list-type is map")
	default:
		c.errs = append(c.errs, field.NotSupported(path.Child("x-kubernetes-list-type"), kind, []string{"atomic", "map", "set"}))
	}
	if s.Items == nil || s.Items.Schema == nil {
		return
	}
	items, at := s.Items.Schema, path.Child("items")
	c.forbid(items.Nullable && kind != "atomic", at.Child("nullable"), "cannot be nullable when x-kubernetes-list-type is "+kind)
	if kind == "map" {
		c.mapKeys(s, items, path)
	}
	if kind == "set" {
		atomic := items.Type != "object" && items.Type != "array" || items.XMapType != nil && *items.XMapType == "atomic" || items.Type == "array" && (items.XListType == nil || *items.XListType == "atomic")
		c.refuse(!atomic, at, items.Type, "must be atomic as item of a list with x-kubernetes-list-type=set")
	}
}

func (c *checker) mapKeys(s, items *apiextensionsv1.JSONSchemaProps, path *field.Path) {
	keys, at := path.Child("x-kubernetes-list-map-keys"), path.Child("items")
	c.refuse(items.Type != "object", at.Child("type"), items.Type, "must be object if parent array's x-kubernetes-list-type is map")
	seen := map[string]bool{}
	for _, k := range s.XListMapKeys {
		p, ok := items.Properties[k]
		prop := at.Child("properties").Key(k)
		c.refuse(!ok, keys, k, "entries must all be names of item properties")
		c.refuse(seen[k], keys, k, "must not contain duplicate entries")
		c.refuse(ok && (p.Type == "object" || p.Type == "array"), prop.Child("type"), p.Type, "must be a scalar type if parent array's x-kubernetes-list-type is map")
		c.need(ok && p.Default == nil && !slices.Contains(items.Required, k), prop.Child("default"), "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property")
		c.forbid(ok && p.Nullable, prop.Child("nullable"), "this property is in x-kubernetes-list-map-keys, so it cannot be nullable")
		seen[k] = true
	}
}

func (c *checker) rules(s *apiextensionsv1.JSONSchemaProps, path *field.Path) {
	for i, r := range s.XValidations {
		c.need(r.Rule == "", path.Child("x-kubernetes-validations").Index(i).Child("rule"), "rule is not specified")
	}
}

// logic checks the schemas that are combined in s, where root has the shape of
// what they are about.
func (c *checker) logic(s, root *apiextensionsv1.JSONSchemaProps, path *field.Path) {
	for _, l := range []struct {
		name string
		all  []apiextensionsv1.JSONSchemaProps
	}{{"allOf", s.AllOf}, {"anyOf", s.AnyOf}, {"oneOf", s.OneOf}} {
		for i := range l.all {
			c.nested(&l.all[i], root, path.Child(l.name).Index(i))
		}
	}
	if s.Not != nil {
		c.nested(s.Not, root, path.Child("not"))
	}
}

// nested checks one of them: it must not say anything of the shape, nor speak of
// fields that root does not know.
func (c *checker) nested(s, root *apiextensionsv1.JSONSchemaProps, path *field.Path) {
	// What may be a number or a string is by custom written out like this.
	either := root.XIntOrString && (s.Type == "integer" || s.Type == "string")
	c.forbid(s.Type != "" && !either, path.Child("type"), "must be empty to be structural")
	for name, there := range map[string]bool{
		"additionalProperties": s.AdditionalProperties != nil, "default": s.Default != nil, "title": s.Title != "", "description": s.Description != "",
		"nullable": s.Nullable, "x-kubernetes-preserve-unknown-fields": s.XPreserveUnknownFields != nil, "x-kubernetes-embedded-resource": s.XEmbeddedResource,
		"x-kubernetes-int-or-string": s.XIntOrString, "x-kubernetes-list-map-keys": len(s.XListMapKeys) > 0, "x-kubernetes-list-type": s.XListType != nil,
		"x-kubernetes-map-type": s.XMapType != nil, "x-kubernetes-validations": len(s.XValidations) > 0,
	} {
		c.forbid(there, path.Child(name), "must be undefined to be structural")
	}
	c.unsupported(s, path)
	c.logic(s, root, path)
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		p, at := s.Properties[name], path.Child("properties").Key(name)
		of, ok := root.Properties[name]
		c.need(!ok, at, "must be specified in the shape of the schema too, not only where it is combined")
		if ok {
			c.nested(&p, &of, at)
		}
	}
	if s.Items == nil || s.Items.Schema == nil {
		return
	}
	known := root.Items != nil && root.Items.Schema != nil
	c.need(!known, path.Child("items"), "must be specified in the shape of the schema too, not only where it is combined")
	if known {
		c.nested(s.Items.Schema, root.Items.Schema, path.Child("items"))
	}
}

// defaults checks that what would be filled in is valid, and has no field that is
// unknown.
func (c *checker) defaults(s *apiextensionsv1.JSONSchemaProps, path *field.Path) {
	if s.Default != nil {
		at := path.Child("default")
		n, err := compile(s)
		if err != nil {
			c.refuse(true, path, "", err.Error())
			return
		}
		c.refuse(n.fallback == nil && !s.Nullable, at, nil, "must not be null")
		if unknown := n.prune(n.fallback, ""); len(unknown) > 0 {
			c.refuse(true, at, unknown[0], "must not have fields that the schema does not know")
		}
		n.fill(n.fallback)
		if n.fallback != nil {
			c.errs = append(c.errs, n.judge(n.fallback, at)...)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		p := s.Properties[name]
		c.defaults(&p, path.Child("properties").Key(name))
	}
	if s.Items != nil && s.Items.Schema != nil {
		c.defaults(s.Items.Schema, path.Child("items"))
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		c.defaults(s.AdditionalProperties.Schema, path.Child("additionalProperties"))
	}
}

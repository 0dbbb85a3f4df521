package openapi

import (
	"encoding/json"
	"io"
	"maps"
	"slices"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
)

// writeProto writes the document of version 2 as protobuf. It has, of the
// operations, the patches alone: clients look there for what parameters a kind
// knows.
func writeProto(w io.Writer, version string, resources []Resource) error {
	types, kinds := definitions(resources)
	doc := &openapi_v2.Document{
		Swagger: "2.0", Info: &openapi_v2.Info{Title: "Podsnap", Version: version},
		Paths: &openapi_v2.Paths{Path: patchesOf(resources)}, Definitions: &openapi_v2.Definitions{},
	}
	for _, name := range slices.Sorted(maps.Keys(types)) {
		s := version2.definition(types[name])
		s.Kinds = kinds[name]
		doc.Definitions.AdditionalProperties = append(doc.Definitions.AdditionalProperties, &openapi_v2.NamedSchema{Name: name, Value: s.proto()})
	}
	for _, r := range resources {
		c, ok := r.Definition.(custom)
		if !ok {
			continue
		}
		for name, s := range version2.customShapes(r.Resource, c) {
			doc.Definitions.AdditionalProperties = append(doc.Definitions.AdditionalProperties, &openapi_v2.NamedSchema{Name: name, Value: s.proto()})
		}
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(doc)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

func patchesOf(resources []Resource) []*openapi_v2.NamedPathItem {
	paths := map[string]map[string]operation{}
	for _, r := range resources {
		version2.paths(r, paths)
	}
	var out []*openapi_v2.NamedPathItem
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		op, ok := paths[path]["patch"]
		if !ok {
			continue
		}
		p := &openapi_v2.Operation{
			Consumes:        op.Consumes,
			VendorExtension: extensions(extension{"x-kubernetes-action", op.Action}, extension{"x-kubernetes-group-version-kind", op.Kind}),
		}
		for _, q := range op.Parameters {
			if q.In != "query" {
				continue
			}
			sub := &openapi_v2.NonBodyParameter_QueryParameterSubSchema{QueryParameterSubSchema: &openapi_v2.QueryParameterSubSchema{Name: q.Name, In: q.In, Type: q.Type}}
			p.Parameters = append(p.Parameters, &openapi_v2.ParametersItem{Oneof: &openapi_v2.ParametersItem_Parameter{
				Parameter: &openapi_v2.Parameter{Oneof: &openapi_v2.Parameter_NonBodyParameter{NonBodyParameter: &openapi_v2.NonBodyParameter{Oneof: sub}}},
			}})
		}
		out = append(out, &openapi_v2.NamedPathItem{Name: path, Value: &openapi_v2.PathItem{Patch: p}})
	}
	return out
}

// proto is the schema as a protobuf message.
func (s *shape) proto() *openapi_v2.Schema {
	out := &openapi_v2.Schema{
		XRef: s.Ref, Format: s.Format, Description: s.Description, Required: s.Required,
		VendorExtension: extensions(
			extension{"x-kubernetes-group-version-kind", s.Kinds},
			extension{"x-kubernetes-list-type", s.ListType}, extension{"x-kubernetes-list-map-keys", s.ListMapKeys},
			extension{"x-kubernetes-map-type", s.MapType},
			extension{"x-kubernetes-patch-strategy", s.PatchStrategy}, extension{"x-kubernetes-patch-merge-key", s.PatchMergeKey},
		),
	}
	if s.Type != "" {
		out.Type = &openapi_v2.TypeItem{Value: []string{s.Type}}
	}
	if len(s.Default) > 0 {
		out.Default = &openapi_v2.Any{Yaml: string(s.Default)}
	}
	for _, v := range s.Enum {
		out.Enum = append(out.Enum, yamlOf(v))
	}
	if s.Items != nil {
		out.Items = &openapi_v2.ItemsItem{Schema: []*openapi_v2.Schema{s.Items.proto()}}
	}
	if s.AdditionalProperties != nil {
		out.AdditionalProperties = &openapi_v2.AdditionalPropertiesItem{Oneof: &openapi_v2.AdditionalPropertiesItem_Schema{Schema: s.AdditionalProperties.proto()}}
	}
	if s.Properties != nil {
		out.Properties = &openapi_v2.Properties{}
		for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
			out.Properties.AdditionalProperties = append(out.Properties.AdditionalProperties, &openapi_v2.NamedSchema{Name: name, Value: s.Properties[name].proto()})
		}
	}
	return out
}

type extension struct {
	name  string
	value any
}

// extensions leaves out what is empty.
func extensions(all ...extension) []*openapi_v2.NamedAny {
	var out []*openapi_v2.NamedAny
	for _, e := range all {
		switch v := e.value.(type) {
		case string:
			if v == "" {
				continue
			}
		case []string:
			if len(v) == 0 {
				continue
			}
		case []kindTag:
			if len(v) == 0 {
				continue
			}
		}
		out = append(out, &openapi_v2.NamedAny{Name: e.name, Value: yamlOf(e.value)})
	}
	return out
}

// yamlOf is a value as YAML: JSON is.
func yamlOf(v any) *openapi_v2.Any {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and structs of strings
	}
	return &openapi_v2.Any{Yaml: string(b)}
}

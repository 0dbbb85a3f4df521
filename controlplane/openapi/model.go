package openapi

import (
	"reflect"
	"slices"
	"strings"

	"github.com/podsnap/podsnap/api"
)

// field is one of a struct as JSON has it.
type field struct {
	name          string
	typ           reflect.Type
	doc           string
	required      bool
	patchStrategy string // how a strategic merge patch treats it; "" is replace
	patchKey      string
	fact          fact
}

// fieldsOf are a struct's fields; those of inlined structs are its own.
func fieldsOf(t reflect.Type) []field {
	docs, path := docsOf(t), pathOf(t)
	var out []field
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
			continue
		case name == "" && f.Anonymous:
			out = append(out, fieldsOf(f.Type)...)
			continue
		case name == "":
			name = f.Name
		}
		fact := facts()[path+"."+name]
		out = append(out, field{
			name: name, typ: f.Type, doc: docs[name], fact: fact,
			required:      !fact.optional && !slices.Contains(strings.Split(options, ","), "omitempty"),
			patchStrategy: f.Tag.Get("patchStrategy"), patchKey: f.Tag.Get("patchMergeKey"),
		})
	}
	return out
}

// docsOf are the texts about a type, by field; that about the type is under "".
func docsOf(t reflect.Type) map[string]string {
	if d, ok := reflect.TypeAssert[interface{ SwaggerDoc() map[string]string }](reflect.Zero(t)); ok {
		return d.SwaggerDoc()
	}
	return nil
}

// pathOf is a type's name in facts.txt.
func pathOf(t reflect.Type) string {
	p := t.PkgPath()
	for _, root := range []string{"k8s.io/api/", "k8s.io/apimachinery/pkg/apis/", "k8s.io/apiextensions-apiserver/pkg/apis/"} {
		if short, ok := strings.CutPrefix(p, root); ok {
			return short + "." + t.Name()
		}
	}
	return p + "." + t.Name()
}

// nameOf is a type's name in the documents.
func nameOf(t reflect.Type) string {
	if n, ok := reflect.TypeAssert[interface{ OpenAPIModelName() string }](reflect.Zero(t)); ok {
		return n.OpenAPIModelName()
	}
	if strings.HasPrefix(t.PkgPath(), "github.com/podsnap/podsnap/api") {
		return "com.openfaas.v1." + t.Name()
	}
	// As Kubernetes names the types of Go packages.
	host, rest, _ := strings.Cut(t.PkgPath(), "/")
	labels := strings.Split(host, ".")
	slices.Reverse(labels)
	return strings.Join(labels, ".") + "." + strings.ReplaceAll(rest, "/", ".") + "." + t.Name()
}

// scalar is a type that is one value on the wire.
type scalar struct {
	typ, format string
	oneOf       []string // what the value may be in version 3, if that is more than typ
}

// scalarOf tells what a type is on the wire, if that is one value: what it says
// itself, or else its Go kind.
func scalarOf(t reflect.Type) (scalar, bool) {
	zero := reflect.Zero(t).Interface()
	if d, ok := zero.(interface {
		OpenAPISchemaType() []string
		OpenAPISchemaFormat() string
	}); ok && len(d.OpenAPISchemaType()) > 0 {
		s := scalar{typ: d.OpenAPISchemaType()[0], format: d.OpenAPISchemaFormat()}
		if o, ok := zero.(interface{ OpenAPIV3OneOfTypes() []string }); ok {
			s.oneOf = o.OpenAPIV3OneOfTypes()
		}
		return s, true
	}
	if t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8 {
		return scalar{typ: "string", format: "byte"}, true
	}
	s, ok := scalars[t.Kind()]
	return s, ok
}

// scalars are Go's kinds of values on the wire.
var scalars = map[reflect.Kind]scalar{
	reflect.Bool: {typ: "boolean"}, reflect.String: {typ: "string"},
	reflect.Int8: {typ: "integer", format: "int32"}, reflect.Uint8: {typ: "integer", format: "int32"},
	reflect.Int16: {typ: "integer", format: "int32"}, reflect.Uint16: {typ: "integer", format: "int32"},
	reflect.Int32: {typ: "integer", format: "int32"}, reflect.Uint32: {typ: "integer", format: "int32"},
	reflect.Int: {typ: "integer", format: "int64"}, reflect.Uint: {typ: "integer", format: "int64"},
	reflect.Int64: {typ: "integer", format: "int64"}, reflect.Uint64: {typ: "integer", format: "int64"},
	reflect.Float32: {typ: "number", format: "double"}, reflect.Float64: {typ: "number", format: "double"},
}

func isList(t reflect.Type) bool { return t.Kind() == reflect.Slice || t.Kind() == reflect.Array }

// free tells whether a type may be any JSON: it writes itself and does not say
// what, or is an interface.
func free(t reflect.Type) bool {
	if t.Kind() == reflect.Interface {
		return true
	}
	_, own := reflect.TypeAssert[interface{ MarshalJSON() ([]byte, error) }](reflect.New(t))
	return own
}

// untyped tells whether a type says that what it is on the wire cannot be said: any
// JSON, of which a string is as good as an object.
func untyped(t reflect.Type) bool {
	d, ok := reflect.TypeAssert[interface{ OpenAPISchemaType() []string }](reflect.Zero(t))
	return ok && len(d.OpenAPISchemaType()) == 0
}

// elem is t, or what it points to.
func elem(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

// reach puts t, and every type that it is made of and that has a name in the
// documents, into seen.
func reach(t reflect.Type, seen map[string]reflect.Type) {
	t = elem(t)
	if _, ok := scalarOf(t); ok && t.Kind() != reflect.Struct {
		return
	}
	switch {
	case isList(t), t.Kind() == reflect.Map:
		reach(t.Elem(), seen)
	case t.Kind() == reflect.Struct:
		name := nameOf(t)
		if seen[name] != nil {
			return
		}
		seen[name] = t
		if _, ok := scalarOf(t); ok || free(t) {
			return
		}
		for _, f := range fieldsOf(t) {
			reach(f.typ, seen)
		}
	}
}

// typeOf is the Go type of a kind.
func typeOf(r *api.Resource) reflect.Type { return reflect.TypeOf(r.New()).Elem() }

// listOf is the Go type of a kind's list.
func listOf(r *api.Resource) reflect.Type { return reflect.TypeOf(r.NewList()).Elem() }

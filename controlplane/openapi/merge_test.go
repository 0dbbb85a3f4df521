package openapi

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/structured-merge-diff/v6/schema"

	"github.com/podsnap/podsnap/api"
)

// TestSchemasAreThoseOfKubernetes compares with the schemas that Kubernetes'
// own client has in its source: field by field, whether a list is merged, by
// which keys, and what is one value.
func TestSchemasAreThoseOfKubernetes(t *testing.T) {
	src, err := os.ReadFile(filepath.Join(moduleDir(t, "k8s.io/client-go"), "applyconfigurations/internal/internal.go"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(src), "typed.YAMLObject(`")
	text, _, ok := strings.Cut(text, "`)")
	var theirs schema.Schema
	if err := yaml.Unmarshal([]byte(text), &theirs); err != nil || !ok {
		t.Fatalf("the schemas of client-go are not where they were: %v", err)
	}
	want := map[string]schema.Atom{}
	for _, d := range theirs.Types {
		want[d.Name] = d.Atom
	}
	compared := 0
	for i := range merging().Schema.Types {
		d := &merging().Schema.Types[i]
		w, ok := want[d.Name]
		if d.Name == "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1" {
			continue // it is in managedFields alone, which nobody merges
		}
		if !ok {
			// client-go has no definitions of kinds either.
			if !strings.HasPrefix(d.Name, "com.openfaas.v1.") && !strings.HasPrefix(d.Name, "io.k8s.apiextensions-apiserver.") {
				t.Errorf("%s is no type of Kubernetes", d.Name)
			}
			continue
		}
		compared++
		if diff := cmp.Diff(plain(w), plain(d.Atom)); diff != "" {
			t.Errorf("%s (-Kubernetes +ours):\n%s", d.Name, diff)
		}
	}
	if compared < 200 {
		t.Errorf("only %d types were compared", compared)
	}
}

// atom is a schema.Atom in a form that is easily compared.
type atom struct {
	Scalar   string
	Relation string
	Keys     []string
	Ref      string
	Elem     *atom
	Fields   map[string]*atom
	Default  string
}

func plain(a schema.Atom) *atom {
	out := &atom{}
	if a.Scalar != nil {
		out.Scalar = string(*a.Scalar)
	}
	if l := a.List; l != nil {
		out.Relation, out.Keys, out.Elem = string(l.ElementRelationship), l.Keys, plainRef(l.ElementType)
	}
	if m := a.Map; m != nil {
		if out.Relation = string(m.ElementRelationship); out.Relation == string(schema.Separable) {
			out.Relation = ""
		}
		if len(m.Fields) == 0 {
			out.Elem = plainRef(m.ElementType)
		}
		out.Fields = map[string]*atom{}
		for _, f := range m.Fields {
			p := plainRef(f.Type)
			if !empty(f.Default) {
				p.Default = fmt.Sprint(f.Default) // numbers are of several types
			}
			out.Fields[f.Name] = p
		}
	}
	return out
}

// empty tells whether a default is what is meant without it: those matter to
// nobody who merges.
func empty(v any) bool {
	return v == nil || reflect.ValueOf(v).IsZero() || reflect.ValueOf(v).Kind() == reflect.Map && reflect.ValueOf(v).Len() == 0
}

func plainRef(r schema.TypeRef) *atom {
	if r.NamedType != nil {
		out := &atom{Ref: *r.NamedType}
		if r.ElementRelationship != nil {
			out.Relation = string(*r.ElementRelationship)
		}
		return out
	}
	return plain(r.Inlined)
}

func TestEveryReferenceLeadsSomewhere(t *testing.T) {
	p := merging()
	for _, r := range api.Resources {
		if !TypeFor(r).IsValid() {
			t.Errorf("%s has no schema", r)
		}
	}
	names := map[string]bool{}
	for i := range p.Schema.Types {
		names[p.Schema.Types[i].Name] = true
	}
	var check func(at string, a *atom)
	check = func(at string, a *atom) {
		if a == nil {
			return
		}
		if a.Ref != "" && !names[a.Ref] {
			t.Errorf("%s is a %s, which is not there", at, a.Ref)
		}
		check(at+"[]", a.Elem)
		for _, f := range slices.Sorted(maps.Keys(a.Fields)) {
			check(at+"."+f, a.Fields[f])
		}
	}
	for i := range p.Schema.Types {
		check(p.Schema.Types[i].Name, plain(p.Schema.Types[i].Atom))
	}
}

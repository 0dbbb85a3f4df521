package openapi

import (
	"bytes"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var rewrite = flag.Bool("rewrite", false, "write facts.txt anew from the sources of k8s.io/api")

// described are the packages whose types the API has, or may come to have.
var described = []string{
	"apps/v1", "autoscaling/v1", "autoscaling/v2", "batch/v1", "certificates/v1", "coordination/v1", "core/v1", "discovery/v1", "events/v1",
	"networking/v1", "policy/v1", "rbac/v1", "scheduling/v1", "storage/v1", "meta/v1", "apiextensions/v1",
}

// TestFactsAreThoseOfTheSources reads what the sources say in comments and
// compares.
func TestFactsAreThoseOfTheSources(t *testing.T) {
	var want bytes.Buffer
	for _, p := range described {
		for _, line := range factsOf(t, p) {
			want.WriteString(line + "\n")
		}
	}
	if *rewrite {
		if err := os.WriteFile("facts.txt", want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile("facts.txt")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want.String(), string(have)); d != "" {
		t.Errorf("facts.txt is not what the sources of k8s.io/api say: go test ./controlplane/openapi -rewrite (-want +got):\n%s", d)
	}
}

func moduleDir(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func factsOf(t *testing.T, pkg string) []string {
	t.Helper()
	dir := filepath.Join(moduleDir(t, "k8s.io/api"), pkg)
	switch pkg {
	case "apiextensions/v1":
		dir = filepath.Join(moduleDir(t, "k8s.io/apiextensions-apiserver"), "pkg/apis", pkg)
	case "meta/v1":
		dir = filepath.Join(moduleDir(t, "k8s.io/apimachinery"), "pkg/apis", pkg)
	}
	files, err := filepath.Glob(filepath.Join(dir, "types*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no types in %s (%v)", dir, err)
	}
	isEnum, enums := map[string]bool{}, map[string][]string{}
	consts := map[string]string{}
	var lines []string
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, s := range g.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					m := marks(g.Doc, s.Doc)
					_, isEnum[s.Name.Name] = m["enum"]
					lines = append(lines, typeFacts(pkg, s, m)...)
				case *ast.ValueSpec:
					if id, ok := s.Type.(*ast.Ident); ok && len(s.Values) == 1 {
						if v, ok := s.Values[0].(*ast.BasicLit); ok && v.Kind == token.STRING {
							text, _ := strconv.Unquote(v.Value)
							consts[s.Names[0].Name] = v.Value
							enums[id.Name] = append(enums[id.Name], text)
						}
					}
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(enums)) {
		values := enums[name]
		slices.Sort(values)
		if isEnum[name] {
			lines = append(lines, pkg+"."+name+" enum="+strings.Join(slices.Compact(values), ","))
		}
	}
	for i, l := range lines {
		if before, after, ok := strings.Cut(l, "default=ref("); ok {
			name, after, _ := strings.Cut(after, ")")
			lines[i] = before + "default=" + consts[name[strings.LastIndex(name, ".")+1:]] + after
		}
	}
	slices.Sort(lines)
	return lines
}

// typeFacts are a line for the type, if it is atomic, and one for each field
// that has something to say.
func typeFacts(pkg string, s *ast.TypeSpec, m map[string][]string) []string {
	var out []string
	name := pkg + "." + s.Name.Name
	if slices.Contains(m["structType"], "atomic") || slices.Contains(m["mapType"], "atomic") {
		out = append(out, name+" atomic")
	}
	st, ok := s.Type.(*ast.StructType)
	if !ok {
		return out
	}
	for _, f := range st.Fields.List {
		if f.Tag == nil {
			continue
		}
		tag, _ := strconv.Unquote(f.Tag.Value)
		field, options, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
		if field == "" || field == "-" {
			continue
		}
		m := marks(f.Doc)
		var facts []string
		switch {
		case slices.Contains(m["listType"], "map"):
			facts = append(facts, "keys="+strings.Join(m["listMapKey"], ","))
		case slices.Contains(m["listType"], "set"):
			facts = append(facts, "set")
		case slices.Contains(m["structType"], "granular"):
			facts = append(facts, "granular")
		case slices.Contains(m["mapType"], "atomic"), slices.Contains(m["structType"], "atomic"),
			slices.Contains(m["listType"], "atomic") && strings.Contains(tag, "patchStrategy"): // which else says the contrary
			facts = append(facts, "atomic")
		}
		if v := m["default"]; len(v) == 1 {
			facts = append(facts, "default="+v[0])
		}
		if _, optional := m["optional"]; optional && !strings.Contains(options, "omitempty") {
			facts = append(facts, "optional")
		}
		if len(facts) > 0 {
			out = append(out, name+"."+field+" "+strings.Join(facts, " "))
		}
	}
	return out
}

// marks are the "+name=value" lines of comments.
func marks(groups ...*ast.CommentGroup) map[string][]string {
	out := map[string][]string{}
	for _, g := range groups {
		if g == nil {
			continue
		}
		for _, c := range g.List {
			line := strings.TrimSpace(strings.TrimPrefix(c.Text, "//"))
			name, value, _ := strings.Cut(strings.TrimPrefix(line, "+"), "=")
			if strings.HasPrefix(line, "+") {
				out[name] = append(out[name], value)
			}
		}
	}
	return out
}

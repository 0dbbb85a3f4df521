package stack

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/internal/openfaas"
)

func none(string) (string, bool) { return "", false }

func TestParse(t *testing.T) {
	env := map[string]string{"OWNER": "me", "EMPTY": ""}
	s, err := Parse([]byte(`
version: 1.0
provider:
  name: openfaas
  gateway: ${GATEWAY:-http://127.0.0.1:8080}
functions:
  a:
    lang: go
    handler: ./a
    image: ${OWNER}/a:${TAG-latest}
    environment:
      level: "${EMPTY:-info}"
    environment_file: [env.yaml]
    labels: {com.openfaas.scale.zero: "true"}
    limits: {memory: 5Mi}
    secrets: [key]
  b:
    image: b:latest
    skip_build: true
configuration:
  templates: [{name: go, source: "https://example.com/t"}]
`), func(k string) (string, bool) { v, ok := env[k]; return v, ok })
	if err != nil {
		t.Fatal(err)
	}
	if s.Provider.Gateway != "http://127.0.0.1:8080" || len(s.List()) != 2 {
		t.Fatalf("got %+v", s)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "env.yaml"), []byte("environment:\n  level: debug\n  more: yes1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := s.List()[0].Deployment(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := openfaas.FunctionDeployment{
		Service: "a", Image: "me/a:latest", EnvVars: map[string]string{"level": "info", "more": "yes1"},
		Labels: map[string]string{"com.openfaas.scale.zero": "true"}, Limits: &openfaas.Resources{Memory: "5Mi"}, Secrets: []string{"key"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestFaults(t *testing.T) {
	for _, c := range []struct{ name, text, says string }{
		{"not YAML", "functions: [", "line 1"},
		{"unknown field", "functions:\n  a:\n    image: x\n    enviroment: {}\n", `did you mean "environment"`},
		{"nothing near", "functions:\n  a:\n    image: x\n    zzzzzzzzzz: 1\n", "zzzzzzzzzz"},
		{"wrong type", "functions:\n  a:\n    image: [x]\n", "image"},
		{"another provider", "provider: {name: other}", `"other"`},
		{"no image", "functions:\n  a:\n    lang: go\n", "functions.a.image is missing"},
		{"no language", "functions:\n  a:\n    handler: ./a\n    image: a\n", "functions.a.lang is missing"},
		{"twice", "functions:\n  a: {image: x}\n  a: {image: y}\n", "already"},
		{"laughs", "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nfunctions: *g\n", "excessive"},
	} {
		if _, err := Parse([]byte(c.text), none); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want it to say %q", c.name, err, c.says)
		}
	}
}

func TestFilter(t *testing.T) {
	open := func() *Stack {
		s, err := Parse([]byte("functions:\n  img-a: {image: x}\n  img-b: {image: x}\n  md: {image: x}\n"), none)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, c := range []struct {
		glob, expr, want string
	}{
		{"", "", "img-a img-b md"}, {"img-*", "", "img-a img-b"}, {"", "-b$", "img-b"}, {"md", "x", "no function matches; the stack has img-a, img-b, md"}, {"[", "", "--filter"}, {"", "(", "--regex"},
	} {
		s := open()
		got := ""
		if err := s.Filter(c.glob, c.expr); err != nil {
			got = err.Error()
		} else {
			var names []string
			for _, f := range s.List() {
				names = append(names, f.Name)
			}
			got = strings.Join(names, " ")
		}
		if !strings.HasPrefix(got, c.want) {
			t.Errorf("%q %q: got %q, want %q", c.glob, c.expr, got, c.want)
		}
	}
}

func TestAdd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stack.yaml")
	if err := Add(path, Function{Name: "a", Lang: "go", Handler: "./a", Image: "a:latest"}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := "# mine\n" + string(b) + "\n# the end\nconfiguration:\n  copy: [x]\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Add(path, Function{Name: "b", Lang: "sh", Handler: "./b", Image: "b:latest"}); err != nil {
		t.Fatal(err)
	}
	if err := Add(path, Function{Name: "b", Image: "b"}); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("adding it twice: %v", err)
	}
	s, err := Load(path, none)
	if err != nil {
		t.Fatal(err)
	}
	if l := s.List(); len(l) != 2 || l[1].Lang != "sh" || len(s.Configuration.Copy) != 1 {
		t.Errorf("got %+v", s)
	}
	if b, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(b), "# mine\n") || !strings.Contains(string(b), "# the end\n") {
		t.Errorf("the comments are gone:\n%s", b)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("functions:\n  a: {image: x, environment: {a: b}}\n"))
	f.Add([]byte("version: 1\nprovider: {name: openfaas}\n? a\n: b\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b, none)
		if err == nil && s == nil {
			t.Fatal("nothing")
		}
	})
}

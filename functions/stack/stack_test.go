package stack

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/functions"
)

func env(m map[string]string) func(string) (string, bool) {
	return func(k string) (string, bool) { v, ok := m[k]; return v, ok }
}

const full = `version: 1.0
provider:
  name: openfaas
  gateway: ${OPENFAAS_URL:-http://127.0.0.1:8080}
functions:
  resize:
    lang: go
    handler: ./resize
    image: ${PREFIX-docker.io/me}/resize:${TAG:-${FALLBACK:-latest}}
    environment:
      write_timeout: 60
      debug: true
      text: "$${literal} $plain"
    environment_file: [env.yaml]
    secrets: [api-key]
    labels: {com.openfaas.scale.zero: true}
    annotations:
      schedule: "*/5 * * * *"
    limits: {memory: 64Mi, cpu: 0.5}
    constraints: ["disk=ssd"]
    readonly_root_filesystem: true
    build_args: {A: 1}
  other:
    skip_build: true
    image: functions/alpine:latest
    fprocess: cat
configuration:
  templates: [{name: go, source: x}]
  copy: [./shared]
`

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"stack.yaml": full, "env.yaml": "environment:\n  more: ${TAG}\n  debug: off-now\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Load(filepath.Join(dir, "stack.yaml"), env(map[string]string{"TAG": "", "PREFIX": "", "FALLBACK": "v3"}))
	if err != nil {
		t.Fatal(err)
	}
	if s.Provider.Gateway != "http://127.0.0.1:8080" {
		t.Errorf("gateway %q", s.Provider.Gateway)
	}
	f := s.Functions["resize"]
	want := map[string]string{"write_timeout": "60", "debug": "off-now", "text": "${literal} $plain", "more": ""}
	if diff := cmp.Diff(want, f.Environment); diff != "" {
		t.Error(diff)
	}
	if f.Image != "/resize:v3" || f.HandlerDir() != filepath.Join(dir, "resize") || f.Limits.CPU != "0.5" {
		t.Errorf("%+v", f)
	}
	o := s.Functions["other"]
	if errs := functions.Validate(o.Object()); len(errs) > 0 {
		t.Error(errs)
	}
	got := f.Object()
	if got.Namespace != "openfaas-fn" || got.Spec.Labels["com.openfaas.scale.zero"] != "true" || !got.Spec.ReadOnlyRootFilesystem || got.Spec.Limits.Memory != "64Mi" {
		t.Errorf("%+v", got)
	}
}

func TestSelect(t *testing.T) {
	s, err := Parse(strings.NewReader(full), env(nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ filter, expression, want string }{
		{"", "", "other resize"},
		{"re*", "", "resize"},
		{"", "^o|z", "other resize"},
		{"x*", "", "error: no function matches"},
		{"[", "", "error: filter"},
		{"", "(", "error: regular expression"},
		{"a", "b", "error: give a filter or"},
	} {
		fs, err := s.Select(c.filter, c.expression)
		got := make([]string, 0, len(fs))
		for _, f := range fs {
			got = append(got, f.Name)
		}
		if err != nil {
			got = []string{"error: " + err.Error()}
		}
		if !strings.HasPrefix(strings.Join(got, " "), c.want) {
			t.Errorf("%q, %q: got %v, want %s", c.filter, c.expression, got, c.want)
		}
	}
}

func TestFaults(t *testing.T) {
	for in, want := range map[string]string{
		"":                                  "the file is empty",
		"functions:\n  a:\n    handlr: x\n": `line 3: unknown field "handlr": did you mean "handler"?`,
		"functions:\n  a:\n    skip-build: true\n    image: x": `line 3: unknown field "skip-build": did you mean "skip_build"?`,
		"zzzzzzzzzz: 1":                                             `line 1: unknown field "zzzzzzzzzz"`,
		"functions:\n  a:\n    image: [1]\n":                        "line 3: cannot unmarshal",
		"functions:\n  a:\n   image: x\n  b\n":                      "line ",
		"functions:\n  a:\n    image: x\n  a:\n    image: y\n":      "line ",
		"functions:\n  A:\n    image: x\n":                          `function "A": its name must be`,
		"functions:\n  a:\n    lang: go\n":                          "function a: give lang and handler",
		"provider: {name: other}":                                   "provider.name",
		"a: ${B":                                                    "line 1: ${ without }",
		"\n\na: ${B?}":                                              "line 3: ${B?}: only",
		"a: ${-x}":                                                  "line 1: ${-x} is not a variable",
		"functions: &f\n  a:\n    image: x\n    labels: *f":         "too deep",
		strings.Repeat("[", 200) + strings.Repeat("]", 200):         "too deep",
		strings.Repeat("#", maxSize+1):                              "more than 1048576 bytes",
		"version: ${BIG}${BIG}${BIG}${BIG}${BIG}":                   "after substitution",
		"a: &a [x,x]\nb: &b [*a,*a]\nfunctions: {x: {image: *b}}\n": "unknown field",
	} {
		_, err := Parse(strings.NewReader(in), env(map[string]string{"BIG": strings.Repeat("x", maxSize)}))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: got %v, want %q", in, err, want)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "stack.yaml"), env(nil)); err == nil || !strings.Contains(err.Error(), "faas new") {
		t.Errorf("no file: got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(full)
	f.Add("a: ${B:-${C}}")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(strings.NewReader(text), env(nil))
		if err == nil && s == nil {
			t.Error("neither a stack nor an error")
		}
	})
}

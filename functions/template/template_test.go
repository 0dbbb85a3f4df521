package template

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/functions/stack"
)

func TestList(t *testing.T) {
	list, err := List()
	if err != nil || len(list) < 2 {
		t.Fatalf("%v, %v", list, err)
	}
	for _, x := range list {
		if x.Language == "" || x.Description == "" || x.Welcome == "" || x.HandlerFolder == "" {
			t.Errorf("%+v lacks something", x)
		}
	}
	if _, err := Get("go@latest"); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"cobol", "", "../files/go", "."} {
		if _, err := Get(name); err == nil || !strings.Contains(err.Error(), "go, sh") {
			t.Errorf("%q: got %v", name, err)
		}
	}
}

func TestNew(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []Config{{Lang: "go", Name: "hello"}, {Lang: "sh", Name: "count", Prefix: "docker.io/me/"}} {
		c.Dir = dir
		if _, err := New(c); err != nil {
			t.Fatal(err)
		}
	}
	s, err := stack.Load(filepath.Join(dir, "stack.yaml"), os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	if f := s.Functions["hello"]; f.Lang != "go" || f.Image != "hello:latest" {
		t.Errorf("%+v", f)
	}
	if f := s.Functions["count"]; f.Lang != "sh" || f.Image != "docker.io/me/count:latest" {
		t.Errorf("%+v", f)
	}
	for _, name := range []string{"hello/handler.go", "count/handler.sh"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	for want, c := range map[string]Config{
		"it has a function hello already": {Lang: "go", Name: "hello", Dir: dir},
		"must be lower-case":              {Lang: "go", Name: "../x", Dir: dir},
		"no template for":                 {Lang: "perl", Name: "x", Dir: dir},
		"exists":                          {Lang: "go", Name: "hello", Dir: dir, File: "other.yaml"},
	} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", c, err, want)
		}
	}
}

func TestAddEntryKeepsForm(t *testing.T) {
	for in, want := range map[string]string{
		"functions: {}\n":  "functions:\n  f:\n    lang: go\n    handler: ./f\n    image: f:latest\n",
		"version: 1 # one": "version: 1 # one\nfunctions:\n  f:\n    lang: go\n    handler: ./f\n    image: f:latest\n",
		"functions:\n\n    # old\n    a:\n        image: x\nversion: 1\n": "functions:\n    f:\n        lang: go\n        handler: ./f\n        image: f:latest\n\n    # old\n    a:\n        image: x\nversion: 1\n",
		"functions: {a: {image: x}}\n":                                    "error: write this entry",
		"functions: [\n":                                                  "error: line",
	} {
		got, err := addEntry(in, Config{Lang: "go", Name: "f"})
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != want && (!strings.HasPrefix(want, "error: ") || !strings.HasPrefix(got, want)) {
			t.Errorf("%q: got\n%s\nwant\n%s", in, got, want)
		}
	}
}

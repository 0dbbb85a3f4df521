package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/klauspost/compress/zstd"
	"github.com/podsnap/podsnap/builder/registry"
	"github.com/podsnap/podsnap/functions/stack"
	"github.com/podsnap/podsnap/functions/template"
)

// made is a function fresh from its template.
func made(t *testing.T, lang string) stack.Function {
	t.Helper()
	dir := t.TempDir()
	if _, err := template.New(template.Config{Lang: lang, Name: "fn", Dir: dir}); err != nil {
		t.Fatal(err)
	}
	return load(t, dir)
}

func load(t *testing.T, dir string) stack.Function {
	t.Helper()
	s, err := stack.Load(filepath.Join(dir, "stack.yaml"), os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	return s.Functions["fn"]
}

// with replaces or adds files of the handler's folder.
func with(t *testing.T, f stack.Function, files ...string) stack.Function {
	t.Helper()
	for i := 0; i < len(files); i += 2 {
		p := filepath.Join(f.HandlerDir(), files[i])
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(files[i+1]), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func build(t *testing.T, f stack.Function) *Image {
	t.Helper()
	img, err := testBuilder().Build(t.Context(), nil, f, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img.image, validate.Fast); err != nil {
		t.Error(err)
	}
	return img
}

func testBuilder() *Builder { return New(Config{Watchdog: []byte("the watchdog")}) }

func TestReproducible(t *testing.T) {
	for _, lang := range []string{"go", "sh"} {
		one, two := build(t, made(t, lang)), build(t, made(t, lang)) // in different folders
		if one.Digest != two.Digest {
			t.Errorf("%s: %s and %s from the same source", lang, one.Digest, two.Digest)
		}
		changed := build(t, with(t, made(t, lang), "handler.go", "package function\nimport \"net/http\"\nfunc Handle(http.ResponseWriter, *http.Request) {}\n", "handler.sh", "true\n"))
		if changed.Digest == one.Digest {
			t.Errorf("%s: another source has the same digest", lang)
		}
	}
}

func TestGoImage(t *testing.T) {
	img := build(t, made(t, "go"))
	c, err := img.image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c.Config.User != "65532:65532" || !slices.Equal(c.Config.Entrypoint, []string{"/function/handler"}) || c.OS != "linux" || len(c.RootFS.DiffIDs) != 1 {
		t.Errorf("%+v", c)
	}
	if img.Ref != "fn:latest" || img.Size < 1e6 || img.Size > 8e6 {
		t.Errorf("%s has %d bytes", img.Ref, img.Size)
	}
}

// What a handler's module may be.
func TestGoModules(t *testing.T) {
	f := with(t, made(t, "go"),
		"go.mod", "module example.com/some/thing // own name\n\ngo 1.24\n",
		"handler.go", "package function\nimport (\n\"net/http\"\n\"example.com/some/thing/inner\"\n_ \"embed\"\n)\n//go:embed text.txt\nvar text string\nvar Handle = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { inner.Write(w, text) }).ServeHTTP\n",
		"inner/inner.go", "package inner\nimport \"io\"\nfunc Write(w io.Writer, s string) { io.WriteString(w, s) }\n",
		"text.txt", "text", "handler_test.go", "package function_test\n", "vendored/x.go", "package x\n")
	build(t, f)
	f = with(t, made(t, "go"), "go.mod", "module function\ngo 1.24\nrequire example.com/a v1.0.0\n", "vendor/modules.txt", "# example.com/a v1.0.0\n## explicit\nexample.com/a\n",
		"vendor/example.com/a/a.go", "package a\nconst A = 1\n", "handler.go", "package function\nimport (\n\"net/http\"\n\"example.com/a\"\n)\nfunc Handle(w http.ResponseWriter, r *http.Request) { w.WriteHeader(200 + a.A) }\n")
	build(t, f)
}

func TestSourceFaults(t *testing.T) {
	const header = "package function\nimport \"net/http\"\nfunc Handle(w http.ResponseWriter, r *http.Request) {"
	for name, c := range map[string]struct {
		lang  string
		files []string
		want  string // with DIR for the handler's folder
	}{
		"unused variable":   {"go", []string{"handler.go", header + "\n\tx := 1\n}\n"}, "DIR/handler.go:4:2: declared and not used: x"},
		"syntax":            {"go", []string{"handler.go", header + "\n"}, "DIR/handler.go:3:55: expected '}'"},
		"package main":      {"go", []string{"handler.go", "package main\nfunc main() {}\n"}, "DIR/handler.go:1:9: the package must not be main"},
		"no Handle":         {"go", []string{"handler.go", "package function\n"}, "DIR has no func Handle(w http.ResponseWriter, r *http.Request)"},
		"other signature":   {"go", []string{"handler.go", "package function\nfunc Handle(b []byte) string { return \"\" }\n"}, "func(b []byte) string"},
		"in a folder below": {"go", []string{"handler.go", "package function\nimport (\n\"net/http\"\n\"function/inner\"\n)\nfunc Handle(http.ResponseWriter, *http.Request) { inner.X() }\n", "inner/x.go", "package inner\nfunc X() { y() }\n"}, "DIR/inner/x.go:2:12: undefined: y"},
		"no module line":    {"go", []string{"go.mod", "go 1.24\n"}, "go.mod has no module line"},
		"shell syntax":      {"sh", []string{"handler.sh", "#!/bin/sh\nif true; then\n"}, "DIR/handler.sh: "},
	} {
		f := with(t, made(t, c.lang), c.files...)
		_, err := testBuilder().Build(t.Context(), nil, f, nil)
		var fault *SourceError
		want := strings.ReplaceAll(c.want, "DIR", f.HandlerDir())
		if !errors.As(err, &fault) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), "podsnap-build-") || strings.Contains(err.Error(), "\n# ")) {
			t.Errorf("%s: the error shows how it was built: %v", name, err)
		}
	}
}

func TestNoDownload(t *testing.T) {
	t.Setenv("GOPROXY", "off")
	f := with(t, made(t, "go"), "handler.go", "package function\nimport (\n\"net/http\"\n_ \"example.com/not/there\"\n)\nfunc Handle(http.ResponseWriter, *http.Request) {}\n")
	_, err := testBuilder().Build(t.Context(), nil, f, nil)
	if err == nil || !strings.Contains(err.Error(), "set GOPROXY to a proxy that can be reached") {
		t.Errorf("got %v", err)
	}
	build(t, made(t, "go")) // the standard library needs none
}

func TestVetWarns(t *testing.T) {
	f := with(t, made(t, "go"), "handler.go", "package function\nimport (\n\"fmt\"\n\"net/http\"\n)\nfunc Handle(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, \"%d\", \"x\") }\n")
	var out bytes.Buffer
	if _, err := testBuilder().Build(t.Context(), nil, f, &out); err != nil {
		t.Fatal(err)
	}
	if want := f.HandlerDir() + "/handler.go:6:"; !strings.Contains(out.String(), want) || !strings.Contains(out.String(), "wrong type") {
		t.Errorf("progress %q, want a warning at %s", &out, want)
	}
}

func TestFaults(t *testing.T) {
	f := made(t, "go")
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	linked := made(t, "sh")
	if err := os.Symlink(outside, filepath.Join(linked.HandlerDir(), "link")); err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]struct {
		b      Config
		change func(*stack.Function)
	}{
		"apt-get install busybox-static": {Config{Busybox: "/no/busybox"}, func(f *stack.Function) { *f = made(t, "sh") }},
		"skip_build":                     {Config{}, func(f *stack.Function) { f.SkipBuild = true }},
		"no template for":                {Config{}, func(f *stack.Function) { f.Lang, f.Handler = "perl", "./none" }},
		"a Dockerfile cannot be built":   {Config{}, func(f *stack.Function) { f.Lang = "Dockerfile" }},
		"no such file":                   {Config{}, func(f *stack.Function) { f.Handler = "./none" }},
		"must be lowercase":              {Config{}, func(f *stack.Function) { f.Image = "Fn:latest" }},
		"has no handler.sh":              {Config{}, func(f *stack.Function) { f.Lang = "sh" }},
		"escapes":                        {Config{}, func(f *stack.Function) { *f = linked }},
	} {
		f := f
		c.change(&f)
		if _, err := New(c.b).Build(t.Context(), nil, f, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if _, err := testBuilder().Build(ctx, nil, f, nil); err == nil || !strings.Contains(err.Error(), "enough") && !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

func TestCopy(t *testing.T) {
	f := made(t, "sh")
	if err := errors.Join(os.Mkdir(filepath.Join(f.Dir, "shared"), 0o755), os.WriteFile(filepath.Join(f.Dir, "shared", "a"), []byte("a"), 0o755), os.WriteFile(filepath.Join(f.Dir, "one"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	s := &stack.Stack{Configuration: stack.Configuration{Copy: []string{"./shared", "one"}}}
	j, err := testBuilder().job(s, f, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	files, err := collect(j.Dir, j.Copy)
	if err != nil || find(files, "shared/a") == nil || find(files, "one") == nil || find(files, "stack.yaml") != nil || !find(files, "shared/a").executable {
		t.Errorf("%v, %v", files, err)
	}
}

func TestSave(t *testing.T) {
	img := build(t, made(t, "sh"))
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := Save(img, file); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("fn:latest")
	if err != nil {
		t.Fatal(err)
	}
	got, err := tarball.ImageFromPath(file, &tag)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := img.image.ConfigName()
	if c, err := got.ConfigName(); err != nil || c != want {
		t.Errorf("config %v, %v; want %v", c, err, want)
	}
}

func TestPush(t *testing.T) {
	r, err := registry.New(registry.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	server := httptest.NewServer(r)
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	img := build(t, made(t, "sh"))
	for ref, repo := range map[string]string{"fn:latest": "fn", "me/fn": "me/fn", host + "/other/fn:latest": "other/fn"} {
		img.Ref = ref
		full, err := Push(t.Context(), img, PushConfig{Registry: host, Insecure: true})
		if err != nil || full != host+"/"+repo+"@"+img.Digest {
			t.Errorf("%s: pushed as %s, %v", ref, full, err)
		}
		if d, ok := r.Resolve(repo, "latest"); !ok || d != img.Digest {
			t.Errorf("%s: the registry has %s", ref, d)
		}
		parsed, _ := name.ParseReference(full)
		got, err := remote.Image(parsed)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(got, validate.Fast); err != nil {
			t.Error(err)
		}
	}
	// What was saved is what is pushed.
	file := filepath.Join(t.TempDir(), "fn.tar")
	img.Ref = "fn:latest"
	if err := Save(img, file); err != nil {
		t.Fatal(err)
	}
	loaded, err := Load(file)
	if err != nil || loaded.Digest != img.Digest || loaded.Size != img.Size || loaded.Ref != "docker.io/library/fn:latest" {
		t.Fatalf("loaded %+v, %v", loaded, err)
	}
	loaded.Ref = "loaded:1"
	if full, err := Push(t.Context(), loaded, PushConfig{Registry: host}); err != nil || full != host+"/loaded@"+img.Digest {
		t.Errorf("pushed as %s, %v", full, err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[bytes.Index(b, []byte("fprocess"))] = 'F'
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), "is not whole") {
		t.Errorf("a damaged file: got %v", err)
	}
	img.Ref = "fn"
	if _, err := Push(t.Context(), img, PushConfig{}); err == nil || !strings.Contains(err.Error(), "write registry/name:tag") {
		t.Errorf("no registry: got %v", err)
	}
}

// What the registry's client is told about a layer must be what is in it.
func TestLayer(t *testing.T) {
	l := Layer{Files: []File{
		{Path: "/b/c", Mode: 0o755, Content: []byte("text")}, {Path: "/b/a", Mode: 0o777, Link: "c"}, {Path: "/tmp", Mode: 0o1777, Dir: true},
	}}
	b, err := l.pack()
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	raw, err := z.DecodeAll(b.packed, nil)
	if err != nil || hashOf(raw) != b.diffID || hashOf(b.packed) != b.digest {
		t.Errorf("digests do not match: %v", err)
	}
	var got []string
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %c %o %d:%d %d %s", h.Name, h.Typeflag, h.Mode, h.Uid, h.Gid, h.ModTime.Unix(), h.Linkname))
	}
	want := []string{"b/ 5 755 0:0 0 ", "b/a 2 777 0:0 0 c", "b/c 0 755 0:0 0 ", "tmp/ 5 1777 0:0 0 "}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	l.Files = append(l.Files, File{Path: "/b/c"})
	if _, err := l.pack(); err == nil {
		t.Error("a path twice is accepted")
	}
}

func TestArchiveIsLayout(t *testing.T) {
	img := build(t, made(t, "sh"))
	var b bytes.Buffer
	if err := Archive(img, &b); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		p := filepath.Join(dir, h.Name)
		content, _ := io.ReadAll(r)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, content, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil || len(m.Manifests) != 1 || m.Manifests[0].Digest.String() != img.Digest || m.Manifests[0].Annotations["io.containerd.image.name"] != "docker.io/library/fn:latest" {
		t.Errorf("%+v, %v", m, err)
	}
	got, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(got, validate.Fast); err != nil {
		t.Error(err)
	}
}

package engine

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

func TestSources(t *testing.T) {
	r := Registries{
		Embedded: &Registry{Host: "127.0.0.1:8080", Insecure: true},
		Mirrors:  map[string][]Registry{"docker.io": {{Host: "mirror.test"}}},
	}
	for ref, want := range map[string][]string{
		"resize":                              {"127.0.0.1:8080/resize:latest http", "mirror.test/library/resize:latest", "docker.io/library/resize:latest"},
		"functions/figlet:1":                  {"127.0.0.1:8080/functions/figlet:1 http", "mirror.test/functions/figlet:1", "docker.io/functions/figlet:1"},
		"docker.io/library/x:2":               {"127.0.0.1:8080/x:2 http", "mirror.test/library/x:2", "docker.io/library/x:2"},
		"ghcr.io/a/b:3":                       {"ghcr.io/a/b:3"},
		"localhost:5000/a:1":                  {"localhost:5000/a:1 http"},
		"127.0.0.1:8080/library/a:1":          {"127.0.0.1:8080/a:1 http"},
		"[::1]:5000/a:1":                      {"[::1]:5000/a:1 http"},
		"x@sha256:" + strings.Repeat("a", 64): {"127.0.0.1:8080/x@sha256:" + strings.Repeat("a", 64) + " http", "mirror.test/library/x@sha256:" + strings.Repeat("a", 64), "docker.io/library/x@sha256:" + strings.Repeat("a", 64)},
	} {
		named, err := normalize(ref)
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		var got []string
		for _, s := range r.sources(named) {
			if s.insecure {
				s.ref += " http"
			}
			got = append(got, s.ref)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", ref, d)
		}
	}
	for _, bad := range []string{"", "UPPER", "a b", "../x", "x:tag:tag", "x@sha256:12", strings.Repeat("a", 300)} {
		if _, err := normalize(bad); err == nil {
			t.Errorf("normalize(%q): got no error", bad)
		}
	}
}

// testRegistry counts the manifests read and may want a password for reading.
type testRegistry struct {
	*httptest.Server
	manifests atomic.Int32
}

func newRegistry(t *testing.T, password string) *testRegistry {
	t.Helper()
	r := &testRegistry{}
	inner := registry.New(registry.Logger(log.New(testWriter{t}, "", 0)))
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		reads := q.Method == http.MethodGet || q.Method == http.MethodHead
		if _, p, _ := q.BasicAuth(); reads && p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if strings.Contains(q.URL.Path, "/manifests/") && q.Method == http.MethodGet {
			r.manifests.Add(1)
		}
		inner.ServeHTTP(w, q)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *testRegistry) host() string { return strings.TrimPrefix(r.URL, "http://") }

// push uploads the image by the registry's protocol, past the password.
func (r *testRegistry) push(t *testing.T, ref string, img v1.Image) {
	t.Helper()
	repo, tag, _ := strings.Cut(ref, ":")
	send := func(method, path, kind string, body []byte) {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), method, r.URL+"/v2/"+repo+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Content-Type", kind)
		resp, err := r.Client().Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusCreated {
			t.Fatalf("%s %s: %s", method, path, resp.Status)
		}
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	config, err := partial.ConfigLayer(img)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range append(layers, config) {
		d, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		rc, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(rc)
		if err != nil {
			t.Fatal(err)
		}
		send(http.MethodPost, "/blobs/uploads/?digest="+d.String(), "application/octet-stream", b)
	}
	m, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	kind, err := img.MediaType()
	if err != nil {
		t.Fatal(err)
	}
	send(http.MethodPut, "/manifests/"+tag, string(kind), m)
}

func TestPull(t *testing.T) {
	n := newNode(t)
	n.stop()
	own, up := newRegistry(t, "secret"), newRegistry(t, "")
	n.config.Registries = Registries{
		Embedded: &Registry{Host: own.host(), Insecure: true, Credentials: func() (string, string) { return "node", "secret" }},
		Mirrors:  map[string][]Registry{"docker.io": {{Host: up.host(), Insecure: true}}},
	}
	n.startEngine()
	ctx := t.Context()
	one, two := probeImage(t), testImage(t, v1.Config{Entrypoint: []string{"/two"}}, layer(t, file{name: "two", body: []byte("2"), mode: 0o755}))
	own.push(t, "resize:latest", one)
	up.push(t, "library/upstream:1", two)
	up.push(t, "library/resize:latest", two) // hidden by the platform's own

	// Many at once are one pull.
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			img, err := n.Images().Ensure(ctx, "resize", corev1.PullIfNotPresent)
			if err != nil || img.Ref != "docker.io/library/resize:latest" || img.Config.User != "app" || img.Size == 0 {
				t.Errorf("got %+v, %v", img, err)
			}
		})
	}
	wg.Wait()
	if got := own.manifests.Load(); got != 1 {
		t.Errorf("the manifest was fetched %d times, want once", got)
	}
	sb := n.sandbox("pulled")
	s := n.spec(sb, "show")
	s.Image = "resize"
	if x, out := n.run(s); x.ExitCode != 0 {
		t.Errorf("%+v: %s", x, out)
	}
	// What the platform's registry does not have is looked for upstream.
	img, err := n.Images().Ensure(ctx, "upstream:1", corev1.PullIfNotPresent)
	if err != nil || img.Config.Entrypoint[0] != "/two" {
		t.Errorf("got %+v, %v", img, err)
	}
	// A tag that moves: IfNotPresent keeps, Always looks again.
	own.push(t, "resize:latest", two)
	if img, err = n.Images().Ensure(ctx, "resize", corev1.PullIfNotPresent); err != nil || img.Config.User != "app" {
		t.Errorf("got %+v, %v", img, err)
	}
	if img, err = n.Images().Ensure(ctx, "resize", corev1.PullAlways); err != nil || img.Config.Entrypoint[0] != "/two" {
		t.Errorf("got %+v, %v", img, err)
	}
	all, err := n.Images().List(ctx)
	if err != nil || len(all) != 2 {
		t.Errorf("got %+v, %v, want two images: two names have one digest", all, err)
	}
	for range 2 {
		if err := n.Images().Remove(ctx, "upstream:1"); err != nil {
			t.Error(err)
		}
	}
	if _, err := n.Images().Ensure(ctx, "upstream:1", corev1.PullNever); err == nil {
		t.Error("a removed image is still there")
	}
}

// TestPullAsWhom pulls from a registry that wants a password, with what pods bring.
func TestPullAsWhom(t *testing.T) {
	n := newNode(t)
	shut := newRegistry(t, "secret")
	shut.push(t, "team/app:1", probeImage(t))
	ref := shut.host() + "/team/app:1"
	right := runtime.Login{Scope: shut.host() + "/team", User: "u", Password: "secret"}
	wrong := runtime.Login{Scope: shut.host(), User: "u", Password: "guessed"}
	elsewhere := runtime.Login{Scope: "127.0.0.1:1", User: "u", Password: "secret"}
	for _, logins := range [][]runtime.Login{nil, {wrong}, {elsewhere}} {
		_, err := n.Images().Ensure(t.Context(), ref, corev1.PullIfNotPresent, logins...)
		if err == nil || strings.Count(err.Error(), "access denied") != 1 {
			t.Errorf("with %v: got %v, want that access is denied", logins, err)
		}
	}
	img, err := n.Images().Ensure(t.Context(), ref, corev1.PullIfNotPresent, wrong, elsewhere, right)
	if err != nil || img.Config.User != "app" {
		t.Errorf("got %+v, %v", img, err)
	}
}

func TestLoginIsFor(t *testing.T) {
	for scope, want := range map[string]bool{
		"r.test": true, "r.test/team": true, "r.test/team/app": true, "*.test": true, "r.*/team": true,
		"test": false, "r.test/te": false, "r.test/other": false, "*": false, "*.r.test": false, "r.test:5000": false, "[.test": false, "": false,
	} {
		if isFor(runtime.Login{Scope: scope}, "r.test", "team/app") != want {
			t.Errorf("%q: got %v", scope, !want)
		}
	}
}

func TestPullErrorsAreClear(t *testing.T) {
	n := newNode(t)
	n.stop()
	own := newRegistry(t, "")
	n.config.Registries = Registries{Embedded: &Registry{Host: own.host(), Insecure: true}, Mirrors: map[string][]Registry{"docker.io": {{Host: "127.0.0.1:1", Insecure: true}}}}
	n.startEngine()
	// docker.io itself is left out: tests do not leave the machine.
	named, err := normalize("x:1")
	if err != nil {
		t.Fatal(err)
	}
	sources := n.config.Registries.sources(named)[:2]
	var errs []error
	for _, s := range sources {
		resolver, closeIdle := newResolver(s)
		_, _, err := resolver.Resolve(n.ns(t.Context()), named.String())
		closeIdle()
		errs = append(errs, err)
	}
	got := pullError("x:1", sources, errs).Error()
	want := `image "x:1" not found in the platform's registry (the mirror 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused)`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	_, err = n.Images().Ensure(t.Context(), own.host()+"/nope:1", corev1.PullIfNotPresent)
	pe, ok := errors.AsType[*runtime.PullError](err)
	if !ok || pe.Reason != "ErrImagePull" || !strings.Contains(err.Error(), "/nope:1\" not found in the platform's registry") {
		t.Errorf("got %v", err)
	}
}

// An OCI layout in a tar, as other tools save it, with a short name.
func TestImportOCILayout(t *testing.T) {
	n := newNode(t)
	dir := t.TempDir()
	at, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := at.AppendImage(probeImage(t), layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "from-layout:2"})); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := n.Images().Import(t.Context(), &b)
	if err != nil || len(got) != 1 || got[0] != "docker.io/library/from-layout:2" {
		t.Fatalf("got %v, %v", got, err)
	}
	s := n.spec(n.sandbox("layout"), "show")
	s.Image = "from-layout:2"
	if x, out := n.run(s); x.ExitCode != 0 {
		t.Errorf("%+v: %s", x, out)
	}
	if _, err := n.Images().Import(t.Context(), strings.NewReader("not a tar")); err == nil {
		t.Error("rubbish: got no error")
	}
}

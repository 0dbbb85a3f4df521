package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(int) { http.DefaultClient.CloseIdleConnections() }))
}

// site is a registry behind a server, that may be restarted.
type site struct {
	t    *testing.T
	c    Config
	r    *Registry
	s    *httptest.Server
	host string
}

func open(t *testing.T, c Config) *site {
	t.Helper()
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	s := &site{t: t, c: c}
	s.start()
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *site) start() {
	s.t.Helper()
	s.c.Metrics = prometheus.NewRegistry()
	r, err := New(s.c)
	if err != nil {
		s.t.Fatal(err)
	}
	s.r, s.s = r, httptest.NewServer(r)
	s.host = strings.TrimPrefix(s.s.URL, "http://")
}

func (s *site) stop() {
	s.t.Helper()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	remote.DefaultTransport.(*http.Transport).CloseIdleConnections()
	s.s.Close()
	if err := s.r.Close(); err != nil {
		s.t.Error(err)
	}
}

func (s *site) ref(format string, args ...any) name.Reference {
	s.t.Helper()
	ref, err := name.ParseReference(s.host + "/" + fmt.Sprintf(format, args...))
	if err != nil {
		s.t.Fatal(err)
	}
	return ref
}

func (s *site) push(ref name.Reference, img v1.Image) v1.Hash {
	s.t.Helper()
	if err := remote.Write(ref, img); err != nil {
		s.t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *site) pull(ref name.Reference) v1.Image {
	s.t.Helper()
	img, err := remote.Image(ref)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		s.t.Fatal(err)
	}
	return img
}

func picture(t *testing.T, size int64) v1.Image {
	t.Helper()
	img, err := random.Image(size, 3)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// call makes one request. Headers are pairs.
func (s *site) call(method, path string, body io.Reader, headers ...string) (*reply, string) {
	s.t.Helper()
	if !strings.HasPrefix(path, "http") && strings.HasPrefix(path, "/") {
		path = s.s.URL + path
	}
	q, err := http.NewRequestWithContext(s.t.Context(), method, path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		q.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(q)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return &reply{res.StatusCode, res.Header}, string(b)
}

// reply is what a response says before its body.
type reply struct {
	StatusCode int
	Header     http.Header
}

func (s *site) expect(code int, part, method, path string, body string, headers ...string) *reply {
	s.t.Helper()
	res, got := s.call(method, path, strings.NewReader(body), headers...)
	if res.StatusCode != code || !strings.Contains(got, part) {
		s.t.Errorf("%s %s: got %d %s, want %d with %q", method, path, res.StatusCode, got, code, part)
	}
	if code >= 400 && method != http.MethodHead {
		var e struct {
			Errors []struct{ Code, Message string }
		}
		if err := json.Unmarshal([]byte(got), &e); err != nil || len(e.Errors) != 1 || e.Errors[0].Code == "" || e.Errors[0].Message == "" {
			s.t.Errorf("%s %s: the error's body is %q", method, path, got)
		}
	}
	return res
}

func TestRoundTrip(t *testing.T) {
	s := open(t, Config{})
	img := picture(t, 100_000)
	d := s.push(s.ref("team/resize:1"), img)
	for _, ref := range []string{"team/resize:1", "team/resize@" + d.String()} {
		if got, _ := s.pull(s.ref("%s", ref)).Digest(); got != d {
			t.Errorf("%s: got %v, want %v", ref, got, d)
		}
	}
	// The same tag again, with another image.
	d2 := s.push(s.ref("team/resize:1"), picture(t, 1000))
	if got, _ := s.pull(s.ref("team/resize:1")).Digest(); got != d2 {
		t.Errorf("the tag was not moved: %v", got)
	}
	if got, ok := s.r.Resolve("team/resize", "1"); !ok || got != d2.String() {
		t.Errorf("Resolve: %v, %v", got, ok)
	}
	if got, ok := s.r.Resolve("team/resize", "2"); ok {
		t.Errorf("Resolve: %v of a tag that is not there", got)
	}

	s.stop()
	s.start() // everything is on disk
	if got, _ := s.pull(s.ref("team/resize:1")).Digest(); got != d2 {
		t.Errorf("after a restart: %v", got)
	}
	s.pull(s.ref("team/resize@%s", d))

	index, err := random.Index(1000, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(s.ref("multi:latest"), index); err != nil {
		t.Fatal(err)
	}
	got, err := remote.Index(s.ref("multi:latest"))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(got); err != nil {
		t.Error(err)
	}
}

func TestLists(t *testing.T) {
	s := open(t, Config{})
	img := picture(t, 100)
	for _, ref := range []string{"b:3", "b:1", "b:2", "a/deep/name:x", "c:y"} {
		s.push(s.ref("%s", ref), img)
	}
	tags, err := remote.List(s.ref("b").Context(), remote.WithPageSize(2)) // follows Link
	if diff := cmp.Diff([]string{"1", "2", "3"}, tags); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	reg, _ := name.NewRegistry(s.host)
	repos, err := remote.Catalog(t.Context(), reg, remote.WithPageSize(2))
	if diff := cmp.Diff([]string{"a/deep/name", "b", "c"}, repos); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	s.expect(200, `"tags":["2"]`, "GET", "/v2/b/tags/list?n=1&last=1", "")
	s.expect(400, "PAGINATION", "GET", "/v2/b/tags/list?n=x", "")
	s.expect(404, "NAME_UNKNOWN", "GET", "/v2/none/tags/list", "")
}

func TestDelete(t *testing.T) {
	s := open(t, Config{})
	img := picture(t, 100)
	d := s.push(s.ref("a:1"), img)
	s.push(s.ref("a:2"), img)
	layers, _ := img.Layers()
	blob, _ := layers[0].Digest()
	s.expect(405, "belongs to a manifest", "DELETE", "/v2/a/blobs/"+blob.String(), "")
	s.expect(202, "", "DELETE", "/v2/a/manifests/1", "")
	s.expect(404, "MANIFEST_UNKNOWN", "GET", "/v2/a/manifests/1", "")
	s.pull(s.ref("a:2"))
	s.expect(202, "", "DELETE", "/v2/a/manifests/"+d.String(), "")
	s.expect(404, "MANIFEST_UNKNOWN", "GET", "/v2/a/manifests/2", "")
	s.expect(404, "MANIFEST_UNKNOWN", "DELETE", "/v2/a/manifests/"+d.String(), "")
	s.expect(202, "", "DELETE", "/v2/a/blobs/"+blob.String(), "")
	s.expect(404, "BLOB_UNKNOWN", "DELETE", "/v2/a/blobs/"+blob.String(), "")
}

func TestUploads(t *testing.T) {
	s := open(t, Config{MaxBlob: 100})
	hello := string(sum([]byte("hello world")))
	location := func() string { return s.expect(202, "", "POST", "/v2/a/blobs/uploads/", "").Header.Get("Location") }

	// In chunks, over a restart.
	at := location()
	if res := s.expect(202, "", "PATCH", at, "hello", "Content-Range", "0-4"); res.Header.Get("Range") != "0-4" {
		t.Errorf("range %q", res.Header.Get("Range"))
	}
	s.expect(416, "BLOB_UPLOAD_INVALID", "PATCH", at, "again", "Content-Range", "0-4")
	s.expect(400, "SIZE_INVALID", "PATCH", at, "abc", "Content-Range", "5-9")
	s.expect(400, "BLOB_UPLOAD_INVALID", "PATCH", at, "abc", "Content-Range", "x")
	s.stop()
	s.start()
	s.expect(202, "", "PATCH", at, " wor", "Content-Range", "5-8")
	if res := s.expect(204, "", "GET", at, ""); res.Header.Get("Range") != "0-8" {
		t.Errorf("range %q", res.Header.Get("Range"))
	}
	res := s.expect(201, "", "PUT", at+"?digest="+hello, "ld")
	if res.Header.Get("Location") != "/v2/a/blobs/"+hello || res.Header.Get("Docker-Content-Digest") != hello {
		t.Errorf("headers %v", res.Header)
	}
	s.expect(404, "BLOB_UPLOAD_UNKNOWN", "PUT", at+"?digest="+hello, "")
	s.expect(200, "hello world", "GET", "/v2/a/blobs/"+hello, "")
	s.expect(206, "lo w", "GET", "/v2/a/blobs/"+hello, "", "Range", "bytes=3-6")
	s.expect(416, "", "HEAD", "/v2/a/blobs/"+hello, "", "Range", "bytes=30-60")
	s.expect(200, "", "HEAD", "/v2/a/blobs/"+hello, "")

	// In one request, by mounting, cancelled.
	bye := string(sum([]byte("bye")))
	s.expect(201, "", "POST", "/v2/a/blobs/uploads/?digest="+bye, "bye")
	s.expect(201, "", "POST", "/v2/b/blobs/uploads/?mount="+bye+"&from=a", "")
	s.expect(202, "", "POST", "/v2/b/blobs/uploads/?mount="+string(sum(nil))+"&from=a", "")
	at = location()
	s.expect(204, "", "DELETE", at, "")
	s.expect(404, "BLOB_UPLOAD_UNKNOWN", "PATCH", at, "x")

	// What is wrong.
	s.expect(400, "DIGEST_INVALID", "PUT", location()+"?digest="+hello, "not that")
	s.expect(400, "DIGEST_INVALID", "PUT", location()+"?digest=sha256:12", "x")
	s.expect(400, "DIGEST_INVALID", "POST", "/v2/a/blobs/uploads/?digest="+bye, "other")
	s.expect(413, "SIZE_INVALID", "PATCH", location(), strings.Repeat("x", 101))
	s.expect(404, "BLOB_UPLOAD_UNKNOWN", "PATCH", "/v2/a/blobs/uploads/nonsense", "x")
	s.expect(404, "BLOB_UNKNOWN", "GET", "/v2/a/blobs/"+string(sum([]byte("none"))), "")
}

func TestBadRequests(t *testing.T) {
	outside := t.TempDir()
	s := open(t, Config{Dir: filepath.Join(outside, "registry")})
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, code := range map[string]int{
		"/v2/../secret/manifests/x":                          400,
		"/v2/a/../../secret/manifests/x":                     400,
		"/v2/%2e%2e/secret/manifests/x":                      400,
		"/v2/A/manifests/x":                                  400,
		"/v2/_a/manifests/x":                                 400,
		"/v2//manifests/x":                                   400,
		"/v2/a//b/tags/list":                                 400,
		"/v2/" + strings.Repeat("a/", 130) + "a/manifests/x": 400,
		"/v2/a/manifests/..%2f..%2fsecret":                   400,
		"/v2/a/manifests/.hidden":                            400,
		"/v2/a/manifests/sha512:00":                          400,
		"/v2/a/blobs/sha256:..%2f..%2f..":                    400,
		"/v2/a/blobs/sha256:xyz":                             400,
		"/v2/a/what/ever":                                    404,
		"/v1/":                                               404,
		"/v2/a/referrers/nope":                               400,
	} {
		if res, body := s.call("GET", path, nil); res.StatusCode != code && res.StatusCode != 404 || strings.Contains(body, "secret\n") || res.StatusCode < 400 {
			t.Errorf("%s: got %d %s, want %d", path, res.StatusCode, body, code)
		}
	}
	s.expect(405, "UNSUPPORTED", "POST", "/v2/a/manifests/x", "")
	s.expect(405, "UNSUPPORTED", "BREW", "/v2/", "")
	s.expect(200, "{}", "GET", "/v2/", "")

	const image = "application/vnd.oci.image.manifest.v1+json"
	s.expect(400, "MANIFEST_INVALID", "PUT", "/v2/a/manifests/x", "{", "Content-Type", image)
	s.expect(400, "MANIFEST_INVALID", "PUT", "/v2/a/manifests/x", `{"mediaType":"a/b"}`, "Content-Type", image)
	s.expect(400, "MANIFEST_INVALID", "PUT", "/v2/a/manifests/x", `{"layers":[{}],"manifests":[{}]}`, "Content-Type", image)
	s.expect(400, "DIGEST_INVALID", "PUT", "/v2/a/manifests/"+string(sum(nil)), `{}`, "Content-Type", image)
	s.expect(400, "DIGEST_INVALID", "PUT", "/v2/a/manifests/x", `{"config":{"digest":"../../x"}}`, "Content-Type", image)
	s.expect(400, "TAG_INVALID", "PUT", "/v2/a/manifests/-x", `{}`, "Content-Type", image)
	s.expect(400, "MANIFEST_BLOB_UNKNOWN", "PUT", "/v2/a/manifests/x", `{"config":{"digest":"`+string(sum(nil))+`"}}`, "Content-Type", image)
	s.expect(400, "MANIFEST_BLOB_UNKNOWN", "PUT", "/v2/a/manifests/x", `{"manifests":[{"digest":"`+string(sum(nil))+`"}]}`, "Content-Type", indexType)
	s.expect(413, "SIZE_INVALID", "PUT", "/v2/a/manifests/x", strings.Repeat(" ", maxManifest+1), "Content-Type", image)
}

func TestAuth(t *testing.T) {
	s := open(t, Config{Auth: func(q *http.Request) bool { u, p, _ := q.BasicAuth(); return u == "me" && p == "pw" }})
	if res := s.expect(401, "UNAUTHORIZED", "GET", "/v2/", ""); !strings.HasPrefix(res.Header.Get("WWW-Authenticate"), "Basic ") {
		t.Errorf("headers %v", res.Header)
	}
	img, ref := picture(t, 100), s.ref("a:1")
	if err := remote.Write(ref, img); err == nil {
		t.Error("pushed without a password")
	}
	if err := remote.Write(ref, img, remote.WithAuth(&authn.Basic{Username: "me", Password: "pw"})); err != nil {
		t.Error(err)
	}
}

func TestReferrers(t *testing.T) {
	s := open(t, Config{})
	d := s.push(s.ref("a:1"), picture(t, 100))
	desc, err := remote.Get(s.ref("a:1"))
	if err != nil {
		t.Fatal(err)
	}
	signature := mutate.Subject(picture(t, 10), desc.Descriptor).(v1.Image)
	sd, _ := signature.Digest()
	s.push(s.ref("a@%s", sd), signature)
	index, err := remote.Referrers(s.ref("a@%s", d).(name.Digest))
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil || len(m.Manifests) != 1 || m.Manifests[0].Digest != sd {
		t.Errorf("%v %+v", err, m)
	}
	s.expect(200, `"manifests":[]`, "GET", "/v2/a/referrers/"+d.String()+"?artifactType=none", "")
}

func TestConcurrentPushes(t *testing.T) {
	s := open(t, Config{})
	shared := picture(t, 50_000)
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			img, err := mutate.AppendLayers(shared, mustLayers(picture(t, 1000))...)
			if err != nil {
				t.Error(err)
				return
			}
			if err := remote.Write(s.ref("repo%d:latest", i%3), img); err != nil {
				t.Error(err)
			}
			if _, err := s.r.Collect(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	for i := range 3 {
		s.pull(s.ref("repo%d:latest", i))
	}
	if list, _ := os.ReadDir(filepath.Join(s.c.Dir, "uploads")); len(list) > 0 {
		t.Errorf("%d uploads are left", len(list))
	}
}

func mustLayers(img v1.Image) []v1.Layer {
	l, err := img.Layers()
	if err != nil {
		panic(err)
	}
	return l
}

func TestCollect(t *testing.T) {
	inUse := ""
	s := open(t, Config{InUse: func(d string) bool { return d == inUse }})
	kept := s.push(s.ref("a:1"), picture(t, 1000))
	s.push(s.ref("b:1"), picture(t, 1000))
	s.push(s.ref("b:1"), picture(t, 1000)) // the first has no tag any more
	inUse = s.push(s.ref("b:2"), picture(t, 1000)).String()
	s.expect(202, "", "DELETE", "/v2/b/manifests/2", "")
	s.expect(202, "", "POST", "/v2/a/blobs/uploads/", "")
	s.expect(201, "", "POST", "/v2/a/blobs/uploads/?digest="+string(sum([]byte("x"))), "x")

	if c, err := s.r.Collect(t.Context()); err != nil || c != (Collected{}) {
		t.Fatalf("too early: %+v, %v", c, err)
	}
	before := s.r.stored.Load()
	s.age(2 * time.Hour)
	// A push that asks for a blob keeps it for the time of its push.
	s.expect(200, "", "HEAD", "/v2/a/blobs/"+string(sum([]byte("x"))), "")
	c, err := s.r.Collect(t.Context())
	if err != nil || c.Uploads != 1 || c.Manifests != 1 || c.Blobs != 5 { // manifest, config, three layers
		t.Errorf("collected %+v, %v", c, err)
	}
	if got := before - s.r.stored.Load(); got != c.Bytes || c.Bytes < 3000 {
		t.Errorf("%d bytes less are stored, %d were collected", got, c.Bytes)
	}
	s.age(2 * time.Hour)
	if c, err := s.r.Collect(t.Context()); err != nil || c.Blobs != 1 {
		t.Errorf("collected %+v, %v", c, err)
	}
	s.pull(s.ref("a@%s", kept))
	s.pull(s.ref("b:1"))
	s.pull(s.ref("b@%s", inUse))
}

// age makes every file older.
func (s *site) age(by time.Duration) {
	s.t.Helper()
	then := time.Now().Add(-by)
	err := filepath.WalkDir(s.c.Dir, func(p string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		return os.Chtimes(p, then, then)
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func TestRunCollects(t *testing.T) {
	s := open(t, Config{CollectEvery: time.Millisecond, Grace: time.Nanosecond})
	s.expect(201, "", "POST", "/v2/a/blobs/uploads/?digest="+string(sum([]byte("x"))), "x")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.r.Run(ctx) }()
	for s.r.stored.Load() > 0 && t.Context().Err() == nil {
		runtime.Gosched()
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"/v2/", "/v2/a/blobs/uploads/", "/v2/a/b/manifests/x", "/v2/../x/tags/list", "/v2/_catalog"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		target, err := parse(path)
		if err != nil || target.name == "" {
			return
		}
		if parts := strings.Split(target.name, "/"); slices.Contains(parts, "..") || slices.Contains(parts, ".") || slices.Contains(parts, "") || bytes.ContainsAny([]byte(target.name), "\\\x00 _") && strings.HasPrefix(target.name, "_") {
			t.Errorf("%q gives the name %q", path, target.name)
		}
	})
}

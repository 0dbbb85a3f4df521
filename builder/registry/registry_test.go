package registry

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func serve(t *testing.T, c Config) (*Registry, string) {
	t.Helper()
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(g)
	t.Cleanup(func() { s.Close(); g.Close() })
	return g, strings.TrimPrefix(s.URL, "http://")
}

func ref(t *testing.T, s string) name.Reference {
	t.Helper()
	r, err := name.ParseReference(s, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func digest(t *testing.T, i v1.Image) string {
	t.Helper()
	d, err := i.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func TestPushPullRestart(t *testing.T) {
	dir := t.TempDir()
	g, host := serve(t, Config{Dir: dir})
	img, err := random.Image(100_000, 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"hello:latest", "team/nested/app:v1"} {
		if err := remote.Write(ref(t, host+"/"+n), img); err != nil {
			t.Fatal(err)
		}
	}
	if d, ok := g.Resolve("hello", "latest"); !ok || d != digest(t, img) {
		t.Errorf("the tag is %q %v", d, ok)
	}
	_, host = serve(t, Config{Dir: dir}) // another process on the same directory
	got, err := remote.Image(ref(t, host+"/team/nested/app:v1"))
	if err != nil {
		t.Fatal(err)
	}
	layers, err := got.Layers()
	if err != nil || len(layers) != 3 || digest(t, got) != digest(t, img) {
		t.Fatal(len(layers), err)
	}
	for _, l := range layers {
		r, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Fatal(err)
		}
		r.Close()
	}
	repo, err := name.NewRepository(host+"/hello", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if tags, err := remote.List(repo); err != nil || fmt.Sprint(tags) != "[latest]" {
		t.Error(tags, err)
	}
	reg, err := name.NewRegistry(host, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := remote.Catalog(t.Context(), reg); err != nil || fmt.Sprint(all) != "[hello team/nested/app]" {
		t.Error(all, err)
	}
}

func TestConcurrentPushes(t *testing.T) {
	_, host := serve(t, Config{})
	img, err := random.Image(50_000, 2)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := remote.Write(ref(t, fmt.Sprintf("%s/app:%d", host, i%3)), img); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got, err := remote.Image(ref(t, host+"/app:0")); err != nil || digest(t, got) != digest(t, img) {
		t.Error(err)
	}
}

func TestCollectKeepsWhatIsNeeded(t *testing.T) {
	g, host := serve(t, Config{UploadAge: time.Minute})
	old, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := random.Index(1000, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref(t, host+"/app:old"), old); err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref(t, host+"/app:kept"), kept); err != nil {
		t.Fatal(err)
	}
	if err := remote.Delete(ref(t, host+"/app@"+digest(t, old))); err != nil {
		t.Fatal(err)
	}
	if n, err := g.Collect(time.Now()); err != nil || n != 0 {
		t.Errorf("removed %d young blobs, %v", n, err)
	}
	if n, err := g.Collect(time.Now().Add(time.Hour)); err != nil || n != 4 {
		t.Errorf("removed %d, %v; want the manifest, the config and two layers", n, err)
	}
	if _, err := remote.Image(ref(t, host+"/app:old")); err == nil {
		t.Error("a deleted image is still there")
	}
	idx, err := remote.Index(ref(t, host+"/app:kept"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range m.Manifests {
		if img, err := idx.Image(d.Digest); err != nil {
			t.Error(err)
		} else if l, err := img.Layers(); err != nil || len(l) != 2 {
			t.Error(err)
		}
	}
}

func TestBadRequests(t *testing.T) {
	_, host := serve(t, Config{MaxBlob: 1000})
	sum := "sha256:" + strings.Repeat("0", 64)
	for _, c := range []struct {
		method, path, body string
		header             string
		status             int
		code               string
	}{
		{"GET", "/v2/app/manifests/none", "", "", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/app/blobs/" + sum, "", "", 404, "BLOB_UNKNOWN"},
		{"GET", "/v2/app/blobs/sha256:0", "", "", 400, "DIGEST_INVALID"},
		{"GET", "/v2/App/manifests/x", "", "", 400, "NAME_INVALID"},
		{"GET", "/v2/a/%2e%2e/%2e%2e/manifests/x", "", "", 400, "NAME_INVALID"},
		{"GET", "/v2/app/_tags/manifests/x", "", "", 400, "NAME_INVALID"},
		{"GET", "/v2/app/manifests/%2e%2e", "", "", 400, "TAG_INVALID"},
		{"PUT", "/v2/app/manifests/x", "{", "", 400, "MANIFEST_INVALID"},
		{"PUT", "/v2/app/manifests/x", `{"layers": [{"digest": "../../x"}]}`, "application/vnd.oci.image.manifest.v1+json", 400, "DIGEST_INVALID"},
		{"PUT", "/v2/app/manifests/x", `{"layers": [{"digest": "` + sum + `"}]}`, "application/vnd.oci.image.manifest.v1+json", 404, "MANIFEST_BLOB_UNKNOWN"},
		{"PUT", "/v2/app/manifests/x", `{"layers": [{}], "manifests": [{}]}`, "application/vnd.oci.image.manifest.v1+json", 400, "MANIFEST_INVALID"},
		{"PUT", "/v2/app/manifests/" + sum, `{}`, "application/vnd.oci.image.manifest.v1+json", 400, "DIGEST_INVALID"},
		{"POST", "/v2/app/blobs/uploads/?digest=" + sum, "other", "", 400, "DIGEST_INVALID"},
		{"POST", "/v2/app/blobs/uploads/?digest=" + sum, strings.Repeat("x", 1001), "", 413, "SIZE_INVALID"},
		{"PATCH", "/v2/app/blobs/uploads/" + strings.Repeat("a", 32), "", "", 404, "BLOB_UPLOAD_UNKNOWN"},
		{"PATCH", "/v2/app/blobs/uploads/x", "", "", 404, "BLOB_UPLOAD_UNKNOWN"},
		{"POST", "/v2/app/manifests/x", "", "", 405, "UNSUPPORTED"},
		{"GET", "/v2/nothing", "", "", 404, "NAME_UNKNOWN"},
		{"GET", "/v2/_catalog?n=x", "", "", 400, "PAGINATION_NUMBER_INVALID"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+host+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		if c.header != "" {
			req.Header.Set("Content-Type", c.header)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.status || !strings.Contains(string(b), c.code) {
			t.Errorf("%s %s: got %d %s, want %d %s", c.method, c.path, resp.StatusCode, b, c.status, c.code)
		}
	}
}

func TestAuthAndRanges(t *testing.T) {
	_, host := serve(t, Config{Auth: func(r *http.Request) bool { u, p, _ := r.BasicAuth(); return u == "me" && p == "pw" }})
	img, err := random.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref(t, host+"/app:1"), img); err == nil {
		t.Error("a push without credentials went through")
	}
	if err := remote.Write(ref(t, host+"/app:1"), img, remote.WithAuth(&authn.Basic{Username: "me", Password: "pw"})); err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	d, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+host+"/v2/app/blobs/"+d.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("me", "pw")
	req.Header.Set("Range", "bytes=10-19")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 206 || len(b) != 10 {
		t.Errorf("a range: %d with %d bytes, %v", resp.StatusCode, len(b), err)
	}
}

package registry

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// whole serves a registry as one that others copy from.
func (s *site) whole(spoil func(path string) bool) *Source {
	s.t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch {
		case q.URL.Path == IndexPath:
			s.r.ServeIndex(w, q)
		case spoil != nil && spoil(q.URL.Path):
			_, _ = w.Write([]byte("something else"))
		default:
			s.r.ServeHTTP(w, q)
		}
	}))
	s.t.Cleanup(srv.Close)
	return &Source{URL: srv.URL, Client: srv.Client()}
}

func (s *site) copied(from *Source, want int) {
	s.t.Helper()
	n, err := s.r.Copy(s.t.Context(), from)
	if err != nil || n != want {
		s.t.Fatalf("%d manifests came, %v; want %d", n, err, want)
	}
}

// A copy has what the other registry has, tags as they are there, and what it had
// itself.
func TestCopy(t *testing.T) {
	a, b := open(t, Config{}), open(t, Config{})
	first := a.push(a.ref("team/app:1"), picture(t, 1000))
	two, err := random.Index(500, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(a.ref("both:latest"), two); err != nil {
		t.Fatal(err)
	}
	b.push(b.ref("own:1"), picture(t, 10))
	b.push(b.ref("team/app:1"), picture(t, 10))

	from := a.whole(nil)
	b.copied(from, 1+3)
	if d, ok := b.r.Resolve("team/app", "1"); !ok || d != first.String() {
		t.Errorf("the tag is %s, want the other registry's %s", d, first)
	}
	b.pull(b.ref("team/app:1"))
	b.pull(b.ref("own:1"))
	idx, err := remote.Index(b.ref("both:latest"))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(idx); err != nil {
		t.Error(err)
	}
	b.copied(from, 0)
	if seen := from.seen; seen == "" {
		t.Error("the copy does not know what it has seen")
	}
	a.push(a.ref("team/app:2"), picture(t, 1000))
	b.copied(from, 1)
	b.pull(b.ref("team/app:2"))
}

// What comes with another digest is not taken, and does not keep the rest away.
func TestCopyOfSomethingElse(t *testing.T) {
	a, b := open(t, Config{}), open(t, Config{})
	a.push(a.ref("bad:1"), picture(t, 1000))
	a.push(a.ref("good:1"), picture(t, 1000))
	from := a.whole(func(path string) bool { return strings.Contains(path, "/v2/bad/blobs/") })
	n, err := b.r.Copy(t.Context(), from)
	if n != 1 || err == nil || !strings.Contains(err.Error(), "bad from the registry at") || !strings.Contains(err.Error(), "with the digest") {
		t.Errorf("%d manifests came, %v", n, err)
	}
	if _, ok := b.r.Resolve("bad", "1"); ok {
		t.Error("an image of which a part is missing has a name")
	}
	b.pull(b.ref("good:1"))
	if from.seen != "" {
		t.Error("what is not complete counts as seen")
	}
}

package route_test

import (
	"net/url"
	"testing"

	"github.com/podsnap/podsnap/gateway/route"
)

var targets = []string{
	"/function/hi", "/function/hi/", "/function/hi.dev/a/b?c=d", "/function/a.b.dev", "/function/hi?x", "/function/hi//x", "/function/hi/~!$&'()*+,;=:@",
	"/function/hi/..x", "/function/..", "/function/hi/%2e", "/function/.x", "/function/hi.", "/function/", "/function", "//function/hi", "/function/hi#x",
	"/function/hi/a.b", "/function/h\xc3\xa9", "/function/hi?a=%zz", "/function/hi/x?y?z", "/function/hi/a b", "/function/hi?", "/function/hi?é",
}

// FuzzPlain: what is read without net/url is read as with it.
func FuzzPlain(f *testing.F) {
	for _, t := range targets {
		f.Add(t)
	}
	f.Fuzz(func(t *testing.T, target string) {
		got, ok := route.ParsePlain([]byte(target), "/function/", nil)
		if !ok {
			return
		}
		u, err := url.ParseRequestURI(target)
		if err != nil {
			t.Fatalf("%q: net/url: %v", target, err)
		}
		want, err := route.Parse(u, "/function/")
		if err != nil {
			t.Fatalf("%q: %v", target, err)
		}
		to := url.URL{Path: want.Path, RawPath: want.RawPath, RawQuery: u.RawQuery, ForceQuery: u.ForceQuery}
		if got.Function != want.Function || string(got.Target) != to.RequestURI() {
			t.Errorf("%q: %v %q, want %v %q", target, got.Function, got.Target, want.Function, to.RequestURI())
		}
	})
}

// TestPlain: the usual ones do not need net/url.
func TestPlain(t *testing.T) {
	plain := map[string]bool{}
	for _, s := range targets {
		_, plain[s] = route.ParsePlain([]byte(s), "/function/", nil)
	}
	for i, s := range targets {
		if want := i < 7 || s == "/function/hi/a.b" || s == "/function/hi?a=%zz" || s == "/function/hi/x?y?z" || s == "/function/hi?"; plain[s] != want {
			t.Errorf("%q: plain %v", s, plain[s])
		}
	}
}

package route_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/gateway/route"
	"k8s.io/apimachinery/pkg/types"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		path                string
		namespace, name     string
		below, belowEscaped string
		err                 error
	}{
		{path: "/function/hi", namespace: "openfaas-fn", name: "hi", below: "/"},
		{path: "/function/hi/", namespace: "openfaas-fn", name: "hi", below: "/"},
		{path: "/function/hi.dev/a/b", namespace: "dev", name: "hi", below: "/a/b"},
		{path: "/function/a.b.dev", namespace: "dev", name: "a.b", below: "/"},
		{path: "/function/hi/a%2Fb", namespace: "openfaas-fn", name: "hi", below: "/a/b", belowEscaped: "/a%2Fb"},
		{path: "/function/hi//x", namespace: "openfaas-fn", name: "hi", below: "//x"},
		{path: "/function/hi/..x/.y", namespace: "openfaas-fn", name: "hi", below: "/..x/.y"},
		{path: "/function/", err: route.ErrNoName},
		{path: "/function/.openfaas-fn", err: route.ErrNoName},
		{path: "/function/hi.", err: route.ErrNoName},
		{path: "/function//hi", err: route.ErrNoName},
		{path: "//evil", err: route.ErrBadPath},
		{path: "/function/..", err: route.ErrBadPath},
		{path: "/function/../../system/functions", err: route.ErrBadPath},
		{path: "/function/%2e%2e/system", err: route.ErrBadPath},
		{path: "/function/hi/%2e%2E/x", err: route.ErrBadPath},
		{path: "/function/hi/./x", err: route.ErrBadPath},
		{path: "/function/..%2f..%2fsystem", err: route.ErrBadPath},
		{path: "/function/a%2fb", namespace: "openfaas-fn", err: route.ErrBadName},
		{path: "/function/%68i", err: route.ErrBadName},
		{path: "/function/%68i%2fx", err: route.ErrBadName},
		{path: "/function/hi%00", err: route.ErrBadPath},
		{path: "/function/a%20b", err: route.ErrBadName},
		{path: "/function/a%0ab", err: route.ErrBadName},
		{path: "/function/a%ffb", err: route.ErrBadName},
		{path: "/function/$(id)", err: route.ErrBadName},
		{path: "/function/h%C3%A9", err: route.ErrBadName},
	} {
		u, err := url.ParseRequestURI(tt.path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := route.Parse(u, "/function/")
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: error %v, want %v", tt.path, err, tt.err)
			continue
		}
		if tt.err != nil {
			continue
		}
		want := route.Target{Function: types.NamespacedName{Namespace: tt.namespace, Name: tt.name}, Path: tt.below, RawPath: tt.belowEscaped}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.path, d)
		}
	}
}

// FuzzParse: whatever comes in, what comes out has a clean name and a path
// that escapes to what was sent.
func FuzzParse(f *testing.F) {
	for _, name := range []string{
		"", "-", "-a", "a-", "A", "a_b", "a.b", "a..b", strings.Repeat("a", 63), strings.Repeat("a", 254), ".", "..", "a/b",
		"a%2fb", "../../etc", "a%00b", "a%0ab", "a%20b", "a%E2%80%AEb", "a%E2%80%8Bb", "%EF%BD%81", "%F0%9F%98%80", "%ff", "con", "system",
		"xn--80ak6aa92e", "0x7f", "~", "$(id)", "%60id%60", ";%20rm", "{{.}}", "%25s%25n",
	} {
		f.Add("/function/" + name)
		f.Add("/function/x/" + name)
	}
	f.Fuzz(func(t *testing.T, path string) {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return
		}
		got, err := route.Parse(u, "/function/")
		if err != nil {
			return
		}
		full := got.Function.Name + "." + got.Function.Namespace
		if strings.ContainsAny(full, "/%\x00 ") || got.Function.Name == "" || got.Function.Namespace == "" {
			t.Fatalf("%q: name %q", path, full)
		}
		out := url.URL{Path: got.Path, RawPath: got.RawPath}
		if e := out.EscapedPath(); !strings.HasSuffix(u.EscapedPath(), e) && e != "/" {
			t.Fatalf("%q: sends %q on", path, e)
		}
		for seg := range strings.SplitSeq(got.Path, "/") {
			if seg == "." || seg == ".." {
				t.Fatalf("%q: dot segment in %q", path, got.Path)
			}
		}
	})
}

func TestTable(t *testing.T) {
	tab := route.NewTable[int]()
	key := func(i int) types.NamespacedName {
		return types.NamespacedName{Namespace: "n", Name: fmt.Sprint("f", i)}
	}
	for i := range 1000 {
		if got := tab.GetOrAdd(key(i), func() int { return i }); got != i {
			t.Fatalf("got %d, want %d", got, i)
		}
	}
	if got := tab.GetOrAdd(key(7), func() int { return -1 }); got != 7 {
		t.Errorf("a second add replaced the first: %d", got)
	}
	tab.Delete(key(7))
	if _, ok := tab.Get(key(7)); ok {
		t.Error("still there after Delete")
	}
	n := 0
	for range tab.All() {
		n++
	}
	if n != 999 {
		t.Errorf("%d entries, want 999", n)
	}
}

func BenchmarkGet(b *testing.B) {
	tab := route.NewTable[int]()
	for i := range 100_000 {
		k := types.NamespacedName{Namespace: "openfaas-fn", Name: fmt.Sprint("function-", i)}
		tab.GetOrAdd(k, func() int { return i })
	}
	k := types.NamespacedName{Namespace: "openfaas-fn", Name: "function-777"}
	b.ReportAllocs()
	for b.Loop() {
		tab.Get(k)
	}
}

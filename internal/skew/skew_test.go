package skew_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/internal/skew"
)

func TestParse(t *testing.T) {
	for release, want := range map[string]string{
		"v1.4.2": "1.4", "1.4": "1.4", "v1.4.0-rc1": "1.4", "v1.4.2-3-gabcdef0-dirty": "1.4", "v0.12.0+meta": "0.12",
		"": skew.Source, "dev": skew.Source, "c336ffa": skew.Source, "1234567": skew.Source, "v1": skew.Source, "v1.x": skew.Source, "1.2x": skew.Source,
	} {
		if got := skew.Parse(release).String(); got != want {
			t.Errorf("%q is %s, want %s", release, got, want)
		}
	}
}

func TestServers(t *testing.T) {
	for _, c := range []struct {
		a, b string
		good bool
	}{
		{"v1.4.0", "v1.4.9", true},
		{"v1.4.0", "v1.5.0", true},
		{"v1.5.0", "v1.4.0", true},
		{"v1.4.0", "v1.6.0", false},
		{"v1.6.0", "v1.4.0", false},
		{"v1.4.0", "v2.4.0", false},
		{"v1.4.0", "v2.0.0", false},
	} {
		if err := skew.Servers(c.a, c.b); (err == nil) != c.good {
			t.Errorf("%s and %s: %v", c.a, c.b, err)
		}
	}
}

func TestNodes(t *testing.T) {
	for _, c := range []struct{ server, node, says string }{
		{"v1.4.0", "v1.4.7", ""},
		{"v1.4.0", "v1.3.0", ""},
		{"v1.4.0", "v1.5.0", "upgrade the servers first"},
		{"v1.4.0", "v2.0.0", "upgrade the servers first"},
		{"v1.4.0", "v1.2.9", "upgrade the node"},
		{"v2.0.0", "v1.9.0", "upgrade the node"},
	} {
		err := skew.Nodes(c.server, c.node)
		switch {
		case c.says == "" && err != nil:
			t.Errorf("server %s, node %s: %v", c.server, c.node, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.node) || !strings.Contains(err.Error(), c.server)):
			t.Errorf("server %s, node %s: %v, want %q and both releases", c.server, c.node, err, c.says)
		}
	}
}

type asked func(*http.Request) (*http.Response, error)

func (f asked) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestSayAndCheck(t *testing.T) {
	var got http.Header
	next := asked(func(r *http.Request) (*http.Response, error) {
		got = r.Header
		return &http.Response{}, nil
	})
	r := &http.Request{}
	if _, err := skew.Say(skew.Node, "v1.5.0", next).RoundTrip(r); err != nil {
		t.Fatal(err)
	}
	if r.Header != nil {
		t.Error("the caller's request was changed")
	}
	if skew.ToServer("v1.4.0", got) == nil || skew.ToServer("v1.6.0", got) != nil || skew.ToServer("v1.7.0", got) == nil {
		t.Errorf("a server does not go by %v", got)
	}
	if err := skew.ToServer("v1.4.0", http.Header{}); err != nil {
		t.Errorf("kubectl is refused: %v", err)
	}
	// A node's request that another server hands on has the versions of both.
	got.Set(skew.Server, "v1.6.0")
	if err := skew.ToServer("v1.6.0", got); err != nil {
		t.Error(err)
	}
	if skew.ToServer("v1.8.0", got) == nil {
		t.Error("two servers two versions apart work together")
	}
	if skew.ToNode("v1.5.0", got) != nil || skew.ToNode("v1.4.0", got) == nil {
		t.Error("a node does not go by its server's version")
	}
}

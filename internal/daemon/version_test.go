package daemon

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/internal/join"
	"github.com/podsnap/podsnap/internal/skew"
)

// A server of a release, as nodes find it.
func server(t *testing.T, release string, asked *int) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(versioned(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		*asked++
		_ = json.NewEncoder(w).Encode(join.Servers{Leader: "h0"})
	}), skew.Server, release, skew.ToServer))
	t.Cleanup(srv.Close)
	return srv
}

// Both sides know whether they work together: the server answers with why not, and
// the node finds it out by itself when it asks.
func TestServerAndNode(t *testing.T) {
	for _, c := range []struct{ server, node, says string }{
		{"v1.4.0", "v1.4.2", ""},
		{"v1.4.0", "v1.3.2", ""},
		{"v1.4.0", "v1.5.0", "upgrade the servers first"},
		{"v1.4.0", "v1.2.0", "upgrade the node"},
	} {
		asked := 0
		srv := server(t, c.server, &asked)
		a := &acquaintance{release: c.node, log: slog.New(slog.DiscardHandler), next: skew.Say(skew.Node, c.node, srv.Client().Transport)}
		client := &http.Client{Transport: a}
		fault := a.ask(t.Context(), client, srv.URL)
		_, err := join.AskServers(t.Context(), client, srv.URL)
		for who, err := range map[string]error{"the node": fault, "the server": err} {
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("server %s, node %s: %s says %v, want %q", c.server, c.node, who, err, c.says)
			}
		}
		if served := asked > 0; served != (c.says == "") {
			t.Errorf("server %s, node %s: %d requests were served", c.server, c.node, asked)
		}
	}
	// One that does not answer, or is of a time when servers did not say, is no fault.
	a := &acquaintance{release: "v1.5.0", log: slog.New(slog.DiscardHandler), next: http.DefaultTransport}
	if err := a.ask(t.Context(), &http.Client{Transport: a}, "http://127.0.0.1:1"); err != nil {
		t.Error(err)
	}
}

// What says no version, such as kubectl, is served by any.
func TestOthersAreServed(t *testing.T) {
	asked := 0
	srv := server(t, "v1.4.0", &asked)
	resp, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if asked != 1 || resp.Header.Get(skew.Server) != "v1.4.0" {
		t.Errorf("%d served, it says %q", asked, resp.Header.Get(skew.Server))
	}
}

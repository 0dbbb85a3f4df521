package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/join"
)

// gate is a server of a cluster that says its name.
func gate(t *testing.T, pair tls.Certificate, name string, away bool) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if away {
			nobody.ServeHTTP(w, nil)
			return
		}
		_, _ = io.WriteString(w, name)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// A node's requests go to a server that answers, and that finds a leader,
// whichever it was told of; and it learns of others.
func TestDoors(t *testing.T) {
	c, err := tokened(t, t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	pair, ca, err := c.certificate()
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	a, b, lost := gate(t, pair, "a", false), gate(t, pair, "b", false), gate(t, pair, "lost", true)

	m := &identity{c: &c, log: quiet, url: "https://" + silent.Addr().String()}
	m.newDoors(&tls.Config{RootCAs: roots, ServerName: join.ServerName, MinVersion: tls.VersionTLS13}, []string{lost.URL, a.URL})
	t.Cleanup(func() { m.client.CloseIdleConnections() })
	ask := func() string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := m.client.Do(req)
		for err != nil && ctx.Err() == nil { // it went to a connection whose end was not seen yet
			resp, err = m.client.Do(req)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Proto + " " + string(body)
	}
	if got := ask(); !strings.Contains(got, "no server of the cluster has led") {
		t.Errorf("the first that answers said %q", got)
	}
	if got := ask(); got != "HTTP/2.0 a" {
		t.Errorf("after one that has no leader, %q; want a, over HTTP/2", got)
	}
	m.doors.learn([]string{b.URL, a.URL})
	if got, want := m.doors.all(), []string{a.Listener.Addr().String(), b.Listener.Addr().String()}; !slices.Equal(got, want) {
		t.Errorf("known are %q, want %q: the one that it uses first", got, want)
	}
	a.CloseClientConnections()
	a.Close()
	if got := ask(); got != "HTTP/2.0 b" {
		t.Errorf("after the end of a, %q", got)
	}
	m.doors.learn(nil)
	if len(m.doors.all()) == 0 {
		t.Error("no server is known any more")
	}
}

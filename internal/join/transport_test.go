package join

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
)

// Requests that begin together, as a node's watches do when their server has been
// away, share one connection; more streams than one takes get another.
func TestTransportSharesConnections(t *testing.T) {
	const streams = 10
	release := make(chan struct{})
	var opened, waiting atomic.Int64
	all := make(chan struct{})
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if waiting.Add(1) == 3*streams+streams/2 {
			close(all)
		}
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-release
	}))
	srv.EnableHTTP2 = true
	srv.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: streams}
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	srv.StartTLS()
	defer srv.Close()
	roots := srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	c := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, NextProtos: []string{"h2"}}
	tr := NodeTransport(c)
	tr.DialTLSContext = (&tls.Dialer{Config: c}).DialContext // as nodes have, who choose among servers
	defer tr.CloseIdleConnections()
	var begun, ended sync.WaitGroup
	ask := func(n int) {
		begun.Add(n)
		for range n {
			ended.Go(func() {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, http.NoBody)
				if err != nil {
					t.Error(err)
				}
				resp, err := tr.RoundTrip(req)
				begun.Done()
				if err != nil {
					t.Error(err)
					return
				}
				<-release
				resp.Body.Close()
			})
		}
	}
	ask(streams)
	begun.Wait()
	if n := opened.Load(); n != 1 {
		t.Errorf("%d requests that began together opened %d connections, want one", streams, n)
	}
	ask(2*streams + streams/2)
	<-all
	close(release)
	ended.Wait()
	t.Logf("%d connections for %d streams of at most %d on each", opened.Load(), 3*streams+streams/2, streams)
}

package join_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/podsnap/podsnap/internal/join"
)

// A server of the next version says more, and is understood.
func TestNewerServer(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Podsnap-Of-The-Next-Version", "1")
		if r.Method == http.MethodGet {
			io.WriteString(w, `{"next":{"a":[1]},"servers":["https://10.0.0.1:6443"],"leader":"h0"}`)
			return
		}
		io.WriteString(w, `{"next":[{}],"certificate":"Yw==","ca":"YQ==","settings":{"podCIDR":"10.62.0.0/20","podCIDRs":["x"],"clusterCIDR":"c","serviceCIDR":"s"}}`)
	}))
	defer srv.Close()
	s, err := join.AskServers(t.Context(), srv.Client(), srv.URL)
	if err != nil || s.Leader != "h0" || len(s.Servers) != 1 {
		t.Errorf("servers: %+v %v", s, err)
	}
	a, err := join.Renew(t.Context(), srv.Client(), srv.URL, []byte("csr"))
	if err != nil || string(a.Certificate) != "c" || string(a.CA) != "a" || a.Settings != (join.Settings{PodCIDR: "10.62.0.0/20", ClusterCIDR: "c", ServiceCIDR: "s"}) {
		t.Errorf("a certificate: %+v %v", a, err)
	}
}

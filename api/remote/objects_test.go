package remote_test

import (
	"net/http/httptest"
	"testing"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/api/remote"
	"github.com/podsnap/podsnap/api/seamtest"
	"github.com/podsnap/podsnap/controlplane/apiserver"
)

// TestObjects runs the seam's conformance suite through the API server: what
// the suite asks of a store must survive the wire.
func TestObjects(t *testing.T) {
	seamtest.Objects(t, func(t *testing.T) api.Objects {
		t.Helper()
		s, err := apiserver.New(apiserver.Config{Objects: memory.New(memory.Config{History: 512}), Token: "secret"})
		if err != nil {
			t.Fatal(err)
		}
		srv := httptest.NewServer(s)
		t.Cleanup(srv.Close)
		client := srv.Client()
		return remote.NewObjects(remote.Config{URL: srv.URL, Token: "secret", Client: client})
	})
}

package store_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/seamtest"
	"github.com/podsnap/podsnap/controlplane/store"
)

func TestSeam(t *testing.T) {
	e := startEtcd(t)
	var n atomic.Int32
	seamtest.Objects(t, func(t *testing.T) api.Objects {
		s := *e
		s.t = t
		return s.open(store.Config{Prefix: fmt.Sprintf("/seam-%d", n.Add(1)), History: 512})
	})
}

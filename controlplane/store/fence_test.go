package store

import (
	"testing"

	"github.com/podsnap/podsnap/api"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// lead makes the key of a fence anew.
func (s *server) lead(c *clientv3.Client) Fence {
	s.t.Helper()
	if _, err := c.Delete(s.t.Context(), "/leader"); err != nil {
		s.t.Fatal(err)
	}
	resp, err := c.Put(s.t.Context(), "/leader", "x")
	if err != nil {
		s.t.Fatal(err)
	}
	return Fence{"/leader", resp.Header.Revision}
}

// A store whose fence is gone writes nothing, whatever it is asked for, and says
// so; the store of the next fence does.
func TestFence(t *testing.T) {
	e := startEtcd(t)
	c := e.client()
	old := e.open(Config{Fence: e.lead(c)})
	prepare(t, old)
	was := mustCreate(t, old, configMap("a", "1")).(*corev1.ConfigMap)
	for n, w := range old.Persist(t.Context(), api.Write{Object: configMap("b", "1")}, api.Write{Object: configMap("c", "1")}) {
		if w.Err != nil {
			t.Fatalf("write %d: %v", n, w.Err)
		}
	}

	now := e.open(Config{Fence: e.lead(c)})
	before, err := c.Get(t.Context(), "/registry", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	next := was.DeepCopy()
	next.Data["n"] = "2"
	for name, write := range map[string]func() error{
		"create": func() error { _, err := old.Create(t.Context(), configMap("d", "1")); return err },
		"update": func() error { _, err := old.Update(t.Context(), next, api.UpdateOptions{}); return err },
		"patch": func() error {
			_, err := old.Patch(t.Context(), api.ConfigMaps, "a", "a", api.Patch{Type: types.MergePatchType, Data: []byte(`{"data":{"n":"2"}}`)})
			return err
		},
		"delete": func() error {
			_, err := old.Delete(t.Context(), api.ConfigMaps, "a", "a", api.DeleteOptions{})
			return err
		},
		"persist": func() error { return old.Persist(t.Context(), api.Write{Object: configMap("e", "1")})[0].Err },
		"persist many": func() error {
			return old.Persist(t.Context(), api.Write{Object: configMap("f", "1")}, api.Write{Object: configMap("g", "1")})[1].Err
		},
	} {
		if err := write(); !apierrors.IsServiceUnavailable(err) {
			t.Errorf("%s behind a fence that is gone: %v, want ServiceUnavailable", name, err)
		}
	}
	after, err := c.Get(t.Context(), "/registry", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	if after.Header.Revision != before.Header.Revision {
		t.Errorf("etcd is at revision %d, it was at %d: something was written", after.Header.Revision, before.Header.Revision)
	}
	if _, err := now.Update(t.Context(), next, api.UpdateOptions{}); err != nil {
		t.Errorf("the store of the new fence: %v", err)
	}
}

package store

import (
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// A store whose feed does not bring what etcd answers does not say what a read would
// not show: the client would see the past after the present.
func TestRefusalThatReadsDoNotShow(t *testing.T) {
	e := startEtcd(t)
	other := e.open(Config{})
	prepare(t, other)
	old := mustCreate(t, other, configMap("old", "0"))
	behind, err := New(Config{Client: e.client(), Timeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := behind.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(behind.ready) // and nothing feeds it from here on
	mustCreate(t, other, configMap("new", "0"))
	if _, err := other.Delete(t.Context(), api.ConfigMaps, "a", "old", api.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}

	for name, write := range map[string]func() error{
		"it exists":  func() error { _, err := behind.Create(t.Context(), configMap("new", "1")); return err },
		"it is gone": func() error { _, err := behind.Update(t.Context(), old, api.UpdateOptions{}); return err },
		"it never existed": func() error {
			_, err := behind.Delete(t.Context(), api.ConfigMaps, "a", "none", api.DeleteOptions{})
			return err
		},
		"another version": func() error {
			c := configMap("new", "1")
			c.ResourceVersion = old.GetResourceVersion()
			_, err := behind.Update(t.Context(), c, api.UpdateOptions{})
			return err
		},
	} {
		if err := write(); !apierrors.IsTimeout(err) {
			t.Errorf("%s: answered %v, want a timeout", name, err)
		}
	}
}

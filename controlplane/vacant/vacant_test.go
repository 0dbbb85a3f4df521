package vacant_test

import (
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/api/seamtest"
	"github.com/podsnap/podsnap/controlplane/vacant"
	"github.com/podsnap/podsnap/test/bubble"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// All other kinds are as they were.
func TestSeam(t *testing.T) {
	seamtest.Objects(t, func(*testing.T) api.Objects {
		return vacant.Objects{Objects: memory.New(memory.Config{Namespaces: true})}
	})
}

// Of a vacant kind there is nothing, at a revision that one may watch from.
func TestVacant(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		o := vacant.Objects{Objects: memory.New()}
		if _, err := o.Create(t.Context(), &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "local"}}); err != nil {
			t.Fatal(err)
		}
		for _, r := range api.Vacant {
			l, err := o.List(t.Context(), r, api.ListOptions{})
			if err != nil || len(l.Items) > 0 || l.ResourceVersion == "" {
				t.Errorf("%s: %+v %v", r, l, err)
			}
			for _, from := range []string{"", l.ResourceVersion} {
				w, err := o.Watch(t.Context(), r, api.WatchOptions{ResourceVersion: from})
				if err != nil {
					t.Fatal(err)
				}
				if from == "" {
					if ev := <-w.Events(); ev.Type != api.Bookmark || !ev.InitialEventsEnd {
						t.Errorf("%s: the first is %+v", r, ev)
					}
				}
				synctest.Wait()
				select {
				case ev := <-w.Events():
					t.Errorf("%s: told is %+v", r, ev)
				default:
				}
				w.Stop()
			}
			if _, err := o.Get(t.Context(), r, "d", "x"); !apierrors.IsNotFound(err) {
				t.Errorf("%s: get: %v", r, err)
			}
		}
	})
}

package store

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// severed is a store whose next write reaches etcd while the answer is lost
// with the connection, and another store on the same etcd.
type severed struct {
	t        *testing.T
	p        *proxy
	s, other *Store
}

func sever(t *testing.T) severed {
	t.Helper()
	e := startEtcd(t)
	p := startProxy(t, filepath.Join(e.dir, "c.sock"))
	x := severed{t, p, open(t, Config{Client: dial(t, p.url()), Timeout: 20 * time.Second}), e.open(Config{})}
	prepare(t, x.other)
	mustCreate(t, x.other, configMap("x", "0"))
	w, err := x.s.Watch(t.Context(), api.ConfigMaps, api.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	nextEvent(t, w)
	w.Stop()
	return x
}

// write runs f, which writes through x.s; when the other store has seen the
// event that this makes, it runs meanwhile and breaks the connection.
func (x severed) write(f func() error, meanwhile func()) error {
	x.t.Helper()
	l, err := x.other.List(x.t.Context(), api.ConfigMaps, api.ListOptions{})
	if err != nil {
		x.t.Fatal(err)
	}
	w, err := x.other.Watch(x.t.Context(), api.ConfigMaps, api.WatchOptions{ResourceVersion: l.ResourceVersion})
	if err != nil {
		x.t.Fatal(err)
	}
	defer w.Stop()
	x.p.block()
	done := make(chan error, 1)
	go func() { done <- f() }()
	nextEvent(x.t, w)
	if meanwhile != nil {
		meanwhile()
	}
	x.p.cut()
	x.p.release()
	x.p.listen()
	return <-done
}

// overwriting is what happens to the object x after a write made it 1: nothing,
// or another write; and what it is then.
func (x severed) overwriting(yes bool) (want string, meanwhile func()) {
	if !yes {
		return "1", func() {}
	}
	return "2", func() {
		if err := increment(x.t, x.other, "x"); err != nil {
			x.t.Error(err)
		}
	}
}

// A write whose answer is lost counts once, also when somebody else has
// written over it before the store could look.
func TestLostAnswerOfUpdate(t *testing.T) {
	for name, overwrite := range map[string]bool{"last": false, "overwritten": true} {
		t.Run(name, func(t *testing.T) {
			x := sever(t)
			want, meanwhile := x.overwriting(overwrite)
			if err := x.write(func() error { return increment(t, x.s, "x") }, meanwhile); err != nil {
				t.Fatalf("increment: %v", err)
			}
			if got := mustGet(t, x.s, "x"); got.Data["n"] != want {
				t.Fatalf("the sum is %s, want %s", got.Data["n"], want)
			}
		})
	}
}

func TestLostAnswerOfPersist(t *testing.T) {
	for name, overwrite := range map[string]bool{"last": false, "overwritten": true} {
		t.Run(name, func(t *testing.T) {
			x := sever(t)
			var done []api.Written
			old := mustGet(t, x.s, "x")
			writes := []api.Write{{Object: configMap("y", "1")}, {Object: configMap("x", "1"), Expect: revOf(old)}}
			want, meanwhile := x.overwriting(overwrite)
			if err := x.write(func() error { done = x.s.Persist(t.Context(), writes...); return nil }, meanwhile); err != nil {
				t.Fatal(err)
			}
			for n, d := range done {
				if d.Err != nil || d.Revision != done[0].Revision {
					t.Errorf("write %d: %+v, want the same revision and no error", n, d)
				}
			}
			if got := mustGet(t, x.s, "x"); got.Data["n"] != want {
				t.Errorf("x is %s, want %s", got.Data["n"], want)
			}
			if got := mustGet(t, x.s, "y"); got.Data["n"] != "1" {
				t.Errorf("y is %s, want 1", got.Data["n"])
			}
		})
	}
}

func TestLostAnswerOfCreate(t *testing.T) {
	x := sever(t)
	var made *corev1.ConfigMap
	err := x.write(func() (err error) {
		made, err = api.Create(t.Context(), x.s, configMap("y", "1"))
		return err
	}, nil)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if got := mustGet(t, x.s, "y"); got.UID != made.UID || got.ResourceVersion != made.ResourceVersion {
		t.Fatalf("Create answered %s at %s, Get %s at %s", made.UID, made.ResourceVersion, got.UID, got.ResourceVersion)
	}
}

// A delete whose answer is lost spares the object that was made in its place.
func TestLostAnswerOfDelete(t *testing.T) {
	x := sever(t)
	err := x.write(func() error {
		_, err := x.s.Delete(t.Context(), api.ConfigMaps, "a", "x", api.DeleteOptions{})
		return err
	}, func() { mustCreate(t, x.other, configMap("x", "new")) })
	if err != nil {
		t.Fatalf("delete: %v", err)
	}
	made := mustGet(t, x.other, "x")
	if err := x.s.reach(t.Context(), revOf(made)); err != nil { // what others write is seen later
		t.Fatal(err)
	}
	if got := mustGet(t, x.s, "x"); got.UID != made.UID || got.Data["n"] != "new" {
		t.Fatalf("got %v, want the new object", got.Data)
	}
}

// A create whose answer is lost is not done again when somebody has deleted the
// object meanwhile.
func TestLostAnswerOfCreateOfWhatIsDeleted(t *testing.T) {
	x := sever(t)
	var made *corev1.ConfigMap
	err := x.write(func() (err error) {
		made, err = api.Create(t.Context(), x.s, configMap("y", "1"))
		return err
	}, func() {
		if _, err := x.other.Delete(t.Context(), api.ConfigMaps, "a", "y", api.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	if err != nil || made.ResourceVersion == "" {
		t.Fatalf("create: %v, %v", made, err)
	}
	if got, err := x.other.fetch(t.Context(), id{api.ConfigMaps, "a", "y"}); !apierrors.IsNotFound(err) {
		t.Fatalf("it is there again: %v, %v", got, err)
	}
}

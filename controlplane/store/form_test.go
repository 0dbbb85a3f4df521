package store

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a build that knew JSON alone has stored is read, and is protobuf from its
// next write on.
func TestStoredByOlder(t *testing.T) {
	e := startEtcd(t)
	etcd := e.client()
	meta := metav1.ObjectMeta{Namespace: "a", Name: "old", UID: "u", Generation: 3, Labels: map[string]string{"l": "1"}}
	for key, obj := range map[string]api.Object{
		"/registry/core/namespaces/a":            &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}},
		"/registry/core/configmaps/a/old":        &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"n": "1"}},
		"/registry/openfaas.com/functions/a/old": &api.Function{ObjectMeta: meta, Spec: api.FunctionSpec{Name: "old", Image: "i"}},
	} {
		data, err := json.Marshal(obj)
		if err != nil {
			t.Fatal(err)
		}
		value := strings.TrimSuffix(string(data), "}") + `,"@write":"abcdefgh-1"}`
		if _, err := etcd.Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	s := e.open(Config{})
	if err := increment(t, s, "old"); err != nil {
		t.Fatal(err)
	}
	if _, err := api.Mutate(t.Context(), api.Objects(s), api.Functions, "a", "old", api.UpdateOptions{}, func(f *api.Function) (bool, error) {
		f.Spec.Image = "j"
		return true, nil
	}); err != nil {
		t.Fatal(err)
	}
	for key, form := range map[string]string{
		"/registry/core/namespaces/a":            `{"`,
		"/registry/core/configmaps/a/old":        "k8s\x00",
		"/registry/openfaas.com/functions/a/old": "k8s\x00",
	} {
		resp, err := etcd.Get(t.Context(), key)
		if err != nil || len(resp.Kvs) != 1 || !strings.HasPrefix(string(resp.Kvs[0].Value), form) {
			t.Errorf("%s: stored is %v, %v, want %q", key, resp, err, form)
		}
	}
	later := e.open(Config{}) // it has decoded all of it
	cm, err := api.Get[*corev1.ConfigMap](t.Context(), later, api.ConfigMaps, "a", "old")
	if err != nil || cm.Data["n"] != "2" || cm.Generation != 4 || cm.Labels["l"] != "1" || cm.UID != "u" || cm.Kind != "ConfigMap" {
		t.Errorf("got %+v, %v", cm, err)
	}
	f, err := api.Get[*api.Function](t.Context(), later, api.Functions, "a", "old")
	if err != nil || f.Spec.Image != "j" || f.Labels["l"] != "1" {
		t.Errorf("got %+v, %v", f, err)
	}
}

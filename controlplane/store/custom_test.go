package store

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/custom"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func widgets() *apiextensionsv1.CustomResourceDefinition {
	crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "widgets.example.com"}}
	root := &apiextensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{
		"size": {Type: "integer", Default: &apiextensionsv1.JSON{Raw: []byte("7")}},
	}}
	crd.Spec = apiextensionsv1.CustomResourceDefinitionSpec{
		Group: "example.com", Scope: apiextensionsv1.NamespaceScoped,
		Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "widgets", Kind: "Widget", ListKind: "WidgetList", Singular: "widget"},
		Versions: []apiextensionsv1.CustomResourceDefinitionVersion{
			{Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: root}},
			{Name: "v2", Served: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: root}},
		},
	}
	return crd
}

func establish(t *testing.T, s *Store) {
	t.Helper()
	_, err := api.Mutate(t.Context(), api.Objects(s), api.CustomResourceDefinitions, "", "widgets.example.com", api.UpdateOptions{Subresource: "status"}, func(c *apiextensionsv1.CustomResourceDefinition) (bool, error) {
		c.Status.Conditions = []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue}}
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestCustomKinds: objects of a kind are there again after a restart, in every
// version, and another process on the same etcd sees them as well.
func TestCustomKinds(t *testing.T) {
	e := startEtcd(t)
	p := e.place
	p.t = t
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var here, there, later custom.Kinds
	one, two := p.open(Config{Define: here.Define}), p.open(Config{Define: there.Define})
	for _, o := range []api.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "d"}}, widgets()} {
		if _, err := one.Create(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	establish(t, one)
	v2 := here.Set().Served[0]
	if v2.Version != "v2" {
		t.Fatalf("served are %v", here.Set().Served)
	}
	obj := api.NewCustom(v2)
	obj.Namespace, obj.Name, obj.Content = "d", "w", map[string]any{"size": int64(1 << 60)}
	made, err := one.Create(ctx, obj)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := p.client().Get(ctx, "/registry/example.com/widgets/d/w")
	if err != nil || len(resp.Kvs) != 1 || !strings.Contains(string(resp.Kvs[0].Value), `"apiVersion":"example.com/v1"`) {
		t.Fatalf("stored is %v, %v", resp, err)
	}
	same := func(s *Store, k *custom.Kinds) {
		t.Helper()
		if err := s.follows(ctx, revOf(made)); err != nil {
			t.Fatal(err)
		}
		for _, r := range k.Set().Served {
			o, err := api.Get[*api.CustomObject](ctx, s, r, "d", "w")
			if err != nil {
				t.Fatal(err)
			}
			if o.Content["size"] != int64(1<<60) || o.APIVersion != r.GVK().GroupVersion().String() || o.ResourceVersion != made.GetResourceVersion() || len(o.Content) != 1 {
				t.Errorf("in %s it is %+v", r.Version, o)
			}
		}
		if len(k.Set().Served) != 2 {
			t.Errorf("served are %v", k.Set().Served)
		}
	}
	same(one, &here)
	same(two, &there)
	three := p.open(Config{Define: later.Define})
	same(three, &later)

	r := later.Set().Served[0]
	w, err := three.Watch(ctx, r, api.WatchOptions{ResourceVersion: made.GetResourceVersion()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if _, err := one.Patch(ctx, v2, "d", "w", api.Patch{Type: "application/merge-patch+json", Data: []byte(`{"size":2}`)}); err != nil {
		t.Fatal(err)
	}
	if e := <-w.Events(); e.Type != api.Modified || e.Object.(*api.CustomObject).Content["size"] != int64(2) || api.ResourceOf(e.Object) != r {
		t.Errorf("got %+v", e)
	}
	if _, err := one.Delete(ctx, v2, "d", "w", api.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if e := <-w.Events(); e.Type != api.Deleted {
		t.Errorf("got %+v", e)
	}
	hold := func(finalizers ...string) {
		t.Helper()
		if _, err := api.Mutate(ctx, api.Objects(one), api.CustomResourceDefinitions, "", "widgets.example.com", api.UpdateOptions{}, func(c *apiextensionsv1.CustomResourceDefinition) (bool, error) {
			c.Finalizers = finalizers
			return true, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	hold("example.com/wait")
	if _, err := one.Delete(ctx, api.CustomResourceDefinitions, "", "widgets.example.com", api.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := two.Create(ctx, obj); !apierrors.IsMethodNotSupported(err) {
		t.Errorf("a creation while the definition is being deleted: %v", err)
	}
	hold()
	for e := range w.Events() {
		t.Errorf("after the end of the kind: %+v", e)
	}
	if _, err := one.Create(ctx, obj); !apierrors.IsNotFound(err) {
		t.Errorf("a creation after the end of the kind: %v", err)
	}
	if _, err := three.List(ctx, r, api.ListOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a list after the end of the kind: %v", err)
	}
}

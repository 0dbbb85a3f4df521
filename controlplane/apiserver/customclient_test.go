package apiserver

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/podsnap/podsnap/api"
)

// TestDynamicClient holds custom kinds to Kubernetes' own client and informer.
func TestDynamicClient(t *testing.T) {
	h, _, _ := customRig(t)
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	client, err := dynamic.NewForConfig(&rest.Config{Host: srv.URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dbs := client.Resource(schema.GroupVersionResource{Group: "db.example.org", Version: "v1", Resource: "databases"}).Namespace("d")

	events := make(chan string, 16)
	tell := func(what string) func(any) {
		return func(o any) {
			u := o.(*unstructured.Unstructured)
			n, _, _ := unstructured.NestedInt64(u.Object, "spec", "replicas")
			events <- fmt.Sprintf("%s %s %d", what, u.GetName(), n)
		}
	}
	informer := cache.NewSharedIndexInformer(&cache.ListWatch{
		ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return dbs.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return dbs.Watch(ctx, o) },
	}, &unstructured.Unstructured{}, 0, cache.Indexers{})
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: tell("added"), UpdateFunc: func(_, o any) { tell("updated")(o) }, DeleteFunc: tell("deleted"),
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		informer.RunWithContext(ctx)
	}()
	defer func() { cancel(); <-ended }()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-events:
			if got != want {
				t.Errorf("the informer tells %q, want %q", got, want)
			}
		case <-ctx.Done():
			t.Fatalf("the informer does not tell %q", want)
		}
	}
	obj := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "db.example.org/v1", "kind": "Database", "metadata": map[string]any{"name": "a"}, "spec": map[string]any{"engine": "mysql"},
	}}
	made, err := dbs.Create(ctx, obj, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	expect("added a 1")
	if err := unstructured.SetNestedField(made.Object, int64(2), "spec", "replicas"); err != nil {
		t.Fatal(err)
	}
	if _, err := dbs.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("updated a 2")
	if _, err := dbs.Update(ctx, made, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an update of an old version: %v", err)
	}
	if _, err := dbs.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"replicas":3}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("updated a 3")
	if err := unstructured.SetNestedField(obj.Object, "oracle", "spec", "engine"); err != nil {
		t.Fatal(err)
	}
	obj.SetName("b")
	_, err = dbs.Create(ctx, obj, metav1.CreateOptions{})
	if cause, ok := apierrors.StatusCause(err, metav1.CauseTypeFieldValueNotSupported); !ok || cause.Field != "spec.engine" {
		t.Errorf("what is wrong: %v", err)
	}
	if err := dbs.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("deleted a 3")
}

// TestInvalidCustomResources: what is refused changes nothing, and names a cause
// where one field is at fault.
func TestInvalidCustomResources(t *testing.T) {
	h, o, kinds := customRig(t)
	got(t, h, 201, "POST", dbs, mine, jsonType)
	crds := "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	b, err := os.ReadFile("../custom/testdata/databases.yaml")
	if err != nil {
		t.Fatal(err)
	}
	definition := string(b)
	state := func() map[string]any {
		out := map[string]any{}
		for _, r := range []*api.Resource{api.CustomResourceDefinitions, kinds.Set().Stored[0]} {
			l, err := o.List(t.Context(), r, api.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, it := range l.Items {
				out[it.GetName()] = it.GetResourceVersion()
			}
		}
		return out
	}
	before := state()
	const yamlType = "Content-Type: application/yaml"
	replaced := func(was, is string) string {
		out := strings.Replace(definition, was, is, 1)
		if out == definition {
			t.Fatalf("%q is not there", was)
		}
		return out
	}
	for _, c := range []struct {
		method, path, body, header string
		code                       int
		says                       string
	}{
		{"POST", crds, definition, yamlType, 409, "already exists"},
		{"PUT", crds + "/databases.db.example.org", replaced("scope: Namespaced", "scope: Cluster"), yamlType, 422, "spec.scope: Invalid value"},
		{"PUT", crds + "/databases.db.example.org", replaced("plural: databases", "plural: stores"), yamlType, 422, "spec.names.plural: Invalid value"},
		{"PUT", crds + "/databases.db.example.org", replaced("kind: Database,", "kind: Store,"), yamlType, 422, "spec.names.kind: Invalid value"},
		{"POST", crds + "?fieldValidation=Strict", replaced("scope: Namespaced", "scop: Namespaced"), yamlType, 400, `unknown field "spec.scop"`},
		{"POST", crds, strings.NewReplacer("db.example.org", "apps").Replace(definition), yamlType, 422, "are built in"},
		{"PATCH", crds + "/databases.db.example.org", `{"spec":{"versions":[]}}`, mergeType, 422, "must have exactly one version marked as storage version"},
		{"POST", dbs, `{"metadata":{"name":"a"}}`, jsonType, 422, "spec: Required value"},
		{"POST", dbs, `{"metadata":{"name":"a"},"spec":3}`, jsonType, 422, "must be of type object"},
		{"POST", dbs, `{"metadata":{"name":"A_"},"spec":{"engine":"mysql"}}`, jsonType, 422, "metadata.name"},
		{"POST", dbs, `{"metadata":3}`, jsonType, 400, "cannot be handled as a Database"},
		{"POST", dbs, `[]`, jsonType, 400, "cannot be handled as a Database"},
		{"POST", dbs, `{"metadata":`, jsonType, 400, "cannot be handled as a Database"},
		{"POST", dbs, `{"apiVersion":"v1","kind":"Pod"}`, jsonType, 400, `"Pod"`},
		{"POST", dbs, mine, jsonType, 409, "already exists"},
		{"POST", strings.Replace(dbs, "/d/", "/nowhere/", 1), strings.Replace(mine, "mine", "x", 1), jsonType, 404, "nowhere"},
		{"POST", dbs, "\x00", "Content-Type: application/vnd.kubernetes.protobuf", 415, "protobuf"},
		{"PATCH", dbs + "/mine", `{"spec":{"engine":null}}`, mergeType, 422, "spec.engine: Required value"},
		{"PATCH", dbs + "/mine", `{"metadata":{"name":"x"}}`, mergeType, 400, "must not change"},
		{"PATCH", dbs + "/mine", `[{"op":"test","path":"/spec/engine","value":"x"}]`, "Content-Type: application/json-patch+json", 422, "can't be applied"},
		{"PATCH", dbs + "/mine/status", `{"status":{"replicas":"many"}}`, mergeType, 422, "status.replicas: Invalid value"},
		{"PUT", dbs + "/mine/scale", `{"spec":{"replicas":-1}}`, jsonType, 422, "spec.replicas"},
		{"PUT", dbs + "/mine/scale", `{"spec":{"replicas":100}}`, jsonType, 422, "less than or equal to 10"},
		{"PATCH", dbs + "/mine?fieldManager=m", "apiVersion: db.example.org/v1\nkind: Database\nspec: {replicas: x}", applyType, 400, "spec.replicas"},
		{"GET", "/apis/db.example.org/v9/databases", "", jsonType, 404, "could not find"},
		{"GET", "/apis/db.example.org/v1beta1/namespaces/d/databases/mine/scale", "", jsonType, 404, "could not find"},
	} {
		w := ask(t, h, c.method, c.path, c.body, c.header)
		st := status(t, w)
		if w.Code != c.code || !strings.Contains(st.Message, c.says) {
			t.Errorf("%s %s %.60s: got %d %q, want %d %q", c.method, c.path, c.body, w.Code, st.Message, c.code, c.says)
		}
		if st.Reason == metav1.StatusReasonInvalid && !strings.Contains(c.header, "json-patch") && (st.Details == nil || len(st.Details.Causes) == 0) {
			t.Errorf("%q has no causes", st.Message)
		}
	}
	if d := cmp.Diff(before, state()); d != "" {
		t.Errorf("what was refused has changed the store:\n%s", d)
	}
}

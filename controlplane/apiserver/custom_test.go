package apiserver

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/controlplane/custom"
	"github.com/podsnap/podsnap/controlplane/fieldmanager"
)

// databases is a definition as operators bring it.
func databases(t *testing.T) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	b, err := os.ReadFile("../custom/testdata/databases.yaml")
	if err != nil {
		t.Fatal(err)
	}
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict(b, crd); err != nil {
		t.Fatal(err)
	}
	return crd
}

// establish does what the controller of definitions does for one without conflicts.
func establish(t *testing.T, o api.Objects, crd *apiextensionsv1.CustomResourceDefinition) {
	t.Helper()
	_, err := api.Mutate(t.Context(), o, api.CustomResourceDefinitions, "", crd.Name, api.UpdateOptions{Subresource: "status"}, func(c *apiextensionsv1.CustomResourceDefinition) (bool, error) {
		c.Status.AcceptedNames = c.Spec.Names
		c.Status.Conditions = []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue}}
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// customRig is a server with the kind Database and an empty namespace d.
func customRig(t *testing.T) (*Server, *memory.Objects, *custom.Kinds) {
	t.Helper()
	kinds := &custom.Kinds{}
	o := memory.New(memory.Config{Admit: admission.Admit, Namespaces: true, Define: kinds.Define})
	create(t, o, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "d"}})
	crd := databases(t)
	create(t, o, crd)
	establish(t, o, crd)
	return server(t, Config{Objects: o, Kinds: kinds}), o, kinds
}

const (
	dbs  = "/apis/db.example.org/v1/namespaces/d/databases"
	mine = `{"apiVersion":"db.example.org/v1","kind":"Database","metadata":{"name":"mine"},"spec":{"engine":"postgres"}}`
)

// got does a request that is to end with a code, and answers with the object.
func got(t *testing.T, h http.Handler, code int, method, path, body string, headers ...string) map[string]any {
	t.Helper()
	w := ask(t, h, method, path, body, headers...)
	if w.Code != code {
		t.Fatalf("%s %s: got %d %s, want %d", method, path, w.Code, w.Body, code)
	}
	var out map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func in(m map[string]any, path ...string) any {
	var v any = m
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

func TestCustomObjects(t *testing.T) {
	h, _, _ := customRig(t)
	made := got(t, h, 201, "POST", dbs, mine, jsonType)
	for path, want := range map[string]any{
		"spec.replicas": 1.0, "spec.version": "16", "spec.storage.size": "1Gi", "metadata.generation": 1.0, "metadata.namespace": "d", "kind": "Database",
	} {
		if v := in(made, strings.Split(path, ".")...); v != want {
			t.Errorf("%s is %v, want %v", path, v, want)
		}
	}
	// The generation counts what is wanted, and not what is.
	patched := got(t, h, 200, "PATCH", dbs+"/mine", `{"spec":{"replicas":3},"status":{"phase":"x"}}`, mergeType)
	if in(patched, "metadata", "generation") != 2.0 || in(patched, "status") != nil {
		t.Errorf("a patch of the spec made %v", patched)
	}
	patched = got(t, h, 200, "PATCH", dbs+"/mine/status", `{"spec":{"replicas":9},"status":{"phase":"Up","replicas":3,"selector":"db=mine"}}`, mergeType)
	if in(patched, "metadata", "generation") != 2.0 || in(patched, "status", "phase") != "Up" || in(patched, "spec", "replicas") != 3.0 {
		t.Errorf("a patch of the status made %v", patched)
	}
	patched = got(t, h, 200, "PATCH", dbs+"/mine", `[{"op":"add","path":"/spec/parameters","value":{"a":"b"}}]`, "Content-Type: application/json-patch+json")
	if in(patched, "spec", "parameters", "a") != "b" {
		t.Errorf("a JSON patch made %v", patched)
	}
	if w := ask(t, h, "PATCH", dbs+"/mine", `{}`, "Content-Type: application/strategic-merge-patch+json"); w.Code != 415 {
		t.Errorf("a strategic merge patch is answered %d %s", w.Code, w.Body)
	}
	stale := strings.Replace(mine, `"name":"mine"`, `"name":"mine","resourceVersion":"2"`, 1)
	if w := ask(t, h, "PUT", dbs+"/mine", stale, jsonType); w.Code != 409 {
		t.Errorf("an update of an old version is answered %d %s", w.Code, w.Body)
	}
	scale := got(t, h, 200, "GET", dbs+"/mine/scale", "")
	if in(scale, "spec", "replicas") != 3.0 || in(scale, "status", "replicas") != 3.0 || in(scale, "status", "selector") != "db=mine" || in(scale, "kind") != "Scale" {
		t.Errorf("the scale is %v", scale)
	}
	got(t, h, 200, "PATCH", dbs+"/mine/scale", `{"spec":{"replicas":4}}`, mergeType)
	if o := got(t, h, 200, "GET", dbs+"/mine", ""); in(o, "spec", "replicas") != 4.0 || in(o, "spec", "parameters", "a") != "b" {
		t.Errorf("scaled to 4 it is %v", o)
	}
	if w := ask(t, h, "PATCH", dbs+"/mine/scale", `{"spec":{"replicas":11}}`, mergeType); w.Code != 422 {
		t.Errorf("more replicas than the schema allows: %d %s", w.Code, w.Body)
	}
	dry := got(t, h, 201, "POST", dbs+"?dryRun=All", strings.Replace(mine, "mine", "dry", 1), jsonType)
	if in(dry, "spec", "replicas") != 1.0 || ask(t, h, "GET", dbs+"/dry", "").Code != 404 {
		t.Errorf("a dry run made %v", dry)
	}
	got(t, h, 201, "POST", dbs, `{"metadata":{"generateName":"gen-"},"spec":{"engine":"mysql"}}`, jsonType)
	if l := got(t, h, 200, "GET", dbs+"?fieldSelector=spec.engine%3Dmysql", ""); len(l["items"].([]any)) != 1 || l["kind"] != "DatabaseList" {
		t.Errorf("those with mysql are %v", l)
	}
	if w := ask(t, h, "GET", dbs+"?fieldSelector=spec.version%3D1", ""); w.Code != 400 {
		t.Errorf("a field that cannot be selected: %d %s", w.Code, w.Body)
	}
	page := got(t, h, 200, "GET", dbs+"?limit=1", "")
	rest := got(t, h, 200, "GET", dbs+"?limit=1&continue="+in(page, "metadata", "continue").(string), "")
	if len(page["items"].([]any)) != 1 || len(rest["items"].([]any)) != 1 {
		t.Errorf("in pages: %v, %v", page, rest)
	}
	got(t, h, 200, "DELETE", dbs+"/mine", `{"kind":"DeleteOptions","apiVersion":"db.example.org/v1","propagationPolicy":"Background"}`, jsonType)
	got(t, h, 200, "DELETE", dbs, "")
	if l := got(t, h, 200, "GET", "/apis/db.example.org/v1/databases", ""); len(l["items"].([]any)) != 0 {
		t.Errorf("after all are deleted there are %v", l)
	}
}

// TestCustomVersions: an object is the same in all versions of its kind, but for
// what each of them fills in and knows.
func TestCustomVersions(t *testing.T) {
	h, _, _ := customRig(t)
	old := "/apis/db.example.org/v1beta1/namespaces/d/databases"
	w := ask(t, h, "POST", old, `{"metadata":{"name":"mine"},"spec":{"engine":"postgres","strange":1}}`, jsonType)
	if w.Code != 201 || !strings.Contains(w.Header().Get("Warning"), "db.example.org/v1beta1 Database is deprecated") {
		t.Fatalf("got %d %s, warning %q", w.Code, w.Body, w.Header().Get("Warning"))
	}
	o := got(t, h, 200, "GET", old+"/mine", "")
	if in(o, "apiVersion") != "db.example.org/v1beta1" || in(o, "spec", "strange") != 1.0 || in(o, "spec", "replicas") != nil {
		t.Errorf("in the old version it is %v", o)
	}
	o = got(t, h, 200, "GET", dbs+"/mine", "")
	if in(o, "apiVersion") != "db.example.org/v1" || in(o, "spec", "strange") != nil || in(o, "spec", "replicas") != 1.0 {
		t.Errorf("in the new version it is %v", o)
	}
	l := got(t, h, 200, "GET", dbs, "")
	if first := l["items"].([]any)[0].(map[string]any); in(first, "apiVersion") != "db.example.org/v1" || in(first, "spec", "version") != "16" {
		t.Errorf("in a list it is %v", first)
	}
	got(t, h, 200, "PATCH", dbs+"/mine", `{"spec":{"replicas":2}}`, mergeType)
	if o = got(t, h, 200, "GET", old+"/mine", ""); in(o, "spec", "replicas") != 2.0 || in(o, "metadata", "generation") != 2.0 {
		t.Errorf("after a patch in the new version it is %v", o)
	}
}

func TestCustomFieldsThatAreNotKnown(t *testing.T) {
	h, _, _ := customRig(t)
	odd := `{"metadata":{"name":"odd","labls":{}},"spec":{"engine":"mysql","replica":3,"podTemplate":{"any":"thing"},"users":[{"name":"a","nick":"b"}],"engine":"mysql"}}`
	w := ask(t, h, "POST", dbs+"?fieldValidation=Strict", odd, jsonType)
	for _, f := range []string{`unknown field "metadata.labls"`, `unknown field "spec.replica"`, `unknown field "spec.users[0].nick"`, `duplicate field "spec.engine"`} {
		if w.Code != 400 || !strings.Contains(status(t, w).Message, f) {
			t.Errorf("got %d %s, want %s", w.Code, w.Body, f)
		}
	}
	w = ask(t, h, "POST", dbs, odd, jsonType)
	if warned := strings.Join(w.Header()["Warning"], "\n"); w.Code != 201 || !strings.Contains(warned, `unknown field \"spec.replica\"`) {
		t.Errorf("got %d, warnings %s", w.Code, warned)
	}
	o := got(t, h, 200, "GET", dbs+"/odd", "")
	if in(o, "spec", "replica") != nil || in(o, "spec", "podTemplate", "any") != "thing" {
		t.Errorf("stored is %v", o)
	}
	w = ask(t, h, "PATCH", dbs+"/odd?fieldValidation=Strict", `{"spec":{"nonsense":1}}`, mergeType)
	if w.Code != 400 || !strings.Contains(w.Body.String(), `unknown field \"spec.nonsense\"`) {
		t.Errorf("a strict patch: %d %s", w.Code, w.Body)
	}
	w = ask(t, h, "PATCH", dbs+"/odd?fieldValidation=Ignore", `{"spec":{"nonsense":1}}`, mergeType)
	if w.Code != 200 || len(w.Header()["Warning"]) > 0 || strings.Contains(w.Body.String(), "nonsense") {
		t.Errorf("a patch that asks for no validation: %d %s %v", w.Code, w.Body, w.Header())
	}
}

func TestCustomApply(t *testing.T) {
	h, _, _ := customRig(t)
	conf := func(users string) string {
		return "apiVersion: db.example.org/v1\nkind: Database\nspec: {engine: postgres, users: [" + users + "]}"
	}
	type db struct {
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			Replicas int
			Users    []struct {
				Name  string
				Admin bool
			}
		}
	}
	applied[db](t, h, dbs+"/mine?fieldManager=one", conf("{name: a}"), 201)
	d := applied[db](t, h, dbs+"/mine?fieldManager=two", conf("{name: b, admin: true}"), 200)
	if len(d.Spec.Users) != 2 || d.Spec.Users[1].Name != "b" || !d.Spec.Users[1].Admin {
		t.Errorf("two managers made %+v", d.Spec)
	}
	if o := owners(d.GetObjectMeta()); o["two Apply"] != `{"f:spec":{"f:engine":{},"f:users":{"k:{\"name\":\"b\"}":{".":{},"f:admin":{},"f:name":{}}}}}` {
		t.Errorf("managed are %v", o)
	}
	w := ask(t, h, "PATCH", dbs+"/mine?fieldManager=two", strings.Replace(conf(""), "postgres", "mysql", 1), applyType)
	if w.Code != 409 || !strings.Contains(w.Body.String(), `conflict with \"one\": .spec.engine`) {
		t.Errorf("a conflict: %d %s", w.Code, w.Body)
	}
	w = ask(t, h, "PATCH", dbs+"/mine?fieldManager=two", conf("{name: c, nick: d}"), applyType)
	if w.Code != 400 || !strings.Contains(w.Body.String(), "field not declared in schema") {
		t.Errorf("an unknown field: %d %s", w.Code, w.Body)
	}
	// In another version of the kind a manager has what it had.
	old := "/apis/db.example.org/v1beta1/namespaces/d/databases/mine"
	applied[db](t, h, old+"?fieldManager=three", "apiVersion: db.example.org/v1beta1\nkind: Database\nspec: {replicas: 5}", 200)
	w = ask(t, h, "PATCH", dbs+"/mine?fieldManager=four", "apiVersion: db.example.org/v1\nkind: Database\nspec: {replicas: 6}", applyType)
	if w.Code != 409 || !strings.Contains(w.Body.String(), `conflict with \"three\"`) {
		t.Errorf("against what was applied in another version: %d %s", w.Code, w.Body)
	}
	got(t, h, 200, "PATCH", dbs+"/mine/scale?fieldManager=hand", `{"spec":{"replicas":7}}`, mergeType)
	d = applied[db](t, h, dbs+"/mine?fieldManager=one", conf("{name: a}"), 200)
	if d.Spec.Replicas != 7 {
		t.Errorf("an apply that does not name the replicas made them %d", d.Spec.Replicas)
	}
	if o := owners(d.GetObjectMeta()); o["hand Update "+fieldmanager.Scale] == "" {
		t.Errorf("managed are %v", o)
	}
}

func TestCustomTables(t *testing.T) {
	h, _, _ := customRig(t)
	got(t, h, 201, "POST", dbs, mine, jsonType)
	got(t, h, 200, "PATCH", dbs+"/mine/status", `{"status":{"phase":"Up","conditions":[{"type":"Odd","status":"False"},{"type":"Ready","status":"True"}]}}`, mergeType)
	var table metav1.Table
	w := ask(t, h, "GET", dbs, "", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io")
	if err := json.Unmarshal(w.Body.Bytes(), &table); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range table.ColumnDefinitions {
		names = append(names, c.Name)
	}
	if !slices.Equal(names, []string{"Name", "Engine", "Replicas", "Phase", "Ready", "Size", "Age"}) || table.ColumnDefinitions[5].Priority != 1 {
		t.Errorf("the columns are %+v", table.ColumnDefinitions)
	}
	cells := table.Rows[0].Cells
	if want := []any{"mine", "postgres", 1.0, "Up", "True", "1Gi"}; !slices.Equal(cells[:6], want) {
		t.Errorf("the cells are %v, want %v", cells, want)
	}
	p := got(t, h, 200, "GET", dbs+"/mine", "", "Accept: application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")
	if p["kind"] != "PartialObjectMetadata" || in(p, "metadata", "name") != "mine" || p["spec"] != nil {
		t.Errorf("its metadata are %v", p)
	}
	if w := ask(t, h, "GET", dbs+"/mine", "", "Accept: application/yaml"); w.Code != 200 || !strings.Contains(w.Body.String(), "engine: postgres") {
		t.Errorf("in YAML: %d %s", w.Code, w.Body)
	}
	if w := ask(t, h, "GET", dbs, "", "Accept: application/yaml"); w.Code != 200 || !strings.Contains(w.Body.String(), "kind: DatabaseList") {
		t.Errorf("all in YAML: %d %s", w.Code, w.Body)
	}
	if w := ask(t, h, "GET", dbs+"/mine", "", "Accept: application/vnd.kubernetes.protobuf"); w.Code != 406 {
		t.Errorf("in protobuf: %d %s", w.Code, w.Body)
	}
}

// TestSurfaceFollowsDefinitions: what there is is shown at once, in all documents,
// and so is that it has gone.
func TestSurfaceFollowsDefinitions(t *testing.T) {
	kinds := &custom.Kinds{}
	o := memory.New(memory.Config{Admit: admission.Admit, Define: kinds.Define})
	h := server(t, Config{Objects: o, Kinds: kinds})
	const aggregated = "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	tag := func() string { return ask(t, h, "GET", "/apis", "", aggregated).Header().Get("ETag") }
	before := tag()
	crd := databases(t)
	create(t, o, crd)
	if w := ask(t, h, "GET", dbs, ""); w.Code != 404 || tag() != before {
		t.Errorf("before it is established: %d", w.Code)
	}
	establish(t, o, crd)
	if tag() == before {
		t.Error("the tag of discovery is the same")
	}
	for path, words := range map[string][]string{
		"/apis":                              {`"name":"db.example.org"`, `"preferredVersion":{"groupVersion":"db.example.org/v1"`},
		"/apis/db.example.org":               {`"groupVersion":"db.example.org/v1beta1"`},
		"/apis/db.example.org/v1":            {`"databases/scale"`, `"shortNames":["dbs"]`, `"categories":["all","storage"]`, `"singularName":"database"`},
		"/openapi/v3":                        {"apis/db.example.org/v1?hash="},
		"/openapi/v3/apis/db.example.org/v1": {`"org.example.db.v1.Database"`, `"maximum":10`, `"x-kubernetes-list-map-keys":["name"]`, `"/apis/db.example.org/v1/namespaces/{namespace}/databases/{name}/scale"`, "Engine is what runs."},
		"/openapi/v2":                        {`"org.example.db.v1.Database"`, `"org.example.db.v1.DatabaseList"`, "Replicas is the number of instances."},
	} {
		w := ask(t, h, "GET", path, "")
		for _, word := range words {
			if w.Code != 200 || !strings.Contains(w.Body.String(), word) {
				t.Errorf("%s: %d, %s is missing", path, w.Code, word)
			}
		}
	}
	if w := ask(t, h, "PUT", dbs, "{}"); w.Code != 405 || !slices.Contains(w.Header()["Allow"], "POST") {
		t.Errorf("a method that is not allowed: %d %v", w.Code, w.Header())
	}
	_, err := api.Mutate(t.Context(), api.Objects(o), api.CustomResourceDefinitions, "", crd.Name, api.UpdateOptions{}, func(c *apiextensionsv1.CustomResourceDefinition) (bool, error) {
		c.Spec.Versions[1].Served = false
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if w := ask(t, h, "GET", "/apis/db.example.org/v1beta1/databases", ""); w.Code != 404 {
		t.Errorf("a version that is not served any more: %d", w.Code)
	}
	if _, err := o.Delete(t.Context(), api.CustomResourceDefinitions, "", crd.Name, api.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if w := ask(t, h, "POST", dbs, mine, jsonType); w.Code != 405 {
		t.Errorf("a creation while the definition ends: %d %s", w.Code, w.Body)
	}
	_, err = api.Mutate(t.Context(), api.Objects(o), api.CustomResourceDefinitions, "", crd.Name, api.UpdateOptions{}, func(c *apiextensionsv1.CustomResourceDefinition) (bool, error) {
		c.Finalizers = nil
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if w := ask(t, h, "GET", dbs, ""); w.Code != 404 || tag() != before {
		t.Errorf("after its end: %d", w.Code)
	}
}

// TestCustomWatch: a watch goes on through a change of the definition, and ends
// with it.
func TestCustomWatch(t *testing.T) {
	_, o, kinds := customRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r := kinds.Set().Served[0]
	w, err := o.Watch(ctx, r, api.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if e := <-w.Events(); e.Type != api.Bookmark || !e.InitialEventsEnd || e.Object.GetObjectKind().GroupVersionKind().Kind != "Database" {
		t.Fatalf("it begins with %+v", e)
	}
	added := func(name string) {
		t.Helper()
		obj := api.NewCustom(kinds.Set().Served[0])
		obj.Namespace, obj.Name, obj.Content = "d", name, map[string]any{"spec": map[string]any{"engine": "mysql"}}
		create(t, o, obj)
		if e := <-w.Events(); e.Type != api.Added || e.Object.GetName() != name || api.ResourceOf(e.Object) != r {
			t.Errorf("got %+v", e)
		}
	}
	added("a")
	_, err = api.Mutate(ctx, api.Objects(o), api.CustomResourceDefinitions, "", "databases.db.example.org", api.UpdateOptions{}, func(c *apiextensionsv1.CustomResourceDefinition) (bool, error) {
		c.Spec.Versions[0].Schema.OpenAPIV3Schema.Description = "another one"
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	added("b")
	if _, err := o.Delete(ctx, api.CustomResourceDefinitions, "", "databases.db.example.org", api.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = api.Mutate(ctx, api.Objects(o), api.CustomResourceDefinitions, "", "databases.db.example.org", api.UpdateOptions{}, func(c *apiextensionsv1.CustomResourceDefinition) (bool, error) {
		c.Finalizers = nil
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for e := range w.Events() {
		t.Errorf("after the end of its kind: %+v", e)
	}
	if w.Err() == nil || ctx.Err() != nil {
		t.Errorf("it ends with %v", w.Err())
	}
}

// TestDefinitionsAreApplied: a schema is merged field by field, with values of any
// kind in it.
func TestDefinitionsAreApplied(t *testing.T) {
	kinds := &custom.Kinds{}
	o := memory.New(memory.Config{Admit: admission.Admit, Define: kinds.Define})
	h := server(t, Config{Objects: o, Kinds: kinds})
	b, err := os.ReadFile("../custom/testdata/databases.yaml")
	if err != nil {
		t.Fatal(err)
	}
	const url = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/databases.db.example.org?fieldManager="
	applied[metav1.PartialObjectMetadata](t, h, url+"one", string(b), 201)
	crd := applied[apiextensionsv1.CustomResourceDefinition](t, h, url+"one", strings.Replace(string(b), "[postgres, mysql]", "[postgres, sqlite]", 1), 200)
	engine := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"].Properties["engine"]
	if len(engine.Enum) != 2 || string(engine.Enum[1].Raw) != `"sqlite"` {
		t.Errorf("the engines are %s", engine.Enum)
	}
	if by := owners(&crd); !strings.Contains(by["one Apply"], `"f:versions":{}`) {
		t.Errorf("managed are %v", by)
	}
	w := ask(t, h, "PATCH", url+"two", strings.Replace(string(b), "[postgres, mysql]", "[oracle]", 1), applyType)
	if w.Code != 409 {
		t.Errorf("another manager with other engines: %d %s", w.Code, w.Body)
	}
}

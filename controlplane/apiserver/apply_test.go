package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/api/remote"
	"github.com/podsnap/podsnap/controlplane/admission"
)

// rig is a server with an empty namespace d.
func rig(t *testing.T) (*Server, *memory.Objects) {
	t.Helper()
	o := memory.New(memory.Config{Admit: admission.Admit, Namespaces: true})
	create(t, o, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "d"}})
	return server(t, Config{Objects: o}), o
}

const (
	deps      = "/apis/apps/v1/namespaces/d/deployments"
	applyType = "Content-Type: application/apply-patch+yaml"
	mergeType = "Content-Type: application/merge-patch+json"
)

// deployment is a configuration of one with more of its spec.
func deployment(more string) string {
	return `
apiVersion: apps/v1
kind: Deployment
metadata: {name: dep}
spec:
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec: {containers: [{name: c, image: "i:1"}]}
` + more
}

func applied[T any](t *testing.T, h http.Handler, path, body string, code int) T {
	t.Helper()
	w := ask(t, h, "PATCH", path, body, applyType)
	if w.Code != code {
		t.Fatalf("apply to %s: got %d %s, want %d", path, w.Code, w.Body, code)
	}
	var out T
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// owners are who manages what, without times.
func owners(obj metav1.Object) map[string]string {
	out := map[string]string{}
	for _, f := range obj.GetManagedFields() {
		key := f.Manager + " " + string(f.Operation)
		if f.Subresource != "" {
			key += " " + f.Subresource
		}
		out[key] = string(f.FieldsV1.GetRawBytes())
	}
	return out
}

func TestApply(t *testing.T) {
	h, o := rig(t)
	url := deps + "/dep?fieldManager=one"
	dep := applied[appsv1.Deployment](t, h, url, deployment("  replicas: 2\n"), 201)
	if *dep.Spec.Replicas != 2 || dep.Spec.Strategy.Type != "RollingUpdate" {
		t.Errorf("the object is %+v", dep.Spec)
	}
	want := map[string]string{"one Apply": `{"f:spec":{"f:replicas":{},"f:selector":{},"f:template":{"f:metadata":{"f:labels":{"f:a":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:name":{}}}}}}}`}
	if d := cmp.Diff(want, owners(&dep)); d != "" {
		t.Errorf("managed fields (-want +got):\n%s", d)
	}

	// Again the same: nothing is written.
	if again := applied[appsv1.Deployment](t, h, url, deployment("  replicas: 2\n"), 200); again.ResourceVersion != dep.ResourceVersion {
		t.Errorf("the same apply has made version %s of %s", again.ResourceVersion, dep.ResourceVersion)
	}

	// Another manager conflicts, unless it agrees or insists.
	w := ask(t, h, "PATCH", deps+"/dep?fieldManager=two", deployment("  replicas: 3\n"), applyType)
	st := status(t, w)
	if w.Code != 409 || st.Reason != "Conflict" || len(st.Details.Causes) != 1 ||
		st.Details.Causes[0] != (metav1.StatusCause{Type: "FieldManagerConflict", Message: `conflict with "one"`, Field: ".spec.replicas"}) ||
		!strings.Contains(st.Message, `Apply failed with 1 conflict: conflict with "one": .spec.replicas`) {
		t.Errorf("a conflict is %d %+v", w.Code, st)
	}
	dep = applied[appsv1.Deployment](t, h, deps+"/dep?fieldManager=two&force=true", deployment("  replicas: 3\n"), 200)
	if *dep.Spec.Replicas != 3 || strings.Contains(owners(&dep)["one Apply"], "replicas") {
		t.Errorf("forced: %d replicas, managed by %v", *dep.Spec.Replicas, owners(&dep))
	}

	// What a manager does not want any more goes, others' stays.
	dep = applied[appsv1.Deployment](t, h, deps+"/dep?fieldManager=two", deployment("  minReadySeconds: 4\n"), 200)
	if *dep.Spec.Replicas != 1 || dep.Spec.MinReadySeconds != 4 {
		t.Errorf("left away: %d replicas (want the default), minReadySeconds %d", *dep.Spec.Replicas, dep.Spec.MinReadySeconds)
	}
	dep = applied[appsv1.Deployment](t, h, deps+"/dep?fieldManager=two", "{apiVersion: apps/v1, kind: Deployment}", 200)
	if dep.Spec.MinReadySeconds != 0 || len(dep.Spec.Template.Spec.Containers) != 1 {
		t.Errorf("everything left away: %+v", dep.Spec)
	}
	if _, ok := owners(&dep)["two Apply"]; ok {
		t.Errorf("who wants nothing manages %v", owners(&dep))
	}

	// An apply to a version that is not the newest is refused.
	w = ask(t, h, "PATCH", deps+"/dep?fieldManager=one", strings.Replace(deployment(""), "name: dep", `name: dep, resourceVersion: "1"`, 1), applyType)
	if w.Code != 409 {
		t.Errorf("an old version: got %d %s", w.Code, w.Body)
	}
	got, err := o.Get(t.Context(), api.Deployments, "d", "dep")
	if err != nil || got.GetResourceVersion() != dep.ResourceVersion {
		t.Errorf("what was refused has changed %v to %v", dep.ResourceVersion, got)
	}
}

func TestApplyMergesLists(t *testing.T) {
	h, _ := rig(t)
	const svc = "/api/v1/namespaces/d/services/s"
	config := func(ports string) string {
		return "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {selector: {a: b}, ports: [" + ports + "]}}"
	}
	// One port by two protocols: the key is both, and TCP where nothing is said.
	applied[corev1.Service](t, h, svc+"?fieldManager=one", config("{name: dns-tcp, port: 53}"), 201)
	got := applied[corev1.Service](t, h, svc+"?fieldManager=two", `{apiVersion: v1, kind: Service, spec: {ports: [{name: dns, port: 53, protocol: UDP}]}}`, 200)
	if len(got.Spec.Ports) != 2 {
		t.Errorf("two managers' ports are %+v", got.Spec.Ports)
	}
	got = applied[corev1.Service](t, h, svc+"?fieldManager=one", config("{name: dns-tcp, port: 54}"), 200)
	if d := cmp.Diff([]int32{53, 54}, []int32{got.Spec.Ports[0].Port, got.Spec.Ports[1].Port}); d != "" {
		t.Errorf("the first manager's port is not replaced:\n%s", d)
	}
	// A selector is one value.
	if w := ask(t, h, "PATCH", svc+"?fieldManager=two", `{apiVersion: v1, kind: Service, spec: {selector: {c: d}}}`, applyType); w.Code != 409 {
		t.Errorf("another's selector: got %d %s", w.Code, w.Body)
	}
}

func TestApplyOfWhatIsNone(t *testing.T) {
	h, o := rig(t)
	for _, c := range []struct{ name, body, says string }{
		{"no YAML", "a: b: c", "error decoding YAML"},
		{"twice", "{apiVersion: v1, kind: ConfigMap, data: {a: b, a: c}}", `key \"a\" already set in map`},
		{"a list", "[]", "not an object"},
		{"nothing", "", "not an object"},
		{"no kind", "{apiVersion: v1}", "kind must be set"},
		{"no apiVersion", "{kind: ConfigMap}", "apiVersion must be set"},
		{"another kind", "{apiVersion: v1, kind: Secret}", "Secret"},
		{"another name", "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}", "does not match"},
		{"another namespace", "{apiVersion: v1, kind: ConfigMap, metadata: {namespace: x}}", "does not match"},
		{"a name that is none", "{apiVersion: v1, kind: ConfigMap, metadata: {name: 7}}", "must be a string"},
		{"metadata that is none", "{apiVersion: v1, kind: ConfigMap, metadata: 7}", "must be an object"},
		{"managed fields", "{apiVersion: v1, kind: ConfigMap, metadata: {managedFields: [{manager: x}]}}", "managedFields must be nil"},
		{"an unknown field", "{apiVersion: v1, kind: ConfigMap, dat: {}}", ".dat: field not declared in schema"},
		{"a wrong type", "{apiVersion: v1, kind: ConfigMap, data: {a: 1}}", "expected string"},
		{"an owner that is none", "{apiVersion: v1, kind: ConfigMap, metadata: {creationTimestamp: x}}", "cannot be handled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := ask(t, h, "PATCH", cms+"/cm?fieldManager=m", c.body, applyType)
			st := status(t, w)
			if w.Code != 400 || !strings.Contains(strings.ReplaceAll(st.Message, `"`, `\"`), c.says) {
				t.Errorf("got %d %q, want 400 with %q", w.Code, st.Message, c.says)
			}
		})
	}
	if l, err := o.List(t.Context(), api.ConfigMaps, api.ListOptions{}); err != nil || len(l.Items) > 0 {
		t.Errorf("stored are %v, %v", l.Items, err)
	}
	if w := ask(t, h, "PATCH", "/api/v1/namespaces/none/configmaps/cm?fieldManager=m", "{apiVersion: v1, kind: ConfigMap}", applyType); w.Code != 404 || !strings.Contains(w.Body.String(), `namespaces \"none\" not found`) {
		t.Errorf("apply into a namespace that is not there: got %d %s", w.Code, w.Body)
	}
}

func TestEveryWriterIsTracked(t *testing.T) {
	h, o := rig(t)
	agent := "User-Agent: curl/8.1 (linux)"
	read := func(name string) metav1.Object {
		t.Helper()
		obj, err := o.Get(t.Context(), api.Deployments, "d", name)
		if err != nil {
			t.Fatal(err)
		}
		return obj
	}
	must := func(code int, method, path, body string, headers ...string) {
		t.Helper()
		if w := ask(t, h, method, path, body, headers...); w.Code != code {
			t.Fatalf("%s %s: got %d %s, want %d", method, path, w.Code, w.Body, code)
		}
	}
	must(201, "POST", deps, deployment(""), "Content-Type: application/yaml", agent)
	if got := owners(read("dep"))["curl Update"]; !strings.Contains(got, `"f:image"`) || !strings.Contains(got, `"f:imagePullPolicy"`) || strings.Contains(got, "f:status") {
		t.Errorf("who creates manages what it said, and the defaults: %s", got)
	}
	must(200, "PATCH", deps+"/dep?fieldManager=patcher", `{"metadata":{"annotations":{"x":"y"}}}`, mergeType)
	must(200, "PATCH", deps+"/dep/scale?fieldManager=scaler", `{"spec":{"replicas":5}}`, mergeType)
	must(200, "PATCH", deps+"/dep/status?fieldManager=teller", `{"status":{"replicas":5}}`, mergeType)
	got := owners(read("dep"))
	if strings.Contains(got["curl Update"], "f:replicas") {
		t.Errorf("replicas have two managers: %v", got)
	}
	delete(got, "curl Update")
	if d := cmp.Diff(map[string]string{
		"patcher Update":       `{"f:metadata":{"f:annotations":{".":{},"f:x":{}}}}`,
		"scaler Update scale":  `{"f:spec":{"f:replicas":{}}}`,
		"teller Update status": `{"f:status":{"f:replicas":{}}}`,
	}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	before := read("dep")
	must(200, "PATCH", deps+"/dep?fieldManager=other", `{"metadata":{"annotations":{"x":"y"}}}`, mergeType)
	if after := read("dep"); after.GetResourceVersion() != before.GetResourceVersion() {
		t.Errorf("who changes nothing has written: %v", owners(after))
	}
	// A reset of the fields, as kubectl does when it moves them.
	must(200, "PATCH", deps+"/dep?fieldManager=other", `[{"op":"replace","path":"/metadata/managedFields","value":[{}]}]`, "Content-Type: application/json-patch+json")
	if got := owners(read("dep")); len(got) > 0 {
		t.Errorf("after a reset there are %v", got)
	}

	// The platform itself is not tracked, nor what it has made until somebody applies.
	must(201, "POST", deps, strings.Replace(deployment(""), "name: dep", "name: own", 1), "Content-Type: application/yaml", "User-Agent: "+remote.UserAgent)
	must(200, "PATCH", deps+"/own?fieldManager=patcher", `{"metadata":{"annotations":{"x":"y"}}}`, mergeType)
	if got := owners(read("own")); len(got) > 0 {
		t.Errorf("the platform's own is managed by %v", got)
	}
	applied[appsv1.Deployment](t, h, deps+"/own?fieldManager=one", "{apiVersion: apps/v1, kind: Deployment, metadata: {labels: {c: d}}}", 200)
	if got := owners(read("own")); got["one Apply"] != `{"f:metadata":{"f:labels":{"f:c":{}}}}` || !strings.Contains(got["before-first-apply Update"], "f:image") {
		t.Errorf("after the first apply it is managed by %v", got)
	}
}

func TestApplySubresources(t *testing.T) {
	h, o := rig(t)
	applied[appsv1.Deployment](t, h, deps+"/dep?fieldManager=one", deployment("  replicas: 2\n"), 201)
	scale := `{apiVersion: autoscaling/v1, kind: Scale, metadata: {name: dep}, spec: {replicas: 4}}`
	w := ask(t, h, "PATCH", deps+"/dep/scale?fieldManager=two", scale, applyType)
	if w.Code != 409 || !strings.Contains(w.Body.String(), ".spec.replicas") {
		t.Errorf("scaled what another manages: got %d %s", w.Code, w.Body)
	}
	if w = ask(t, h, "PATCH", deps+"/dep/scale?fieldManager=two&force=true", scale, applyType); w.Code != 200 || !strings.Contains(w.Body.String(), `"spec":{"replicas":4}`) {
		t.Errorf("scaled by force: got %d %s", w.Code, w.Body)
	}
	for _, bad := range []string{strings.Replace(scale, "4", "-4", 1), strings.Replace(scale, "spec", "spek", 1), strings.Replace(scale, "Scale", "Pod", 1), "- a"} {
		if w = ask(t, h, "PATCH", deps+"/dep/scale?fieldManager=two&force=true", bad, applyType); w.Code != 400 && w.Code != 422 {
			t.Errorf("%s: got %d %s", bad, w.Code, w.Body)
		}
	}
	dep := applied[appsv1.Deployment](t, h, deps+"/dep/status?fieldManager=three", "{apiVersion: apps/v1, kind: Deployment, status: {replicas: 4}, spec: {replicas: 9}}", 200)
	if dep.Status.Replicas != 4 || *dep.Spec.Replicas != 4 {
		t.Errorf("the status applied: %d, replicas %d", dep.Status.Replicas, *dep.Spec.Replicas)
	}
	got := owners(&dep)
	delete(got, "one Apply")
	if d := cmp.Diff(map[string]string{"two Apply scale": `{"f:spec":{"f:replicas":{}}}`, "three Apply status": `{"f:status":{"f:replicas":{}}}`}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if w = ask(t, h, "PATCH", deps+"/none/status?fieldManager=three", "{apiVersion: apps/v1, kind: Deployment, status: {replicas: 4}}", applyType); w.Code != 404 {
		t.Errorf("the status of what is not there: got %d %s", w.Code, w.Body)
	}
	_ = o
}

// TestDryRunStoresNothing does every write dry, and then looks.
func TestDryRunStoresNothing(t *testing.T) {
	h, o := rig(t)
	applied[appsv1.Deployment](t, h, deps+"/dep?fieldManager=one", deployment("  replicas: 2\n"), 201)
	create(t, o, configMap("cm", nil))
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	create(t, o, pod)
	before := everything(t, o)
	for _, c := range []struct {
		method, path, body, header string
		code                       int
		has                        string
	}{
		{"POST", cms, `{"metadata":{"generateName":"x-"}}`, jsonType, 201, `"name":"x-`},
		{"POST", cms, `{"metadata":{"name":"cm"}}`, jsonType, 409, "AlreadyExists"},
		{"POST", "/api/v1/namespaces/none/configmaps", `{"metadata":{"name":"cm"}}`, jsonType, 404, "none"},
		{"POST", cms, `{"metadata":{"name":"_"}}`, jsonType, 422, "Invalid"},
		{"PUT", cms + "/cm", `{"data":{"a":"b"}}`, jsonType, 200, `"a":"b"`},
		{"PATCH", cms + "/cm", `{"data":{"a":"b"}}`, mergeType, 200, `"a":"b"`},
		{"PATCH", cms + "/cm", `[{"op":"test","path":"/kind","value":"x"}]`, "Content-Type: application/json-patch+json", 422, "Invalid"},
		{"PATCH", cms + "/new?fieldManager=m", `{apiVersion: v1, kind: ConfigMap, data: {a: b}}`, applyType, 201, `"a":"b"`},
		{"PATCH", deps + "/dep?fieldManager=m&force=true", deployment("  replicas: 3\n"), applyType, 200, `"replicas":3`},
		{"PATCH", deps + "/dep/scale", `{"spec":{"replicas":7}}`, mergeType, 200, `"replicas":7`},
		{"PUT", deps + "/dep/scale", `{"spec":{"replicas":7}}`, jsonType, 200, `"replicas":7`},
		{"PATCH", deps + "/dep/scale?fieldManager=m&force=true", `{apiVersion: autoscaling/v1, kind: Scale, spec: {replicas: 8}}`, applyType, 200, `"replicas":8`},
		{"PATCH", deps + "/dep/status", `{"status":{"replicas":7}}`, mergeType, 200, `"replicas":7`},
		{"DELETE", cms + "/cm", "", "", 200, `"name":"cm"`},
		{"DELETE", cms, "", "", 200, `"name":"cm"`},
		{"DELETE", cms + "/none", "", "", 404, "NotFound"},
		{"POST", "/api/v1/namespaces/d/pods/p/binding", `{"target":{"name":"n"}}`, jsonType, 201, "Success"},
		{"POST", "/api/v1/namespaces/d/pods/p/eviction", `{}`, jsonType, 201, "Success"},
	} {
		path := c.path + "?dryRun=All"
		if strings.Contains(c.path, "?") {
			path = c.path + "&dryRun=All"
		}
		if w := ask(t, h, c.method, path, c.body, c.header); w.Code != c.code || !strings.Contains(w.Body.String(), c.has) {
			t.Errorf("%s %s: got %d %s, want %d with %s", c.method, path, w.Code, w.Body, c.code, c.has)
		}
	}
	if w := ask(t, h, "DELETE", cms+"/cm", `{"dryRun":["All"]}`, jsonType); w.Code != 200 {
		t.Errorf("dry by the body: got %d %s", w.Code, w.Body)
	}
	if d := cmp.Diff(before, everything(t, o)); d != "" {
		t.Errorf("dry runs have changed:\n%s", d)
	}
}

// everything is what is stored, as JSON by kind and name.
func everything(t *testing.T, o api.Objects) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, r := range api.Resources {
		l, err := o.List(t.Context(), r, api.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, obj := range l.Items {
			b, err := json.Marshal(obj)
			if err != nil {
				t.Fatal(err)
			}
			out[fmt.Sprint(r, " ", obj.GetNamespace(), "/", obj.GetName())] = string(b)
		}
	}
	return out
}

// BenchmarkPatchStatus says what tracking costs: of the platform's own write, and
// of anybody's to an object that is tracked.
func BenchmarkPatchStatus(b *testing.B) {
	for name, agent := range map[string]string{"own": remote.UserAgent, "tracked": "curl/8"} {
		b.Run(name, func(b *testing.B) {
			o := memory.New(memory.Config{Admit: admission.Admit})
			h, err := New(Config{Objects: o})
			if err != nil {
				b.Fatal(err)
			}
			do := func(method, path, body, ct string) {
				r := httptest.NewRequestWithContext(b.Context(), method, path, strings.NewReader(body))
				r.Header.Set("Content-Type", ct)
				r.Header.Set("User-Agent", agent)
				w := httptest.NewRecorder()
				if h.ServeHTTP(w, r); w.Code > 299 {
					b.Fatal(w.Code, w.Body)
				}
			}
			do("POST", "/api/v1/namespaces/d/pods", `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`, "application/json")
			n := 0
			for b.Loop() {
				n++
				do("PATCH", "/api/v1/namespaces/d/pods/p/status", fmt.Sprintf(`{"status":{"message":"%d"}}`, n), "application/merge-patch+json")
			}
		})
	}
}

// taken is a store in which the first names that are made up are there already.
type taken struct {
	api.Objects
	left int
}

func (o *taken) Create(ctx context.Context, obj api.Object) (api.Object, error) {
	if o.left--; o.left >= 0 {
		return nil, apierrors.NewAlreadyExists(api.ConfigMaps.GR(), "x-1")
	}
	return o.Objects.Create(ctx, obj)
}

func TestAnotherNameIsMadeUp(t *testing.T) {
	for _, c := range []struct{ left, code int }{{7, 201}, {8, 409}} {
		h := server(t, Config{Objects: &taken{filled(t), c.left}})
		if w := ask(t, h, "POST", cms, `{"metadata":{"generateName":"x-"}}`, jsonType); w.Code != c.code {
			t.Errorf("%d names are taken: got %d %s, want %d", c.left, w.Code, w.Body, c.code)
		}
	}
	o := &taken{filled(t), 1}
	if w := ask(t, server(t, Config{Objects: o}), "POST", cms, `{"metadata":{"name":"x-1"}}`, jsonType); w.Code != 409 || o.left != 0 {
		t.Errorf("a name that is taken: got %d %s after %d tries", w.Code, w.Body, 1-o.left)
	}
}

// TestStrictPatches: unknown fields are found in every kind of patch.
func TestStrictPatches(t *testing.T) {
	h, o := rig(t)
	applied[appsv1.Deployment](t, h, deps+"/dep?fieldManager=one", deployment(""), 201)
	before := everything(t, o)
	for _, c := range []struct{ path, kind, body, field string }{
		{deps + "/dep", "merge-patch", `{"spec":{"replicaz":1}}`, `unknown field \"spec.replicaz\"`},
		{deps + "/dep", "merge-patch", `{"spec":{"replicas":1,"replicas":2}}`, `duplicate field \"spec.replicas\"`},
		{deps + "/dep", "strategic-merge-patch", `{"spec":{"template":{"spec":{"containers":[{"name":"c","imag":"x"}]}}}}`, `unknown field \"spec.template.spec.containers[0].imag\"`},
		{deps + "/dep", "json-patch", `[{"op":"add","path":"/spec/replicaz","value":1}]`, `unknown field \"spec.replicaz\"`},
		{deps + "/dep/status", "merge-patch", `{"status":{"replicaz":1}}`, `unknown field \"status.replicaz\"`},
		{deps + "/dep/status", "json-patch", `[{"op":"add","path":"/status/replicaz","value":1}]`, `unknown field \"status.replicaz\"`},
		{deps + "/dep/scale", "merge-patch", `{"spec":{"replicaz":1}}`, `unknown field \"spec.replicaz\"`},
		{deps + "/dep/scale", "json-patch", `[{"op":"add","path":"/spec/replicaz","value":1}]`, `unknown field \"spec.replicaz\"`},
	} {
		ct := "Content-Type: application/" + c.kind + "+json"
		if w := ask(t, h, "PATCH", c.path+"?fieldValidation=Strict", c.body, ct); w.Code != 400 || !strings.Contains(w.Body.String(), c.field) {
			t.Errorf("strict, %s of %s: got %d %s, want %s", c.kind, c.body, w.Code, w.Body, c.field)
		}
		w := ask(t, h, "PATCH", c.path+"?fieldValidation=Warn&dryRun=All", c.body, ct)
		if w.Code != 200 || len(w.Header()["Warning"]) != 1 || !strings.Contains(w.Header().Get("Warning"), c.field) {
			t.Errorf("warned, %s of %s: got %d, warnings %q", c.kind, c.body, w.Code, w.Header()["Warning"])
		}
		if w := ask(t, h, "PATCH", c.path+"?fieldValidation=Ignore&dryRun=All", c.body, ct); w.Code != 200 || len(w.Header()["Warning"]) > 0 {
			t.Errorf("ignored, %s of %s: got %d, warnings %q", c.kind, c.body, w.Code, w.Header()["Warning"])
		}
	}
	if d := cmp.Diff(before, everything(t, o)); d != "" {
		t.Errorf("the patches have changed:\n%s", d)
	}
}

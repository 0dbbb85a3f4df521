package apiserver

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/controlplane/admission"
)

const aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"

func TestDiscovery(t *testing.T) {
	h := server(t, Config{Objects: memory.New()})
	for _, c := range []struct{ path, accept, contentType, has string }{
		{"/api", "", "application/json", `"versions":["v1"]`},
		{"/api", aggregated, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", `"resource":"pods"`},
		{"/apis", "", "application/json", `"groupVersion":"openfaas.com/v1"`},
		{"/apis", "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json", "application/json", `"kind":"APIGroupList"`},
		{"/apis", aggregated, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", `"resource":"functions"`},
		{"/apis/apps", "", "application/json", `"kind":"APIGroup"`},
		{"/api/v1", "", "application/json", `{"name":"pods/eviction","singularName":"","namespaced":true,"group":"policy","version":"v1","kind":"Eviction","verbs":["create"]}`},
		{"/apis/apps/v1", "", "application/json", `{"name":"deployments/scale","singularName":"","namespaced":true,"group":"autoscaling","version":"v1","kind":"Scale","verbs":["get","patch","update"]}`},
		{"/openapi/v3", "", "application/json", `"serverRelativeURL":"/openapi/v3/apis/apps/v1?hash=`},
		{"/openapi/v3/api/v1", "", "application/json", `"fieldValidation"`},
	} {
		w := ask(t, h, "GET", c.path, "", "Accept: "+c.accept)
		if w.Code != 200 || w.Header().Get("Content-Type") != c.contentType || !strings.Contains(w.Body.String(), c.has) {
			t.Errorf("%s: got %d %s, want %s with %s in\n%s", c.path, w.Code, w.Header().Get("Content-Type"), c.contentType, c.has, w.Body)
		}
		etag := w.Header().Get("ETag")
		if w = ask(t, h, "GET", c.path, "", "Accept: "+c.accept, "If-None-Match: "+etag); w.Code != http.StatusNotModified || w.Body.Len() > 0 {
			t.Errorf("%s again: got %d, want 304 with no body", c.path, w.Code)
		}
	}
	a, b := ask(t, h, "GET", "/apis", "").Header().Get("ETag"), ask(t, h, "GET", "/apis", "", "Accept: "+aggregated).Header().Get("ETag")
	if a == b {
		t.Error("two forms of a document have one ETag")
	}
}

func TestScale(t *testing.T) {
	o := memory.New(memory.Config{Admit: admission.Admit})
	create(t, o, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "dep"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
			},
		},
	})
	h := server(t, Config{Objects: o})
	const path = "/apis/apps/v1/namespaces/d/deployments/dep/scale"
	var s autoscalingv1.Scale
	if err := json.Unmarshal(ask(t, h, "GET", path, "").Body.Bytes(), &s); err != nil {
		t.Fatal(err)
	}
	if s.Kind != "Scale" || s.APIVersion != "autoscaling/v1" || s.Spec.Replicas != 1 || s.Status.Selector != "a=b" || s.UID == "" {
		t.Errorf("got %+v", s)
	}
	for _, c := range []struct {
		method, contentType, body string
		code                      int
		replicas                  int32
	}{
		{"PATCH", "application/merge-patch+json", `{"spec":{"replicas":3}}`, 200, 3},
		{"PATCH", "application/strategic-merge-patch+json", `{"spec":{"replicas":4}}`, 200, 4},
		{"PATCH", "application/json-patch+json", `[{"op":"replace","path":"/spec/replicas","value":5}]`, 200, 5},
		{"PATCH", "application/json-patch+json", `[{"op":"test","path":"/spec/replicas","value":6}]`, 422, 5},
		{"PATCH", "application/json-patch+json", `{`, 400, 5},
		{"PATCH", "application/merge-patch+json", `{"spec":{"replicas":"many"}}`, 400, 5},
		{"PATCH", "application/merge-patch+json", `{"spec":{"replicas":-1}}`, 422, 5},
		{"PATCH", "application/merge-patch+json", `{"metadata":{"resourceVersion":"1"},"spec":{"replicas":6}}`, 409, 5},
		{"PUT", "application/json", `{"metadata":{"name":"dep"},"spec":{"replicas":0}}`, 200, 0},
		{"PUT", "application/json", `{"kind":"Deployment","apiVersion":"apps/v1"}`, 400, 0},
	} {
		w := ask(t, h, c.method, path, c.body, "Content-Type: "+c.contentType)
		d, err := api.Get[*appsv1.Deployment](t.Context(), o, api.Deployments, "d", "dep")
		if err != nil {
			t.Fatal(err)
		}
		if w.Code != c.code || *d.Spec.Replicas != c.replicas {
			t.Errorf("%s %s: got %d, %d replicas, want %d, %d: %s", c.method, c.body, w.Code, *d.Spec.Replicas, c.code, c.replicas, w.Body)
		}
	}
}

func TestStatusSubresource(t *testing.T) {
	o := filled(t)
	h := server(t, Config{Objects: o})
	const path = "/api/v1/namespaces/d/pods/two/status"
	w := ask(t, h, "PATCH", path, `{"metadata":{"labels":{"x":"y"}},"status":{"phase":"Running"}}`, "Content-Type: application/merge-patch+json")
	p, err := api.Get[*corev1.Pod](t.Context(), o, api.Pods, "d", "two")
	if err != nil {
		t.Fatal(err)
	}
	if w.Code != 200 || p.Status.Phase != corev1.PodRunning || len(p.Labels) > 0 {
		t.Errorf("got %d, phase %s, labels %v; want the status changed alone", w.Code, p.Status.Phase, p.Labels)
	}
	if st := status(t, ask(t, h, "PATCH", path, `{"status":{"phase":"Odd"}}`, "Content-Type: application/merge-patch+json")); st.Code != 422 {
		t.Errorf("an odd phase: got %+v", st)
	}
	if w := ask(t, h, "GET", path, ""); w.Code != 200 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestDeleteCollection(t *testing.T) {
	o := memory.New()
	create(t, o, configMap("a", map[string]string{"x": "y"}))
	create(t, o, configMap("b", nil))
	create(t, o, configMap("c", map[string]string{"x": "z"}))
	h := server(t, Config{Objects: o})
	w := ask(t, h, "DELETE", cms+"?labelSelector=x", "")
	var gone corev1.ConfigMapList
	if err := json.Unmarshal(w.Body.Bytes(), &gone); err != nil || len(gone.Items) != 2 {
		t.Errorf("got %d %s, want the two that are gone", w.Code, w.Body)
	}
	left, err := o.List(t.Context(), api.ConfigMaps, api.ListOptions{})
	if err != nil || len(left.Items) != 1 || left.Items[0].GetName() != "b" {
		t.Errorf("left: %v, %v; want b", left.Items, err)
	}
}

func TestTableOfAList(t *testing.T) {
	h := server(t, Config{Objects: filled(t)})
	for include, want := range map[string]string{"": "PartialObjectMetadata", "None": "", "Object": "ConfigMap"} {
		w := ask(t, h, "GET", cms+"?includeObject="+include, "", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io")
		var table struct {
			Kind string
			Rows []struct {
				Cells  []any
				Object *metav1.TypeMeta
			}
		}
		if err := json.Unmarshal(w.Body.Bytes(), &table); err != nil || table.Kind != "Table" || len(table.Rows) != 1 {
			t.Fatalf("%v in %s", err, w.Body)
		}
		got := ""
		if table.Rows[0].Object != nil {
			got = table.Rows[0].Object.Kind
		}
		if d := cmp.Diff([]any{"cm", 1.0}, table.Rows[0].Cells[:2]); d != "" || got != want {
			t.Errorf("includeObject=%s: got object %q, want %q; cells %s", include, got, want, d)
		}
	}
	if w := ask(t, h, "GET", cms+"?includeObject=Some", "", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io"); w.Code != 400 {
		t.Errorf("got %d for an unknown includeObject", w.Code)
	}
}

// FuzzBodies sends anything in every format: whatever comes, the answer is an
// object or a Status, and never a fault of ours.
func FuzzBodies(f *testing.F) {
	types := []string{
		"application/json", "application/yaml", "application/vnd.kubernetes.protobuf",
		"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml",
	}
	for i, body := range []string{
		`{"metadata":{"name":"x"},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}]}]}}`,
		"metadata: {name: x}\nspec: {volumes: [{name: v}]}", "k8s\x00\x0a\x09\x0a\x02v1\x12\x03Pod",
		`[{"op":"replace","path":"/spec/containers/0/image","value":"j"},{"op":"copy","from":"/spec","path":"/metadata/annotations"}]`,
		`{"metadata":{"labels":{"a":null}}}`,
		`{"spec":{"$setElementOrder/containers":[{"name":"a"}],"containers":[{"name":"a","image":"j"},{"$patch":"delete","name":"b"}],"$retainKeys":["containers"]}}`,
		"{apiVersion: v1, kind: Pod, metadata: {labels: {a: b}, finalizers: [x.dev/y]}, spec: {containers: [{name: a, image: j, ports: [{containerPort: 80}, {containerPort: 80, protocol: UDP}]}]}}",
	} {
		f.Add(i, body)
	}
	for _, body := range []string{
		"{apiVersion: v1, kind: Pod, spec: {containers: [{name: a, ports: [{containerPort: 80}, {containerPort: 80}]}]}}",
		"{apiVersion: v1, kind: Pod, spec: {containers: [{image: a}], tolerations: null, nodeSelector: {a: null}}}",
		"{apiVersion: v1, kind: Pod, spec: {containers: {name: a}}, status: 7}",
		"a: &a [*a]", "? {a: b}\n: c", "[[[[{", "!!binary x", "{apiVersion: v1, kind: Pod, metadata: {managedFields: [{}]}}",
	} {
		f.Add(6, body)
	}
	for _, fields := range []string{`[{}]`, `[]`, `[{"manager":"m","operation":"Apply","apiVersion":"v9","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"k:{\"name\"":{}}}}]`, `[{"manager":"m","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{".":{}}}}]`} {
		f.Add(4, `{"metadata":{"labels":{"x":"y"},"managedFields":`+fields+`}}`)
	}
	f.Fuzz(func(t *testing.T, i int, body string) {
		ct := types[uint(i)%uint(len(types))]
		h := server(t, Config{Objects: filled(t)})
		method, path := "PUT", "/api/v1/namespaces/d/pods/two"
		if strings.Contains(ct, "patch") {
			method = "PATCH"
		}
		w := ask(t, h, method, path+"?fieldValidation=Strict&fieldManager=m", body, "Content-Type: "+ct)
		var answer metav1.TypeMeta
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code >= 500 || answer.Kind == "" {
			t.Errorf("%s %q: got %d %s", ct, body, w.Code, w.Body)
		}
	})
}

// FuzzScale sends anything to the replicas of a Deployment.
func FuzzScale(f *testing.F) {
	types := []string{"application/json", "application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"}
	for i, body := range []string{
		`{"spec":{"replicas":3}}`, `[{"op":"replace","path":"/spec/replicas","value":3}]`, `{"spec":{"replicas":null}}`,
		`{apiVersion: autoscaling/v1, kind: Scale, spec: {replicas: 3}}`,
	} {
		f.Add(i, body)
	}
	f.Add(3, "{apiVersion: autoscaling/v1, kind: Scale, metadata: {uid: x, resourceVersion: y}, spec: {replicas: 99999999999}}")
	f.Add(2, `{"metadata":{"name":"other"},"spec":{"replicas":1.5}}`)
	f.Fuzz(func(t *testing.T, i int, body string) {
		h, _ := rig(t)
		applied[metav1.PartialObjectMetadata](t, h, deps+"/dep?fieldManager=one", deployment("  replicas: 2\n"), 201)
		ct, method := types[uint(i)%uint(len(types))], "PATCH"
		if ct == types[0] {
			method = "PUT"
		}
		w := ask(t, h, method, deps+"/dep/scale?fieldManager=m", body, "Content-Type: "+ct)
		var answer metav1.TypeMeta
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code >= 500 || answer.Kind == "" {
			t.Errorf("%s %q: got %d %s", ct, body, w.Code, w.Body)
		}
	})
}

package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/controlplane/admission"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("k8s.io/client-go/tools/remotecommand.(*heartbeat).start")) // a client's that has gone: it ends with its next beat
}

func server(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// filled has an object or two.
func filled(t *testing.T) *memory.Objects {
	t.Helper()
	o := memory.New(memory.Config{Admit: admission.Admit})
	for _, obj := range []api.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "d"}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm", Namespace: "d", Labels: map[string]string{"a": "b"}}, Data: map[string]string{"k": "v"}},
		&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "two", Namespace: "d"},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "i"}, {Name: "b", Image: "i"}}},
		},
	} {
		if _, err := o.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// ask does one request; headers are "Name: value".
func ask(t *testing.T, h http.Handler, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	for _, l := range headers {
		name, value, _ := strings.Cut(l, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func status(t *testing.T, w *httptest.ResponseRecorder) metav1.Status {
	t.Helper()
	var st metav1.Status
	if err := json.Unmarshal(w.Body.Bytes(), &st); err != nil || st.Kind != "Status" || st.APIVersion != "v1" {
		t.Fatalf("got %d %s, want a Status", w.Code, w.Body)
	}
	if int(st.Code) != w.Code || st.Message == "" || st.Status != metav1.StatusFailure {
		t.Errorf("the Status %+v does not stand for %d", st, w.Code)
	}
	return st
}

const (
	cms      = "/api/v1/namespaces/d/configmaps"
	jsonType = "Content-Type: application/json"
)

func TestErrors(t *testing.T) {
	h := server(t, Config{Objects: filled(t)})
	for _, c := range []struct {
		name, method, path, body string
		header                   string
		code                     int
		reason                   metav1.StatusReason
		says                     string
	}{
		{name: "bad JSON", method: "POST", path: cms, body: `{"metadata":`, code: 400, reason: "BadRequest", says: "cannot be handled as a ConfigMap"},
		{name: "no body", method: "POST", path: cms, code: 400, reason: "BadRequest", says: "empty"},
		{name: "a list for an object", method: "POST", path: cms, body: `[]`, code: 400, reason: "BadRequest"},
		{name: "null", method: "POST", path: cms, body: `null`, code: 422, reason: "Invalid", says: "name"},
		{name: "wrong type of a field", method: "POST", path: cms, body: `{"data":{"a":1}}`, code: 400, reason: "BadRequest", says: "string"},
		{name: "unknown field", method: "POST", path: cms + "?fieldValidation=Strict", body: `{"metadata":{"name":"x"},"dat":{}}`, code: 400, reason: "BadRequest", says: `strict decoding error: unknown field "dat"`},
		{name: "duplicate field", method: "POST", path: cms + "?fieldValidation=Strict", body: `{"metadata":{"name":"x"},"data":{"a":"1","a":"2"}}`, code: 400, reason: "BadRequest", says: `duplicate field`},
		{name: "odd fieldValidation", method: "POST", path: cms + "?fieldValidation=Odd", body: `{}`, code: 400, reason: "BadRequest", says: "Ignore, Warn, Strict"},
		{name: "wrong kind", method: "POST", path: cms, body: `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x"}}`, code: 400, reason: "BadRequest", says: `"Secret"`},
		{name: "wrong kind with an unknown field", method: "POST", path: cms, body: `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x"},"dat":{}}`, code: 400, reason: "BadRequest", says: `"Secret"`},
		{name: "wrong kind with the wrong fields", method: "POST", path: cms, body: `{"kind":"Pod","apiVersion":"v1","spec":3}`, code: 400, reason: "BadRequest", says: `"Pod"`},
		{name: "unknown kind", method: "POST", path: cms, body: `{"kind":"Nope","apiVersion":"v9","metadata":{"name":"x"}}`, code: 400, reason: "BadRequest", says: `"Nope"`},
		{name: "no name", method: "POST", path: cms, body: `{}`, code: 422, reason: "Invalid", says: "name"},
		{name: "path in a name", method: "POST", path: cms, body: `{"metadata":{"name":"../x"}}`, code: 422, reason: "Invalid", says: "metadata.name"},
		{name: "path in the URL's name", method: "GET", path: cms + "/..%2F..%2Fetc", code: 400, reason: "BadRequest", says: "may not contain '/'"},
		{name: "dots in the URL's name", method: "GET", path: cms + "/..", code: 400, reason: "BadRequest", says: "may not be '..'"},
		{name: "dots in the URL's namespace", method: "GET", path: "/api/v1/namespaces/%2e%2e/configmaps/x", code: 400, reason: "BadRequest", says: "may not be '..'"},
		{name: "another namespace", method: "POST", path: cms, body: `{"metadata":{"name":"x","namespace":"e"}}`, code: 400, reason: "BadRequest", says: "namespace"},
		{name: "another name", method: "PUT", path: cms + "/cm", body: `{"metadata":{"name":"x"}}`, code: 400, reason: "BadRequest", says: "the name of the object (x) does not match the name on the URL (cm)"},
		{name: "stale", method: "PUT", path: cms + "/cm", body: `{"metadata":{"name":"cm","resourceVersion":"1"},"data":{"q":"q"}}`, code: 409, reason: "Conflict", says: "has been modified"},
		{name: "exists", method: "POST", path: cms, body: `{"metadata":{"name":"cm"}}`, code: 409, reason: "AlreadyExists", says: `configmaps "cm" already exists`},
		{name: "not there", method: "GET", path: cms + "/none", code: 404, reason: "NotFound", says: `configmaps "none" not found`},
		{name: "update of what is not there", method: "PUT", path: cms + "/none", body: `{}`, code: 404, reason: "NotFound"},
		{name: "no such resource", method: "GET", path: "/api/v1/nonsense", code: 404, reason: "NotFound", says: "could not find the requested resource"},
		{name: "huge body", method: "POST", path: cms, body: `{"data":{"a":"` + strings.Repeat("x", 3<<20) + `"}}`, code: 413, reason: "RequestEntityTooLarge", says: "3145728 bytes"},
		{name: "huge patch", method: "PATCH", path: cms + "/cm", header: "Content-Type: application/merge-patch+json", body: strings.Repeat(" ", 4<<20), code: 413, reason: "RequestEntityTooLarge"},
		{name: "huge secret", method: "POST", path: "/api/v1/namespaces/d/secrets", body: `{"metadata":{"name":"x"},"stringData":{"a":"` + strings.Repeat("x", 1<<20+1) + `"}}`, code: 422, reason: "Invalid", says: "at most 1048576 bytes"},
		{name: "wrong content type", method: "POST", path: cms, header: "Content-Type: text/html", body: `{}`, code: 415, reason: "UnsupportedMediaType", says: "application/json"},
		{name: "CBOR", method: "POST", path: cms, header: "Content-Type: application/cbor", body: "\xa0", code: 415, reason: "UnsupportedMediaType"},
		{name: "no protobuf", method: "POST", path: cms, header: "Content-Type: application/vnd.kubernetes.protobuf", body: "k8s\x00\xff\xff", code: 400, reason: "BadRequest"},
		{name: "protobuf of a Function", method: "POST", path: "/apis/openfaas.com/v1/namespaces/d/functions", header: "Content-Type: application/vnd.kubernetes.protobuf", body: "k8s\x00\x0a\x1e\x0a\x0fopenfaas.com/v1\x12\x08Function", code: 400, reason: "BadRequest"},
		{name: "wrong patch type", method: "PATCH", path: cms + "/cm", header: jsonType, body: `{}`, code: 415, reason: "UnsupportedMediaType", says: "application/merge-patch+json"},
		{name: "apply without a manager", method: "PATCH", path: cms + "/cm", header: "Content-Type: application/apply-patch+yaml", body: `{}`, code: 422, reason: "Invalid", says: "fieldManager: Required value"},
		{name: "force of a merge patch", method: "PATCH", path: cms + "/cm?force=true", header: "Content-Type: application/merge-patch+json", body: `{}`, code: 422, reason: "Invalid", says: "force: Forbidden: may not be specified for non-apply patch"},
		{name: "a manager with a line break", method: "POST", path: cms + "?fieldManager=a%0Ab", body: `{}`, code: 422, reason: "Invalid", says: "printable"},
		{name: "a manager with a long name", method: "POST", path: cms + "?fieldManager=" + strings.Repeat("a", 129), body: `{}`, code: 422, reason: "Invalid", says: "128"},
		{name: "strategic patch of a Function", method: "PATCH", path: "/apis/openfaas.com/v1/namespaces/d/functions/f", header: "Content-Type: application/strategic-merge-patch+json", body: `{}`, code: 415, reason: "UnsupportedMediaType"},
		{name: "patch with an unknown field", method: "PATCH", path: cms + "/cm?fieldValidation=Strict", header: "Content-Type: application/strategic-merge-patch+json", body: `{"$setElementOrder/x":[],"metadata":{"labelz":{}}}`, code: 400, reason: "BadRequest", says: `unknown field "metadata.labelz"`},
		{name: "patch that is no object", method: "PATCH", path: cms + "/cm", header: "Content-Type: application/merge-patch+json", body: `[]`, code: 400, reason: "BadRequest"},
		{name: "unacceptable", method: "GET", path: cms, header: "Accept: text/html", code: 406, reason: "NotAcceptable"},
		{name: "wrong method", method: "POST", path: cms + "/cm", body: `{}`, code: 405, reason: "MethodNotAllowed"},
		{name: "create without a namespace", method: "POST", path: "/api/v1/configmaps", body: `{}`, code: 405, reason: "MethodNotAllowed"},
		{name: "bad label selector", method: "GET", path: cms + "?labelSelector=a(b", code: 400, reason: "BadRequest", says: "labelSelector"},
		{name: "unknown field selector", method: "GET", path: cms + "?fieldSelector=spec.x%3Dy", code: 400, reason: "BadRequest", says: "spec.x"},
		{name: "bad limit", method: "GET", path: cms + "?limit=-1", code: 400, reason: "BadRequest", says: "limit"},
		{name: "bad continue", method: "GET", path: cms + "?limit=1&continue=x", code: 400, reason: "BadRequest"},
		{name: "watch from nowhere", method: "GET", path: cms + "?watch=1&resourceVersion=x", code: 400, reason: "BadRequest", says: "resourceVersion"},
		{name: "watch list without a match", method: "GET", path: cms + "?watch=1&sendInitialEvents=true", code: 422, reason: "Invalid", says: "NotOlderThan"},
		{name: "list with initial events", method: "GET", path: cms + "?sendInitialEvents=true", code: 422, reason: "Invalid"},
		{name: "watch from the future", method: "GET", path: cms + "?watch=1&resourceVersion=999999", code: 504, reason: "Timeout"},
		{name: "bad timeout", method: "GET", path: cms + "?watch=1&timeoutSeconds=soon", code: 400, reason: "BadRequest", says: "timeoutSeconds"},
		{name: "both ways to orphan", method: "DELETE", path: cms + "/cm", body: `{"orphanDependents":true,"propagationPolicy":"Orphan"}`, code: 400, reason: "BadRequest", says: "cannot be both set"},
		{name: "another dry run", method: "POST", path: cms + "?dryRun=Some", body: `{}`, code: 400, reason: "BadRequest", says: `supported values: "All"`},
		{name: "another dry run of a delete, in the body", method: "DELETE", path: cms + "/cm", body: `{"dryRun":["Some"]}`, code: 400, reason: "BadRequest", says: `supported values: "All"`},
		{name: "odd propagation", method: "DELETE", path: cms + "/cm?propagationPolicy=Up", code: 400, reason: "BadRequest", says: "Foreground"},
		{name: "another uid", method: "DELETE", path: cms + "/cm", body: `{"preconditions":{"uid":"x"}}`, code: 409, reason: "Conflict"},
		{name: "log of two containers", method: "GET", path: "/api/v1/namespaces/d/pods/two/log", code: 400, reason: "BadRequest", says: "choose one of: a, b"},
		{name: "log of no container", method: "GET", path: "/api/v1/namespaces/d/pods/two/log?container=c", code: 400, reason: "BadRequest", says: "choose one of: a, b"},
		{name: "log of a pod without node", method: "GET", path: "/api/v1/namespaces/d/pods/two/log?container=a", code: 400, reason: "BadRequest", says: "does not have a host assigned"},
		{name: "odd tail", method: "GET", path: "/api/v1/namespaces/d/pods/two/log?tailLines=x", code: 400, reason: "BadRequest", says: "tailLines"},
		{name: "exec without streams", method: "POST", path: "/api/v1/namespaces/d/pods/two/exec?command=ls&container=a", code: 400, reason: "BadRequest", says: "at least 1 of stdin, stdout, stderr"},
		{name: "exec without a command", method: "POST", path: "/api/v1/namespaces/d/pods/two/exec?stdout=true&container=a", code: 400, reason: "BadRequest", says: "at least one command"},
		{name: "exec in a pod without node", method: "GET", path: "/api/v1/namespaces/d/pods/two/exec?stdout=true&command=ls&container=a", code: 400, reason: "BadRequest", says: "does not have a host assigned"},
		{name: "attach to nobody", method: "POST", path: "/api/v1/namespaces/d/pods/nobody/attach?stdout=true", code: 404, reason: "NotFound", says: "nobody"},
		{name: "port of a pod without node", method: "POST", path: "/api/v1/namespaces/d/pods/two/portforward", code: 400, reason: "BadRequest", says: "does not have a host assigned"},
		{name: "ephemeral container that takes a name", method: "PATCH", path: "/api/v1/namespaces/d/pods/two/ephemeralcontainers", header: "Content-Type: application/strategic-merge-patch+json", body: `{"spec":{"ephemeralContainers":[{"name":"a","image":"i"}]}}`, code: 422, reason: "Invalid", says: "spec.ephemeralContainers[0].name"},
		{name: "negative scale", method: "PATCH", path: "/apis/apps/v1/namespaces/d/deployments/none/scale", header: "Content-Type: application/merge-patch+json", body: `{"spec":{"replicas":-1}}`, code: 404, reason: "NotFound"},
		{name: "binding to nothing", method: "POST", path: "/api/v1/namespaces/d/pods/two/binding", body: `{"metadata":{"name":"two"},"target":{}}`, code: 400, reason: "BadRequest", says: "target"},
	} {
		t.Run(c.name, func(t *testing.T) {
			header := c.header
			if header == "" {
				header = jsonType
			}
			w := ask(t, h, c.method, c.path, c.body, header)
			st := status(t, w)
			if w.Code != c.code || st.Reason != c.reason || !strings.Contains(st.Message, c.says) {
				t.Errorf("got %d %s %q, want %d %s with %q", w.Code, st.Reason, st.Message, c.code, c.reason, c.says)
			}
			if c.code == 405 && w.Header().Get("Allow") == "" {
				t.Error("a 405 does not say what is allowed")
			}
		})
	}
	if got := ask(t, h, "GET", cms+"/cm", "").Code; got != 200 {
		t.Errorf("after all those faults the object answers %d", got)
	}
}

func TestInvalidHasCauses(t *testing.T) {
	h := server(t, Config{Objects: filled(t)})
	st := status(t, ask(t, h, "POST", "/api/v1/namespaces/d/pods", `{"metadata":{"name":"x"},"spec":{"restartPolicy":"Maybe","containers":[{"name":"c"}]}}`, jsonType))
	if st.Code != 422 || st.Details == nil || st.Details.Kind != "Pod" || len(st.Details.Causes) != 2 {
		t.Fatalf("got %+v, want 422 with two causes", st)
	}
	if c := st.Details.Causes[0]; c.Field != "spec.containers[0].image" || c.Type != metav1.CauseTypeFieldValueRequired {
		t.Errorf("got %+v, want the image first", c)
	}
	if c := st.Details.Causes[1]; c.Field != "spec.restartPolicy" || !strings.Contains(c.Message, `"Always", "OnFailure", "Never"`) {
		t.Errorf("got %+v, want the allowed policies", c)
	}
}

func TestFieldValidation(t *testing.T) {
	h := server(t, Config{Objects: filled(t)})
	body := `{"metadata":{"name":"%"},"dat":{}}`
	w := ask(t, h, "POST", cms, strings.Replace(body, "%", "w", 1), jsonType)
	if got := w.Header().Values("Warning"); w.Code != 201 || len(got) != 1 || got[0] != `299 - "unknown field \"dat\""` {
		t.Errorf("by default: got %d, warnings %q", w.Code, got)
	}
	w = ask(t, h, "POST", cms+"?fieldValidation=Ignore", strings.Replace(body, "%", "i", 1), jsonType)
	if w.Code != 201 || w.Header().Get("Warning") != "" {
		t.Errorf("ignored: got %d, warning %q", w.Code, w.Header().Get("Warning"))
	}
	w = ask(t, h, "PATCH", cms+"/cm", `{"dat":{}}`, "Content-Type: application/merge-patch+json")
	if w.Code != 200 || w.Header().Get("Warning") == "" {
		t.Errorf("a patch: got %d, warning %q", w.Code, w.Header().Get("Warning"))
	}
	w = ask(t, h, "POST", cms, "metadata: {name: yam}\ndata:\n  a: b\n", "Content-Type: application/yaml")
	if w.Code != 201 || !strings.Contains(w.Body.String(), `"data":{"a":"b"}`) {
		t.Errorf("YAML: got %d %s", w.Code, w.Body)
	}
}

func TestToken(t *testing.T) {
	h := server(t, Config{Objects: filled(t), Token: "secret"})
	for header, code := range map[string]int{
		"": 401, "Authorization: Bearer wrong": 401, "Authorization: Basic secret": 401, "Authorization: Bearer secret": 200,
	} {
		w := ask(t, h, "GET", cms, "", header)
		if w.Code != code {
			t.Errorf("%q: got %d, want %d", header, w.Code, code)
		}
		if code == 401 && status(t, w).Reason != metav1.StatusReasonUnauthorized {
			t.Errorf("%q: got %s", header, w.Body)
		}
	}
	for _, p := range []string{"/healthz", "/livez", "/readyz"} {
		if w := ask(t, h, "GET", p, ""); w.Code != 200 || w.Body.String() != "ok" {
			t.Errorf("%s without a token: got %d %s", p, w.Code, w.Body)
		}
	}
}

// broken panics, as nothing should.
type broken struct{ api.Objects }

func (broken) Get(context.Context, *api.Resource, string, string) (api.Object, error) {
	panic("broken")
}

func TestPanicIsAnAnswer(t *testing.T) {
	h := server(t, Config{Objects: broken{filled(t)}})
	if st := status(t, ask(t, h, "GET", cms+"/cm", "")); st.Code != 500 || st.Reason != metav1.StatusReasonInternalError || strings.Contains(st.Message, "broken") {
		t.Errorf("got %+v, want an InternalError that keeps the details to itself", st)
	}
	if w := ask(t, h, "GET", cms, ""); w.Code != 200 {
		t.Errorf("the next request got %d", w.Code)
	}
}

func TestBoundsAreClear(t *testing.T) {
	o := filled(t)
	h := server(t, Config{Objects: o, MaxStreams: 1})
	srv := httptest.NewServer(h)
	defer srv.Close()
	get := func(path string) *http.Response {
		r, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := srv.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	first := get(cms + "?watch=true")
	defer first.Body.Close()
	second := get(cms + "?watch=true")
	defer second.Body.Close()
	if second.StatusCode != 429 || second.Header.Get("Retry-After") == "" {
		t.Errorf("a watch too many: got %d, Retry-After %q", second.StatusCode, second.Header.Get("Retry-After"))
	}
	plain := get(cms)
	defer plain.Body.Close()
	if plain.StatusCode != 200 {
		t.Errorf("a list beside the watches got %d", plain.StatusCode)
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	h := server(t, Config{Objects: filled(t), Metrics: reg})
	ask(t, h, "GET", cms+"/cm", "")
	ask(t, h, "GET", cms+"/none", "")
	ask(t, h, "GET", "/api/v1/namespaces/d/pods/two/log?container=a", "")
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "apiserver_request_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			var l []string
			for _, p := range m.GetLabel() {
				l = append(l, p.GetName()+"="+p.GetValue())
			}
			got[strings.Join(l, " ")] = m.GetCounter().GetValue()
		}
	}
	want := map[string]float64{
		"code=200 resource=configmaps verb=get": 1,
		"code=404 resource=configmaps verb=get": 1,
		"code=400 resource=pods/log verb=get":   1,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("apiserver_request_total (-want +got):\n%s", d)
	}
	if _, err := New(Config{Objects: filled(t), Metrics: reg}); err == nil {
		t.Error("a second server took the same metrics without an error")
	}
}

func TestProtobufRoundTrip(t *testing.T) {
	h := server(t, Config{Objects: filled(t)})
	const proto = "application/vnd.kubernetes.protobuf"
	w := ask(t, h, "GET", cms+"/cm", "", "Accept: "+proto+",application/json")
	if w.Code != 200 || w.Header().Get("Content-Type") != proto {
		t.Fatalf("got %d %s", w.Code, w.Header().Get("Content-Type"))
	}
	w = ask(t, h, "PUT", cms+"/cm", w.Body.String(), "Content-Type: "+proto)
	if w.Code != 200 || !bytes.Contains(w.Body.Bytes(), []byte(`"k":"v"`)) {
		t.Errorf("sent back: got %d %s", w.Code, w.Body)
	}
	w = ask(t, h, "GET", cms, "", "Accept: "+proto)
	if w.Code != 200 || !bytes.HasPrefix(w.Body.Bytes(), []byte("k8s\x00")) {
		t.Errorf("the list: got %d %q", w.Code, w.Body)
	}
	w = ask(t, h, "GET", "/apis/openfaas.com/v1/functions", "", "Accept: "+proto+",application/json")
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("functions have no protobuf form: got %d %s", w.Code, w.Header().Get("Content-Type"))
	}
}

func TestBindAndEvict(t *testing.T) {
	o := filled(t)
	h := server(t, Config{Objects: o})
	const pod = "/api/v1/namespaces/d/pods/two"
	bind := `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"two"},"target":{"kind":"Node","name":"n1"}}`
	if w := ask(t, h, "POST", pod+"/binding", bind, jsonType); w.Code != 201 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	p, err := api.Get[*corev1.Pod](t.Context(), o, api.Pods, "d", "two")
	if err != nil || p.Spec.NodeName != "n1" {
		t.Fatalf("got %v on %q, want it on n1", err, p.Spec.NodeName)
	}
	if st := status(t, ask(t, h, "POST", pod+"/binding", bind, jsonType)); st.Code != 409 || !strings.Contains(st.Message, "already assigned") {
		t.Errorf("a second binding: got %+v", st)
	}
	evict := `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"two"},"deleteOptions":{"gracePeriodSeconds":7}}`
	if w := ask(t, h, "POST", pod+"/eviction", evict, jsonType); w.Code != 201 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	p, err = api.Get[*corev1.Pod](t.Context(), o, api.Pods, "d", "two")
	if err != nil || p.DeletionGracePeriodSeconds == nil || *p.DeletionGracePeriodSeconds != 7 {
		t.Errorf("got %v, %+v, want a grace period of 7 s", err, p)
	}
}

// faulty is a log that breaks off.
type faulty struct{ n int }

func (f *faulty) Read(b []byte) (int, error) {
	if f.n++; f.n > 1 {
		return 0, io.ErrUnexpectedEOF
	}
	return copy(b, "line\n"), nil
}

func (*faulty) Close() error { return nil }

func TestBrokenLogIsNotTakenForWhole(t *testing.T) {
	o := filled(t)
	if _, err := api.Mutate(t.Context(), o, api.Pods, "d", "two", api.UpdateOptions{}, func(p *corev1.Pod) (bool, error) {
		p.Spec.NodeName = "n1"
		return true, nil
	}); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(server(t, Config{Objects: o, Agents: func(context.Context, string) (api.Agent, error) {
		return logs{text: func(api.LogOptions) io.ReadCloser { return &faulty{} }}, nil
	}}))
	defer srv.Close()
	r, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+"/api/v1/namespaces/d/pods/two/log?container=a", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := srv.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if string(b) != "line\n" || err == nil {
		t.Errorf("got %q and error %v, want the line and then a fault", b, err)
	}
}

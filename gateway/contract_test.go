package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/gateway"
	"github.com/podsnap/podsnap/gateway/dialect"
	"github.com/podsnap/podsnap/internal/openfaas"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// TestContract goes through every row of the API, in an order in which the
// later steps see what the earlier ones did.
func TestContract(t *testing.T) {
	var queued []dialect.AsyncCall
	r := newRig(t, func(c *gateway.Config) {
		c.Enqueue = func(_ context.Context, a dialect.AsyncCall) error {
			if a.Function.Name == "broken-queue" {
				return errors.New("the stream has no leader")
			}
			queued = append(queued, a)
			return nil
		}
		c.MaxAsyncBody = 10
	})
	long := strings.Repeat("a", 64)
	for i, tt := range []struct {
		method, path, body string
		status             int
		text               string // in the answer
	}{
		{"GET", "/healthz", "", 200, ""},
		{"HEAD", "/healthz", "", 200, ""},
		{"GET", "/", "", 307, ""},
		{"GET", "/ui/", "", 200, "<title>Functions"},
		{"GET", "/system/info", "", 200, `"provider":{"provider":"podsnap","orchestration":"podsnap","version":{"release":"1.2.3","sha":"abc"}}`},
		{"GET", "/system/nothing", "", 404, ""},
		{"PATCH", "/system/functions", "", 405, ""},

		// functions: what is refused leaves nothing behind
		{"GET", "/system/functions", "", 200, "[]"},
		{"GET", "/system/functions?namespace=nope", "", 400, "namespace nope does not exist"},
		{"GET", "/system/functions?namespace=..", "", 400, "namespace"},
		{"GET", "/system/functions?namespace=kube-system", "", 400, "namespace kube-system does not exist"},
		{"POST", "/system/functions", "", 400, "no body"},
		{"POST", "/system/functions", "{", 400, "bad JSON at byte 1"},
		{"POST", "/system/functions", `{"service":"hi","image":"x"}{}`, 400, "bad JSON"},
		{"POST", "/system/functions", `{"service":5,"image":"x"}`, 400, "service: got a JSON number, want a string"},
		{"POST", "/system/functions", `{"service":"hi","image":"x","envVars":["A"]}`, 400, "envVars: got a JSON array, want an object"},
		{"POST", "/system/functions", `{"service":"hi"}`, 400, "image: Required value"},
		{"POST", "/system/functions", `{"image":"x:1"}`, 400, "service: Invalid value"},
		{"POST", "/system/functions", `{"service":"../etc","image":"x:1"}`, 400, `service: Invalid value: "../etc"`},
		{"POST", "/system/functions", `{"service":"A","image":"x:1"}`, 400, "lower-case"},
		{"POST", "/system/functions", `{"service":"` + long + `","image":"x:1"}`, 400, "at most 63"},
		{"POST", "/system/functions", `{"service":"hi","image":"X:::"}`, 400, "image: Invalid value"},
		{"POST", "/system/functions", `{"service":"hi","image":"x:1","limits":{"memory":"1KiB "}}`, 400, "limits.memory"},
		{"POST", "/system/functions", `{"service":"hi","image":"x:1","limits":{"nvidia.com/gpu":"1"}}`, 400, "GPUs are not supported"},
		{"POST", "/system/functions", `{"service":"hi","image":"x:1","labels":{"com.openfaas.scale.min":"many"}}`, 400, "com.openfaas.scale.min"},
		{"POST", "/system/functions", `{"service":"hi","image":"x:1","envVars":{"A=B":"1"}}`, 400, "envVars"},
		{"POST", "/system/functions", `{"service":"hi","image":"x:1","secrets":["absent"]}`, 400, `secret "absent" does not exist`},
		{"POST", "/system/functions", `{"service":"hi","image":"x:1","namespace":"nope"}`, 400, "namespace nope does not exist"},
		{"POST", "/system/functions?namespace=dev", `{"service":"hi","image":"x:1","namespace":"nope"}`, 400, `the body says "nope", the query says "dev"`},
		{"POST", "/system/functions", `{"service":"hi","image":"x:1","envVars":{"A":"` + strings.Repeat("x", 3<<20) + `"}}`, 413, "larger than"},
		{"GET", "/system/functions", "", 200, "[]"},

		{"PUT", "/system/functions", `{"service":"hi","image":"functions/alpine:latest"}`, 404, "not found"},
		{"POST", "/system/functions", `{"service":"hi","image":"functions/alpine:latest","labels":null,"annotations":null,"limits":{"memory":"5Mi","cpu":"100m"},"unknown":1}`, 202, ""},
		{"POST", "/system/functions", `{"service":"hi","image":"functions/alpine:latest"}`, 409, "exists already"},
		{"PUT", "/system/functions", `{"service":"hi","image":"functions/alpine:latest","limits":{"memory":"5Mi","cpu":"100m"},"labels":{"com.openfaas.scale.max":"5"}}`, 202, ""},
		{"GET", "/system/function/hi", "", 200, `"replicas":1`},
		{"GET", "/system/function/hi?namespace=openfaas-fn&usage=1", "", 200, `"limits":{"memory":"5Mi","cpu":"100m"}`},
		{"GET", "/system/function/hi", "", 200, `"labels":{"com.openfaas.scale.max":"5","faas_function":"hi"}`},
		{"GET", "/system/function/nope", "", 404, ""},
		{"GET", "/system/function/%2e%2e", "", 400, ""},
		{"GET", "/system/function/A", "", 400, "function name"},
		{"GET", "/system/functions", "", 200, `"image":"functions/alpine:latest"`},

		// scale
		{"POST", "/system/scale-function/hi", `{"serviceName":"hi","replicas":3,"namespace":"openfaas-fn"}`, 202, ""},
		{"GET", "/system/function/hi", "", 200, `"replicas":3`},
		{"POST", "/system/scale-function/hi?namespace=openfaas-fn", `{"replicas":0}`, 202, ""},
		{"GET", "/system/function/hi", "", 200, `"createdAt"`},
		{"POST", "/system/scale-function/nope", `{"replicas":1}`, 404, "not found"},
		{"POST", "/system/scale-function/hi", `{"replicas":-1}`, 400, "replicas: got a JSON number -1, want a whole number of 0 or more"},
		{"POST", "/system/scale-function/hi", `{"replicas":1.5}`, 400, "replicas"},
		{"POST", "/system/scale-function/hi", `{"replicas":"5"}`, 400, "replicas"},
		{"POST", "/system/scale-function/hi", `{"replicas":6}`, 400, "more than the function's maximum of 5"},
		{"POST", "/system/scale-function/hi", `{"replicas":4294967296}`, 400, "maximum"},
		{"POST", "/system/scale-function/hi", `{}`, 400, "replicas"},
		{"POST", "/system/scale-function/hi", `{"serviceName":"ho","replicas":1}`, 400, "serviceName"},
		{"POST", "/system/scale-function/hi", `{`, 400, "bad JSON"},

		// invocation
		{"POST", "/function/hi", "body", 200, "POST / body"},
		{"GET", "/function/hi.openfaas-fn/a/b?c=d", "", 200, "GET /a/b?c=d "},
		{"GET", "/function/nope", "", 404, "error finding function nope.openfaas-fn"},
		{"GET", "/function/.openfaas-fn", "", 404, ""},
		{"TRACE", "/function/hi", "", 405, ""},
		{"POST", "/function/hi", strings.Repeat("x", 1<<20+1), 413, "larger than 1048576 bytes"},
		{"GET", "/function/../../system/functions", "", 400, "segment"},

		// asynchronous
		{"POST", "/async-function/hi/x?y=z", "later", 202, ""},
		{"POST", "/async-function/hi", strings.Repeat("x", 11), 413, "at most 10 bytes"},
		{"GET", "/async-function/hi", "", 405, ""},
		{"POST", "/async-function/nope", "", 404, "error finding function"},
		{"POST", "/async-function/%2e%2e", "", 400, ""},
		{"POST", "/system/functions", `{"service":"broken-queue","image":"x:1"}`, 202, ""},
		{"POST", "/async-function/broken-queue", "", 503, "the stream has no leader"},

		// namespaces
		{"GET", "/system/namespaces", "", 200, `["openfaas-fn"]`},
		{"POST", "/system/namespace/", `{"name":"dev"}`, 400, "openfaas=1"},
		{"POST", "/system/namespace/", `{"labels":{"openfaas":"1"}}`, 400, "name"},
		{"POST", "/system/namespace/", `{"name":"Dev","labels":{"openfaas":"1"}}`, 400, "name"},
		{"POST", "/system/namespace/", `{"name":"dev","labels":{"openfaas":"1","team":"a"},"annotations":{"openfaas":"1"}}`, 201, ""},
		{"POST", "/system/namespace/", `{"name":"dev","labels":{"openfaas":"1"}}`, 409, "exists already"},
		{"GET", "/system/namespaces", "", 200, `["dev","openfaas-fn"]`},
		{"GET", "/system/namespace/dev", "", 200, `{"name":"dev","labels":{"openfaas":"1","team":"a"},"annotations":{"openfaas":"1"}}`},
		{"GET", "/system/namespace/nope", "", 404, ""},
		{"GET", "/system/namespace/", "", 400, ""},
		{"PUT", "/system/namespace/dev", `{"name":"dev","labels":{"openfaas":"1","team":"b"}}`, 202, ""},
		{"PUT", "/system/namespace/dev", `{"name":"other","labels":{"openfaas":"1"}}`, 400, "path"},
		{"PUT", "/system/namespace/nope", `{"name":"nope","labels":{"openfaas":"1"}}`, 404, ""},
		{"GET", "/system/namespace/dev", "", 200, `"team":"b"`},
		{"POST", "/system/functions?namespace=dev", `{"service":"hi","image":"x:1"}`, 202, ""},
		{"GET", "/system/functions?namespace=dev", "", 200, `"namespace":"dev"`},
		{"POST", "/function/hi.dev", "", 200, "POST"},
		{"DELETE", "/system/namespace/openfaas-fn", "", 400, "default"},
		{"DELETE", "/system/namespace/nope", "", 404, ""},

		// secrets
		{"GET", "/system/secrets", "", 200, "[]"},
		{"POST", "/system/secrets", `{"name":"key","value":"v"}`, 202, ""},
		{"POST", "/system/secrets", `{"name":"key","value":"v"}`, 409, "exists already"},
		{"POST", "/system/secrets", `{"name":"raw","namespace":"dev","rawValue":"AAEC"}`, 202, ""},
		{"POST", "/system/secrets", `{"name":"../a","value":"v"}`, 400, "name"},
		{"POST", "/system/secrets", `{"name":"..data","value":"v"}`, 400, "name"},
		{"POST", "/system/secrets", `{"name":"none"}`, 400, "value"},
		{"POST", "/system/secrets", `{"name":"big","value":"` + strings.Repeat("v", 1<<20+1) + `"}`, 413, "larger"},
		{"PUT", "/system/secrets", `{"name":"nope","value":"v"}`, 404, "not found"},
		{"PUT", "/system/secrets", `{"name":"key","value":"w"}`, 202, ""},
		{"GET", "/system/secrets?namespace=openfaas-fn", "", 200, `[{"name":"key","namespace":"openfaas-fn"}]`},
		{"POST", "/system/functions", `{"service":"sec","image":"x:1","secrets":["key"]}`, 202, ""},
		{"DELETE", "/system/secrets", `{"name":"key"}`, 202, ""},
		{"DELETE", "/system/secrets", `{"name":"key","namespace":"openfaas-fn"}`, 404, ""},

		// the rest
		{"POST", "/system/alert", `{"status":"firing","receiver":"scale-up","alerts":[{"status":"firing","labels":{"alertname":"APIHighInvocationRate","function_name":"hi.openfaas-fn"}}]}`, 200, ""},
		{"POST", "/system/alert", `[`, 400, "bad JSON"},
		{"POST", "/system/alert", `{"alerts":[{"labels":{"function_name":"hi"}},{"labels":{"function_name":"nope.openfaas-fn"}},{"labels":{}}]}`, 500, "[1] function nope.openfaas-fn: not found\n[2] labels: function_name is missing"},
		{"GET", "/system/telemetry", "", 200, ""},
		{"GET", "/system/logs?name=hi", "", 501, ""},
		{"GET", "/system/logs", "", 422, "name"},

		// deletion
		{"DELETE", "/system/functions", `{}`, 400, "functionName"},
		{"DELETE", "/system/functions", `{"functionName":"nope"}`, 404, "not found"},
		{"DELETE", "/system/functions?namespace=dev", `{"functionName":"hi"}`, 202, ""},
		{"GET", "/system/function/hi?namespace=dev", "", 404, ""},
		{"DELETE", "/system/functions", `{"functionName":"hi","namespace":"openfaas-fn"}`, 202, ""},
		{"GET", "/function/hi", "", 404, ""},
		{"POST", "/system/functions", `{"service":"hi","image":"x:2"}`, 202, ""},
		{"DELETE", "/system/namespace/dev", `{"name":"dev","labels":{"openfaas":"1"}}`, 202, ""},
	} {
		status, body, h := r.call(tt.method, tt.path, tt.body)
		name := fmt.Sprintf("step %d: %s %s", i, tt.method, tt.path)
		if status != tt.status || !strings.Contains(body, tt.text) {
			t.Errorf("%s: got %d %.300q, want %d with %q", name, status, body, tt.status, tt.text)
		}
		if strings.HasPrefix(tt.path, "/async-function/hi") && (h.Get("X-Call-Id") == "" || h.Get("X-Start-Time") == "") {
			t.Errorf("%s: headers %v", name, h)
		}
	}
	if len(queued) != 1 || queued[0].Path != "/x" || queued[0].Query != "y=z" || string(queued[0].Body) != "later" || queued[0].Function.Name != "hi" {
		t.Errorf("queued %+v", queued)
	}
}

func TestStatusOfFunction(t *testing.T) {
	r := newRig(t, nil)
	d := openfaas.FunctionDeployment{
		Service: "full", Image: "docker.io/functions/alpine:latest", EnvProcess: "cat",
		EnvVars: map[string]string{"A": "1"}, Constraints: []string{"zone=a"}, Labels: map[string]string{"team": "a"},
		Annotations: map[string]string{"topic": "t"}, Limits: &openfaas.Resources{Memory: "128Mi"}, Requests: &openfaas.Resources{CPU: "0.1"},
		ReadOnlyRootFilesystem: true,
	}
	if created, err := r.client.Deploy(t.Context(), d); err != nil || !created {
		t.Fatalf("deploy: created %v, %v", created, err)
	}
	if created, err := r.client.Deploy(t.Context(), d); err != nil || created {
		t.Fatalf("deploy again: created %v, %v", created, err)
	}
	dep, err := api.Get[*appsv1.Deployment](t.Context(), r.objects, api.Deployments, api.FunctionNamespace, "full")
	if err != nil {
		t.Fatal(err)
	}
	dep = dep.DeepCopy()
	dep.Status = appsv1.DeploymentStatus{ObservedGeneration: dep.Generation, Replicas: 1, UpdatedReplicas: 1, AvailableReplicas: 1}
	if _, err := r.objects.Update(t.Context(), dep, api.UpdateOptions{Subresource: "status"}); err != nil {
		t.Fatal(err)
	}
	resp, err := r.client.Invoke(t.Context(), openfaas.Invocation{Name: "full"})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	got, err := r.client.Function(t.Context(), "", "full", false)
	if err != nil {
		t.Fatal(err)
	}
	want := &openfaas.FunctionStatus{
		Name: "full", Namespace: "openfaas-fn", Image: d.Image, EnvProcess: "cat", EnvVars: d.EnvVars, Constraints: d.Constraints,
		Labels: map[string]string{"team": "a", "faas_function": "full"}, Annotations: d.Annotations, Limits: d.Limits, Requests: d.Requests,
		ReadOnlyRootFilesystem: true, Replicas: 1, AvailableReplicas: 1, InvocationCount: 1,
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(openfaas.FunctionStatus{}, "CreatedAt")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got.CreatedAt.IsZero() {
		t.Error("no createdAt")
	}
	_, raw, _ := r.call("POST", "/system/functions", `{"service":"bare","image":"x:1"}`)
	if raw != "" {
		t.Errorf("an accepted deploy answers %q", raw)
	}
	_, raw, _ = r.call("GET", "/system/function/bare", "")
	var keys map[string]json.RawMessage
	if err := json.Unmarshal([]byte(raw), &keys); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"envVars", "limits", "requests", "secrets", "constraints", "annotations", "availableReplicas", "usage"} {
		if v, ok := keys[k]; ok {
			t.Errorf("an empty %s is shown: %s", k, v)
		}
	}
}

// TestDeleteTakesAlong: what belonged to a function is gone with it.
func TestDeleteTakesAlong(t *testing.T) {
	r := newRig(t, nil)
	ctx := t.Context()
	if err := r.client.Create(ctx, openfaas.FunctionDeployment{Service: "hi", Image: "x:1"}); err != nil {
		t.Fatal(err)
	}
	if err := r.client.Delete(ctx, "", "hi"); err != nil {
		t.Fatal(err)
	}
	for _, res := range []*api.Resource{api.Functions, api.Deployments, api.Services} {
		if _, err := r.objects.Get(ctx, res, api.FunctionNamespace, "hi"); !apierrors.IsNotFound(err) {
			t.Errorf("%s: %v", res, err)
		}
	}
}

func TestAuth(t *testing.T) {
	r := newRig(t, nil)
	for path, want := range map[string]int{
		"/system/functions": 401, "/system/info": 401, "/system/nothing": 401, "/ui/": 401, "/ui/x": 401,
		"/healthz": 200, "/function/x": 404, "/async-function/x": 405, "/": 307,
	} {
		for _, header := range []string{"", "Bearer ", "Basic YWRtaW46d3Jvbmc="} {
			req, _ := http.NewRequestWithContext(t.Context(), "GET", r.url+path, nil)
			if header != "" && path == "/system/functions" {
				req.Header.Set("Authorization", header)
			}
			if status, _, _ := r.do(req); status != want {
				t.Errorf("%s with %q: %d, want %d", path, header, status, want)
			}
		}
	}
}

func TestMetrics(t *testing.T) {
	r := newRig(t, nil)
	if err := r.client.Create(t.Context(), openfaas.FunctionDeployment{Service: "hi", Image: "x:1"}); err != nil {
		t.Fatal(err)
	}
	r.call("POST", "/function/hi", "")
	got, err := r.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]string{}
	for _, f := range got {
		for _, m := range f.GetMetric() {
			var ls []string
			for _, l := range m.GetLabel() {
				ls = append(ls, l.GetName()+"="+l.GetValue())
			}
			have[f.GetName()+"{"+strings.Join(ls, ",")+"}"] = ""
		}
	}
	for _, want := range []string{
		"gateway_function_invocation_total{code=200,function_name=hi.openfaas-fn}",
		"gateway_function_invocation_started{function_name=hi.openfaas-fn}",
		"gateway_functions_seconds{code=200,function_name=hi.openfaas-fn}",
		"gateway_function_invocation_inflight{function_name=hi.openfaas-fn}",
		"gateway_service_count{function_name=hi.openfaas-fn}",
		"gateway_service_ready_count{function_name=hi.openfaas-fn}",
		"gateway_service_min{function_name=hi.openfaas-fn}",
		"gateway_service_target_load{function_name=hi.openfaas-fn,scaling_type=rps}",
		"http_requests_total{method=POST,path=/system/functions,status=202}",
		"http_request_duration_seconds{method=POST,path=/system/functions,status=202}",
		"faas_cold_start_seconds{}",
		"faas_cold_start_stage_seconds{stage=queued}",
		"faas_cold_start_stage_seconds{stage=connect}",
		"faas_cold_start_stage_seconds{stage=first_byte}",
	} {
		if _, ok := have[want]; !ok {
			t.Errorf("no %s", want)
		}
	}
}

func TestCallbacks(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) { c.Enqueue = func(context.Context, dialect.AsyncCall) error { return nil } })
	if err := r.client.Create(t.Context(), openfaas.FunctionDeployment{Service: "hi", Image: "x:1"}); err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]int{
		"http://example.com/done": 202, "https://example.com:8443/x?y": 202, "http://127.0.0.1:9999/": 202,
		"gopher://example.com": 400, "file:///etc/passwd": 400, "http://": 400, "/done": 400, "http://a@b/": 400, "http://%zz": 400,
		"http://169.254.169.254/": 400, "http://0.0.0.0/": 400,
	} {
		req, _ := http.NewRequestWithContext(t.Context(), "POST", r.url+"/async-function/hi", nil)
		req.Header.Set("X-Callback-Url", url)
		if status, body, _ := r.do(req); status != want {
			t.Errorf("%s: %d %q, want %d", url, status, body, want)
		}
	}
}

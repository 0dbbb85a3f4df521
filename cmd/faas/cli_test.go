package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/gateway"
	"github.com/podsnap/podsnap/gateway/auth"
	"github.com/podsnap/podsnap/internal/openfaas"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// result is what a command did.
type result struct {
	code     int
	out, err string
}

// cli runs a command with stdin.
func cli(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	return cliFrom(t, strings.NewReader(stdin), args...)
}

func cliFrom(t *testing.T, stdin io.Reader, args ...string) result {
	t.Helper()
	var out, err bytes.Buffer
	code := run(t.Context(), args, stdin, &out, &err)
	return result{code, out.String(), err.String()}
}

// want fails unless a command ended with code, wrote out and says each of says.
func (r result) want(t *testing.T, code int, out string, says ...string) {
	t.Helper()
	if r.code != code || r.out != out {
		t.Errorf("exit code %d, want %d; output (-want +got)\n%s%s", r.code, code, cmp.Diff(out, r.out), r.err)
	}
	for _, s := range says {
		if !strings.Contains(r.err, s) {
			t.Errorf("it does not say %q but %q", s, r.err)
		}
	}
}

// alone gives a test its own login file and gateway.
func alone(t *testing.T, gateway string) {
	t.Helper()
	t.Setenv("OPENFAAS_CONFIG", t.TempDir())
	t.Setenv("OPENFAAS_URL", gateway)
	t.Chdir(t.TempDir()) // no stack.yaml
}

// double is a gateway that answers what the test says and writes down requests.
type double struct {
	url string

	mu    sync.Mutex
	asked []string // method, URI and body
	last  http.Header
}

func newDouble(t *testing.T, answers map[string]http.HandlerFunc) *double {
	t.Helper()
	d := &double{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		d.mu.Lock()
		d.asked = append(d.asked, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+string(b)))
		d.last = r.Header.Clone()
		d.mu.Unlock()
		if h := answers[r.Method+" "+r.URL.Path]; h != nil {
			h(w, r)
			return
		}
		http.Error(w, "not found", http.StatusNotFound)
	}))
	t.Cleanup(s.Close)
	d.url = s.URL
	alone(t, s.URL)
	return d
}

func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// wantAsked fails unless these were the requests since the last time.
func (d *double) wantAsked(t *testing.T, want ...string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if diff := cmp.Diff(want, d.asked); diff != "" {
		t.Errorf("requests (-want +got)\n%s", diff)
	}
	d.asked = nil
}

// nothing is a control plane without replicas. Its stream ends with the context.
type nothing struct{ events chan api.EndpointEvent }

func (nothing) Report(context.Context, string, []api.Demand) error { return nil }
func (nothing) Endpoints(ctx context.Context, _ string) (api.EndpointStream, error) {
	n := nothing{make(chan api.EndpointEvent, 1)}
	n.events <- api.EndpointEvent{Type: api.EndpointsSynced}
	context.AfterFunc(ctx, func() { close(n.events) })
	return n, nil
}

func (nothing) Decisions(context.Context, types.NamespacedName) ([]api.ScaleDecision, error) {
	return nil, nil
}
func (nothing) Drained(context.Context, string, []types.UID) error   { return nil }
func (nothing) GiveLeave(context.Context, string, []api.Leave) error { return nil }
func (n nothing) Events() <-chan api.EndpointEvent                   { return n.events }
func (nothing) Err() error                                           { return nil }
func (nothing) Stop()                                                {}

// newGateway is the real gateway over objects in memory, with the user admin
// and the password secret.
func newGateway(t *testing.T) string {
	t.Helper()
	objects := memory.New(memory.Config{Namespaces: true})
	g, err := gateway.New(gateway.Config{
		Objects: objects, Capacity: nothing{}, Name: "test",
		Auth: auth.Config{User: "admin", Password: "secret"}, Version: openfaas.Version{Release: "1.2.3", SHA: "abc"}, Drain: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	s := httptest.NewServer(g.Handler())
	t.Cleanup(func() {
		s.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	w, err := objects.Watch(t.Context(), api.Namespaces, api.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.Events() {
		if n, ok := e.Object.(*corev1.Namespace); ok && n.Name == api.FunctionNamespace {
			break
		}
	}
	alone(t, s.URL)
	return s.URL
}

func TestExitCodes(t *testing.T) {
	d := newDouble(t, map[string]http.HandlerFunc{
		"GET /system/functions":        answer(200, "[]"),
		"GET /system/function/secret":  answer(401, "invalid credentials"),
		"GET /system/function/private": answer(403, "not yours"),
		"GET /system/function/broken":  answer(500, "the store is away"),
		"GET /system/function/slow":    answer(504, "too slow"),
		"GET /system/function/garbage": answer(200, "{"),
		"PUT /system/functions":        answer(400, "function x is not valid: image: Required value"),
	})
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"list", 0, "no functions yet"},
		{"list --help", 0, ""},
		{"version --short-version", 0, ""},

		{"describe broken", 1, "the store is away (500)"},
		{"describe garbage", 1, "read answer"},
		{"deploy --name x --image y", 1, "image: Required value"},

		{"invok", 2, `faas has no command "invok"; did you mean invoke?`},
		{"frobnicate", 2, "`faas --help` shows those that are"},
		{"secret craete", 2, "did you mean create?"},
		{"secret frobnicate", 2, "`faas secret --help`"},
		{"queue dad", 2, "did you mean dead?"},
		{"namespace nothing", 2, "faas namespace has no command"},
		{"completion tcsh", 2, "faas completion has no command"},
		{"list extra", 2, "usage: faas list"},
		{"list --nothing", 2, "unknown flag: --nothing"},
		{"list --sort size", 2, "--sort"},
		{"list -o xml", 2, "it must be json, yaml, wide or name"},
		{"remove x -o xml", 2, "it must be json, yaml, wide or name"},
		{"list --timeout -1s", 2, "--timeout"},
		{"list --timeout soon", 2, "--timeout"},
		{"list -g ftp://x", 2, "it must look like http://127.0.0.1:8080"},
		{"list -g http://", 2, "gateway"},
		{"describe", 2, "usage: faas describe NAME"},
		{"invoke a b", 2, "usage: faas invoke NAME"},
		{"invoke x --header nothing", 2, "it must be Name=value"},
		{"invoke x --header =x", 2, "it must be Name=value"},
		{"invoke x --content-type a/b -H Content-Type:c/d", 2, "exclude one another"},
		{"invoke x --callback http://x", 2, "--async"},
		{"scale x", 2, "faas scale x --replicas N"},
		{"scale x --replicas -1", 2, "--replicas"},
		{"logs x -o yaml", 2, "it must be json, text, plain or keyvalue"},
		{"logs x --since 1m --since-time 2026-01-02T03:04:05Z", 2, "exclude one another"},
		{"logs x --since-time yesterday", 2, "it must look like 2026"},
		{"list -o text", 2, "it must be json, yaml, wide or name"},
		{"list -j -o yaml", 2, "exclude one another"},
		{"build --parallel 0 --name x --lang sh --handler .", 2, "it must be 1 or more"},
		{"build --name x", 2, "--name, --handler and --lang go together"},
		{"build --build-arg A=b", 2, "there is no Dockerfile that could read it"},
		{"up -b A=b", 2, "--env"},
		{"up --squash", 2, "leave it out"},
		{"deploy --tag sha", 2, "git rev-parse --short HEAD"},
		{"publish --platforms linux/none", 2, "images are built for linux/"},
		{"ready --attempts 0", 2, "--attempts"},
		{"deploy --name x", 2, "--image and --name go together"},
		{"deploy --name x --image y --env A", 2, "--env \"A\": it must be key=value"},
		{"deploy --name x --image y --label =1", 2, "--label"},
		{"new", 2, "faas new NAME --lang LANGUAGE"},
		{"secret create x --from-file absent", 2, "absent"},
		{"secret create x --from-file y --from-literal z", 2, "exclude one another"},
		{"secret create x", 2, "would be empty"},
		{"why a b", 2, "usage: faas why"},
		{"queue redrive", 2, "usage: faas queue redrive NUMBER..."},
		{"queue redrive 1 x", 2, "`faas queue dead` shows them"},
		{"queue redrive 0", 2, "not the number"},
		{"queue dead --limit 0", 2, "--limit"},
		{"queue dead --limit 1001", 2, "--limit"},

		{"describe absent", 3, "there is no function \"absent\" in namespace openfaas-fn; `faas list -n openfaas-fn` shows those that are"},
		{"describe absent -n dev", 3, "in namespace dev"},
		{"scale absent --replicas 1", 3, "there is no function"},
		{"logs absent", 3, "there is no function"},
		{"remove absent", 3, "there is no function"},
		{"ready absent --attempts 2 --interval 1ms", 3, "there is no function"},
		{"invoke absent", 3, "invoke absent: not found (404)"},
		{"secret update absent --from-literal x", 3, "`faas secret list -n openfaas-fn`"},
		{"secret remove absent", 3, "there is no secret"},
		{"namespace get absent", 3, "`faas namespace list`"},
		{"namespace update absent", 3, "there is no namespace"},
		{"namespace remove absent", 3, "there is no namespace"},

		{"describe secret", 4, "invalid credentials, log in first (401). Log in with `faas login --gateway " + d.url + "`"},
		{"ready secret", 4, "faas login"},
		{"describe private", 4, "not yours (403)"},

		{"describe slow", 5, "too slow (504)"},
	} {
		r := cli(t, "", strings.Fields(c.args)...)
		if r.code != c.code || !strings.Contains(r.err, c.says) {
			t.Errorf("faas %s: exit code %d, want %d with %q\n%s", c.args, r.code, c.code, c.says, r.err)
		}
		if c.code != 0 && (r.out != "" || !strings.HasPrefix(r.err, "faas: ")) {
			t.Errorf("faas %s: output %q, error %q", c.args, r.out, r.err)
		}
	}
}

// Without a command, and for a group alone, there is help and no fault.
func TestHelp(t *testing.T) {
	alone(t, "")
	for _, args := range []string{"", "--help", "help", "help queue dead", "secret", "queue", "namespace", "template", "completion"} {
		if r := cli(t, "", strings.Fields(args)...); r.code != 0 || r.err != "" || !strings.Contains(r.out, "Usage:") {
			t.Errorf("faas %s: exit code %d, output %q, error %q", args, r.code, r.out, r.err)
		}
	}
	r := cli(t, "")
	for _, s := range []string{"Make functions:", "Use functions:", "The platform:", "queue", "--gateway", "completion"} {
		if !strings.Contains(r.out, s) {
			t.Errorf("help does not name %q\n%s", s, r.out)
		}
	}
	if strings.Contains(r.out, "store-child") {
		t.Errorf("help names what is not for people\n%s", r.out)
	}
}

func TestNoGateway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	alone(t, "http://"+closed.Addr().String())
	const remedy = "Start the platform with `make up` (or `faas server`), or name another with --gateway"
	for _, args := range []string{"list", "invoke x", "logs x", "status", "queue dead", "ready --attempts 1", "login -p x", "deploy --name x --image y"} {
		if r := cli(t, "", strings.Fields(args)...); r.code != 1 || !strings.Contains(r.err, remedy) || !strings.Contains(r.err, closed.Addr().String()) {
			t.Errorf("faas %s: exit code %d, %s", args, r.code, r.err)
		}
	}
	r := cli(t, "", "version") // says what it knows
	if r.code != 0 || !strings.HasPrefix(r.out, "Client:") || !strings.Contains(r.err, remedy) {
		t.Errorf("version: %+v", r)
	}
	// One that takes connections and says nothing.
	cli(t, "", "list", "-g", "http://"+l.Addr().String(), "--timeout", "20ms").want(t, 5, "", "did not answer in time; --timeout gives it longer")
	cli(t, "", "ready", "-g", "http://"+l.Addr().String(), "--timeout", "20ms").want(t, 5, "", "deadline exceeded")
}

func TestCertificate(t *testing.T) {
	s := httptest.NewUnstartedServer(answer(200, "[]"))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	alone(t, s.URL)
	cli(t, "", "list").want(t, 1, "", "can't be trusted; --tls-no-verify")
	cli(t, "", "list", "--tls-no-verify", "-q").want(t, 0, "")
}

const two = `[{"name":"resize","image":"resize:1","namespace":"openfaas-fn","invocationCount":12,"replicas":3,"availableReplicas":2,"createdAt":"2026-01-02T03:04:05Z"},
{"name":"hello","image":"hello:1","namespace":"openfaas-fn"}]`

func TestOutput(t *testing.T) {
	d := newDouble(t, map[string]http.HandlerFunc{
		"GET /system/functions": answer(200, two),
		"GET /system/function/resize": answer(200, `{"name":"resize","image":"resize:1","replicas":3,"availableReplicas":2,"labels":{"b":"2","a":"1"},
			"limits":{"memory":"128Mi","cpu":"100m"},"usage":{"cpu":12.4,"totalMemoryBytes":1572864,"frozenReplicas":1},"envProcess":"./resize"}`),
		"GET /system/function/hello":  answer(200, `{"name":"hello","image":"hello:1"}`),
		"GET /system/function/stuck":  answer(200, `{"name":"stuck","image":"hello:1","replicas":1}`),
		"GET /system/function/failed": answer(200, `{"name":"failed","replicas":1,"reason":"ErrImagePull","message":"not found"}`),
		"GET /system/namespaces":      answer(200, `["dev","openfaas-fn"]`),
		"GET /system/namespace/dev":   answer(200, `{"name":"dev","labels":{"openfaas":"1"}}`),
		"GET /system/secrets":         answer(200, `[{"name":"b","namespace":"dev"},{"name":"a","namespace":"dev"}]`),
		"GET /system/info":            answer(200, `{"provider":{"provider":"podsnap","orchestration":"podsnap","version":{"release":"1.2.3","sha":"abc"}},"version":{"release":"1.2.3","sha":"abc"},"arch":"amd64"}`),
		"GET /healthz":                answer(200, ""),
		"POST /system/functions":      answer(202, ""),
		"POST /system/scale-function": answer(202, ""),
	})
	cli(t, "", "list").want(t, 0, "FUNCTION  INVOCATIONS  REPLICAS  READY\nhello     0            0         0\nresize    12           3         2\n")
	cli(t, "", "list", "--sort", "invocations", "-q").want(t, 0, "resize\nhello\n")
	cli(t, "", "list", "--sort", "creation", "-o", "name").want(t, 0, "hello\nresize\n")
	cli(t, "", "ls", "-n", "dev", "-o", "name").want(t, 0, "hello\nresize\n")
	d.wantAsked(t, "GET /system/functions?namespace=openfaas-fn", "GET /system/functions?namespace=openfaas-fn", "GET /system/functions?namespace=openfaas-fn", "GET /system/functions?namespace=dev")
	for _, format := range []string{"json", "yaml"} {
		var got, want []openfaas.FunctionStatus
		r := cli(t, "", "list", "-o", format)
		if err := yaml.UnmarshalStrict([]byte(r.out), &got); err != nil { // JSON is YAML
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(two), &want); err != nil {
			t.Fatal(err)
		}
		want[0], want[1] = want[1], want[0]
		if diff := cmp.Diff(want, got); diff != "" || r.code != 0 || json.Valid([]byte(r.out)) != (format == "json") {
			t.Errorf("%s: %s\n%s", format, diff, r.out)
		}
	}
	if r := cli(t, "", "list", "-v"); !regexp.MustCompile(`(?m)^resize +resize:1 +12 +3 +2 +\S+s$`).MatchString(r.out) {
		t.Errorf("verbose: %s", r.out)
	}
	r := cli(t, "", "describe", "resize")
	for _, s := range []string{"Status: ready", "Replicas: 3 wanted, 2 ready, 1 of them frozen", "Labels: a=1, b=2", "Limits: cpu 100m, memory 128Mi", "Usage: 12m cpu, 1.5 MiB", "Process: ./resize", "URL: " + d.url + "/function/resize"} {
		if !strings.Contains(regexp.MustCompile(` +`).ReplaceAllString(r.out, " "), s+"\n") {
			t.Errorf("describe does not say %q\n%s", s, r.out)
		}
	}
	if r := cli(t, "", "describe", "hello"); !strings.Contains(r.out, "scaled to zero: the next call starts it") {
		t.Errorf("describe: %s", r.out)
	}
	if r := cli(t, "", "describe", "stuck", "-n", "dev"); !strings.Contains(r.out, "see `faas logs stuck -n dev --tail=false` and `kubectl get events -n dev`") || !strings.Contains(r.out, "/function/stuck.dev\n") {
		t.Errorf("describe: %s", r.out)
	}
	cli(t, "", "describe", "resize", "-o", "name").want(t, 0, "resize\n")
	cli(t, "", "namespace", "list").want(t, 0, "dev\nopenfaas-fn\n")
	cli(t, "", "ns", "get", "dev").want(t, 0, "Name:         dev\nLabels:       openfaas=1\nAnnotations:  \n")
	cli(t, "", "ns", "get", "dev", "-o", "name").want(t, 0, "dev\n")
	cli(t, "", "secret", "list", "-n", "dev").want(t, 0, "NAME  NAMESPACE\na     dev\nb     dev\n")
	cli(t, "", "secret", "ls", "-o", "name").want(t, 0, "a\nb\n")
	cli(t, "", "ready").want(t, 0, "", "ready")
	cli(t, "", "ready", "resize").want(t, 0, "", "ready")
	cli(t, "", "ready", "stuck", "--attempts", "2", "--interval", "1ms").want(t, 1, "", "stuck has no replica that is ready")
	cli(t, "", "ready", "failed", "--attempts", "1").want(t, 1, "", "failed has no replica that is ready: ErrImagePull: not found")
	r = cli(t, "", "status", "-o", "json")
	r.want(t, 0, fmt.Sprintf(`{
  "gateway": %q,
  "healthy": true,
  "version": "1.2.3",
  "functions": 4,
  "replicas": 6,
  "ready": 4
}
`, d.url))
	if r := cli(t, "", "version"); !strings.Contains(r.out, "1.2.3 (abc) at "+d.url) || r.code != 0 {
		t.Errorf("version: %+v", r)
	}
}

func TestLogs(t *testing.T) {
	d := newDouble(t, map[string]http.HandlerFunc{"GET /system/logs": answer(200, `{"name":"hi","namespace":"dev","instance":"hi-1","timestamp":"2026-01-02T03:04:05Z","text":"one <two>"}

{"name":"hi","namespace":"dev","instance":"hi-2","timestamp":"2026-01-02T03:04:06Z","text":"three"}
`)})
	cli(t, "", "logs", "hi").want(t, 0, "2026-01-02T03:04:05Z hi-1 one <two>\n2026-01-02T03:04:06Z hi-2 three\n")
	cli(t, "", "logs", "hi", "--plain").want(t, 0, "one <two>\nthree\n")
	r := cli(t, "", "logs", "hi", "-n", "dev", "-o", "json", "-f", "--lines", "5", "--instance", "hi-1")
	var got []openfaas.LogLine
	for line := range strings.Lines(r.out) {
		var l openfaas.LogLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("not one object a line: %v\n%s", err, r.out)
		}
		got = append(got, l)
	}
	if len(got) != 2 || got[0].Text != "one <two>" || got[1].Instance != "hi-2" {
		t.Errorf("got %+v", got)
	}
	cli(t, "", "logs", "hi", "--tail=false", "-o", "text").want(t, 0, "2026-01-02T03:04:05Z hi-1 one <two>\n2026-01-02T03:04:06Z hi-2 three\n")
	cli(t, "", "logs", "hi", "--follow=false", "--since-time", "2026-01-02T03:04:05Z", "-o", "keyvalue").want(t, 0,
		"timestamp=\"2026-01-02T03:04:05Z\" instance=\"hi-1\" text=\"one <two>\"\ntimestamp=\"2026-01-02T03:04:06Z\" instance=\"hi-2\" text=\"three\"\n")
	const all = "name=hi&namespace=openfaas-fn"
	d.wantAsked(t, "GET /system/logs?follow=true&"+all, "GET /system/logs?follow=true&"+all,
		"GET /system/logs?follow=true&instance=hi-1&name=hi&namespace=dev&tail=5",
		"GET /system/logs?follow=false&"+all, "GET /system/logs?follow=false&"+all+"&since=2026-01-02T03%3A04%3A05Z")
}

// The real gateway takes what the commands send.
func TestAgainstGateway(t *testing.T) {
	url := newGateway(t)
	cli(t, "", "list").want(t, 4, "", "faas login --gateway "+url)
	cli(t, "secret\n", "login", "--password-stdin").want(t, 0, "", "logged in to "+url+" as admin")
	cli(t, "", "deploy", "--name", "hi", "--image", "hi:1", "-l", "com.openfaas.scale.max=3").want(t, 0, "", "deployed hi in ", url+"/function/hi")
	cli(t, "", "deploy", "--name", "hi", "--image", "hi:2", "-l", "com.openfaas.scale.max=3", "--no-wait").want(t, 0, "", "updated hi in ")
	cli(t, "", "deploy", "--name", "hi", "--image", "hi:2", "-l", "com.openfaas.scale.max=3", "--wait-timeout", "50ms").want(t, exitTimeout, "", "does not come up") // nothing runs it
	cli(t, "", "deploy", "--name", "hi", "--image", "hi:2", "--update=false").want(t, 1, "", "exists already", "without --update=false")
	cli(t, "", "deploy", "--name", "hi", "--image", "hi:3", "--replace").want(t, 0, "", "deployed hi in ")
	cli(t, "", "deploy", "--name", "A_b", "--image", "hi:3").want(t, 1, "", "service: Invalid value")
	cli(t, "", "list", "-q").want(t, 0, "hi\n")
	cli(t, "", "scale", "hi", "--replicas", "2").want(t, 0, "", "hi is being scaled to 2")
	cli(t, "", "scale", "hi", "--replicas", "0").want(t, 0, "", "hi is being scaled to 0")
	cli(t, "", "scale", "hi", "--replicas", "99999999").want(t, 1, "", "com.openfaas.scale.max")
	cli(t, "", "invoke", "nope").want(t, 3, "", "there is no function \"nope\"", "[call ")

	cli(t, "v\n", "secret", "create", "key").want(t, 0, "", "created secret key")
	cli(t, "", "secret", "create", "key", "--from-literal", "w").want(t, 1, "", "exists already", "--replace gives it the new value")
	cli(t, "", "secret", "create", "key", "--from-literal", "w", "--replace").want(t, 0, "", "updated secret key")
	cli(t, "x", "secret", "update", "key").want(t, 0, "", "updated secret key")
	cli(t, "", "secret", "list", "-o", "name").want(t, 0, "key\n")
	cli(t, "", "secret", "remove", "key").want(t, 0, "", "removed secret key")
	cli(t, "", "secret", "remove", "key").want(t, 3, "", "there is no secret \"key\"")

	cli(t, "", "namespace", "create", "dev", "--label", "team=a").want(t, 0, "", "created namespace dev")
	cli(t, "", "namespace", "create", "dev").want(t, 1, "", "exists already")
	cli(t, "", "namespace", "update", "dev", "--label", "team=b").want(t, 0, "", "updated namespace dev")
	if r := cli(t, "", "namespace", "get", "dev", "-o", "yaml"); !strings.Contains(r.out, "team: b") || !strings.Contains(r.out, `openfaas: "1"`) {
		t.Errorf("namespace get: %+v", r)
	}
	cli(t, "", "deploy", "--name", "hi", "--image", "hi:1", "-n", "dev").want(t, 0, "", "/function/hi.dev")
	cli(t, "", "namespace", "remove", "dev").want(t, 0, "", "namespace dev is being removed")
	cli(t, "", "namespace", "remove", "openfaas-fn").want(t, 1, "", "default")

	cli(t, "", "queue", "list").want(t, 1, "", "no queue")
	cli(t, "", "why", "nothing").want(t, 3, "", "`faas why` shows the calls")
	cli(t, "", "remove", "hi").want(t, 0, "", "removed hi")
	cli(t, "", "remove", "hi").want(t, 3, "", "there is no function \"hi\"")
	cli(t, "", "logout").want(t, 0, "", "logged out of "+url)
	cli(t, "", "list").want(t, 4, "")
}

package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
)

// curl, unmodified, gets from every route of the OpenFaaS API what clients of
// it expect.
func curl(t *testing.T, p *platform.Platform) {
	bin, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("no curl on this machine: deploy/setup.sh test installs it")
	}
	deploy(t, p, openfaas.FunctionDeployment{Service: "curled", Labels: map[string]string{"com.openfaas.scale.max": "3"}})
	platform.Eventually(t, 20*time.Second, available(t, p, "curled", 1))
	const anybody, admin = false, true
	for _, c := range []struct {
		who          bool
		method, path string
		body         string
		want         int
		says         string
	}{
		{anybody, "GET", "/healthz", "", 200, ""},
		{anybody, "HEAD", "/healthz", "", 200, ""},
		{anybody, "GET", "/", "", 307, ""},
		{anybody, "GET", "/ui/", "", 401, "invalid credentials"},
		{admin, "GET", "/ui/", "", 200, "html"},
		{anybody, "GET", "/system/functions", "", 401, "invalid credentials"},
		{admin, "GET", "/system/functions", "", 200, `"name":"curled"`},
		{admin, "GET", "/system/functions?namespace=openfaas-fn", "", 200, `"replicas":1`},
		{admin, "GET", "/system/functions?namespace=nowhere", "", 400, "nowhere"},
		{admin, "POST", "/system/functions", `{"service":"made","image":"probe:latest","labels":null}`, 202, ""},
		{admin, "POST", "/system/functions", `{"service":"made","image":"probe:latest"}`, 409, "made"},
		{admin, "PUT", "/system/functions", `{"service":"made","image":"probe:latest","envVars":{"A":"b"}}`, 202, ""},
		{admin, "PUT", "/system/functions", `{"service":"unmade","image":"probe:latest"}`, 404, ""},
		{admin, "GET", "/system/function/made?namespace=openfaas-fn", "", 200, `"envVars":{"A":"b"}`},
		{admin, "GET", "/system/function/made?usage=1", "", 200, `"image":"probe:latest"`},
		{admin, "GET", "/system/function/unmade", "", 404, ""},
		{admin, "POST", "/system/scale-function/made", `{"serviceName":"made","replicas":2}`, 202, ""},
		{admin, "GET", "/system/function/made", "", 200, `"replicas":2`},
		{admin, "POST", "/system/scale-function/unmade", `{"replicas":2}`, 404, ""},
		{admin, "POST", "/system/scale-function/made", `{`, 400, ""},
		{admin, "DELETE", "/system/functions?namespace=openfaas-fn", `{"functionName":"made"}`, 202, ""},
		{admin, "DELETE", "/system/functions", `{"functionName":"unmade"}`, 404, ""},
		{admin, "DELETE", "/system/functions", `{}`, 400, ""},
		{admin, "GET", "/system/info", "", 200, `"provider"`},
		{admin, "GET", "/system/namespaces", "", 200, `"openfaas-fn"`},
		{admin, "POST", "/system/namespace/", `{"name":"curls","labels":{"openfaas":"1"},"annotations":{"openfaas":"1"}}`, 201, ""},
		{admin, "POST", "/system/namespace/", `{"name":"curls","labels":{"openfaas":"1"},"annotations":{"openfaas":"1"}}`, 409, ""},
		{admin, "GET", "/system/namespace/curls", "", 200, `"name":"curls"`},
		{admin, "PUT", "/system/namespace/curls", `{"name":"curls","labels":{"openfaas":"1","a":"b"},"annotations":{"openfaas":"1"}}`, 202, ""},
		{admin, "GET", "/system/namespace/nowhere", "", 404, ""},
		{admin, "DELETE", "/system/namespace/curls", `{"name":"curls","labels":{"openfaas":"1"}}`, 202, ""},
		{admin, "POST", "/system/secrets", `{"name":"curl","value":"v"}`, 202, ""},
		{admin, "POST", "/system/secrets", `{"name":"curl","value":"v"}`, 409, ""},
		{admin, "PUT", "/system/secrets", `{"name":"curl","rawValue":"dg=="}`, 202, ""},
		{admin, "PUT", "/system/secrets", `{"name":"uncurl","value":"v"}`, 404, ""},
		{admin, "GET", "/system/secrets?namespace=openfaas-fn", "", 200, `"name":"curl"`},
		{admin, "DELETE", "/system/secrets", `{"name":"curl"}`, 202, ""},
		{admin, "DELETE", "/system/secrets", `{"name":"curl"}`, 404, ""},
		{admin, "GET", "/system/logs?name=curled&tail=10&follow=false", "", 200, ""},
		{admin, "GET", "/system/logs?name=unmade", "", 404, ""},
		{admin, "GET", "/system/logs?name=curled&tail=x", "", 422, ""},
		{admin, "POST", "/system/alert", `{"status":"firing","receiver":"scale-up","alerts":[{"status":"firing","labels":{"alertname":"APIHighInvocationRate","function_name":"curled.openfaas-fn"}}]}`, 200, ""},
		{admin, "POST", "/system/alert", `{`, 400, ""},
		{anybody, "POST", "/function/curled", "echo", 200, "echo"},
		{anybody, "PATCH", "/function/curled.openfaas-fn/a/b?c=d", "echo", 200, "echo"},
		{anybody, "TRACE", "/function/curled", "", 405, ""},
		{anybody, "POST", "/function/unmade", "", 404, "error finding function unmade.openfaas-fn"},
		{anybody, "GET", "/function/.openfaas-fn", "", 404, ""},
		{anybody, "POST", "/function/..%2f..%2fsystem/functions", "", 400, ""},
		{anybody, "POST", "/async-function/curled", "later", 202, ""},
		{anybody, "POST", "/async-function/unmade", "later", 404, ""},
		{anybody, "PUT", "/async-function/curled", "later", 405, ""},
		{anybody, "GET", "/v2/", "", 401, ""},
		{admin, "GET", "/v2/probe/tags/list", "", 200, "latest"},
	} {
		args := []string{"-s", "--path-as-is", "-m", "20", "-o", "-", "-w", "\n%{http_code}", "-X", c.method}
		if c.method == "HEAD" {
			args = append(args, "-I")
		}
		if c.who {
			args = append(args, "-u", "admin:"+p.Password)
		}
		if c.body != "" {
			args = append(args, "--data-binary", c.body)
		}
		out, err := exec.CommandContext(t.Context(), bin, append(args, p.URL+c.path)...).Output()
		if err != nil {
			t.Errorf("curl %s %s: %v", c.method, c.path, err)
			continue
		}
		body, code, _ := strings.Cut(reverseCut(string(out)), "\x00")
		if code != fmt.Sprint(c.want) || !strings.Contains(body, c.says) {
			t.Errorf("curl -X %s %s: got %s %q, want %d that says %q", c.method, c.path, code, body, c.want, c.says)
		}
	}
}

// reverseCut puts a NUL where the last line begins.
func reverseCut(s string) string {
	i := strings.LastIndex(s, "\n")
	return s[:i] + "\x00" + s[i+1:]
}

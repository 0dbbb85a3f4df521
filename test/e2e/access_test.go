package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
)

const accessManifest = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: bot}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: bot}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: bot}]
---
apiVersion: v1
kind: Pod
metadata: {name: asks}
spec:
  serviceAccountName: bot
  containers: [{name: main, image: "probe:latest"}]
---
apiVersion: v1
kind: Pod
metadata: {name: quiet}
spec:
  automountServiceAccountToken: false
  containers: [{name: main, image: "probe:latest"}]
`

// accessByRoles has a pod ask the API with its mounted token, and people with
// kubeconfigs of their own: all are allowed exactly what roles say.
func accessByRoles(t *testing.T, p *platform.Platform) {
	run := kubectlOf(t, p)
	run("", "create", "namespace", "roles")
	t.Cleanup(func() { run("", "delete", "namespace", "roles", "--timeout=120s") })
	run(accessManifest, "apply", "-n", "roles", "-f", "-")
	run("", "wait", "-n", "roles", "--for=condition=Ready", "pod/asks", "pod/quiet", "--timeout=120s")
	ip := func(pod string) string {
		return run("", "get", "pod", pod, "-n", "roles", "-o", "jsonpath={.status.podIP}")
	}
	asks := ip("asks")
	ask := func(pod, path string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+pod+":8080/api?path="+url.QueryEscape(path), nil)
		if err != nil {
			t.Fatal(err)
		}
		code, body, _, err := do(req)
		if err != nil {
			t.Fatal(err)
		}
		return code, body
	}
	platform.Eventually(t, 20*time.Second, func() error {
		if code, body := ask(asks, "/api/v1/namespaces/roles/pods/asks"); code != 200 || !strings.Contains(body, `"name":"asks"`) {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	for _, c := range []struct {
		path string
		code int
		want string
	}{
		{"/api/v1/namespaces/roles/pods", 200, `"kind":"PodList"`},
		{"/version", 200, "podsnap"},
		{"/api/v1/namespaces/roles/secrets", 403, `cannot list resource \"secrets\" in API group \"\" in the namespace \"roles\"`},
		{"/api/v1/namespaces/default/pods", 403, `User \"system:serviceaccount:roles:bot\"`},
	} {
		if code, body := ask(asks, c.path); code != c.code || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s, want %d with %s", c.path, code, body, c.code, c.want)
		}
	}
	if code, body := ask(ip("quiet"), "/version"); code != 500 || !strings.Contains(body, "no such file") {
		t.Errorf("a pod that wants no token: %d %s", code, body)
	}

	// A function reaches the API neither by the Service nor where that leads.
	deploy(t, p, openfaas.FunctionDeployment{Service: "outside"})
	platform.Eventually(t, 20*time.Second, available(t, p, "outside", 1))
	service := run("", "get", "service", "kubernetes", "-n", "default", "-o", "jsonpath={.spec.clusterIP}:{.spec.ports[0].port}")
	endpoint := run("", "get", "endpoints", "kubernetes", "-n", "default", "-o", "jsonpath={.subsets[0].addresses[0].ip}:{.subsets[0].ports[0].port}")
	for _, at := range []string{service, endpoint} {
		if code, body, _ := invoke(t, p, "GET", "/function/outside/api?path=/version&at="+at, ""); code != http.StatusBadGateway {
			t.Errorf("a function at %s: %d %s", at, code, body)
		}
	}

	admin, err := os.ReadFile(filepath.Join(p.StateDir, "kubeconfig"))
	if got := p.MustFaas("", "kubeconfig", "--state-dir", p.StateDir); err != nil || got != string(admin) {
		t.Errorf("the administrator's kubeconfig: %v\n%s", err, got)
	}
	jane := filepath.Join(t.TempDir(), "jane")
	text := p.MustFaas("", "kubeconfig", "--state-dir", p.StateDir, "--user", "jane", "--group", "dev", "--namespace", "roles")
	if err := os.WriteFile(jane, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run("", "create", "rolebinding", "dev", "-n", "roles", "--clusterrole=view", "--group=dev")
	as := func(args ...string) string {
		out, _ := exec.CommandContext(t.Context(), "kubectl", append([]string{"--kubeconfig", jane, "--cache-dir", t.TempDir()}, args...)...).CombinedOutput()
		return string(out)
	}
	platform.Eventually(t, 20*time.Second, func() error {
		if out := as("get", "pods"); !strings.Contains(out, "asks") {
			return fmt.Errorf("jane: %s", out)
		}
		return nil
	})
	for _, c := range []struct{ args, want string }{
		{"delete pod asks", `Error from server (Forbidden): pods "asks" is forbidden: User "jane" cannot delete resource "pods" in API group "" in the namespace "roles"`},
		{"get nodes", `nodes is forbidden: User "jane" cannot list resource "nodes" in API group "" at the cluster scope`},
		{"auth whoami", "dev"},
	} {
		if out := as(strings.Fields(c.args)...); !strings.Contains(out, c.want) {
			t.Errorf("jane's kubectl %s: %s, want %s", c.args, out, c.want)
		}
	}
}

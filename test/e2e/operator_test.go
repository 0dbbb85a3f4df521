package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/test/platform"
)

// operatorAccess is what a chart of the operator would bring: no more than it does.
const operatorAccess = `
apiVersion: v1
kind: Namespace
metadata: {name: ops}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: operator, namespace: ops}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: operator}
rules:
- {apiGroups: [db.example.org], resources: [databases], verbs: [get, list, watch, patch]}
- {apiGroups: [db.example.org], resources: [databases/status], verbs: [patch]}
- {apiGroups: [db.example.org], resources: [databases/finalizers], verbs: [update]}
- {apiGroups: [""], resources: [configmaps], verbs: [get, list, watch, create, patch]}
- {apiGroups: [apps], resources: [deployments], verbs: [get, list, watch, create, update]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}
- {apiGroups: ["", events.k8s.io], resources: [events], verbs: [create, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: operator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: operator}
subjects: [{kind: ServiceAccount, name: operator, namespace: ops}]
`

// operated has a controller on controller-runtime keep the kind Database, as a service
// account, while the server goes and comes.
func operated(t *testing.T, p *platform.Platform) {
	bin, run := builtClient(t, "operator/operator", "operator"), kubectlOf(t, p)
	tools, err := filepath.Abs("testdata/tools")
	if err != nil {
		t.Fatal(err)
	}
	p.MustFaas("", "login")
	for _, verb := range []string{"build", "push"} {
		if out, err := p.FaasIn(tools, "", verb, "-f", "stack.yaml"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	run(operatorAccess, "apply", "-f", "-")
	config := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(config, fmt.Appendf(nil, `
apiVersion: v1
kind: Config
current-context: it
clusters: [{name: it, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: it, user: {token: %q}}]
contexts: [{name: it, context: {cluster: it, user: it}}]
`, p.API, filepath.Join(p.StateDir, "auth", "ca.crt"), strings.TrimSpace(run("", "create", "token", "operator", "-n", "ops"))), 0o600); err != nil {
		t.Fatal(err)
	}
	beside(t, bin, "--kubeconfig="+config, "--namespace=ops")
	is := func(want string, args ...string) {
		t.Helper()
		platform.Eventually(t, 40*time.Second, func() error {
			if out := run("", append([]string{"-n", "ops", "get", "--ignore-not-found"}, args...)...); out != want {
				return fmt.Errorf("%v is %q, want %q", args, out, want)
			}
			return nil
		})
	}
	database := func(name string) string {
		return "apiVersion: db.example.org/v1\nkind: Database\nmetadata: {name: " + name + ", namespace: ops}\nspec: {engine: postgres}\n"
	}
	run(database("main"), "apply", "-f", "-")
	is("postgres 1", "configmap", "main", "-o", "jsonpath={.data.engine} {.data.replicas}")
	// It waits for an image, which another object says.
	run("", "-n", "ops", "create", "configmap", "engines", "--from-literal=postgres=tools:latest", "--from-literal=mysql=tools:latest")
	run("", "-n", "ops", "wait", "database/main", "--for=condition=Ready", "--timeout=120s")
	run("", "-n", "ops", "scale", "databases/main", "--replicas=2")
	is("Up 2 2 True", "database", "main", "-o", `jsonpath={.status.phase} {.status.replicas} {.status.observedGeneration} {.status.conditions[?(@.type=="Ready")].status}`)
	is("Database/main Deployment/main", "events.events.k8s.io", "--field-selector", "reason=Deployed,reportingController=operator", "-o", "jsonpath={.items[0].regarding.kind}/{.items[0].regarding.name} {.items[0].related.kind}/{.items[0].related.name}")
	if out := run("", "-n", "ops", "describe", "database", "main"); !strings.Contains(out, "the deployment main is created") {
		t.Errorf("described is\n%s", out)
	}

	p.Kill()
	p.Start()
	run("", "-n", "ops", "patch", "database", "main", "--type=merge", "-p", `{"spec":{"engine":"mysql"}}`)
	is("mysql 2", "configmap", "main", "-o", "jsonpath={.data.engine} {.data.replicas}")
	is("3", "database", "main", "-o", "jsonpath={.status.observedGeneration}")
	// What is put out of order is put in order.
	run("", "-n", "ops", "delete", "configmap", "main")
	is("mysql 2", "configmap", "main", "-o", "jsonpath={.data.engine} {.data.replicas}")

	uid := run("", "-n", "ops", "get", "database", "main", "-o", "jsonpath={.metadata.uid}")
	run("", "-n", "ops", "delete", "database", "main", "--timeout=120s")
	is(uid, "configmap", "farewells", "-o", "jsonpath={.data.main}")
	is("", "configmap/main", "deployment/main", "-o", "name")
	run(database("second"), "apply", "-f", "-")
	is("db.example.org/goodbye", "database", "second", "-o", "jsonpath={.metadata.finalizers[0]}")
	// As everywhere: who deletes the operator with what it has to finish waits for ever.
	run("", "-n", "ops", "delete", "database", "second", "--timeout=120s")
	run("", "delete", "namespace", "ops", "--timeout=120s")
	run("", "delete", "clusterrole/operator", "clusterrolebinding/operator")
}

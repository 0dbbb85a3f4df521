package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/test/platform"
)

// TestCustomResources has kubectl define a kind as an operator would, use it in all
// ways, through a restart of the server, and take it away again.
func TestCustomResources(t *testing.T) {
	t.Parallel()
	p := platform.New(t)
	run := kubectlOf(t, p)
	crd, err := os.ReadFile("../../controlplane/custom/testdata/databases.yaml")
	if err != nil {
		t.Fatal(err)
	}
	shows := func(out string, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(out, w) {
				t.Errorf("%q is missing in\n%s", w, out)
			}
		}
	}
	complains := func(stdin, want string, args ...string) {
		t.Helper()
		cmd := exec.Command("kubectl", append([]string{"--kubeconfig", filepath.Join(p.StateDir, "kubeconfig"), "--cache-dir", t.TempDir()}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), want) {
			t.Errorf("kubectl %s: %v, %q is missing in\n%s", strings.Join(args, " "), err, want, out)
		}
	}
	const db = "apiVersion: db.example.org/v1\nkind: Database\nmetadata: {name: main}\nspec: {engine: postgres, users: [{name: app, admin: true}]}\n"

	shows(run(string(crd), "apply", "-f", "-"), "created")
	run("", "wait", "--for=condition=established", "crd/databases.db.example.org", "--timeout=120s")
	shows(run("", "api-resources", "--api-group=db.example.org"), "databases", "dbs", "Database")
	shows(run("", "explain", "databases.spec.engine"), "Engine is what runs.", "mysql")
	shows(run(db, "apply", "-f", "-"), "database.db.example.org/main created")
	shows(run(db, "apply", "-f", "-"), "unchanged")
	shows(run("", "get", "dbs", "-o", "wide"), "ENGINE", "SIZE", "postgres", "1Gi")
	shows(run("", "get", "storage"), "main")
	shows(run("", "scale", "dbs/main", "--replicas=3"), "scaled")
	shows(run("", "patch", "database", "main", "--subresource=status", "--type=merge", "-p", `{"status":{"phase":"Up"}}`), "patched")
	if out := run("", "get", "database", "main", "-o", "jsonpath={.spec.replicas} {.status.phase} {.metadata.generation}"); out != "3 Up 2" {
		t.Errorf("replicas, phase and generation are %q", out)
	}
	stale := strings.Replace(db, "{name: main}", `{name: main, resourceVersion: "1"}`, 1)
	complains(stale, "the object has been modified", "replace", "-f", "-")
	complains(strings.Replace(db, "postgres", "oracle", 1), `spec.engine: Unsupported value: "oracle"`, "apply", "-f", "-")
	complains(strings.Replace(db, "users", "user", 1), `unknown field "spec.user"`, "apply", "-f", "-")

	// What belongs to an object goes with it, and it with its namespace.
	uid := run("", "get", "database", "main", "-o", "jsonpath={.metadata.uid}")
	run("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: of-main, ownerReferences: [{apiVersion: db.example.org/v1, kind: Database, name: main, uid: "+uid+"}]}\n", "apply", "-f", "-")
	run("", "create", "namespace", "shop")
	run(db, "apply", "-n", "shop", "-f", "-")

	p.Kill()
	p.Start()
	shows(run("", "get", "databases", "-A"), "main", "shop", "Up")
	run("", "delete", "namespace", "shop", "--timeout=120s")
	run("", "delete", "database", "main")
	run("", "wait", "--for=delete", "configmap/of-main", "--timeout=120s")

	run(db, "apply", "-f", "-")
	run("", "delete", "crd", "databases.db.example.org", "--timeout=120s")
	complains("", "the server doesn't have a resource type", "get", "databases")
	run(string(crd), "apply", "-f", "-")
	run("", "wait", "--for=condition=established", "crd/databases.db.example.org", "--timeout=120s")
	shows(run("", "get", "databases"), "No resources found")
	t.Run("operator", func(t *testing.T) { operated(t, p) })
}

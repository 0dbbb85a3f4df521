package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/test/platform"
)

// kubectlApply declares a function and what goes with it, and says who has said
// what of it.
func kubectlApply(t *testing.T, p *platform.Platform) {
	run := kubectlOf(t, p)
	shows := func(out string, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(out, w) {
				t.Errorf("%q is missing in\n%s", w, out)
			}
		}
	}
	shows(run("", "explain", "function.spec"), "readOnlyRootFilesystem", "-required-")
	shows(run("", "explain", "pods.spec.containers.ports"), "containerPort", "enum: SCTP, TCP, UDP")

	const fn = `
apiVersion: openfaas.com/v1
kind: Function
metadata: {name: declared, namespace: openfaas-fn}
spec: {name: declared, image: "probe:latest", labels: {a: b}}
`
	t.Cleanup(func() { run(fn, "delete", "--ignore-not-found", "-f", "-") })
	shows(run(fn, "apply", "--server-side", "--dry-run=server", "-f", "-"), "serverside-applied (server dry run)")
	shows(run("", "get", "functions", "-n", "openfaas-fn", "--ignore-not-found", "declared"))
	shows(run(fn, "apply", "--server-side", "-f", "-"), "function.openfaas.com/declared serverside-applied")
	platform.Eventually(t, 20*time.Second, available(t, p, "declared", 1))
	other := strings.Replace(fn, "a: b", "a: c", 1)
	shows(run(other, "apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-"), "serverside-applied")
	shows(run("", "get", "function", "declared", "-n", "openfaas-fn", "-o", "yaml", "--show-managed-fields"),
		"a: c", "manager: kubectl", "manager: other", "operation: Apply")

	// What the platform has made of it is its own, and is not tracked.
	for _, kind := range []string{"deployment", "service", "pods"} {
		if out := run("", "get", kind, "-n", "openfaas-fn", "-o", "yaml", "--show-managed-fields", "--field-selector", "metadata.name!=shown"); strings.Contains(out, "managedFields") {
			t.Errorf("%s of functions have managed fields:\n%s", kind, out)
		}
	}

	const cm = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: sides}\ndata: {a: b, c: d}\n"
	t.Cleanup(func() { run("", "delete", "configmap", "sides") })
	shows(run(cm, "apply", "-f", "-"), "created")
	shows(run(strings.Replace(cm, ", c: d", "", 1), "apply", "--server-side", "-f", "-"), "serverside-applied")
	if out := run("", "get", "configmap", "sides", "-o", "jsonpath={.data}"); out != `{"a":"b"}` {
		t.Errorf("after the change of sides there is %s", out)
	}
}

package e2e

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// charts has Helm install, test, upgrade, roll back and uninstall a chart.
func charts(t *testing.T, k *streaming) {
	bin, dir := client(t, "helm", "helm-v3.*/helm"), t.TempDir()
	helm := func(fails bool, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, bin, append(args, "--kubeconfig", k.config, "-n", "charts")...)
		cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+dir, "HELM_CONFIG_HOME="+dir, "HELM_DATA_HOME="+dir)
		out, err := cmd.CombinedOutput()
		if (err != nil) != fails {
			t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	shows := func(out string, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(out, w) {
				t.Errorf("%q is missing in\n%s", w, out)
			}
		}
	}
	const chart = "testdata/chart"
	text := func(want string) {
		t.Helper()
		// The pods are those of this text, all ready, when Helm has waited.
		shows(k.must("", "-n", "charts", "get", "deployment", "page", "-o", "jsonpath={.status.updatedReplicas}/{.status.readyReplicas}/{.status.replicas}"), "2/2/2")
		shows(k.must("", "-n", "charts", "get", "configmap", "page", "-o", "jsonpath={.data}"), want)
		shows(helm(false, "test", "page", "--timeout", "30s"), "Succeeded")
	}
	defer k.must("", "delete", "namespace", "charts", "--ignore-not-found", "--timeout=120s")
	shows(helm(false, "install", "page", chart, "--create-namespace", "--set", "replicas=2", "--wait", "--timeout", "50s"), "STATUS: deployed", "REVISION: 1")
	text("first")
	shows(helm(false, "upgrade", "page", chart, "--reuse-values", "--set", "text=second", "--wait", "--timeout", "50s"), "REVISION: 2", "has been upgraded")
	text("second")
	shows(helm(true, "upgrade", "page", chart, "--reuse-values", "--set", "text=refused", "--timeout", "30s"), "pre-upgrade hooks failed")
	shows(helm(false, "history", "page"), "superseded", "failed", "Upgrade complete")
	shows(helm(false, "rollback", "page", "1", "--wait", "--timeout", "50s"), "Rollback was a success")
	text("first")
	shows(helm(false, "list"), "page", "4", "deployed", "page-0.1.0")
	shows(helm(false, "get", "values", "page"), "replicas: 2")
	shows(helm(false, "get", "manifest", "page"), "index.html")
	shows(helm(false, "uninstall", "page", "--wait", "--timeout", "30s"), `release "page" uninstalled`)
	// Each namespace has that ConfigMap.
	if out := k.must("", "-n", "charts", "get", "deployments,services,configmaps,secrets", "--field-selector", "metadata.name!=kube-root-ca.crt", "-o", "name"); out != "" {
		t.Errorf("left are %s", out)
	}
}

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/test/platform"
)

// autoscaling has kubectl show what nodes and pods use, and an autoscaler give a
// Deployment more pods when they are busy.
func autoscaling(t *testing.T, p *platform.Platform) {
	kubectl := kubectlOf(t, p)
	run := func(args ...string) string {
		t.Helper()
		return kubectl("", append([]string{"-n", "busy"}, args...)...)
	}
	kubectl("", "create", "namespace", "busy")
	t.Cleanup(func() { kubectl("", "delete", "namespace", "busy", "--timeout=120s") }) // with all that is in it
	kubectl(`{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "busy"}, "spec": {
		"selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [
			{"name": "main", "image": "probe:latest", "ports": [{"containerPort": 8080}], "resources": {"requests": {"cpu": "20m"}, "limits": {"cpu": "300m"}}}]}}}}`, "apply", "-f", "-")
	run("rollout", "status", "deployment/web", "--timeout=120s")
	run("autoscale", "deployment", "web", "--cpu-percent=50", "--min=1", "--max=2")
	address := run("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].status.podIP}")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // until the test ends
		for ctx.Err() == nil {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+":8080/?burn=1s", nil)
			if err != nil {
				return
			}
			if resp, err := http.DefaultClient.Do(req); err == nil {
				resp.Body.Close()
			}
		}
	}()
	if out := run("top", "nodes"); !strings.Contains(out, "test-node") {
		t.Errorf("kubectl top nodes:\n%s", out)
	}
	platform.Eventually(t, 30*time.Second, func() error {
		out := run("top", "pods", "--containers")
		for line := range strings.SplitSeq(out, "\n") {
			f := strings.Fields(line)
			if len(f) == 4 && strings.HasPrefix(f[0], "web-") && f[1] == "main" && strings.HasSuffix(f[2], "m") && len(f[2]) >= 3 && strings.HasSuffix(f[3], "Mi") {
				return nil // it uses 10m at least
			}
		}
		return fmt.Errorf("kubectl top pods does not show a busy container:\n%s", out)
	})
	platform.Eventually(t, 90*time.Second, func() error {
		if out := run("get", "hpa", "web", "-o", "jsonpath={.status.desiredReplicas}"); out != "2" {
			return fmt.Errorf("the autoscaler wants %s replicas:\n%s", out, run("describe", "hpa", "web"))
		}
		return nil
	})
	run("rollout", "status", "deployment/web", "--timeout=120s")
	if out := run("get", "hpa"); !strings.Contains(out, "Deployment/web") || !strings.Contains(out, "%/50%") {
		t.Errorf("kubectl get hpa:\n%s", out)
	}
}

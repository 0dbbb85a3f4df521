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

// jobs does what deploy/examples/cronjob/README.md says, with real containers.
func jobs(t *testing.T, p *platform.Platform) {
	kubectl := kubectlOf(t, p)
	run := func(args ...string) string {
		t.Helper()
		return kubectl("", append([]string{"-n", "reports"}, args...)...)
	}
	dir := filepath.Join(t.TempDir(), "cronjob")
	if err := os.CopyFS(dir, os.DirFS("../../deploy/examples/cronjob")); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"build", "push"} {
		if out, err := p.FaasIn(dir, "", verb); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	run("apply", "-f", filepath.Join(dir, "cronjob.yaml"))
	t.Cleanup(func() { kubectl("", "delete", "namespace", "reports", "--timeout=120s") }) // with all that is in it

	begin := time.Now()
	run("create", "job", "now", "--from=cronjob/minutely")
	run("wait", "--for=condition=complete", "job/now", "--timeout=120s")
	t.Logf("a Job took %s", time.Since(begin).Round(time.Millisecond))
	if out := run("logs", "job/now"); !strings.HasPrefix(out, "report of part all, ") {
		t.Errorf("the log of the Job: %q", out)
	}

	run("wait", "--for=condition=failed", "job/parts", "--timeout=120s")
	if got, want := run("get", "job", "parts", "-o", "jsonpath={.status.completedIndexes} {.status.failedIndexes} {.status.succeeded} {.status.failed} {.status.conditions[?(@.type=='Failed')].reason}"), "0,1,3 2 3 1 FailedIndexes"; got != want {
		t.Errorf("the Job of parts: %s, want %s", got, want)
	}
	for _, want := range []string{"parts-0", "parts-1", "parts-2", "parts-3"} {
		if out := run("get", "pods", "-l", "job-name=parts", "-o", "jsonpath={.items[*].spec.hostname}"); !strings.Contains(out, want) {
			t.Errorf("the pods' hosts: %q, want one %s", out, want)
		}
	}
	if out := run("logs", "-l", "batch.kubernetes.io/job-completion-index=1"); !strings.HasPrefix(out, "report of part 1, ") {
		t.Errorf("the log of part 1: %q", out)
	}
	if out := run("get", "pods", "-l", "batch.kubernetes.io/job-completion-index=2", "-o", "jsonpath={.items[0].status.containerStatuses[0].state.terminated.message}"); out != "part 2 has no data\n" {
		t.Errorf("the last words of part 2: %q", out)
	}
	platform.Eventually(t, 75*time.Second, func() error {
		out := run("get", "cronjob", "minutely", "-o", "jsonpath={.status.lastScheduleTime} {.status.lastSuccessfulTime}")
		if len(strings.Fields(out)) < 2 {
			return fmt.Errorf("no run of the CronJob has succeeded: %q\n%s", out, run("get", "jobs"))
		}
		return nil
	})
	for _, c := range []struct{ args, want string }{
		{"get jobs", "Complete"},
		{"get jobs", "Failed"},
		{"get cronjobs", "Europe/Berlin"},
		{"get events", "SawCompletedJob"},
		{"describe job now", "1 Succeeded"},
		{"describe cronjob minutely", "Concurrency Policy:"},
	} {
		if out := run(strings.Fields(c.args)...); !strings.Contains(out, c.want) {
			t.Errorf("kubectl %s does not show %q:\n%s", c.args, c.want, out)
		}
	}
	run("delete", "job", "now", "parts", "--timeout=120s")
	platform.Eventually(t, 20*time.Second, func() error {
		if out := run("get", "pods", "-l", "job-name in (now, parts)", "-o", "name"); out != "" {
			return fmt.Errorf("pods of deleted Jobs are left: %s", out)
		}
		return nil
	})
}

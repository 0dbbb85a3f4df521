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

// stations does what deploy/examples/daemonset/README.md says, with real containers.
func stations(t *testing.T, p *platform.Platform) {
	kubectl := kubectlOf(t, p)
	run := func(args ...string) string {
		t.Helper()
		return kubectl("", append([]string{"-n", "stations"}, args...)...)
	}
	dir := filepath.Join(t.TempDir(), "daemonset")
	if err := os.CopyFS(dir, os.DirFS("../../deploy/examples/daemonset")); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"build", "push"} {
		if out, err := p.FaasIn(dir, "", verb); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	run("apply", "-f", filepath.Join(dir, "daemonset.yaml"))
	t.Cleanup(func() { kubectl("", "delete", "namespace", "stations", "--timeout=120s") }) // with all that is in it
	run("rollout", "status", "daemonset/station", "--timeout=120s")
	// Boards that came before the station was ready have been refused at first; the one
	// that comes now is not.
	early := run("get", "pods", "-l", "app=board", "-o", "name")
	run("scale", "rc/board", "--replicas=3")
	node := strings.TrimPrefix(strings.TrimSpace(kubectl("", "get", "nodes", "-o", "name")), "node/")
	platform.Eventually(t, 60*time.Second, func() error {
		boards := strings.Fields(run("get", "pods", "-l", "app=board", "-o", "name"))
		if len(boards) != 3 {
			return fmt.Errorf("there are %q, want three boards", boards)
		}
		for _, b := range boards {
			log := run("logs", b)
			if answered := node + ": load "; !strings.HasPrefix(log, answered) && (!strings.Contains(early, b) || !strings.Contains(log, "\n"+answered)) {
				return fmt.Errorf("on %s is %q", b, log)
			}
		}
		return nil
	})
	for args, want := range map[string]string{
		"get daemonset station -o jsonpath={.status.desiredNumberScheduled}/{.status.numberReady}": "1/1",
		"get rc board -o jsonpath={.status.replicas}":                                              "3",
	} {
		if got := run(strings.Fields(args)...); got != want {
			t.Errorf("kubectl %s: %s, want %s", args, got, want)
		}
	}
}

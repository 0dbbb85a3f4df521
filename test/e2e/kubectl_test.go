package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
)

// kubectlOf runs kubectl, unmodified, as a platform's administrator; a command
// that fails ends the test.
func kubectlOf(t *testing.T, p *platform.Platform) (run func(stdin string, args ...string) string) {
	t.Helper()
	bin, err := exec.LookPath("kubectl")
	if err != nil {
		t.Skip("no kubectl on this machine")
	}
	return func(stdin string, args ...string) string {
		t.Helper()
		cmd := exec.Command(bin, append([]string{"--kubeconfig", filepath.Join(p.StateDir, "kubeconfig"), "--cache-dir", t.TempDir()}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
}

// kubectl reads what the platform runs.
func kubectl(t *testing.T, p *platform.Platform) {
	run := kubectlOf(t, p)
	deploy(t, p, openfaas.FunctionDeployment{Service: "shown"})
	platform.Eventually(t, 20*time.Second, available(t, p, "shown", 1))
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"get", "nodes"}, "test-node"},
		{[]string{"get", "nodes"}, "Ready"},
		{[]string{"get", "nodes", "-o", "wide"}, "containerd://" + containerdVersion(t)},
		{[]string{"get", "pods", "-n", "openfaas-fn", "-l", "faas_function=shown", "-o", "wide"}, "Running"},
		{[]string{"get", "deployments,replicasets,services,endpointslices,functions", "-n", "openfaas-fn"}, "shown"},
		{[]string{"get", "events", "-n", "openfaas-fn"}, "Scheduled"},
		{[]string{"get", "ns"}, "openfaas-fn"},
	} {
		if out := run("", c.args...); !strings.Contains(out, c.want) {
			t.Errorf("kubectl %s does not show %q:\n%s", strings.Join(c.args, " "), c.want, out)
		}
	}
	run("", "scale", "deployment/shown", "-n", "openfaas-fn", "--replicas=2")
	platform.Eventually(t, 20*time.Second, available(t, p, "shown", 2))
}

// containerdVersion is that of the installed one, such as 2.1.4.
func containerdVersion(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("containerd", "--version").Output()
	words := strings.Fields(string(out)) // containerd, its module, its version, its commit
	if err != nil || len(words) < 3 {
		t.Fatalf("containerd --version: %v %q", err, out)
	}
	return strings.TrimPrefix(words[2], "v")
}

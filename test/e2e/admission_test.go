package e2e

import (
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
)

const (
	plainPod = `{apiVersion: v1, kind: Pod, metadata: {name: plain}, spec: {containers: [{name: main, image: "probe:latest"}]}}`

	safePod = `{apiVersion: v1, kind: Pod, metadata: {name: safe}, spec: {
  securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}},
  containers: [{name: main, image: "probe:latest", securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]}}`

	botsToken = `{apiVersion: v1, kind: Secret, metadata: {name: bot-token, annotations: {kubernetes.io/service-account.name: bot}}, type: kubernetes.io/service-account-token}`

	oldAutoscaler = `{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: old}, spec: {maxReplicas: 3, targetCPUUtilizationPercentage: 55, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}}`
)

// admitted has kubectl meet what is refused and warned of by the labels of a
// namespace, an account's token that never ends, and an older version of a kind.
func admitted(t *testing.T, p *platform.Platform) {
	run := kubectlOf(t, p)
	try := func(stdin string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "kubectl", append([]string{"--kubeconfig", filepath.Join(p.StateDir, "kubeconfig"), "--cache-dir", t.TempDir()}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Errorf("kubectl %s is let in: %s", strings.Join(args, " "), out)
		}
		return string(out)
	}
	says := func(out string, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(out, w) {
				t.Errorf("%q is missing in\n%s", w, out)
			}
		}
	}
	run("", "create", "namespace", "held")
	t.Cleanup(func() { run("", "delete", "namespace", "held", "--timeout=120s") })
	run(plainPod, "create", "-n", "held", "-f", "-")
	says(try("", "label", "namespace", "held", "pod-security.kubernetes.io/enforce=strict"), "pod-security.kubernetes.io/enforce", "must be one of privileged, baseline, restricted")
	says(run("", "label", "namespace", "held", "pod-security.kubernetes.io/enforce=restricted"),
		`Warning: existing pods in namespace "held" violate the new PodSecurity enforce level "restricted:latest"`, "Warning: plain: allowPrivilegeEscalation != false, ")
	says(try(strings.Replace(plainPod, "name: plain", "name: again", 1), "create", "-n", "held", "-f", "-"),
		`Error from server (Forbidden)`, `pods "again" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "main" must set securityContext.allowPrivilegeEscalation=false)`)
	says(run("", "create", "deployment", "web", "-n", "held", "--image=probe:latest"), `Warning: would violate PodSecurity "restricted:latest": allowPrivilegeEscalation != false`)
	run(safePod, "create", "-n", "held", "-f", "-")
	run("", "wait", "-n", "held", "--for=condition=Ready", "pod/safe", "--timeout=120s")

	run("", "create", "serviceaccount", "bot", "-n", "held")
	run(botsToken, "create", "-n", "held", "-f", "-")
	run("", "wait", "-n", "held", "--for=jsonpath={.data.token}", "secret/bot-token", "--timeout=120s")
	token, err := base64.StdEncoding.DecodeString(run("", "get", "secret", "bot-token", "-n", "held", "-o", "jsonpath={.data.token}"))
	if err != nil {
		t.Fatal(err)
	}
	as := filepath.Join(t.TempDir(), "bot")
	if err := os.WriteFile(as, []byte(botConfig(t, p, string(token))), 0o600); err != nil {
		t.Fatal(err)
	}
	whoami := func() string {
		out, _ := exec.CommandContext(t.Context(), "kubectl", "--kubeconfig", as, "--cache-dir", t.TempDir(), "auth", "whoami").CombinedOutput()
		return string(out)
	}
	says(whoami(), "system:serviceaccount:held:bot")
	run("", "delete", "secret", "bot-token", "-n", "held")
	says(whoami(), "Unauthorized")

	run(oldAutoscaler, "create", "-n", "held", "-f", "-")
	says(run("", "get", "hpa", "old", "-n", "held", "-o", "json"), `"apiVersion": "autoscaling/v2"`, `"averageUtilization": 55`)
	says(run("", "get", "horizontalpodautoscalers.v1.autoscaling", "old", "-n", "held", "-o", "json"), `"apiVersion": "autoscaling/v1"`, `"targetCPUUtilizationPercentage": 55`)

	// Functions are let in where baseline is asked for.
	run("", "label", "namespace", "openfaas-fn", "pod-security.kubernetes.io/enforce=baseline")
	t.Cleanup(func() { run("", "label", "namespace", "openfaas-fn", "pod-security.kubernetes.io/enforce-") })
	deploy(t, p, openfaas.FunctionDeployment{Service: "held"})
	platform.Eventually(t, 20*time.Second, available(t, p, "held", 1))
}

// botConfig is the administrators' kubeconfig with another token.
func botConfig(t *testing.T, p *platform.Platform, token string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.StateDir, "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(b), "\n")
	for i, l := range lines {
		if before, _, ok := strings.Cut(l, "token:"); ok {
			lines[i] = before + "token: " + token
		}
	}
	return strings.Join(lines, "\n")
}

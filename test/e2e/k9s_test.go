package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/test/terminal"
)

// k9s is looked through as a person does: pods and what they use, a description, YAML,
// logs, a shell, a Deployment that is scaled, a pod that is deleted, Events, Nodes.
func k9s(t *testing.T, k *streaming) {
	bin, home := client(t, "k9s", "k9s-v0.*/k9s"), t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "config.yaml"), []byte("k9s:\n  skipLatestRevCheck: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k.must("", "create", "namespace", "nine")
	defer k.must("", "delete", "namespace", "nine", "--timeout=120s")
	k.must("", "-n", "nine", "create", "deployment", "page", "--image=tools:latest", "--", "sh", "-c", "trap exit TERM; echo the page is up; sleep 1d & wait")
	k.must("", "-n", "nine", "rollout", "status", "deployment/page", "--timeout=120s")
	pod := k.must("", "-n", "nine", "get", "pods", "-o", "jsonpath={.items[0].metadata.name}")

	cmd := exec.CommandContext(t.Context(), bin, "--kubeconfig", k.config, "-n", "nine", "-c", "pods", "--splashless", "--logoless", "--logFile", filepath.Join(home, "log"))
	cmd.Env = append(os.Environ(), "K9S_CONFIG_DIR="+home, "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_DATA_HOME="+home, "XDG_STATE_HOME="+home, "XDG_CACHE_HOME="+home, "TERM=xterm-256color")
	s := terminal.Start(t, cmd, 45, 160)
	s.Shows("Context: podsnap", "pods(nine)[1]", pod, "1/1", "Running")
	const back = "\x1b"
	s.Type("d")
	s.Shows("Describe(nine/"+pod, "Controlled By:  ReplicaSet/page-", "tools:latest")
	s.Type(back)
	s.Shows("pods(nine)[1]")
	s.Type("y")
	s.Shows("YAML(nine/"+pod, "ownerReferences")
	s.Type(back)
	s.Shows("pods(nine)[1]")
	s.Type("l")
	s.Shows("Logs(nine/"+pod, "the page is up")
	s.Type(back)
	s.Shows("pods(nine)[1]")
	s.Type("s")
	s.Shows("<<K9s-Shell>> Pod: nine/"+pod, "/function $")
	s.Type("echo answer-$((6*7)) in $(hostname)\r")
	s.Shows("answer-42 in " + pod)
	s.Type("exit\r")
	s.Shows("pods(nine)[1]", pod)

	s.Type(":deploy\r")
	s.Shows("deployments(nine)[1]", "1/1")
	s.Type("s")
	s.Shows("Scale deployment nine/page?", "Replicas: 1")
	s.Type("\x7f3")
	s.Shows("Replicas: 3")
	s.Type("\t\r")
	s.Shows("3/3")
	if got := k.must("", "-n", "nine", "get", "deployment", "page", "-o", "jsonpath={.spec.replicas}"); got != "3" {
		t.Errorf("scaled to %s, want 3", got)
	}
	s.Type(":pods\r")
	s.Shows("pods(nine)[3]")
	s.Type("\x04")
	var gone string
	s.Until(func(screen string) error {
		_, rest, ok := strings.Cut(screen, "Delete pods nine/")
		if gone, _, _ = strings.Cut(rest, "?"); !ok {
			return errors.New("nobody asks whether to delete the pod")
		}
		return nil
	})
	s.Type("\t\r")
	k.must("", "-n", "nine", "wait", "--for=delete", "pod/"+gone, "--timeout=120s")
	s.Shows("pods(nine)[3]")
	s.Type(":events\r")
	s.Shows("SuccessfulCreate", "ScalingReplicaSet", "Started container tools")
	s.Type(":nodes\r")
	s.Shows("nodes(all)[1]", "Ready")
	s.Type(":q\r")
	s.End()
}

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// builtClient is a program that deploy/setup.sh has built from its module: the newest
// of those that match.
func builtClient(t *testing.T, pattern, word string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	built, err := filepath.Glob(filepath.Join(cache, "podsnap", pattern))
	if err != nil || len(built) == 0 {
		t.Skipf("no %s on this machine: deploy/setup.sh %s builds it, in some minutes", filepath.Base(pattern), word)
	}
	return built[len(built)-1]
}

// client is an installed program of other people, or one that deploy/setup.sh has built.
func client(t *testing.T, name, pattern string) string {
	t.Helper()
	if b, err := exec.LookPath(name); err == nil {
		return b
	}
	return builtClient(t, pattern, name)
}

// beside runs a program until the test's end; says is what it has written.
func beside(t *testing.T, bin string, args ...string) (says *bytes.Buffer) {
	t.Helper()
	says = &bytes.Buffer{}
	cmd := exec.Command(bin, args...)
	cmd.Stdout, cmd.Stderr = says, says
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		hard := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // how it ends is its own affair
		hard.Stop()
		if t.Failed() {
			lines := strings.Split(says.String(), "\n")
			t.Logf("%s:\n%s", filepath.Base(bin), strings.Join(lines[max(0, len(lines)-60):], "\n"))
		}
	})
	return says
}

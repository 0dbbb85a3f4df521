package platform

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// BuildVersion builds the faas command of this tree as a release of another
// version, and answers with where it is.
func BuildVersion(t T, version string) string {
	t.Helper()
	Binary(t) // what it embeds is built with it
	root, err := exec.CommandContext(t.Context(), "go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "podsnap-build-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	out := filepath.Join(dir, "faas")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w -X main.release="+version, "-o", out, "./cmd/faas")
	cmd.Dir = filepath.Dir(strings.TrimSpace(string(root)))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build version %s: %v\n%s", version, err, b)
	}
	return out
}

package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/nodeagent/engine"
	"github.com/podsnap/podsnap/test/platform"
)

// With --containerd the platform uses one that runs already, and leaves it
// running and clean.
func TestExistingContainerd(t *testing.T) {
	t.Parallel()
	platform.NeedRoot(t)
	dir, err := os.MkdirTemp("", "psc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := engine.Containerd{Dir: dir}
	if err := c.WriteConfig(); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := c.Command(t.Context())
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	platform.Eventually(t, 20*time.Second, func() error {
		conn, err := net.Dial("unix", c.Socket())
		if err == nil {
			conn.Close()
		}
		return err
	})
	t.Run("platform", func(t *testing.T) {
		p := platform.New(t, "--containerd", c.Socket())
		build(t, p)
		if kids := children(t, p); kids["containerd"] != 0 {
			t.Errorf("the platform started a containerd of its own: %v", kids)
		}
		deploy(t, p, openfaas.FunctionDeployment{Service: "guest"})
		if code, body, _ := invoke(t, p, "POST", "/function/guest", "x"); code != 200 || body != "x" {
			t.Errorf("got %d %q", code, body)
		}
	})
	// The platform is stopped now.
	ctr, err := exec.LookPath("ctr")
	if err != nil {
		t.Skip("no ctr to look with")
	}
	out, err := exec.CommandContext(t.Context(), ctr, "-a", c.Socket(), "namespaces", "ls", "-q").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range splitLines(string(out)) {
		left, err := exec.CommandContext(t.Context(), ctr, "-a", c.Socket(), "-n", ns, "containers", "ls", "-q").Output()
		if err != nil {
			t.Fatal(err)
		}
		if len(splitLines(string(left))) > 0 {
			t.Errorf("containers are left in %s: %s", ns, left)
		}
	}
}

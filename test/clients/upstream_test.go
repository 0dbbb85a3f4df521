package clients

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// says is what a program writes, to be read while it runs.
type says struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *says) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *says) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// upstream is a component of Kubernetes, by the folder that its files are in and the
// kubeconfig for the server.
type upstream struct {
	t               *testing.T
	bin             string
	dir, kubeconfig string
}

// newUpstream finds a component of Kubernetes that was built.
func newUpstream(t *testing.T, s *server, name string) *upstream {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	built, err := filepath.Glob(filepath.Join(cache, "podsnap", "kubernetes-v*", name))
	if err != nil || len(built) == 0 {
		t.Skipf("no %s on this machine: deploy/setup.sh upstream builds it, in some minutes", name)
	}
	u := &upstream{t: t, bin: built[len(built)-1], dir: t.TempDir()}
	u.kubeconfig = u.write("kubeconfig", fmt.Sprintf(`
apiVersion: v1
kind: Config
current-context: it
clusters: [{name: it, cluster: {server: "http://%s"}}]
contexts: [{name: it, context: {cluster: it}}]
`, s.addr))
	return u
}

// write makes a file and answers with where it is.
func (u *upstream) write(name, text string) string {
	u.t.Helper()
	name = filepath.Join(u.dir, name)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		u.t.Fatal(err)
	}
	return name
}

// run runs it until the test's end.
func (u *upstream) run(args ...string) *says {
	u.t.Helper()
	out := &says{}
	cmd := exec.Command(u.bin, append(args, "--secure-port=0", "--cert-dir="+u.dir)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if u.t.Failed() {
			u.t.Logf("%s:\n%s", filepath.Base(u.bin), out)
		}
	})
	return out
}

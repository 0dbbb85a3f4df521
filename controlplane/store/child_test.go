package store

import (
	"io"
	"os"
	"os/exec"
	"testing"

	"go.uber.org/goleak"
)

// childDir, in the environment, makes the test binary an etcd in that
// directory, so that a test can kill one.
const childDir = "STORE_TEST_ETCD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		serveChild(dir)
	}
	// The embedded etcd leaves goroutines of its own behind.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("go.etcd.io/etcd/server/v3/embed.StartEtcd"))
}

func serveChild(dir string) {
	etcd, err := launch(dir, true)
	if err != nil {
		panic(err)
	}
	<-etcd.Server.ReadyNotify()
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil { // until the parent is gone
		panic(err)
	}
	os.Exit(0)
}

// child is an etcd in another process.
type child struct {
	place
	cmd   *exec.Cmd
	stdin io.WriteCloser
}

func startChild(t *testing.T) *child {
	t.Helper()
	c := &child{place: place{t, shortDir(t)}}
	c.start()
	t.Cleanup(c.kill)
	return c
}

func (c *child) start() {
	c.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	c.cmd = exec.Command(exe)
	c.cmd.Env = append(os.Environ(), childDir+"="+c.dir)
	c.cmd.Stderr = os.Stderr
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		c.t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
}

// kill ends it with SIGKILL.
func (c *child) kill() {
	c.t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		c.t.Error(err)
	}
	c.cmd.Wait() // it was killed
	c.stdin.Close()
}

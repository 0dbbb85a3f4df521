package engine

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podsnap/podsnap/nodeagent/logfile"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// lines reads a log's next lines until one contains want.
func follow(t *testing.T, path, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := logfile.Read(ctx, path, logfile.Options{Tail: -1, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all strings.Builder
	b := make([]byte, 4096)
	for !strings.Contains(all.String(), want) {
		k, err := r.Read(b)
		if err != nil {
			t.Fatalf("%v: no %q in %q", err, want, all.String())
		}
		all.Write(b[:k])
	}
}

// A new engine on the same containerd, as after a restart of the agent.
func TestAgentRestart(t *testing.T) {
	n := newNode(t)
	sb := n.sandbox("kept")
	serve := n.start(n.spec(sb, "serve"))
	ended := n.start(n.spec(sb, "exit", "4"))
	n.exit(n.events(), ended.ID)
	dies := n.start(n.spec(sb, "sleep"))
	other := n.sandbox("other") // whose pause dies meanwhile
	lost := n.start(n.spec(other, "sleep"))
	if _, err := get(sb.IP, "/before"); err != nil {
		t.Fatal(err)
	}
	follow(t, serve.LogPath, "/before")

	n.stop()
	if _, err := get(sb.IP, "/while-away"); err != nil {
		t.Fatalf("a pod must serve while the agent is away: %v", err)
	}
	for _, pid := range []int{dies.Pid, other.Pid} {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(n.sandboxDir("stray"), 0o700); err != nil {
		t.Fatal(err)
	}
	n.startEngine()

	if got, err := get(sb.IP, "/after"); err != nil || got != "hello 10.218.0.1" {
		t.Fatalf("got %q, %v", got, err)
	}
	follow(t, serve.LogPath, "/while-away")
	follow(t, serve.LogPath, "/after")
	ch := n.events()
	if x := n.exit(ch, dies.ID); x.ExitCode != 137 {
		t.Errorf("an exit while away: got %+v", x)
	}
	all, err := n.Runtime().List(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("got %+v, %v; want one sandbox: the other's pause process is dead", all, err)
	}
	got := all[0]
	if got.ID != sb.ID || got.UID != sb.UID || got.IP != sb.IP || got.Pid != sb.Pid || got.Labels["app"] != "kept" || len(got.Containers) != 3 {
		t.Errorf("got %+v, want %+v with three containers", got, sb)
	}
	for _, c := range got.Containers {
		switch c.ID {
		case serve.ID:
			if c.State != runtime.Running || c.Pid != serve.Pid {
				t.Errorf("got %+v", c)
			}
		case ended.ID:
			if c.State != runtime.Exited || c.ExitCode != 4 {
				t.Errorf("got %+v", c)
			}
		}
	}
	if _, ok := n.find(lost.ID); ok {
		t.Error("a container without a sandbox was kept")
	}
	if err := syscall.Kill(lost.Pid, 0); err == nil {
		t.Error("a container without a sandbox still runs")
	}
	if _, err := os.Stat(n.sandboxDir("stray")); err == nil {
		t.Error("a stray directory was kept")
	}
	// The address of the adopted pod is not given away.
	if again := n.sandbox("new"); again.IP == sb.IP {
		t.Errorf("two pods have %s", sb.IP)
	}
	code, err := n.Exec(t.Context(), serve.ID, runtime.Exec{Command: []string{"/bin/probe", "exit", "3"}})
	if err != nil || code != 3 {
		t.Errorf("exec after adoption: %d, %v", code, err)
	}
}

// SIGKILL of containerd: pods go on, exits meanwhile and later are heard of.
func TestContainerdKilled(t *testing.T) {
	n := newNode(t)
	sb := n.sandbox("steady")
	serve := n.start(n.spec(sb, "serve"))
	during, after := n.start(n.spec(sb, "sleep")), n.start(n.spec(sb, "sleep"))
	ch := n.events()
	if _, err := get(sb.IP, "/1"); err != nil {
		t.Fatal(err)
	}

	n.stopDaemon(syscall.SIGKILL)
	if _, err := get(sb.IP, "/2"); err != nil {
		t.Fatalf("a pod must serve while containerd is away: %v", err)
	}
	follow(t, serve.LogPath, "/2")
	if err := syscall.Kill(during.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	n.startDaemon()
	if x := n.exit(ch, during.ID); x.ExitCode != 137 {
		t.Errorf("got %+v", x)
	}
	t.Logf("an exit while containerd was away was heard of %v after its start", time.Since(begin))
	if err := n.Signal(t.Context(), after.ID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if x := n.exit(ch, after.ID); x.ExitCode != 137 {
		t.Errorf("got %+v", x)
	}
	if got, _ := n.find(serve.ID); got.State != runtime.Running || got.Pid != serve.Pid {
		t.Errorf("got %+v", got)
	}
	if _, err := get(sb.IP, "/3"); err != nil {
		t.Error(err)
	}
	if _, out := n.run(n.spec(sb, "exit", "0")); out != "" {
		t.Errorf("got %q", out)
	}
}

// Everything dies at once, as by a power cut; what containerd has on disk is
// not taken for truth.
func TestPowerLoss(t *testing.T) {
	n := newNode(t)
	sb := n.sandbox("gone")
	c := n.start(n.spec(sb, "sleep"))
	shims := n.shims()
	if len(shims) == 0 {
		t.Fatal("no shim found")
	}
	n.stop()
	n.stopDaemon(syscall.SIGKILL)
	for _, pid := range append(shims, c.Pid, sb.Pid) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Errorf("kill %d: %v", pid, err)
		}
	}
	n.startDaemon()
	begin := time.Now()
	n.startEngine()
	t.Logf("engine up %v after the power loss", time.Since(begin))
	if all, err := n.Runtime().List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("got %+v, %v, want nothing", all, err)
	}
	if left := append(names(n.sandboxDir("")), names(n.fifoDir(""))...); len(left) != 0 {
		t.Errorf("files left: %v", left)
	}
	if left := n.cgroups.Pods(); len(left) != 0 {
		t.Errorf("cgroups left: %v", left)
	}
	again := n.sandbox("gone") // the same pod starts anew
	n.start(n.spec(again, "serve"))
	if _, err := get(again.IP, "/"); err != nil {
		t.Error(err)
	}
}

// shims lists the shim processes of this node's containerd.
func (n *node) shims() (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range all {
		b, _ := os.ReadFile(p)
		if strings.Contains(string(b), "containerd-shim") && strings.Contains(string(b), n.cd.Socket()) {
			pid := 0
			for _, d := range filepath.Base(filepath.Dir(p)) {
				pid = pid*10 + int(d-'0')
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

package fast

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/pause"
	"github.com/podsnap/podsnap/nodeagent/logfile"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// untilExecRuns waits until the runtime knows that an exec was started.
func (n *node) untilExecRuns() {
	n.t.Helper()
	limit, again := time.After(time.Minute), time.NewTicker(time.Millisecond)
	defer again.Stop()
	for {
		n.Runtime.mu.Lock()
		for _, x := range n.execs {
			if x.runs {
				n.Runtime.mu.Unlock()
				return
			}
		}
		n.Runtime.mu.Unlock()
		select {
		case <-again.C:
		case <-limit:
			n.t.Fatal("no exec is known to run after a minute")
		}
	}
}

// follow reads a log until it contains want.
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

// A new runtime with the same launcher, as after a restart of the agent.
func TestAgentRestart(t *testing.T) {
	n := newNode(t)
	sb, other := n.sandbox("kept"), n.sandbox("other")
	serve := n.start(n.spec(sb, "serve"))
	ended := n.start(n.spec(other, "exit", "4"))
	n.exit(n.events(), ended.ID)
	third := n.sandbox("third")
	dies := n.start(n.spec(third, "sleep"))
	if _, err := get(sb.IP, "/before"); err != nil {
		t.Fatal(err)
	}
	follow(t, serve.LogPath, "/before")
	n.parked()

	n.stop()
	if _, err := get(sb.IP, "/while-away"); err != nil {
		t.Fatalf("a pod must serve while the agent is away: %v", err)
	}
	if err := syscall.Kill(dies.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(n.upperDir("stray"), 0o700); err != nil {
		t.Fatal(err)
	}
	n.start1()

	if got, err := get(sb.IP, "/after"); err != nil || got != "hello 10.217.0.1" {
		t.Fatalf("got %q, %v", got, err)
	}
	follow(t, serve.LogPath, "/while-away")
	follow(t, serve.LogPath, "/after")
	if x := n.exit(n.events(), dies.ID); x.ExitCode != 137 {
		t.Errorf("an exit while away: got %+v", x)
	}
	all, err := n.List(t.Context())
	if err != nil || len(all) != 3 {
		t.Fatalf("got %+v, %v; want three sandboxes", all, err)
	}
	for _, s := range all {
		if s.ID == sb.ID && (s.UID != sb.UID || s.IP != sb.IP || s.Pid != sb.Pid || s.Labels["app"] != "kept" || len(s.Containers) != 1) {
			t.Errorf("got %+v, want %+v with a container", s, sb)
		}
	}
	if c, ok := n.find(serve.ID); !ok || c.State != runtime.Running || c.Pid != serve.Pid {
		t.Errorf("got %+v, %v", c, ok)
	}
	if c, ok := n.find(ended.ID); !ok || c.State != runtime.Exited || c.ExitCode != 4 {
		t.Errorf("got %+v, %v", c, ok)
	}
	if _, err := os.Stat(n.upperDir("stray")); err == nil {
		t.Error("a stray directory was kept")
	}
	// The address of the adopted pod is not given away, and a container that
	// has ended comes back at the same one.
	if again := n.sandbox("new"); again.IP == sb.IP {
		t.Errorf("two pods have %s", sb.IP)
	}
	n.start(n.spec(third, "serve"))
	if _, err := get(third.IP, "/"); err != nil {
		t.Error(err)
	}
	code, err := n.Exec(t.Context(), serve.ID, runtime.Exec{Command: []string{"/bin/probe", "exit", "3"}})
	if err != nil || code != 3 {
		t.Errorf("exec after adoption: %d, %v", code, err)
	}
}

// SIGKILL of the launcher: containers go on, a new launcher has them, and what
// ends later is heard of.
func TestLauncherKilled(t *testing.T) {
	n := newNode(t)
	sb, other := n.sandbox("steady"), n.sandbox("other")
	serve, later := n.start(n.spec(sb, "serve")), n.start(n.spec(other, "sleep"))
	if _, err := get(sb.IP, "/1"); err != nil {
		t.Fatal(err)
	}
	ch := n.events()
	for round := range 3 {
		all, err := n.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(all[0].Pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if _, err := get(sb.IP, "/2"); err != nil {
			t.Fatalf("round %d: a pod must serve without a launcher: %v", round, err)
		}
		// What the dying one was sent whole it may have done, so that it is not asked for again.
		for syscall.Kill(all[0].Pid, 0) == nil {
			pause.For(t.Context(), time.Millisecond)
		}
		// What is asked for meanwhile waits for the new one.
		begin := time.Now()
		if _, out := n.run(n.spec(n.sandbox("while"+string(rune('a'+round))), "exit", "0")); out != "" {
			t.Errorf("got %q", out)
		}
		t.Logf("a start after the launcher's death took %v", time.Since(begin))
	}
	// An exec does not outlive the launcher's memory of it: it is given up.
	running := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		code, err := n.Exec(t.Context(), later.ID, runtime.Exec{Command: []string{"/bin/probe", "serve"}, Stdout: io.Discard})
		if err == nil && code != lostExitCode {
			err = fmt.Errorf("it ended with %d", code)
		}
		running <- err
	}()
	go func() {
		defer close(started)
		_, _ = get(other.IP, "/")
	}()
	<-started
	// It answers before the launcher has said that it was started.
	n.untilExecRuns()
	if all, err := n.List(t.Context()); err != nil || syscall.Kill(all[0].Pid, syscall.SIGKILL) != nil {
		t.Fatal(err)
	}
	if err := <-running; err != nil {
		t.Errorf("exec over the launcher's death: %v", err)
	}
	follow(t, serve.LogPath, "/2")
	if c, ok := n.find(serve.ID); !ok || c.State != runtime.Running || c.Pid != serve.Pid {
		t.Errorf("got %+v, %v", c, ok)
	}
	if err := n.Signal(t.Context(), later.ID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if x := n.exit(ch, later.ID); x.ExitCode != 137 {
		t.Errorf("got %+v", x)
	}
	if err := n.Signal(t.Context(), serve.ID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// It ends with 0. A kernel before 6.15 cannot tell of who is no child.
	if x := n.exit(ch, serve.ID); x.ExitCode != 0 && x.ExitCode != lostExitCode {
		t.Errorf("got %+v", x)
	}
	n.start(n.spec(sb, "serve")) // in the same sandbox
	if _, err := get(sb.IP, "/3"); err != nil {
		t.Error(err)
	}
}

// Agent and launcher die at once; one container ends meanwhile.
func TestBothKilled(t *testing.T) {
	n := newNode(t)
	sb, empty, other := n.sandbox("on"), n.sandbox("empty"), n.sandbox("other")
	serve, dies := n.start(n.spec(sb, "serve")), n.start(n.spec(other, "sleep"))
	if _, err := get(sb.IP, "/1"); err != nil {
		t.Fatal(err)
	}
	n.stop()
	for _, pid := range []int{sb.Pid, dies.Pid} {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := get(sb.IP, "/2"); err != nil {
		t.Fatal(err)
	}
	n.start1()
	if got, err := get(sb.IP, "/3"); err != nil || got != "hello 10.217.0.1" {
		t.Fatalf("got %q, %v", got, err)
	}
	if x := n.exit(n.events(), dies.ID); x.ExitCode != lostExitCode {
		t.Errorf("got %+v", x)
	}
	// Namespaces that no process was in are lost: their sandboxes are dead.
	all, err := n.List(t.Context())
	if err != nil || len(all) != 3 {
		t.Fatalf("got %+v, %v", all, err)
	}
	for _, s := range all {
		if dead := s.ID == empty.ID || s.ID == other.ID; (s.Pid == 0) != dead {
			t.Errorf("%s: got pid %d, want it dead: %v", s.Name, s.Pid, dead)
		}
	}
	if _, err := n.StartContainer(t.Context(), n.spec(empty, "show")); err == nil || !strings.Contains(err.Error(), "sandbox has ended") {
		t.Errorf("got %v", err)
	}
	if err := n.RemoveSandbox(t.Context(), empty.ID); err != nil {
		t.Error(err)
	}
	if c, ok := n.find(serve.ID); !ok || c.Pid != serve.Pid {
		t.Errorf("got %+v, %v", c, ok)
	}
	if left := names(filepath.Join(n.runDir(), "processes")); len(left) == 0 {
		t.Error("the launcher has no records")
	}
}

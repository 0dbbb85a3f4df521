package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/nodeagent/cgroup"
	"github.com/podsnap/podsnap/nodeagent/logfile"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// facts are the lines of `probe show`.
func facts(out string) map[string]string {
	m := map[string]string{}
	for l := range strings.SplitSeq(out, "\n") {
		k, v, _ := strings.Cut(l, "=")
		m[k] = v
	}
	return m
}

func (n *node) expect(got map[string]string, want map[string]string) {
	n.t.Helper()
	for k, w := range want {
		if got[k] != w {
			n.t.Errorf("%s: got %q, want %q", k, got[k], w)
		}
	}
}

// One containerd serves all these: each has sandboxes of its own.
func TestContainers(t *testing.T) {
	n := newNode(t)
	for name, test := range map[string]func(*testing.T, *node){
		"defaults are hardened": testHardened, "process and limits": testProcess, "mounts": testMounts,
		"exit codes and list": testExit, "out of memory": testOOM, "exec": testExec, "logs": testLogs,
		"network": testNetwork, "shared memory and restarts": testShared, "faults": testFaults,
		"privileged": testPrivileged, "sandbox death": testPauseKilled, "unsafe images": testUnsafeImages,
		"pod limits": testPodLimits, "names that are not there": testUnknown, "host network": testHostNetwork, "no network": testNoNetwork, "shared processes": testSharedPID,
	} {
		t.Run(name, func(t *testing.T) {
			m := *n
			m.t = t
			test(t, &m)
		})
	}
}

func testHardened(t *testing.T, n *node) {
	sb := n.sandbox("hardened")
	s := n.spec(sb, "show")
	s.Security.ReadOnlyRoot = true
	x, out := n.run(s)
	if x.ExitCode != 0 {
		t.Fatalf("%+v: %s", x, out)
	}
	got := facts(out)
	n.expect(got, map[string]string{
		"status.Seccomp": "2", "status.NoNewPrivs": "1", "status.CapEff": "0000000000000000", "status.CapBnd": "0000000000000000",
		"uid": "1000", "gid": "2000", "groups": "[3000]", "pid": "1",
		"mount": "operation not permitted", "unshare": "operation not permitted", "io_uring": "operation not permitted",
		"mknod": "operation not permitted", "write.shm": "<nil>",
		"write.sysctl":      "open /proc/sys/kernel/hostname: read-only file system",
		"write.root":        "open /written: read-only file system",
		"masked./proc/keys": "0 <nil>", "masked./proc/timer_list": "0 <nil>", "masked./proc/interrupts": "0 <nil>",
		"nofile": fmt.Sprint(n.privilege.OpenFiles),
	})
	for _, ns := range []string{"net", "ipc", "uts", "pid", "mnt"} {
		mine, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil || got["ns."+ns] == "" || got["ns."+ns] == mine {
			t.Errorf("namespace %s: got %q, the host's is %q", ns, got["ns."+ns], mine)
		}
	}
}

func testProcess(t *testing.T, n *node) {
	sb := n.sandbox("process")
	s := n.spec(sb, "show", "a b", "")
	s.Env = []string{"A=mine", "C=new=x"}
	s.WorkingDir = "/data/deep"
	s.Resources = runtime.Resources{CPUShares: 512, CPUQuota: 50_000, Memory: 64 << 20, Pids: 77}
	s.Security = runtime.Security{User: new(int64(1234)), Group: new(int64(99)), Supplemental: []int64{7, 5}, AddCapabilities: []string{"NET_BIND_SERVICE"}}
	_, out := n.run(s)
	got := facts(out)
	n.expect(got, map[string]string{
		"args": "show,a b,", "env.A": "mine", "env.B": "image", "env.C": "new=x", "env.HOSTNAME": "process", "hostname": "process",
		"cwd": "/data/deep", "uid": "1234", "gid": "99", "groups": "[5 7]", "status.CapBnd": "0000000000000400",
		"file./etc/hostname": "process", "file./proc/self/oom_score_adj": "900",
	})
	if !strings.Contains(got["file./etc/hosts"], sb.IP+"\tprocess") {
		t.Errorf("hosts: %q", got["file./etc/hosts"])
	}
	if n.cgroups.V2 {
		n.expect(got, map[string]string{
			"file./sys/fs/cgroup/memory.max": "67108864", "file./sys/fs/cgroup/memory.swap.max": "0",
			"file./sys/fs/cgroup/pids.max": "77", "file./sys/fs/cgroup/cpu.max": "50000 100000", "file./sys/fs/cgroup/cpu.weight": "20",
		})
	} else {
		n.expect(got, map[string]string{
			"file./sys/fs/cgroup/memory/memory.limit_in_bytes": "67108864", "file./sys/fs/cgroup/pids/pids.max": "77",
			"file./sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000", "file./sys/fs/cgroup/cpu/cpu.shares": "512",
		})
		if n.cgroups.Swap {
			n.expect(got, map[string]string{"file./sys/fs/cgroup/memory/memory.memsw.limit_in_bytes": "67108864"})
		}
	}
	// Nothing set: the image's command and arguments.
	s = n.spec(sb, "default")
	s.Args = nil
	_, out = n.run(s)
	n.expect(facts(out), map[string]string{"args": "show,from-image", "env.A": "image", "cwd": "/work"})
	// A command replaces both.
	s = n.spec(sb, "command")
	s.Command, s.Args = []string{"probe", "show"}, nil
	_, out = n.run(s)
	n.expect(facts(out), map[string]string{"args": "show"})
}

func testMounts(t *testing.T, n *node) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("from the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	sb := n.sandbox("mounts")
	s := n.spec(sb, "show")
	s.Mounts = []runtime.Mount{{Source: dir, Target: "/data", ReadOnly: true}, {Source: filepath.Join(dir, "file"), Target: "/etc/hosts", ReadOnly: true}}
	_, out := n.run(s)
	n.expect(facts(out), map[string]string{"file./data/file": "from the host", "file./etc/hosts": "from the host"})
	s = n.spec(sb, "write", "/data/new")
	s.Mounts = []runtime.Mount{{Source: dir, Target: "/data", ReadOnly: true}}
	if _, out := n.run(s); !strings.Contains(out, "read-only file system") {
		t.Errorf("write to a read-only mount: %q", out)
	}
	s.Mounts[0].ReadOnly = false
	s.Security.User = new(int64(0))
	if _, out := n.run(s); !strings.HasSuffix(out, "<nil>\n") {
		t.Errorf("write to a mount: %q", out)
	}
}

func testExit(t *testing.T, n *node) {
	sb := n.sandbox("exit")
	s := n.spec(sb, "exit", "7")
	s.Attempt, s.Labels = 3, map[string]string{"k": "v"}
	ch := n.events()
	c := n.start(s)
	if x := n.exit(ch, c.ID); x.ExitCode != 7 || x.OOMKilled || x.Sandbox != sb.ID || time.Since(x.At) > time.Minute {
		t.Errorf("got %+v", x)
	}
	got, ok := n.find(c.ID)
	if !ok || got.State != runtime.Exited || got.ExitCode != 7 || got.Pid != 0 || got.Attempt != 3 || got.Labels["k"] != "v" || got.FinishedAt.IsZero() {
		t.Errorf("got %+v, %v", got, ok)
	}
	if err := n.Signal(t.Context(), c.ID, syscall.SIGTERM); err != nil {
		t.Errorf("signal to an exited container: %v", err)
	}
	// A later reader hears of it too.
	if x := n.exit(n.events(), c.ID); x.ExitCode != 7 {
		t.Errorf("a late reader got %+v", x)
	}
	for range 2 {
		if err := n.RemoveContainer(t.Context(), c.ID); err != nil {
			t.Error(err)
		}
	}
	if _, ok := n.find(c.ID); ok {
		t.Error("still listed after removal")
	}
	if _, err := os.Stat(s.LogPath); err != nil {
		t.Errorf("the log must outlive the container: %v", err)
	}
	// SIGTERM is for the process to deal with, SIGKILL is 137.
	srv := n.start(n.spec(sb, "serve"))
	if _, err := get(sb.IP, "/"); err != nil {
		t.Fatal(err)
	}
	if err := n.Signal(t.Context(), srv.ID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if x := n.exit(ch, srv.ID); x.ExitCode != 0 {
		t.Errorf("SIGTERM: got %+v", x)
	}
	srv = n.start(n.spec(sb, "sleep"))
	if err := n.Signal(t.Context(), srv.ID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if x := n.exit(ch, srv.ID); x.ExitCode != 137 || x.OOMKilled {
		t.Errorf("SIGKILL: got %+v", x)
	}
}

func testOOM(t *testing.T, n *node) {
	sb := n.sandbox("oom")
	s := n.spec(sb, "eat")
	s.Resources.Memory = 20 << 20
	ch := n.events()
	c := n.start(s)
	if x := n.exit(ch, c.ID); x.ExitCode != 137 || !x.OOMKilled {
		t.Errorf("got %+v, want an OOM kill", x)
	}
	if got, _ := n.find(c.ID); !got.OOMKilled || got.Signal != 9 {
		t.Errorf("got %+v", got)
	}
}

func testExec(t *testing.T, n *node) {
	sb := n.sandbox("exec")
	c := n.start(n.spec(sb, "sleep"))
	var out, errOut bytes.Buffer
	code, err := n.Exec(t.Context(), c.ID, runtime.Exec{Command: []string{"/bin/probe", "show"}, Stdout: &out, Stderr: &errOut})
	if err != nil || code != 0 {
		t.Fatalf("%d, %v: %s", code, err, errOut.String())
	}
	n.expect(facts(out.String()), map[string]string{"uid": "1000", "hostname": "exec", "status.Seccomp": "2", "status.NoNewPrivs": "1", "status.CapEff": "0000000000000000", "env.B": "image"})
	code, err = n.Exec(t.Context(), c.ID, runtime.Exec{Command: []string{"/bin/probe", "exit", "5"}})
	if err != nil || code != 5 {
		t.Errorf("got %d, %v, want 5", code, err)
	}
	out.Reset()
	big := strings.Repeat("0123456789", 100_000)
	code, err = n.Exec(t.Context(), c.ID, runtime.Exec{Command: []string{"/bin/probe", "cat"}, Stdin: strings.NewReader(big), Stdout: &out})
	if err != nil || code != 0 || out.String() != big {
		t.Errorf("cat: %d, %v, %d of %d bytes", code, err, out.Len(), len(big))
	}
	out.Reset()
	// A terminal shows what is typed as well; Ctrl-D ends the input.
	code, err = n.Exec(t.Context(), c.ID, runtime.Exec{Command: []string{"/bin/probe", "cat"}, TTY: true, Stdin: strings.NewReader("typed\n\x04"), Stdout: &out})
	if err != nil || code != 0 || out.String() != "typed\r\ntyped\r\n" {
		t.Errorf("in a terminal: %d, %v, %q", code, err, out.String())
	}
	if _, err = n.Exec(t.Context(), c.ID, runtime.Exec{Command: []string{"nope"}}); err == nil || !strings.Contains(err.Error(), `command "nope" is not in the image`) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err = n.Exec(ctx, c.ID, runtime.Exec{Command: []string{"/bin/probe", "sleep"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want a deadline", err)
	}
	if d := time.Since(begin); d > 3*time.Second {
		t.Errorf("a killed exec took %v", d)
	}
}

func testLogs(t *testing.T, n *node) {
	sb := n.sandbox("logs")
	s := n.spec(sb, "print", "3", "20000")
	_, out := n.run(s)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 3 || len(lines[2]) != len("line 2 ")+20000 {
		t.Errorf("got %d lines", len(lines))
	}
	raw, err := os.ReadFile(s.LogPath)
	if err != nil || strings.Count(string(raw), " stdout P ") != 3 || strings.Count(string(raw), " stdout F ") != 3 {
		t.Errorf("want three lines in two pieces each: %v", err)
	}
	// 2 MB through files of 512 KiB: the last lines are there, the disk is bounded.
	s = n.spec(sb, "print", "20000", "90")
	s.LogPath += ".rotated"
	_, out = n.run(s)
	if !strings.HasSuffix(out, "line 19999 "+strings.Repeat("x", 90)+"\n") {
		t.Errorf("the last line is missing: %q", out[max(0, len(out)-200):])
	}
	files, _ := filepath.Glob(s.LogPath + "*")
	if len(files) != 3 {
		t.Errorf("got files %v, want three", files)
	}
	// Both streams, followed while they come.
	srv := n.start(n.spec(sb, "serve"))
	r, err := logfile.Read(t.Context(), srv.LogPath, logfile.Options{Tail: -1, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := get(sb.IP, "/seen"); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for !bytes.Contains(got, []byte("\nerr/seen\n")) && !bytes.Contains(got, []byte("err/seen\n/seen")) {
		b := make([]byte, 1000)
		k, err := r.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, b[:k]...)
		if len(got) >= len("/seen\nerr/seen\n") {
			break
		}
	}
	if !bytes.Contains(got, []byte("err/seen\n")) || !bytes.Contains(got, []byte("/seen\n")) {
		t.Errorf("got %q", got)
	}
}

func testNetwork(t *testing.T, n *node) {
	a, b := n.sandbox("net-a"), n.sandbox("net-b")
	n.start(n.spec(a, "serve"))
	n.start(n.spec(b, "serve"))
	for _, sb := range []runtime.Sandbox{a, b} {
		if got, err := get(sb.IP, "/"); err != nil || got != "hello 10.218.0.1" {
			t.Errorf("host to pod: %q, %v", got, err)
		}
	}
	if _, out := n.run(n.spec(a, "get", "http://"+b.IP+":8080/")); out != "hello "+a.IP+"\n" {
		t.Errorf("pod to pod: %q", out)
	}
	s := n.spec(a, "get", "http://127.0.0.1:8080/")
	s.LogPath += ".own"
	if _, out := n.run(s); out != "hello 127.0.0.1\n" {
		t.Errorf("container to container of one pod: %q", out)
	}
	cpu, mem, err := n.Stats(t.Context(), n.containersOf(a.ID)[0].ID)
	if err != nil || cpu <= 0 || mem == 0 || mem > 1<<30 {
		t.Errorf("stats: %v s, %v bytes, %v", cpu, mem, err)
	}
}

func (n *node) containersOf(id string) []runtime.Container {
	n.t.Helper()
	all, err := n.Runtime().List(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	for _, s := range all {
		if s.ID == id {
			return s.Containers
		}
	}
	return nil
}

func testShared(t *testing.T, n *node) {
	sb := n.sandbox("shared")
	if _, out := n.run(n.spec(sb, "write", "/dev/shm/x")); out != "<nil>\n" {
		t.Fatalf("write to shared memory: %q", out)
	}
	s := n.spec(sb, "show")
	s.Name, s.Command, s.Args = "second", []string{"/bin/probe", "write"}, []string{"/dev/shm/x"}
	if x, out := n.run(s); x.ExitCode != 0 || out != "<nil>\n" { // the same user may write it again
		t.Errorf("%q", out)
	}
	if _, err := os.Stat(filepath.Join(n.sandboxDir(sb.ID), "shm", "x")); err != nil {
		t.Errorf("the file is not in the pod's own shared memory: %v", err)
	}
}

func testFaults(t *testing.T, n *node) {
	sb := n.sandbox("faults")
	base := n.spec(sb, "show")
	for _, c := range []struct {
		name, reason, text string
		change             func(*runtime.ContainerSpec)
	}{
		{"missing image", "CreateContainerError", `image "nope:1" is not on the node`, func(s *runtime.ContainerSpec) { s.Image = "nope:1" }},
		{"missing command", "RunContainerError", `command "/bin/nope" is not in the image`, func(s *runtime.ContainerSpec) { s.Command = []string{"/bin/nope"} }},
		{"missing command in PATH", "RunContainerError", `command "nope" is not in the image`, func(s *runtime.ContainerSpec) { s.Command = []string{"nope"} }},
		{"not executable", "RunContainerError", `command "/bin/text" is not executable for user 1000`, func(s *runtime.ContainerSpec) { s.Command = []string{"/bin/text"} }},
		{"huge user", "CreateContainerConfigError", "must be in range", func(s *runtime.ContainerSpec) { s.Security.User = new(int64(1 << 31)) }},
		{"root refused", "CreateContainerConfigError", "must not run as root", func(s *runtime.ContainerSpec) { s.Security.User, s.Security.RunAsNonRoot = new(int64(0)), true }},
		{"working directory", "CreateContainerConfigError", "not allowed below /proc", func(s *runtime.ContainerSpec) { s.WorkingDir = "/proc/self/fd/7" }},
		{"missing volume", "RunContainerError", "/missing/volume", func(s *runtime.ContainerSpec) {
			s.Mounts = []runtime.Mount{{Source: "/missing/volume", Target: "/v"}}
		}},
		{"tiny memory", "RunContainerError", "", func(s *runtime.ContainerSpec) { s.Resources.Memory = 4096 }},
	} {
		s := base
		c.change(&s)
		_, err := n.StartContainer(t.Context(), s)
		var se *runtime.StartError
		if !errors.As(err, &se) || se.Reason != c.reason || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: got %v, want %s with %q", c.name, err, c.reason, c.text)
		}
	}
	if got := n.containersOf(sb.ID); len(got) != 0 {
		t.Errorf("containers left: %+v", got)
	}
	if left := names(n.fifoDir("")); len(left) > 0 {
		for _, id := range left {
			if n.container(id) == nil {
				t.Errorf("fifo left: %s", id)
			}
		}
	}
	for _, h := range n.cgroups.Controllers() {
		if got := names(filepath.Join(h, n.cgroups.Pod(string(sb.UID)))); len(got) > 1 && !strings.Contains(strings.Join(got, " "), "cgroup.procs") {
			t.Errorf("cgroups left in %s: %v", h, got)
		}
	}
	for _, c := range []struct {
		ref    string
		policy corev1.PullPolicy
		reason string
		text   string
	}{
		{"UPPER:x", corev1.PullAlways, "InvalidImageName", "not valid"},
		{"nope:1", corev1.PullNever, "ErrImageNeverPull", "pull policy is Never"},
		{"127.0.0.1:1/nope:1", corev1.PullIfNotPresent, "ErrImagePull", "connection refused"},
	} {
		_, err := n.Images().Ensure(t.Context(), c.ref, c.policy)
		var pe *runtime.PullError
		if !errors.As(err, &pe) || pe.Reason != c.reason || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: got %v, want %s with %q", c.ref, err, c.reason, c.text)
		}
	}
}

func testPrivileged(t *testing.T, n *node) {
	sb := n.sandbox("privileged")
	s := n.spec(sb, "show")
	s.Security = runtime.Security{Privileged: true, User: new(int64(0))}
	_, out := n.run(s)
	got := facts(out)
	n.expect(got, map[string]string{"status.Seccomp": "0", "status.NoNewPrivs": "0", "mount": "<nil>", "uid": "0"})
	if got["status.CapEff"] == "0000000000000000" {
		t.Error("a privileged container has no capabilities")
	}
}

func testPauseKilled(t *testing.T, n *node) {
	sb := n.sandbox("dies")
	ch := n.events()
	n.start(n.spec(sb, "sleep"))
	if err := syscall.Kill(sb.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if x := n.exit(ch, sb.ID); x.ExitCode != 137 || x.Container != "" {
		t.Errorf("got %+v", x)
	}
	if _, err := n.StartContainer(t.Context(), n.spec(sb, "show")); err == nil || !strings.Contains(err.Error(), "sandbox has ended") {
		t.Errorf("got %v", err)
	}
	for range 2 {
		if err := n.RemoveSandbox(t.Context(), sb.ID); err != nil {
			t.Fatal(err)
		}
	}
	all, _ := n.Runtime().List(t.Context())
	for _, s := range all {
		if s.ID == sb.ID {
			t.Error("still listed")
		}
	}
}

func testUnsafeImages(t *testing.T, n *node) {
	_, probe := build(t)
	bin := layer(t, file{name: "probe", body: probe, mode: 0o755})
	sb := n.sandbox("unsafe")
	for ref, c := range map[string]struct {
		img  v1.Image
		text string
	}{
		"podsnap.test/dev:1":  {testImage(t, v1.Config{Entrypoint: []string{"/probe"}}, bin, layer(t, file{name: "dev", link: "/tmp"})), "/dev is a symbolic link"},
		"podsnap.test/cwd:1":  {testImage(t, v1.Config{Entrypoint: []string{"/probe"}, WorkingDir: "/proc/self/fd/9"}, bin), "not allowed below /proc"},
		"podsnap.test/uid:1":  {testImage(t, v1.Config{Entrypoint: []string{"/probe"}, User: "4294967296"}, bin), "must be in range"},
		"podsnap.test/who:1":  {testImage(t, v1.Config{Entrypoint: []string{"/probe"}, User: "nobody"}, bin), `user "nobody"`},
		"podsnap.test/none:1": {testImage(t, v1.Config{}, bin), "names a command"},
	} {
		if _, err := n.Images().Import(t.Context(), archive(t, ref, c.img)); err != nil {
			t.Fatal(err)
		}
		s := n.spec(sb, "show")
		s.Image, s.Args = ref, nil
		if _, err := n.StartContainer(t.Context(), s); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: got %v, want %q", ref, err, c.text)
		}
	}
}

func testPodLimits(t *testing.T, n *node) {
	sb, err := n.StartSandbox(t.Context(), runtime.SandboxSpec{
		UID: "uid-limits", Namespace: "default", Name: "limits", Hostname: "limits",
		Resources: runtime.Resources{Memory: 40 << 20, CPUShares: 100, CPUQuota: 20_000, Pids: 50},
		Sysctls:   map[string]string{"net.ipv4.tcp_syncookies": "0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	file := "memory.limit_in_bytes"
	if n.cgroups.V2 {
		file = "memory.max"
	}
	if got, err := cgroup.Number(n.cgroups.File("memory", n.cgroups.Pod("uid-limits"), file)); err != nil || got != 40<<20 {
		t.Errorf("got %d, %v", got, err)
	}
	x, _ := n.run(n.spec(sb, "eat")) // the container has no limit of its own
	if x.ExitCode != 137 || !x.OOMKilled {
		t.Errorf("got %+v, want an OOM kill by the pod's limit", x)
	}
}

func testUnknown(t *testing.T, n *node) {
	ctx := t.Context()
	_, err1 := n.StartContainer(ctx, runtime.ContainerSpec{Sandbox: "nope"})
	_, err2 := n.Exec(ctx, "nope", runtime.Exec{Command: []string{"x"}})
	_, _, err3 := n.Stats(ctx, "nope")
	for i, err := range []error{err1, err2, err3, n.Signal(ctx, "nope", syscall.SIGTERM)} {
		if !apierrors.IsNotFound(err) {
			t.Errorf("%d: got %v, want NotFound", i, err)
		}
	}
	if err := errors.Join(n.RemoveContainer(ctx, "nope"), n.RemoveSandbox(ctx, "nope"), n.Images().Remove(ctx, "nope:1")); err != nil {
		t.Error(err)
	}
}

// Containers that share processes see one another's.
func testSharedPID(t *testing.T, n *node) {
	sb, err := n.StartSandbox(t.Context(), runtime.SandboxSpec{UID: "uid-pids", Namespace: "default", Name: "pids", Hostname: "pids", NoNetwork: true, SharePID: true})
	if err != nil {
		t.Fatal(err)
	}
	pid, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", sb.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		s := n.spec(sb, "show")
		s.Attempt = i
		_, out := n.run(s)
		n.expect(facts(out), map[string]string{"ns.pid": pid})
	}
}

func testHostNetwork(t *testing.T, n *node) {
	sb, err := n.StartSandbox(t.Context(), runtime.SandboxSpec{UID: "uid-host", Namespace: "default", Name: "host", Hostname: "host", HostNetwork: true, HostPID: true})
	if err != nil {
		t.Fatal(err)
	}
	_, out := n.run(n.spec(sb, "show"))
	net, _ := os.Readlink("/proc/self/ns/net")
	pid, _ := os.Readlink("/proc/self/ns/pid")
	n.expect(facts(out), map[string]string{"ns.net": net, "ns.pid": pid})
	if sb.IP != "" {
		t.Errorf("got address %s", sb.IP)
	}
}

func testNoNetwork(t *testing.T, n *node) {
	sb, err := n.StartSandbox(t.Context(), runtime.SandboxSpec{UID: "uid-alone", Namespace: "default", Name: "alone", Hostname: "alone", NoNetwork: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(sb.IPs()) > 0 {
		t.Errorf("got addresses %v", sb.IPs())
	}
	dev, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", sb.Pid))
	if got := strings.Split(strings.TrimSpace(string(dev)), "\n"); err != nil || len(got) != 3 || !strings.HasPrefix(strings.TrimSpace(got[2]), "lo:") {
		t.Errorf("got links, after two lines of titles, %q, %v", got, err)
	}
	// Nobody listens, but there is a loopback.
	if c, err := n.DialIn(t.Context(), sb.ID, "127.0.0.1:9"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v, %v", c, err)
	}
	if _, out := n.run(n.spec(sb, "show")); facts(out)["ns.net"] == "" {
		t.Errorf("a container does not run: %s", out)
	}
	if err := n.RemoveSandbox(t.Context(), sb.ID); err != nil {
		t.Error(err)
	}
}

// 50 pods at once, all answer, all go.
func TestManySandboxes(t *testing.T) {
	n := newNode(t)
	const count = 50
	begin := time.Now()
	ids := make([]string, count)
	var wg sync.WaitGroup
	for i := range count {
		wg.Go(func() {
			name := fmt.Sprintf("p%02d", i)
			sb, err := n.StartSandbox(t.Context(), runtime.SandboxSpec{UID: types.UID("uid-" + name), Namespace: "default", Name: name, Hostname: name})
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = sb.ID
			if _, err := n.StartContainer(t.Context(), n.spec(sb, "serve")); err != nil {
				t.Error(err)
				return
			}
			if got, err := get(sb.IP, "/"); err != nil || !strings.HasPrefix(got, "hello") {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d pods served after %v", count, time.Since(begin))
	all, err := n.Runtime().List(t.Context())
	if err != nil || len(all) != count {
		t.Errorf("got %d sandboxes, %v", len(all), err)
	}
	begin = time.Now()
	for _, id := range ids {
		wg.Go(func() {
			if err := n.RemoveSandbox(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("removed after %v", time.Since(begin))
	if err := n.config.Network.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	var left []string
	for _, e := range names("/sys/class/net") {
		if strings.HasPrefix(e, "pet") {
			left = append(left, e)
		}
	}
	if got := append(left, n.cgroups.Pods()...); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

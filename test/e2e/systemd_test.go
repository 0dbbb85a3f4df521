package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
	"golang.org/x/sys/unix"
)

// manager keeps a service's sockets as systemd does (sd_notify(3),
// sd_listen_fds(3)).
type manager struct {
	t    *testing.T
	path string
	conn *net.UnixConn
	done chan struct{}

	mu     sync.Mutex
	stored []stored
	most   int // connections besides listening sockets that were there at a time
}

type stored struct {
	name string
	file *os.File
}

func newManager(t *testing.T) *manager {
	t.Helper()
	dir, err := os.MkdirTemp("", "psm")
	if err != nil {
		t.Fatal(err)
	}
	m := &manager{t: t, path: filepath.Join(dir, "notify"), done: make(chan struct{})}
	if m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	go m.run()
	t.Cleanup(func() {
		m.conn.Close()
		<-m.done
		for _, s := range m.stored {
			s.file.Close()
		}
		os.RemoveAll(dir)
	})
	return m
}

func (m *manager) run() {
	defer close(m.done)
	b, oob := make([]byte, 4096), make([]byte, 4096)
	for {
		n, k, _, _, err := m.conn.ReadMsgUnix(b, oob)
		if err != nil {
			return
		}
		m.heard(string(b[:n]), files(oob[:k]))
	}
}

func (m *manager) heard(said string, with []*os.File) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := ""
	lines := strings.Split(said, "\n")
	for _, l := range lines {
		if v, ok := strings.CutPrefix(l, "FDNAME="); ok {
			name = v
		}
	}
	switch {
	case slices.Contains(lines, "FDSTORE=1"):
		for _, f := range with {
			m.stored = append(m.stored, stored{name, f})
		}
		conns := 0
		for _, s := range m.stored {
			if s.name == "idle" {
				conns++
			}
		}
		m.most = max(m.most, conns)
		return
	case slices.Contains(lines, "FDSTOREREMOVE=1"):
		m.stored = slices.DeleteFunc(m.stored, func(s stored) bool {
			if s.name == name {
				s.file.Close()
			}
			return s.name == name
		})
	}
	for _, f := range with {
		f.Close() // of a barrier: that is the answer
	}
}

func files(oob []byte) (out []*os.File) {
	all, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range all {
		fds, _ := unix.ParseUnixRights(&all[i])
		for _, fd := range fds {
			out = append(out, os.NewFile(uintptr(fd), "stored"))
		}
	}
	return out
}

// prepare starts a command as a service, with what is stored.
func (m *manager) prepare(cmd *exec.Cmd) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, s := range m.stored {
		names = append(names, s.name)
		cmd.ExtraFiles = append(cmd.ExtraFiles, s.file)
	}
	cmd.Env = append(slices.Clone(cmd.Env), "NOTIFY_SOCKET="+m.path, fmt.Sprintf("LISTEN_FDS=%d", len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	// The number of the process is known when it is there.
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
}

// Under systemd its file descriptor store keeps the sockets: no call is lost when
// the service restarts, and no other process keeps any.
func TestRestartAsService(t *testing.T) {
	p := platform.New(t)
	build(t, p)
	deploy(t, p, openfaas.FunctionDeployment{Service: "steady", Labels: map[string]string{"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "2"}})
	platform.Eventually(t, 30*time.Second, available(t, p, "steady", 2))
	m := newManager(t)
	p.MustFaas("", append([]string{"server", "stop"}, p.Args()...)...)
	p.Prepare = m.prepare
	p.Start()
	platform.Eventually(t, 60*time.Second, available(t, p, "steady", 2))
	if _, err := os.Stat(filepath.Join(p.StateDir, "run", "sockets.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("another keeper than the manager is there: %v", err)
	}
	url := p.URL + "/function/steady?sleep=5ms"
	open, closed := startRate(t, url, 200, once), startClosed(t, url, 4)
	for range 3 {
		was := closed.count()
		platform.Eventually(t, 30*time.Second, func() error {
			if n := closed.count() - was; n < 200 {
				return fmt.Errorf("only %d more calls are answered", n)
			}
			return nil
		})
		p.Terminate()
		p.Start()
	}
	open.must(t, 500)
	closed.must(t, 600)
	if m.most == 0 {
		t.Error("no connection was left to the manager: the test shows nothing")
	}
	t.Logf("up to %d connections were kept", m.most)
}

// realSystemd is systemd's manager of a user, with a /run of its own, in which the
// unit of deploy/systemd runs the platform.
type realSystemd struct {
	t   *testing.T
	dir string // XDG_RUNTIME_DIR
	cmd *exec.Cmd
}

const systemdProgram = "/usr/lib/systemd/systemd"

func startSystemd(t *testing.T, p *platform.Platform) *realSystemd {
	t.Helper()
	if _, err := os.Stat(systemdProgram); err != nil {
		t.Skipf("no systemd here: %v", err)
	}
	dir, err := os.MkdirTemp("", "psd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	unit, err := os.ReadFile("../../deploy/systemd/podsnap.service")
	if err != nil {
		t.Fatal(err)
	}
	const start = "ExecStart=/usr/local/bin/faas server\n"
	if !strings.Contains(string(unit), start) {
		t.Fatalf("the unit has no line %q", start)
	}
	mine := strings.Replace(string(unit), start, "ExecStart="+p.Binary+" server "+strings.Join(p.Args(), " ")+"\n", 1)
	units := filepath.Join(dir, "systemd", "user")
	if err := os.MkdirAll(units, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(units, "podsnap.service"), []byte(mine), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(units, "podsnap-test.target"), []byte("[Unit]\nDescription=nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &realSystemd{t: t, dir: dir}
	// It runs where the machine seems to be booted with systemd, and nowhere else.
	s.cmd = exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
		"mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && exec "+systemdProgram+" --user --unit=podsnap-test.target")
	s.cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+dir, "HOME="+dir)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.cmd.Process.Signal(unix.SIGTERM)
		_ = s.cmd.Wait()
	})
	platform.Eventually(t, 20*time.Second, func() error { return s.systemctl("list-units") })
	return s
}

func (s *realSystemd) systemctl(args ...string) error {
	cmd := exec.Command("systemctl", append([]string{"--user"}, args...)...)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+s.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (s *realSystemd) must(args ...string) {
	s.t.Helper()
	if err := s.systemctl(args...); err != nil {
		s.t.Fatal(err)
	}
}

// end stops the service and removes what it has left, where its mounts are.
func (s *realSystemd) end(p *platform.Platform) {
	s.t.Helper()
	s.must("stop", "podsnap")
	cmd := exec.Command("nsenter", append([]string{"--mount", "--target", fmt.Sprint(s.cmd.Process.Pid), p.Binary, "server", "stop"}, p.Args()...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Errorf("faas server stop: %v\n%s", err, out)
	}
}

// The unit of deploy/systemd under the real systemd: no call is lost over `systemctl
// restart`, connections wait when the process is killed, and none does when the
// service is stopped.
func TestUnitOfSystemd(t *testing.T) {
	p := platform.New(t)
	build(t, p)
	if _, err := p.Client.Deploy(t.Context(), openfaas.FunctionDeployment{
		Service: "steady", Image: "probe:latest", Labels: map[string]string{"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "2"},
	}); err != nil {
		t.Fatal(err)
	}
	platform.Eventually(t, 30*time.Second, available(t, p, "steady", 2))
	s := startSystemd(t, p)
	p.MustFaas("", append([]string{"server", "stop"}, p.Args()...)...)
	s.must("start", "podsnap")
	t.Cleanup(func() { s.end(p) })
	platform.Eventually(t, 60*time.Second, available(t, p, "steady", 2))
	url := p.URL + "/function/steady?sleep=5ms"
	open, closed := startRate(t, url, 200, once), startClosed(t, url, 4)
	for range 3 {
		was := closed.count()
		s.must("restart", "podsnap")
		platform.Eventually(t, 30*time.Second, func() error {
			if n := closed.count() - was; n < 300 {
				return fmt.Errorf("only %d more calls are answered", n)
			}
			return nil
		})
	}
	open.must(t, 500)
	closed.must(t, 900)
	s.must("kill", "--signal=KILL", "--kill-whom=main", "podsnap")
	for range 20 { // it is away for half a second at least
		c, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://"))
		if err != nil {
			t.Fatalf("while no process is there: %v", err)
		}
		c.Close()
	}
	if code, body, err := post(url, "x"); code != 200 || body != "x" {
		t.Errorf("a call that was made then: %d %q %v", code, body, err)
	}
	s.must("stop", "podsnap")
	if c, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://")); err == nil {
		c.Close()
		t.Error("somebody keeps the socket of a service that is stopped")
	}
}

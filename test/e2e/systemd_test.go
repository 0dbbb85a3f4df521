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

package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

func TestConfig(t *testing.T) {
	c := Config{StateDir: t.TempDir()}
	if err := c.fill(); err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:8080" || c.RunDir == "/run/podsnap" || !strings.HasPrefix(c.RunDir, "/run/podsnap-") {
		t.Errorf("the defaults are %+v", c)
	}
	for _, k := range []struct {
		name string
		c    Config
		says []string
	}{
		{"several at once", Config{Listen: "8080", PodCIDR: "10.0.0.0/33", MaxAsyncBody: 1 << 30}, []string{"--listen", "--pod-cidr", "--max-async-body"}},
		{"Services among pods", Config{ServiceCIDR: "10.62.8.0/24"}, []string{"--service-cidr", "10.62.0.0/16"}},
		{"pods of another cluster", Config{PodCIDR: "10.63.0.0/20", ClusterCIDR: "10.62.0.0/16"}, []string{"--pod-cidr", "--cluster-cidr"}},
		{"an address of all machines", Config{NodeIP: "0.0.0.0"}, []string{"--node-ip"}},
		{"IPv6 pods", Config{PodCIDR: "fd00::/64"}, []string{"IPv4"}},
		{"IPv6 first", Config{ClusterCIDR: "fd62::/56,10.62.0.0/16"}, []string{"--cluster-cidr", "10.62.0.0/16,fd62::/56"}},
		{"two of one family", Config{ClusterCIDR: "10.62.0.0/16,10.63.0.0/16"}, []string{"--cluster-cidr", "IPv6"}},
		{"IPv6 for pods alone", Config{ClusterCIDR: "10.62.0.0/16,fd62::/56"}, []string{"--service-cidr", "a network of each"}},
		{"IPv6 for Services alone", Config{ServiceCIDR: "10.96.0.0/16,fd96::/112"}, []string{"--cluster-cidr", "a network of each"}},
		{"Services among pods in IPv6", Config{ClusterCIDR: "10.62.0.0/16,fd62::/56", ServiceCIDR: "10.96.0.0/16,fd62::/112"}, []string{"overlaps"}},
		{"pods of another cluster in IPv6", Config{PodCIDR: "10.62.4.0/22,fd63::/64", ClusterCIDR: "10.62.0.0/16,fd62::/56", ServiceCIDR: "10.96.0.0/16,fd96::/112"}, []string{"must be a part"}},
		{"too many Services in IPv6", Config{ClusterCIDR: "10.62.0.0/16,fd62::/56", ServiceCIDR: "10.96.0.0/16,fd96::/64"}, []string{"between 108 and 124"}},
		{"too small a network", Config{PodCIDR: "10.0.0.0/30"}, []string{"between 8 and 28"}},
		{"two servers", Config{Servers: []string{"10.0.0.1", "10.0.0.1"}, Etcd: []string{"http://10.0.0.9:2379"}}, []string{"leave one of them out", "3 or 5", "there twice", "--server-token", "--api-listen"}},
		{"a name for a server", Config{Servers: []string{"a", "10.0.0.1", "10.0.0.2"}, ServerToken: "x"}, []string{`"a" is no address`, "faas server token"}},
		{"not among the servers", Config{Servers: []string{"10.0.0.3", "10.0.0.1", "10.0.0.2"}, NodeIP: "10.0.0.9"}, []string{"not among them"}},
		{"a node's token", Config{Servers: []string{"10.0.0.3", "10.0.0.1", "10.0.0.2"}, ServerToken: "F1x"}, []string{"for nodes"}},
		{"a token for one", Config{ServerToken: ServerToken()}, []string{"for several servers"}},
		{"etcd's files without TLS", Config{Etcd: []string{"http://10.0.0.1:2379"}, EtcdCA: "/ca"}, []string{"https://"}},
		{"an authority that is not there", Config{Etcd: []string{"https://10.0.0.1:2379"}, EtcdCA: "/not/there"}, []string{"--etcd-ca", "/not/there"}},
		{"a certificate without its key", Config{Etcd: []string{"https://10.0.0.1:2379"}, EtcdCert: "/crt"}, []string{"--etcd-cert and --etcd-key"}},
		{"NATS' files without it", Config{NATSCreds: "/not/there"}, []string{"--nats-creds", "--nats"}},
		{"copies", Config{NATSCopies: 6}, []string{"--nats-copies"}},
		{"TLS anywhere", Config{TLSListen: "443"}, []string{"--tls-listen"}},
		{"TLS of a node", Config{TLSListen: ":443", Join: "https://a:6443"}, []string{"--tls-listen", "servers"}},
		{"long path", Config{RunDir: "/" + strings.Repeat("x", 120)}, []string{"--run-dir"}},
	} {
		err := k.c.fill()
		for _, s := range k.says {
			if err == nil || !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %v, want it to say %q", k.name, err, s)
			}
		}
	}
}

func TestSecretsLast(t *testing.T) {
	c := Config{StateDir: t.TempDir()}
	if err := c.fill(); err != nil {
		t.Fatal(err)
	}
	c.RunDir = t.TempDir()
	if err := c.dirs(); err != nil {
		t.Fatal(err)
	}
	a, err := c.secret("x")
	if err != nil || len(a) < 40 {
		t.Fatal(a, err)
	}
	if b, err := c.secret("x"); err != nil || a != b {
		t.Errorf("the second look has another secret: %v", err)
	}
	if st, err := os.Stat(c.path("auth", "x")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the secret's file is %v, %v", st.Mode(), err)
	}
}

func TestCertificate(t *testing.T) {
	c := Config{StateDir: t.TempDir(), NodeName: "n", APIListen: "127.0.0.1:1"}
	if err := os.MkdirAll(c.path("auth"), 0o700); err != nil {
		t.Fatal(err)
	}
	one, ca, err := c.certificate()
	if err != nil {
		t.Fatal(err)
	}
	two, ca2, err := c.certificate()
	if err != nil || !one.Leaf.Equal(two.Leaf) || string(ca) != string(ca2) {
		t.Errorf("the second start made another certificate: %v", err)
	}
	c.APIListen = "192.0.2.1:1"
	three, ca3, err := c.certificate()
	if err != nil || three.Leaf.VerifyHostname("192.0.2.1") != nil || string(ca) != string(ca3) {
		t.Errorf("for another address: %v", err)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(path); err == nil || !strings.Contains(err.Error(), "runs already") {
		t.Errorf("a second lock: %v", err)
	}
	unlock()
	if was, err := end(t.Context(), path); was || err != nil {
		t.Errorf("ending what does not run: %v %v", was, err)
	}
}

// Parts end in the reverse order of their start, and the fault of one is told.
func TestStack(t *testing.T) {
	s := newStack(quiet)
	var order []string
	for _, name := range []string{"a", "b", "c"} {
		s.start(t.Context(), name, func(ctx context.Context) error {
			<-ctx.Done()
			order = append(order, name)
			return ctx.Err()
		})
	}
	s.start(t.Context(), "bad", func(context.Context) error { return errors.New("broken") })
	if err := s.wait(t.Context()); err == nil || err.Error() != "bad: broken" {
		t.Errorf("the fault is %v", err)
	}
	s.stopDownTo("b")
	if got := strings.Join(order, ""); got != "cb" {
		t.Errorf("ended %q, want cb", got)
	}
	s.stop()
	if got := strings.Join(order, ""); got != "cba" {
		t.Errorf("ended %q, want cba", got)
	}
}

func shell(script string) func() (*exec.Cmd, func(), error) {
	return func() (*exec.Cmd, func(), error) {
		return exec.Command("/bin/sh", "-c", script), func() {}, nil
	}
}

// A child that is killed comes back; at the end it is told and waited for.
func TestChildComesBack(t *testing.T) {
	var starts atomic.Int32
	pids := make(chan int, 8)
	var c *child
	c = newChild("child", quiet, shell("exec sleep 60"), func(context.Context) error {
		starts.Add(1)
		c.mu.Lock()
		defer c.mu.Unlock()
		pids <- c.pid
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.run(ctx) }()
	if err := c.wait(ctx); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(<-pids, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := <-pids
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if starts.Load() != 2 {
		t.Errorf("%d starts, want 2", starts.Load())
	}
	if err := syscall.Kill(second, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the child is still there: %v", err)
	}
}

// One that never answers is a fault of the set-up, and said so at once.
func TestChildThatCannotStart(t *testing.T) {
	c := newChild("child", quiet, shell("exit 3"), func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) })
	done := make(chan error, 1)
	go func() { done <- c.run(t.Context()) }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.wait(ctx); err == nil || !strings.Contains(err.Error(), "child did not start") {
		t.Errorf("got %v", err)
	}
	<-done
	gone := newChild("gone", quiet, func() (*exec.Cmd, func(), error) { return exec.Command("/no/such/program"), func() {}, nil }, nil)
	if err := gone.run(t.Context()); err == nil || !strings.Contains(err.Error(), "gone did not start") {
		t.Errorf("got %v", err)
	}
}

func TestNodeName(t *testing.T) {
	for want, names := range map[string][]string{
		"box": {"Box", "other"}, "from-file.example": {"/", "from-file.example\n"}, "localhost": {"(none)", ""},
	} {
		if got := nodeName(names...); got != want {
			t.Errorf("%q: got %q, want %q", names, got, want)
		}
	}
}

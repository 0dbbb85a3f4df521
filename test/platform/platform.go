// Package platform starts the real platform for a test: the faas binary, with
// state directory, ports and addresses of its own.
package platform

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
)

// T is what a platform needs of its test; bench has one too.
type T interface { //nolint:interfacebloat // a part of testing.T, whose size it is
	Helper()
	Context() context.Context
	Cleanup(f func())
	Failed() bool
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Skip(args ...any)
	Skipf(format string, args ...any)
}

// Platform is a running platform.
type Platform struct {
	Binary   string // the faas command
	StateDir string
	URL      string // gateway
	Metrics  string // URL of the metrics
	API      string // URL of the Kubernetes API
	Client   *openfaas.Client
	Password string

	// Prepare is called with the server's command before each start, to change it;
	// nil is as it is.
	Prepare func(*exec.Cmd)
	// Patience is how long a start may take; 0 is a minute.
	Patience time.Duration

	t    T
	args []string
	env  []string

	mu  sync.Mutex
	cmd *exec.Cmd
	end chan error
	log *bytes.Buffer
}

var binary = sync.OnceValues(func() (string, error) {
	if b := os.Getenv("FAAS_BINARY"); b != "" {
		return filepath.Abs(b)
	}
	root, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(strings.TrimSpace(string(root)))
	cmd := exec.Command("make", "-s", "-C", dir, "build")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make build: %w\n%s", err, out)
	}
	return filepath.Join(dir, "bin", "faas"), nil
})

// Binary is the faas command of this tree: $FAAS_BINARY, or built now.
func Binary(t T) string {
	t.Helper()
	b, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// NeedRoot skips a test that can't run here, saying why.
func NeedRoot(t T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("running containers needs root")
	}
	for _, p := range []string{"containerd", "runc"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed: run deploy/setup.sh test", p)
		}
	}
}

// New prepares a platform and starts it; flags are added to `faas server`. It
// is stopped, with all it runs, at the test's end.
func New(t T, flags ...string) *Platform {
	t.Helper()
	NeedRoot(t)
	// Short, because sockets live below it; not t.TempDir, because it must
	// still be there for `faas server stop`.
	dir, err := os.MkdirTemp("", "pst")
	if err != nil {
		t.Fatal(err)
	}
	ports := FreePorts(t, 3)
	pods, services := FreeCIDRs(t)
	p := &Platform{
		Binary: Binary(t), StateDir: dir, t: t,
		URL: "http://" + ports[0], Metrics: "http://" + ports[1], API: "https://" + ports[2],
		args: append([]string{
			"--state-dir", dir, "--run-dir", filepath.Join(dir, "run"),
			"--listen", ports[0], "--metrics-listen", ports[1], "--api-listen", ports[2],
			"--pod-cidr", pods, "--service-cidr", services, "--node-name", "test-node",
		}, flags...),
		env: append(os.Environ(), "OPENFAAS_CONFIG="+filepath.Join(dir, "login"), "OPENFAAS_URL=http://"+ports[0], "PODSNAP_STATE_DIR="+dir),
	}
	t.Cleanup(func() {
		p.Stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the state directory: %v", err)
		}
	})
	p.Start()
	b, err := os.ReadFile(filepath.Join(dir, "auth", "basic-auth-password"))
	if err != nil {
		t.Fatal(err)
	}
	p.Password = strings.TrimSpace(string(b))
	p.Client = &openfaas.Client{URL: p.URL, User: "admin", Password: p.Password, HTTP: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 512}}}
	return p
}

// Start starts the server process and waits until the gateway answers.
func (p *Platform) Start() {
	p.t.Helper()
	p.mu.Lock()
	p.log = &bytes.Buffer{}
	p.cmd = exec.Command(p.Binary, append([]string{"server"}, p.args...)...)
	p.cmd.Env = p.env
	out := &lockedWriter{w: p.log}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.Prepare != nil {
		p.Prepare(p.cmd)
	}
	if err := p.cmd.Start(); err != nil {
		p.mu.Unlock()
		p.t.Fatal(err)
	}
	end := make(chan error, 1)
	p.end = end
	cmd := p.cmd
	p.mu.Unlock()
	go func() { end <- cmd.Wait() }()
	patience := cmp.Or(p.Patience, time.Minute)
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	c := &openfaas.Client{URL: p.URL}
	for {
		ctx, cancel := context.WithTimeout(p.t.Context(), time.Second)
		err := c.Healthz(ctx)
		cancel()
		if err == nil {
			return
		}
		select {
		case err := <-end:
			end <- err
			p.t.Fatalf("the platform ended at once: %v\n%s", err, out)
		case <-deadline:
			p.t.Fatalf("the platform did not answer in %v\n%s", patience, out)
		case <-tick.C:
		}
	}
}

// Log is what the server has written since its last start.
func (p *Platform) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w, ok := p.cmd.Stdout.(*lockedWriter); ok {
		return w.String()
	}
	return ""
}

// Pid is the server's process.
func (p *Platform) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// Kill ends the server with SIGKILL and waits for its end; its containers go
// on.
func (p *Platform) Kill() {
	p.t.Helper()
	if err := syscall.Kill(p.Pid(), syscall.SIGKILL); err != nil {
		p.t.Fatal(err)
	}
	p.wait()
}

// Terminate ends the server with SIGTERM and waits; its containers go on.
func (p *Platform) Terminate() {
	p.t.Helper()
	if err := syscall.Kill(p.Pid(), syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	p.wait()
}

func (p *Platform) wait() {
	p.t.Helper()
	select {
	case err := <-p.end:
		p.end <- err
	case <-time.After(60 * time.Second):
		p.t.Fatalf("the server did not end\n%s", p.Log())
	}
}

// Stop runs `faas server stop`, which ends the platform and all it runs.
func (p *Platform) Stop() {
	p.t.Helper()
	if p.t.Failed() {
		p.t.Logf("the server's log:\n%s", tail(p.Log(), 120))
	}
	cmd := exec.Command(p.Binary, append([]string{"server", "stop"}, p.args...)...)
	cmd.Env = p.env
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Errorf("faas server stop: %v\n%s", err, out)
	}
	p.wait()
}

// Faas runs the faas command against this platform and answers with what it
// wrote to standard output.
func (p *Platform) Faas(stdin string, args ...string) (string, error) {
	p.t.Helper()
	return p.FaasIn("", stdin, args...)
}

// FaasIn is Faas in a folder.
func (p *Platform) FaasIn(dir, stdin string, args ...string) (string, error) {
	cmd := exec.Command(p.Binary, args...)
	cmd.Env, cmd.Dir = p.env, dir
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("faas %s: %w\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// Background has another build of the faas command start this platform in the
// background, or replace it there, and answers with what it says. flags are all that
// it is given besides the state directory. A file that the command has beside its
// three must not stay open in the platform.
func (p *Platform) Background(binary string, flags ...string) string {
	p.t.Helper()
	rest, held, err := os.Pipe()
	if err != nil {
		p.t.Fatal(err)
	}
	defer rest.Close()
	cmd := exec.Command(binary, append([]string{"server", "start"}, flags...)...)
	cmd.Env, cmd.ExtraFiles = p.env, []*os.File{held}
	out, err := cmd.CombinedOutput()
	held.Close()
	if err != nil {
		p.t.Fatalf("faas server start: %v\n%s", err, out)
	}
	if err := rest.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		p.t.Fatal(err)
	}
	if _, err := rest.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		p.t.Errorf("the platform keeps a file open that its starter was given: %v", err)
	}
	return string(out)
}

// Args are the flags that the server is started with.
func (p *Platform) Args() []string { return slices.Clone(p.args) }

// MustFaas is Faas that must succeed.
func (p *Platform) MustFaas(stdin string, args ...string) string {
	p.t.Helper()
	out, err := p.Faas(stdin, args...)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// Eventually waits until check answers nil, looking again every 20 ms. limit is when
// to give up, by a Stopwatch.
func Eventually(t T, limit time.Duration, check func() error) {
	t.Helper()
	watch := StartWatch()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if watch.Spent() > limit {
			t.Fatalf("after %s (%s really) still: %v", limit, time.Since(watch.begun).Round(time.Millisecond), err)
		}
		<-tick.C
	}
}

// given is what tests of this process have got, which may run beside one another:
// between a look and the use of what was found free there is time.
var given = struct {
	sync.Mutex
	ports map[string]bool
	nets  int
}{ports: map[string]bool{}}

// FreePorts finds loopback addresses that nobody listens on. None is given twice.
func FreePorts(t T, n int) []string {
	t.Helper()
	given.Lock()
	defer given.Unlock()
	var out []string
	for len(out) < n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if a := l.Addr().String(); !given.ports[a] {
			given.ports[a] = true
			out = append(out, a)
		}
	}
	return out
}

// FreeCIDRs finds a pod network and a Service network to which no route of this
// machine leads. Those that were given last are not given again soon.
func FreeCIDRs(t T) (pods, services string) {
	t.Helper()
	b, err := os.ReadFile("/proc/net/route")
	if err != nil {
		t.Fatal(err)
	}
	given.Lock()
	defer given.Unlock()
	for range 200 {
		second := 20 + (os.Getpid()+given.nets)%200
		given.nets++
		// Destinations are written in the host's byte order.
		if !strings.Contains(string(b), fmt.Sprintf("%02X0A\t", second)) {
			net := "10." + strconv.Itoa(second)
			return net + ".0.0/20", net + ".128.0/20"
		}
	}
	t.Fatal("no free 10.x.0.0/16 network")
	return "", ""
}

type lockedWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

func (l *lockedWriter) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.String()
}

func tail(s string, n int) string {
	lines := strings.Split(s, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Get reads an object or list of the Kubernetes API into out.
func (p *Platform) Get(path string, out any) error {
	token, err := os.ReadFile(filepath.Join(p.StateDir, "auth", "api-token"))
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(filepath.Join(p.StateDir, "auth", "ca.crt"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	t := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.API+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := (&http.Client{Transport: t, Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

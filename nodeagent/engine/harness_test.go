package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/internal/disposition"
	"github.com/podsnap/podsnap/nodeagent/cgroup"
	"github.com/podsnap/podsnap/nodeagent/logfile"
	"github.com/podsnap/podsnap/nodeagent/network"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// programs are built once for all tests of the package.
var programs struct {
	sync.Once
	pause, probe []byte
	err          error
}

func build(t testing.TB) (pause, probe []byte) {
	t.Helper()
	programs.Do(func() {
		dir, err := os.MkdirTemp("", "probe")
		if err != nil {
			programs.err = err
			return
		}
		defer os.RemoveAll(dir)
		for out, pkg := range map[string]string{"pause": "../pause", "probe": "./testdata/probe"} {
			cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, out), pkg)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if msg, err := cmd.CombinedOutput(); err != nil {
				programs.err = fmt.Errorf("build %s: %w: %s", pkg, err, msg)
				return
			}
		}
		programs.pause, programs.err = os.ReadFile(filepath.Join(dir, "pause"))
		if programs.err == nil {
			programs.probe, programs.err = os.ReadFile(filepath.Join(dir, "probe"))
		}
	})
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	return programs.pause, programs.probe
}

// file is one of a test image's.
type file struct {
	name, link string
	body       []byte
	mode       int64
}

func layer(t testing.TB, files ...file) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.body)), Typeflag: tar.TypeReg}
		if f.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
		} else if strings.HasSuffix(f.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func testImage(t testing.TB, config v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture, cf.Config = "linux", "amd64", config
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	return img
}

// probeImage holds the probe program and some users.
func probeImage(t testing.TB) v1.Image {
	_, probe := build(t)
	return testImage(t, v1.Config{
		Entrypoint: []string{"/bin/probe"}, Cmd: []string{"show", "from-image"}, Env: []string{"A=image", "B=image"}, WorkingDir: "/work", User: "app",
	},
		layer(t, file{name: "bin/", mode: 0o755}, file{name: "bin/probe", body: probe, mode: 0o755}, file{name: "etc/", mode: 0o755},
			file{name: "etc/passwd", body: []byte("root:x:0:0::/:\nold:x:1:1::/:\n"), mode: 0o644}),
		layer(t, file{name: "etc/passwd", body: []byte("root:x:0:0::/:/bin/sh\napp:x:1000:2000::/:/bin/sh\n"), mode: 0o644},
			file{name: "etc/group", body: []byte("app:x:2000:\nextra:x:3000:app\n"), mode: 0o644},
			file{name: "data/", mode: 0o777}, file{name: "bin/text", body: []byte("not a program"), mode: 0o644}),
	)
}

func archive(t testing.TB, ref string, img v1.Image) io.Reader {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tarball.Write(tag, img, &b); err != nil {
		t.Fatal(err)
	}
	return &b
}

const probeRef = "podsnap.test/probe:1"

// node is a containerd of the test's own with an engine on it.
type node struct {
	t      testing.TB
	dir    string
	cd     Containerd
	daemon *exec.Cmd
	ended  chan struct{}
	config Config
	*Engine
	stop   func()
	before world
}

func newNode(t testing.TB) *node {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: runs containers")
	}
	disposition.Reset() // as the platform does
	if _, err := exec.LookPath("containerd"); err != nil {
		t.Skip("needs containerd and runc (Debian packages of that name)")
	}
	pause, _ := build(t)
	// Not t.TempDir: a unix socket's path is short.
	dir, err := os.MkdirTemp("", "ps")
	if err != nil {
		t.Fatal(err)
	}
	tag := filepath.Base(dir)
	n := &node{t: t, dir: dir, cd: Containerd{Dir: filepath.Join(dir, "c")}}
	n.before = lookAround(t, dir)
	t.Cleanup(n.end)
	n.config = Config{
		Socket: n.cd.Socket(), StateDir: filepath.Join(dir, "e"), CgroupParent: "/" + tag,
		PauseProgram: pause, LogMaxSize: 512 << 10, Log: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	if err := n.cd.WriteConfig(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	n.startDaemon()
	n.startEngine()
	t.Logf("containerd and engine up after %v", time.Since(begin))
	if _, err := n.Images().Import(t.Context(), archive(t, probeRef, probeImage(t))); err != nil {
		t.Fatal(err)
	}
	return n
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func (n *node) startDaemon() {
	n.t.Helper()
	cmd := n.cd.Command(context.Background())
	var err error
	if cmd.Stderr, err = os.OpenFile(filepath.Join(n.dir, "containerd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		n.t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	n.ended = make(chan struct{})
	go func() {
		// A parent-death signal comes with the end of the starting thread.
		goruntime.LockOSThread()
		defer goruntime.UnlockOSThread()
		defer close(n.ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		n.t.Fatal(err)
	}
	n.daemon = cmd
}

func (n *node) stopDaemon(sig syscall.Signal) {
	_ = n.daemon.Process.Signal(sig)
	<-n.ended
}

// startEngine makes an engine as a restarted agent would, network included.
func (n *node) startEngine() {
	n.t.Helper()
	net, err := network.New(network.Config{PodCIDR: netip.MustParsePrefix("10.218.0.0/20"), Table: "podsnap-enginetest", VethPrefix: "pet"})
	if err != nil {
		n.t.Fatal(err)
	}
	n.config.Network = net
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	e, err := New(ctx, n.config)
	if err != nil {
		if err := net.Teardown(ctx); err != nil {
			n.t.Error(err)
		}
		n.t.Fatal(err)
	}
	run, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(run) }()
	n.Engine = e
	n.stop = sync.OnceFunc(func() {
		stop()
		if err := <-done; err != nil {
			n.t.Error(err)
		}
	})
}

// end tears the node down and compares the machine with what it was.
func (n *node) end() {
	if n.Engine != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := n.Teardown(ctx); err != nil {
			n.t.Errorf("teardown: %v", err)
		}
		n.stop()
	}
	if n.daemon != nil {
		n.stopDaemon(syscall.SIGTERM)
	}
	if n.t.Failed() {
		if b, err := os.ReadFile(filepath.Join(n.dir, "containerd.log")); err == nil {
			n.t.Logf("containerd: %s", b)
		}
	}
	if err := os.RemoveAll(n.dir); err != nil {
		n.t.Error(err)
	}
	n.before.compare(n.t, lookAround(n.t, n.dir))
}

func (n *node) sandbox(name string) runtime.Sandbox {
	n.t.Helper()
	s, err := n.StartSandbox(n.t.Context(), runtime.SandboxSpec{
		UID: types.UID("uid-" + name), Namespace: "default", Name: name, Hostname: name, Labels: map[string]string{"app": name},
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

// spec is a container with a log.
func (n *node) spec(sb runtime.Sandbox, args ...string) runtime.ContainerSpec {
	return runtime.ContainerSpec{
		Sandbox: sb.ID, Name: "main", Image: probeRef, Args: args, LogPath: filepath.Join(n.dir, "logs", sb.Name, args[0]+".log"),
	}
}

func (n *node) start(s runtime.ContainerSpec) runtime.Container {
	n.t.Helper()
	c, err := n.StartContainer(n.t.Context(), s)
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}

// events is a reader that is ended with the test.
func (n *node) events() <-chan runtime.Exit {
	ctx, cancel := context.WithCancel(context.Background())
	ch := n.Events(ctx)
	n.t.Cleanup(func() {
		cancel()
		for range ch {
		}
	})
	return ch
}

// exit waits for a container's exit.
func (n *node) exit(ch <-chan runtime.Exit, id string) runtime.Exit {
	n.t.Helper()
	limit := time.After(time.Minute)
	for {
		select {
		case x := <-ch:
			if x.Container == id || (id == x.Sandbox && x.Container == "") {
				return x
			}
		case <-limit:
			n.t.Fatalf("no exit of %s", id)
		}
	}
}

// run runs a container to its end and answers with its exit and output.
func (n *node) run(s runtime.ContainerSpec) (runtime.Exit, string) {
	n.t.Helper()
	ch := n.events()
	c := n.start(s)
	x := n.exit(ch, c.ID)
	return x, n.log(s.LogPath)
}

func (n *node) log(path string) string {
	n.t.Helper()
	r, err := logfile.Read(n.t.Context(), path, logfile.Options{Tail: -1})
	if err != nil {
		n.t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		n.t.Fatal(err)
	}
	return string(b)
}

func (n *node) find(id string) (runtime.Container, bool) {
	n.t.Helper()
	all, err := n.Runtime().List(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	for _, s := range all {
		for _, c := range s.Containers {
			if c.ID == id {
				return c, true
			}
		}
	}
	return runtime.Container{}, false
}

func (n *node) Runtime() runtime.Runtime { return n.Engine }

// get asks a pod over HTTP; it tries again until the server listens.
func get(ip, path string) (string, error) {
	t := &http.Transport{DisableKeepAlives: true}
	defer t.CloseIdleConnections()
	c := http.Client{Transport: t, Timeout: 5 * time.Second}
	for begin := time.Now(); ; {
		r, err := c.Get("http://" + ip + ":8080" + path)
		if err == nil {
			defer r.Body.Close()
			b, err := io.ReadAll(r.Body)
			return string(b), err
		}
		if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(begin) > 5*time.Second {
			return "", err
		}
	}
}

// world is what must be as before when a node is torn down.
type world struct{ links, mounts, cgroups, tables, processes []string }

func lookAround(t testing.TB, dir string) (w world) {
	t.Helper()
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries { // others may make links meanwhile
		if strings.HasPrefix(e.Name(), "pet") {
			w.links = append(w.links, e.Name())
		}
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.SplitSeq(string(b), "\n") {
		if strings.Contains(l, dir) {
			w.mounts = append(w.mounts, l)
		}
	}
	for _, h := range hierarchies(t) {
		if _, err := os.Stat(filepath.Join(h, filepath.Base(dir))); err == nil {
			w.cgroups = append(w.cgroups, h)
		}
	}
	if out, err := exec.Command("nft", "list", "tables").Output(); err == nil {
		for l := range strings.SplitSeq(string(out), "\n") {
			if strings.Contains(l, "podsnap-enginetest") {
				w.tables = append(w.tables, l)
			}
		}
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if b, _ := os.ReadFile(p); strings.Contains(string(b), dir+"/") {
			w.processes = append(w.processes, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return w
}

func hierarchies(t testing.TB) []string {
	t.Helper()
	tree, err := cgroup.Open("/sys/fs/cgroup", "/any")
	if err != nil {
		t.Fatal(err)
	}
	return tree.Controllers()
}

func (w world) compare(t testing.TB, after world) {
	t.Helper()
	for kind, pair := range map[string][2][]string{
		"links": {w.links, after.links}, "mounts": {w.mounts, after.mounts}, "cgroups": {w.cgroups, after.cgroups},
		"nftables": {w.tables, after.tables}, "processes": {w.processes, after.processes},
	} {
		for _, a := range pair[1] {
			found := false
			for _, b := range pair[0] {
				found = found || a == b
			}
			if !found {
				t.Errorf("%s left: %s", kind, a)
			}
		}
	}
}

package nodeagent_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/nodeagent"
	"github.com/podsnap/podsnap/nodeagent/engine"
	"github.com/podsnap/podsnap/nodeagent/network"
)

const realImage = "podsnap.test/agent:1"

// machine is a node over a containerd of the test's own.
type machine struct {
	t      *testing.T
	dir    string
	o      *memory.Objects
	engine *engine.Engine
	agent  *nodeagent.Agent
	stop   func()
}

// newMachine starts containerd, the engine and an agent, and imports an image
// of the engine's test program.
func newMachine(t *testing.T) *machine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: runs containers")
	}
	if _, err := exec.LookPath("containerd"); err != nil {
		t.Skip("needs containerd and runc (Debian packages of that name)")
	}
	dir, err := os.MkdirTemp("", "pa") // t.TempDir is too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	m := &machine{t: t, dir: dir, o: memory.New()}
	cd := engine.Containerd{Dir: filepath.Join(dir, "c")}
	if err := cd.WriteConfig(); err != nil {
		t.Fatal(err)
	}
	m.daemon(cd)
	net, err := network.New(network.Config{PodCIDR: netip.MustParsePrefix("10.219.0.0/24"), Table: "podsnap-agenttest", VethPrefix: "pat"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	m.engine, err = engine.New(ctx, engine.Config{
		Socket: cd.Socket(), StateDir: filepath.Join(dir, "e"), CgroupParent: "/" + filepath.Base(dir),
		Network: net, PauseProgram: program(t, "./pause"),
	})
	if err != nil {
		t.Fatal(err)
	}
	run, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.engine.Run(run) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := m.engine.Teardown(ctx); err != nil {
			t.Errorf("teardown: %v", err)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if _, err := m.engine.Images().Import(ctx, archive(t, realImage, program(t, "./engine/testdata/probe"))); err != nil {
		t.Fatal(err)
	}
	m.start()
	t.Cleanup(func() { m.stop() })
	return m
}

// daemon runs containerd until the test ends.
func (m *machine) daemon(cd engine.Containerd) {
	m.t.Helper()
	cmd := cd.Command(context.Background())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		goruntime.LockOSThread() // a parent-death signal comes with the end of the starting thread
		defer goruntime.UnlockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
	})
}

// start runs an agent; stop ends it.
func (m *machine) start() {
	m.t.Helper()
	a, err := nodeagent.New(nodeagent.Config{
		NodeName: "n1", NodeIP: "127.0.0.1", Objects: m.o, Runtime: m.engine, Images: m.engine.Images(), Stats: m.engine,
		StateDir: filepath.Join(m.dir, "a"),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = a.Run(ctx)
	}()
	m.agent = a
	m.stop = func() { cancel(); <-done }
}

// program builds one of this module's.
func program(t *testing.T, pkg string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v: %s", pkg, err, msg)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// archive is a Docker archive of an image with one program.
func archive(t *testing.T, ref string, program []byte) io.Reader {
	t.Helper()
	pack := func(files map[string][]byte, mode int64) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for name, data := range files {
			if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(data); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	object := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	layer := pack(map[string][]byte{"bin/probe": program}, 0o755)
	sum := sha256.Sum256(layer)
	config := object(map[string]any{
		"architecture": goruntime.GOARCH, "os": "linux", "config": map[string]any{"Entrypoint": []string{"/bin/probe"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	manifest := object([]map[string]any{{"Config": "config.json", "RepoTags": []string{ref}, "Layers": []string{"layer.tar"}}})
	return bytes.NewReader(pack(map[string][]byte{"layer.tar": layer, "config.json": config, "manifest.json": manifest}, 0o644))
}

// pod creates one that runs the test program.
func (m *machine) pod(name string, args []string, change ...func(*corev1.Pod)) *corev1.Pod {
	m.t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PodSpec{
			NodeName: "n1", RestartPolicy: corev1.RestartPolicyAlways,
			Containers: []corev1.Container{{Name: "main", Image: realImage, Args: args, ImagePullPolicy: corev1.PullIfNotPresent}},
		},
	}
	for _, c := range change {
		c(p)
	}
	p, err := api.Create(m.t.Context(), api.Objects(m.o), p)
	if err != nil {
		m.t.Fatal(err)
	}
	return p
}

// await watches a pod until it is as wanted.
func (m *machine) await(name, what string, done func(*corev1.Pod) bool) *corev1.Pod {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 30*time.Second)
	defer cancel()
	w, err := m.o.Watch(ctx, api.Pods, api.WatchOptions{Namespace: "default"})
	if err != nil {
		m.t.Fatal(err)
	}
	defer w.Stop()
	last := "nothing"
	for e := range w.Events() {
		p, ok := e.Object.(*corev1.Pod)
		if !ok || p.Name != name || e.Type == api.Bookmark {
			continue
		}
		if e.Type == api.Deleted {
			if done(nil) {
				return p
			}
			continue
		}
		if last = look(p); done(p) {
			return p
		}
	}
	m.t.Fatalf("pod %s: waited for %s, it is %s", name, what, last)
	return nil
}

func ready(p *corev1.Pod) bool { return p != nil && strings.Contains(look(p), "ready=true") }

func gone(p *corev1.Pod) bool { return p == nil }

func (m *machine) delete(name string) {
	m.t.Helper()
	if _, err := m.o.Delete(m.t.Context(), api.Pods, "default", name, api.DeleteOptions{}); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) says(p *corev1.Pod, o api.LogOptions) string {
	m.t.Helper()
	rc, err := m.agent.Logs(m.t.Context(), p.UID, o)
	if err != nil {
		m.t.Fatal(err)
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

// TestRealContainers takes pods through their lives in a real engine.
func TestRealContainers(t *testing.T) {
	m := newMachine(t)
	if _, err := m.o.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "key"}, Data: map[string][]byte{"token": []byte("hush")}}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	m.pod("web", []string{"serve"}, function, func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "key"}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "s", MountPath: "/var/openfaas/secrets", ReadOnly: true}}
	})
	p := m.await("web", "ready", ready)
	t.Logf("ready after %s", time.Since(begin).Round(time.Millisecond))
	answer := func() string {
		resp, err := http.Get("http://" + p.Status.PodIP + ":8080/hello")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	if got := answer(); !strings.HasPrefix(got, "hello ") {
		t.Errorf("the function answers %q", got)
	}
	// A pod whose container says something and ends, and its neighbours that fail.
	once := m.pod("once", []string{"print", "2", "3"}, policy(corev1.RestartPolicyNever))
	m.pod("crash", []string{"exit", "3"}, function)
	m.pod("oom", []string{"eat"}, policy(corev1.RestartPolicyNever), func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"memory": resource.MustParse("16Mi")}
	})
	m.pod("none", []string{"x"}, policy(corev1.RestartPolicyNever), func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"/no/such"} })
	m.pod("nopull", nil, function, func(p *corev1.Pod) {
		p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = "podsnap.test/none:1", corev1.PullNever
	})
	for name, want := range map[string]string{
		"once": "Succeeded ready=false main:Completed(0)/0", "oom": "Failed ready=false main:OOMKilled(137)/0",
		"crash": "Running ready=false main:CrashLoopBackOff/2", "none": "Failed ready=false main:ContainerCannotRun(128)/0",
		"nopull": "Pending ready=false main:ErrImageNeverPull/0",
	} {
		m.await(name, want, func(p *corev1.Pod) bool { return p != nil && look(p) == want })
	}
	if got := m.says(once, api.LogOptions{Tail: -1}); got != "line 0 xxx\nline 1 xxx\n" {
		t.Errorf("log %q", got)
	}
	var out bytes.Buffer
	code, err := m.agent.Exec(t.Context(), p.UID, api.ExecOptions{Command: []string{"/bin/probe", "cat"}, Stdin: strings.NewReader("in"), Stdout: &out})
	if code != 0 || err != nil || out.String() != "in" {
		t.Errorf("exec %d %v %q", code, err, out.String())
	}
	if st, err := m.agent.Stats(t.Context()); err != nil || !slices.ContainsFunc(st.Pods, func(s api.PodStats) bool {
		return s.Name == "web" && len(s.Containers) == 1 && s.Containers[0].Memory > 0
	}) {
		t.Errorf("stats %+v %v", st, err)
	}
	// Another agent finds the pods again.
	was := p.Status.ContainerStatuses[0].ContainerID
	m.stop()
	if got := answer(); !strings.HasPrefix(got, "hello ") {
		t.Errorf("without an agent the function answers %q", got)
	}
	m.start()
	late := m.pod("late", []string{"serve"}, function)
	m.await("late", "ready", ready)
	if p = m.await("web", "ready", ready); p.Status.ContainerStatuses[0].ContainerID != was {
		t.Errorf("web was started anew: %s", look(p))
	}
	// A deletion ends what is followed.
	rc, err := m.agent.Logs(t.Context(), late.UID, api.LogOptions{Tail: -1, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	m.delete("late")
	begin = time.Now()
	m.await("late", "gone", gone)
	t.Logf("gone after %s", time.Since(begin).Round(time.Millisecond))
	if _, err := io.ReadAll(rc); err != nil {
		t.Errorf("follow: %v", err)
	}
	if _, err := m.agent.Exec(t.Context(), late.UID, api.ExecOptions{Command: []string{"x"}}); !apierrors.IsNotFound(err) {
		t.Errorf("exec in a pod that is gone: %v", err)
	}
	// The node stops: nothing is left but the objects.
	if err := m.agent.StopAll(t.Context(), 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if boxes, err := m.engine.List(t.Context()); len(boxes) != 0 || err != nil {
		t.Errorf("left: %v %v", boxes, err)
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), filepath.Join(m.dir, "a")) {
		t.Error("a mount of a pod is left")
	}
	if got := fmt.Sprint(m.await("web", "not ready", func(p *corev1.Pod) bool { return p != nil && !ready(p) }).Status.Phase); got != "Running" {
		t.Errorf("web is %s", got)
	}
}

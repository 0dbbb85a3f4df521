package conformance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/nodeagent/logfile"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// patience bounds whatever the suite waits for.
const patience = 20 * time.Second

// rig drives a runtime for one test.
type rig struct {
	Node
	t     *testing.T
	probe []byte
	base  []byte        // layer with the probe
	count *atomic.Int64 // of sandboxes, to name them
	name  string        // of this rig, in names
	host  Facts         // of the probe in fresh namespaces of the host
}

func newRig(t *testing.T, n Node) *rig {
	t.Helper()
	r := &rig{Node: n, t: t, count: new(atomic.Int64), probe: buildProbe(t)}
	dir, err := os.MkdirTemp(n.Dir, "conformance")
	if err != nil {
		t.Fatal(err)
	}
	r.Dir, r.name = dir, filepath.Base(dir)
	if r.base, err = baseLayer(r.probe); err != nil {
		t.Fatal(err)
	}
	r.host = r.control("process", "network", "sysctls")
	r.load(probeImage, r.usualImage())
	return r
}

// with is the same rig for a subtest.
func (r *rig) with(t *testing.T) *rig {
	s := *r
	s.t = t
	return &s
}

func buildProbe(t *testing.T) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "probe")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", file, "github.com/podsnap/podsnap/nodeagent/conformance/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the probe: %v: %s", err, out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// load imports an image.
func (r *rig) load(ref string, img image) {
	r.t.Helper()
	b, err := img.archive(ref)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.Images.Import(r.t.Context(), bytes.NewReader(b)); err != nil {
		r.t.Fatalf("import %s: %v", ref, err)
	}
	if _, err := r.Images.Ensure(r.t.Context(), ref, corev1.PullNever); err != nil {
		r.t.Fatal(err)
	}
}

// sandbox starts one, which is removed with the test.
func (r *rig) sandbox(s runtime.SandboxSpec) runtime.Sandbox {
	r.t.Helper()
	s = r.named(s)
	sb, err := r.Runtime.StartSandbox(r.t.Context(), s)
	if err != nil {
		r.t.Fatalf("start sandbox: %v", err)
	}
	r.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := r.Runtime.RemoveSandbox(ctx, sb.ID); err != nil {
			r.t.Errorf("remove sandbox: %v", err)
		}
	})
	return sb
}

// named gives a sandbox the names of a pod of its own.
func (r *rig) named(s runtime.SandboxSpec) runtime.SandboxSpec {
	n := r.count.Add(1)
	s.UID, s.Namespace, s.Name, s.Hostname = types.UID(fmt.Sprintf("uid-%s-%d", r.name, n)), "default", fmt.Sprintf("pod-%d", n), "probe-host"
	if r.Adapt != nil {
		r.Adapt(&s)
	}
	return s
}

// spec is a container of the probe's image with a log of its own.
func (r *rig) spec(sb runtime.Sandbox, args ...string) runtime.ContainerSpec {
	return runtime.ContainerSpec{
		Sandbox: sb.ID, Name: "main", Image: probeImage, Args: args,
		LogPath: filepath.Join(r.Dir, "logs", fmt.Sprintf("%s-%d.log", sb.Name, r.count.Add(1))),
	}
}

func (r *rig) start(s runtime.ContainerSpec) runtime.Container {
	r.t.Helper()
	c, err := r.Runtime.StartContainer(r.t.Context(), s)
	if err != nil {
		r.t.Fatalf("start %v: %v", s.Args, err)
	}
	return c
}

// await reads a log until a line that contains text, and answers with all
// that was read.
func (r *rig) await(path, text string) string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	log, err := logfile.Read(ctx, path, logfile.Options{Tail: -1, Follow: true})
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	var all bytes.Buffer
	piece := make([]byte, 1<<16)
	for {
		n, err := log.Read(piece)
		all.Write(piece[:n])
		if i := strings.Index(all.String(), text); i >= 0 && strings.Contains(all.String()[i:], "\n") {
			return all.String()
		}
		if err != nil {
			r.t.Fatalf("the log has no %q: %v: …%s", text, err, all.String()[max(0, all.Len()-600):])
		}
	}
}

// facts waits for a probe's facts in its log.
func (r *rig) facts(path string) Facts {
	r.t.Helper()
	f, err := parse(r.await(path, lastLine))
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

// run runs a container to its end and answers with its exit and its output.
func (r *rig) run(s runtime.ContainerSpec) (runtime.Exit, string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	exits := r.Runtime.Events(ctx)
	defer func() { // the channel is read to its end
		cancel()
		for range exits {
		}
	}()
	c := r.start(s)
	for x := range exits {
		if x.Container == c.ID {
			return x, r.log(s.LogPath)
		}
	}
	r.t.Fatalf("%v did not end: %s", s.Args, r.log(s.LogPath))
	return runtime.Exit{}, ""
}

func (r *rig) log(path string) string {
	r.t.Helper()
	log, err := logfile.Read(r.t.Context(), path, logfile.Options{Tail: -1})
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	b, err := io.ReadAll(log)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

// exec runs a command in a container and answers with what it printed.
func (r *rig) exec(c runtime.Container, command ...string) string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	var out, errs bytes.Buffer
	code, err := r.Runtime.Exec(ctx, c.ID, runtime.Exec{Command: command, Stdout: &out, Stderr: &errs})
	if err != nil || code != 0 {
		r.t.Fatalf("exec %v: code %d, %v: %s", command, code, err, errs.String())
	}
	return out.String()
}

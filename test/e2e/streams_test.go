package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
	"github.com/podsnap/podsnap/test/terminal"
)

// TestStreams has kubectl, unmodified, get into pods and at their ports.
func TestStreams(t *testing.T) {
	manifests := t.TempDir()
	p := platform.New(t, "--pod-manifest-path", manifests)
	k := newStreaming(t, p)
	p.MustFaas("", "login")
	dir, err := filepath.Abs("testdata/tools")
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"build", "push"} {
		if out, err := p.FaasIn(dir, "", verb, "-f", "stack.yaml"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	// One pod of each runtime: containerd with runc, and the fast one.
	k.must("", "run", "tool", "--image=tools:latest", "--restart=Never", "--command", "--", "sh", "-c", "mkdir -p /tmp/www && echo page > /tmp/www/index.html && exec httpd -f -p 127.0.0.1:8000 -h /tmp/www")
	k.must("", "wait", "--for=condition=Ready", "pod/tool", "--timeout=120s")
	deploy(t, p, openfaas.FunctionDeployment{Service: "fasttool", Image: "tools:latest"})
	platform.Eventually(t, 30*time.Second, available(t, p, "fasttool", 1))
	k.pods = map[string][]string{
		"runc": {"tool"},
		"fast": {"-n", "openfaas-fn", strings.TrimSpace(k.must("", "get", "pods", "-n", "openfaas-fn", "-l", "faas_function=fasttool", "-o", "name"))},
	}
	for _, pod := range k.pods { // caches and pools get what they keep
		k.must("", args([]string{"exec"}, pod, "--", "true")...)
	}
	before := footprintOf(t, p)
	for _, c := range []struct {
		name string
		run  func(*testing.T, *streaming)
	}{
		{"exec", executes},
		{"large", large},
		{"terminal", terminals},
		{"hang up", hangsUp},
		{"attach", attachesTo},
		{"port-forward", forwards},
		{"copy", copies},
		{"run", runs},
		{"debug", debugs},
		{"refused", refusals},
		{"static pods", func(t *testing.T, k *streaming) { staticPods(t, k, manifests) }},
		{"features", podFeatures},
		{"script", scripted},
		{"charts", charts},
		{"k9s", k9s},
		{"discovery", func(t *testing.T, k *streaming) { discovered(t, k, p) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := *k
			k.T = t
			c.run(t, &k)
		})
	}
	// The ephemeral container, which has ended, and connections that are kept.
	const spare = 40
	platform.Eventually(t, 30*time.Second, func() error {
		if now := footprintOf(t, p); now.goroutines > before.goroutines+spare || now.files > before.files+spare {
			return fmt.Errorf("the server holds %+v, before %+v", now, before)
		}
		return nil
	})
	if t.Failed() {
		t.Logf("the server's log:\n%s", tail(p.Log(), 60))
	}
}

// footprint is what the server's process holds.
type footprint struct{ goroutines, files int }

func footprintOf(t *testing.T, p *platform.Platform) (h footprint) {
	t.Helper()
	resp, err := http.Get(p.Metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		for name, to := range map[string]*int{"go_goroutines ": &h.goroutines, "process_open_fds ": &h.files} {
			if v, ok := strings.CutPrefix(line, name); ok {
				if _, err := fmt.Sscan(v, to); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if h.goroutines == 0 || h.files == 0 {
		t.Fatalf("the metrics tell of %+v", h)
	}
	return h
}

// streaming is kubectl for what streams.
type streaming struct {
	*testing.T
	bin, config, cache string
	pods               map[string][]string // a pod of each runtime, as arguments
}

func newStreaming(t *testing.T, p *platform.Platform) *streaming {
	bin, err := exec.LookPath("kubectl")
	if err != nil {
		t.Skip("no kubectl on this machine")
	}
	return &streaming{T: t, bin: bin, config: filepath.Join(p.StateDir, "kubeconfig"), cache: t.TempDir()}
}

func (k *streaming) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(k.Context(), 2*time.Minute)
	k.Cleanup(cancel)
	return exec.CommandContext(ctx, k.bin, append([]string{"--kubeconfig", k.config, "--cache-dir", k.cache}, args...)...)
}

// run answers with both outputs and the exit code.
func (k *streaming) run(stdin string, args ...string) (stdout, stderr string, code int) {
	k.Helper()
	cmd := k.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		k.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), code
}

func (k *streaming) must(stdin string, args ...string) string {
	k.Helper()
	out, errs, code := k.run(stdin, args...)
	if code != 0 {
		k.Fatalf("kubectl %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// args puts a pod's arguments between a verb with its flags and a command.
func args(before []string, pod []string, after ...string) []string {
	return append(append(append([]string{}, before...), pod...), after...)
}

func executes(t *testing.T, k *streaming) {
	for name, pod := range k.pods {
		for _, wire := range []string{"true", "false"} { // WebSocket, SPDY
			t.Run(name+" websocket="+wire, func(t *testing.T) {
				t.Setenv("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", wire)
				k := *k
				k.T = t
				out, errs, code := k.run("", args([]string{"exec"}, pod, "--", "sh", "-c", "echo out; echo err >&2; exit 42")...)
				if out != "out\n" || !strings.HasPrefix(errs, "err\n") || code != 42 {
					t.Errorf("got %q, %q, %d, want out, err and 42", out, errs, code)
				}
				out = k.must("typed\n", args([]string{"exec", "-i"}, pod, "--", "sh", "-c", "cat; echo then")...)
				if out != "typed\nthen\n" {
					t.Errorf("got %q: the end of the input has to reach the command, and its output go on", out)
				}
			})
		}
	}
}

func large(t *testing.T, k *streaming) {
	const size = 10 << 20
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data) // never fails
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	for name, pod := range k.pods {
		for _, wire := range []string{"true", "false"} {
			t.Run(name+" websocket="+wire, func(t *testing.T) {
				t.Setenv("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", wire)
				k := *k
				k.T = t
				out := k.must(string(data), args([]string{"exec", "-i"}, pod, "--", "sha256sum")...)
				if !strings.HasPrefix(out, sum) {
					t.Errorf("what came in is %q, want %s", out, sum)
				}
				out = k.must(string(data), args([]string{"exec", "-i"}, pod, "--", "cat")...)
				if got := fmt.Sprintf("%x", sha256.Sum256([]byte(out))); got != sum {
					t.Errorf("%d bytes came back, of %d", len(out), size)
				}
			})
		}
	}
}

// typed runs kubectl in a terminal of its own, types, and answers with what the screen
// shows in the end.
func (k *streaming) typed(lines string, args ...string) string {
	s := terminal.Start(k.T, k.command(args...), 31, 97)
	s.Type(lines)
	return s.End()
}

func terminals(t *testing.T, k *streaming) {
	for name, pod := range k.pods {
		t.Run(name, func(t *testing.T) {
			k := *k
			k.T = t
			// As with Kubernetes, the size is told when the shell runs already.
			out := k.typed("tty; until stty size | grep -qx '31 97'; do sleep 0.1; done; stty size; echo term=$TERM; exit 3\n", args([]string{"exec", "-it"}, pod, "--", "sh")...)
			for _, want := range []string{"/dev/pts/", "31 97", "term=xterm", "exit code 3"} {
				if !strings.Contains(out, want) {
					t.Errorf("the terminal does not show %q:\n%s", want, out)
				}
			}
		})
	}
}

// hangsUp kills kubectl: what it runs is told by a hangup.
func hangsUp(t *testing.T, k *streaming) {
	for name, pod := range k.pods {
		t.Run(name, func(t *testing.T) {
			k := *k
			k.T = t
			cmd := k.command(args([]string{"exec", "-i"}, pod, "--", "sh", "-c", "trap 'echo hup > /tmp/hup; exit' HUP; echo ready; while :; do sleep 0.1; done")...)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // it was killed
			platform.Eventually(t, 20*time.Second, func() error {
				if out, errs, code := k.run("", args([]string{"exec"}, pod, "--", "cat", "/tmp/hup")...); out != "hup\n" {
					return fmt.Errorf("%q %s %d: the command was not hung up", out, errs, code)
				}
				return nil
			})
		})
	}
}

func attachesTo(t *testing.T, k *streaming) {
	// What a function's replica writes, and nothing is typed.
	k.must("", "run", "ticker", "--image=tools:latest", "--restart=Never", "--command", "--", "sh", "-c", "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.2; done")
	k.must("", "wait", "--for=condition=Ready", "pod/ticker", "--timeout=120s")
	cmd := k.command("attach", "ticker")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := out.Read(buf)
	if err != nil || !strings.HasPrefix(string(buf[:n]), "tick ") {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	if got := k.must("", "get", "pod", "ticker", "-o", "jsonpath={.status.phase}"); got != "Running" {
		t.Errorf("after a client was killed the pod is %s", got)
	}
	k.must("", "delete", "pod", "ticker", "--grace-period=1")

	// A container that reads its input, until the first client's ends.
	pod := map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "reader"},
		"spec": map[string]any{"restartPolicy": "Never", "containers": []any{map[string]any{
			"name": "c", "image": "tools:latest", "stdin": true, "stdinOnce": true, "command": []string{"sh", "-c", "sha256sum; exit 4"},
		}}},
	}
	b, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	k.must(string(b), "apply", "-f", "-")
	k.must("", "wait", "--for=condition=Ready", "pod/reader", "--timeout=120s")
	data := strings.Repeat("0123456789abcdef", 64<<10)
	got := k.must(data, "attach", "-i", "reader")
	if want := fmt.Sprintf("%x", sha256.Sum256([]byte(data))); !strings.Contains(got, want) {
		t.Errorf("got %q, want %s", got, want)
	}
	platform.Eventually(t, 20*time.Second, func() error {
		if got := k.must("", "get", "pod", "reader", "-o", "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}"); got != "4" {
			return fmt.Errorf("the reader's exit code is %q, want 4", got)
		}
		return nil
	})
	k.must("", "delete", "pod", "reader", "--grace-period=1")
}

var forwarding = regexp.MustCompile(`Forwarding from 127\.0\.0\.1:(\d+)`)

func forwards(t *testing.T, k *streaming) {
	_, port, err := net.SplitHostPort(platform.FreePorts(t, 1)[0])
	if err != nil {
		t.Fatal(err)
	}
	k.must(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hosted"}, "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "tools:latest",
		"command": ["sh", "-c", "mkdir -p /tmp/www && echo hosted > /tmp/www/index.html && exec httpd -f -p 127.0.0.1:`+port+` -h /tmp/www"]}]}}`, "apply", "-f", "-")
	k.must("", "wait", "--for=condition=Ready", "pod/hosted", "--timeout=120s")
	defer k.must("", "delete", "pod", "hosted", "--grace-period=1", "--wait=false")
	for name, c := range map[string]struct {
		pod  []string
		port string
		path string
		says string
	}{
		"runc": {k.pods["runc"], "8000", "/index.html", "page"}, // listens on its loopback device alone
		"fast": {k.pods["fast"], "8080", "/", "tools run"},
		"host": {[]string{"hosted"}, port, "/index.html", "hosted"},
	} {
		for _, wire := range []string{"true", "false"} {
			t.Run(name+" websocket="+wire, func(t *testing.T) {
				t.Setenv("KUBECTL_PORT_FORWARD_WEBSOCKETS", wire)
				k := *k
				k.T = t
				cmd := k.command(args([]string{"port-forward"}, c.pod, ":"+c.port)...)
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
				buf := make([]byte, 4096)
				n, err := out.Read(buf)
				at := forwarding.FindSubmatch(buf[:n])
				if err != nil || at == nil {
					t.Fatalf("got %q, %v", buf[:n], err)
				}
				client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
				for range 5 {
					resp, err := client.Get("http://127.0.0.1:" + string(at[1]) + c.path)
					if err != nil {
						t.Fatal(err)
					}
					b, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || resp.StatusCode != 200 || !strings.Contains(string(b), c.says) {
						t.Fatalf("got %d %q, %v", resp.StatusCode, b, err)
					}
				}
			})
		}
	}
}

func copies(t *testing.T, k *streaming) {
	data := make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(data) // never fails
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "there"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := k.command("cp", "there", "tool:/tmp/copied")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd = k.command("cp", "tool:/tmp/copied", "back")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got, err := os.ReadFile(filepath.Join(dir, "back"))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back of %d, %v", len(got), len(data), err)
	}
}

func runs(t *testing.T, k *streaming) {
	out := k.must("one two\n", "run", "once", "-i", "--rm", "--restart=Never", "--image=tools:latest", "--quiet", "--command", "--", "sh", "-c", "wc -w; echo bye")
	if !strings.Contains(out, "2") || !strings.Contains(out, "bye") {
		t.Errorf("got %q", out)
	}
	// To have programs draw anew, kubectl attaches with a larger size first.
	out = k.typed("echo it is $((6*7)); until [ \"$(stty size)\" = '31 97' ]; do sleep 0.1; done; stty size; exit\n", "run", "shell", "-it", "--rm", "--restart=Never", "--image=tools:latest", "--command", "--", "sh")
	for _, want := range []string{"it is 42", "31 97", `pod "shell" deleted`} {
		if !strings.Contains(out, want) {
			t.Errorf("the terminal does not show %q:\n%s", want, out)
		}
	}
}

func debugs(t *testing.T, k *streaming) {
	// A container beside the pod's own, which sees the processes of that.
	out := k.typed("ps; wget -qO- http://127.0.0.1:8000/index.html; exit\n", "debug", "-it", "tool", "--image=tools:latest", "--target=tool", "--container=look", "--", "sh")
	for _, want := range []string{"httpd -f", "page"} {
		if !strings.Contains(out, want) {
			t.Errorf("the terminal does not show %q:\n%s", want, out)
		}
	}
	platform.Eventually(t, 20*time.Second, func() error {
		if got := k.must("", "get", "pod", "tool", "-o", "jsonpath={.status.ephemeralContainerStatuses[0].state.terminated.reason}"); got != "Completed" {
			return fmt.Errorf("the ephemeral container is %q, want Completed", got)
		}
		return nil
	})
	if got := k.must("", "get", "pod", "tool", "-o", "jsonpath={.status.phase}"); got != "Running" {
		t.Errorf("the pod is %s", got)
	}
}

func refusals(t *testing.T, k *streaming) {
	k.must("", "run", "done", "--image=tools:latest", "--restart=Never", "--command", "--", "true")
	k.must("", "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/done", "--timeout=120s")
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"exec", "tool", "-c", "none", "--", "true"}, "container none is not valid for pod tool"},
		{[]string{"exec", "tool", "--", "nothing-like-it"}, `command "nothing-like-it" is not in the image`},
		{[]string{"exec", "nobody", "--", "true"}, `pods "nobody" not found`},
		{[]string{"exec", "done", "--", "true"}, "completed pod"},
		{[]string{"attach", "done"}, "completed pod"},
		{[]string{"port-forward", "done", ":80"}, "pod is not running"},
	} {
		if out, errs, code := k.run("", c.args...); code == 0 || !strings.Contains(errs, c.says) {
			t.Errorf("kubectl %s: %d, %s%s, want it to say %q", strings.Join(c.args, " "), code, out, errs, c.says)
		}
	}
}

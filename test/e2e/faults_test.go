package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
)

// Functions that can't work: each fault is told on the right object, and a
// neighbour does not notice.
func faultyFunctions(t *testing.T, p *platform.Platform) {
	deploy(t, p, openfaas.FunctionDeployment{Service: "neighbour"})
	platform.Eventually(t, 20*time.Second, available(t, p, "neighbour", 1))
	deploy(t, p, openfaas.FunctionDeployment{Service: "crash", Image: "crash:latest"})
	deploy(t, p, openfaas.FunctionDeployment{Service: "tiny", Limits: &openfaas.Resources{Memory: "5Mi"}})
	deploy(t, p, openfaas.FunctionDeployment{Service: "hungry", Limits: &openfaas.Resources{Memory: "32Mi"}})
	deploy(t, p, openfaas.FunctionDeployment{Service: "ghost", Image: "127.0.0.1:1/no/such:image"})

	t.Run("crash at start", func(t *testing.T) {
		code, body, took := timed(t, p, "/function/crash")
		if code != 503 || !strings.Contains(body, "crash") || took > 10*time.Second {
			t.Errorf("got %d %q after %s, want 503 with the reason soon", code, body, took)
		}
		waiting(t, p, "crash", "CrashLoopBackOff")
		platform.Eventually(t, 10*time.Second, func() error {
			if out := p.MustFaas("", "logs", "crash", "--tail=false"); !strings.Contains(out, "no way to start") {
				return fmt.Errorf("the log does not show what it wrote: %q", out)
			}
			return nil
		})
		if code, body, took := timed(t, p, "/function/crash"); code != 503 || !strings.Contains(body, "CrashLoopBackOff") || took > 3*time.Second {
			t.Errorf("got %d %q after %s, want 503 naming CrashLoopBackOff within 2 s", code, body, took)
		}
	})
	t.Run("out of memory at start", func(t *testing.T) {
		platform.Eventually(t, 30*time.Second, func() error {
			for _, pod := range pods(t, p, "tiny") {
				for _, s := range pod.Status.ContainerStatuses {
					if s.Ready {
						return nil // 5 MiB were enough for a program as small as this
					}
					if l := s.LastTerminationState.Terminated; l != nil && l.Reason == "OOMKilled" {
						return nil
					}
					if w := s.State.Waiting; w != nil && (w.Reason == "RunContainerError" || w.Reason == "CreateContainerError") && w.Message != "" {
						return nil
					}
				}
			}
			return fmt.Errorf("no pod of tiny is ready, or says that it ran out of memory")
		})
	})
	t.Run("out of memory in a call", func(t *testing.T) {
		platform.Eventually(t, 20*time.Second, available(t, p, "hungry", 1))
		code, body, took := timed(t, p, "/function/hungry?hoard=200")
		if code != 502 || took > 10*time.Second {
			t.Errorf("got %d %q after %s, want 502 at once", code, body, took)
		}
		platform.Eventually(t, 20*time.Second, func() error {
			for _, pod := range pods(t, p, "hungry") {
				for _, s := range pod.Status.ContainerStatuses {
					if l := s.LastTerminationState.Terminated; l != nil && l.Reason == "OOMKilled" {
						return nil
					}
				}
			}
			return fmt.Errorf("no container of hungry was OOMKilled")
		})
		platform.Eventually(t, 30*time.Second, func() error {
			if code, body, _ := timed(t, p, "/function/hungry"); code != 200 {
				return fmt.Errorf("it does not come back: %d %q", code, body)
			}
			return nil
		})
	})
	t.Run("image that does not exist", func(t *testing.T) {
		code, body, took := timed(t, p, "/function/ghost")
		if code != 503 || !strings.Contains(body, "mage") || took > 15*time.Second {
			t.Errorf("got %d %q after %s, want 503 about the image", code, body, took)
		}
		waiting(t, p, "ghost", "ImagePullBackOff", "ErrImagePull")
	})
	t.Run("neighbour", func(t *testing.T) {
		for range 50 {
			if code, body, _ := timed(t, p, "/function/neighbour"); code != 200 {
				t.Fatalf("got %d %q", code, body)
			}
		}
		if pods := pods(t, p, "neighbour"); len(pods) != 1 || pods[0].Status.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("the neighbour's pods: %+v", pods)
		}
	})
}

// waiting waits until a container of the function waits for one of reasons.
func waiting(t *testing.T, p *platform.Platform, function string, reasons ...string) {
	t.Helper()
	platform.Eventually(t, 30*time.Second, func() error {
		seen := ""
		for _, pod := range pods(t, p, function) {
			for _, s := range pod.Status.ContainerStatuses {
				if w := s.State.Waiting; w != nil {
					for _, r := range reasons {
						if w.Reason == r && w.Message != "" {
							return nil
						}
					}
					seen = w.Reason + ": " + w.Message
				}
			}
		}
		return fmt.Errorf("no container of %s waits for %v (seen: %q)", function, reasons, seen)
	})
}

func timed(t *testing.T, p *platform.Platform, path string) (int, string, time.Duration) {
	t.Helper()
	start := time.Now()
	code, body, _ := invoke(t, p, "POST", path, "")
	return code, body, time.Since(start)
}

func badInput(t *testing.T, p *platform.Platform) {
	system := func(method, path, body string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, p.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("admin", p.Password)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	before, _ := system("GET", "/system/functions", "")
	for _, c := range []struct{ name, body, says string }{
		{"bad JSON", `{"service": "x", `, ""},
		{"no image", `{"service": "x"}`, "image"},
		{"path as a name", `{"service": "../x", "image": "probe:latest"}`, "../x"},
		{"upper case", `{"service": "Hello", "image": "probe:latest"}`, "Hello"},
		{"too long", `{"service": "` + strings.Repeat("a", 64) + `", "image": "probe:latest"}`, "63"},
		{"missing secret", `{"service": "x", "image": "probe:latest", "secrets": ["nosuch"]}`, "nosuch"},
		{"bad quantity", `{"service": "x", "image": "probe:latest", "limits": {"memory": "lots"}}`, "memory"},
		{"bad environment", `{"service": "x", "image": "probe:latest", "envVars": {"A=B": "1"}}`, "A=B"},
		{"bad label", `{"service": "x", "image": "probe:latest", "labels": {"com.openfaas.scale.min": "-1"}}`, "scale.min"},
		{"unknown namespace", `{"service": "x", "image": "probe:latest", "namespace": "nowhere"}`, "nowhere"},
	} {
		code, text := system("POST", "/system/functions", c.body)
		if code != 400 || !strings.Contains(text, c.says) {
			t.Errorf("%s: got %d %q, want 400 that says %q", c.name, code, text, c.says)
		}
	}
	if code, _ := system("PUT", "/system/functions", `{"service": "nobody", "image": "probe:latest"}`); code != 404 {
		t.Errorf("updating a function that is not there: got %d, want 404 (clients then create it)", code)
	}
	if code, _ := system("GET", "/system/function/nobody", ""); code != 404 {
		t.Errorf("getting a function that is not there: got %d, want 404", code)
	}
	if after, _ := system("GET", "/system/functions", ""); after != before {
		t.Errorf("the functions are %d, they were %d: something half-made is left", after, before)
	}
}

// A body over the limit is refused without being kept.
func TestBodyLimit(t *testing.T) {
	t.Parallel()
	p := platform.New(t, "--max-body", "1048576")
	build(t, p)
	deploy(t, p, openfaas.FunctionDeployment{Service: "limited"})
	if code, body, _ := invoke(t, p, "POST", "/function/limited", strings.Repeat("x", 1<<20)); code != 200 || len(body) != 1<<20 {
		t.Errorf("1 MiB: got %d with %d bytes", code, len(body))
	}
	const size = 100 << 20
	for _, c := range []struct {
		name   string
		length int64 // that the client says before
	}{{"of known length", size}, {"chunked", -1}} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.URL+"/function/limited", io.LimitReader(zeros{}, size))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = c.length
		resp, err := http.DefaultClient.Do(req)
		if err != nil && c.length < 0 {
			// The function had begun to answer, so its answer was broken off,
			// and this client was still writing.
			continue
		}
		if err != nil {
			t.Errorf("100 MB %s against 1 MiB: %v, want an answer", c.name, err)
			continue
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		switch {
		case resp.StatusCode == http.StatusRequestEntityTooLarge:
		case c.length < 0 && err != nil && n <= 1<<20:
			// The function had begun to answer when the limit was reached: its
			// answer is broken off.
		default:
			t.Errorf("100 MB %s against 1 MiB: got %d with %d bytes, %v; want 413", c.name, resp.StatusCode, n, err)
		}
	}
	if code, _, _ := invoke(t, p, "POST", "/async-function/limited", strings.Repeat("x", 2<<20)); code != 413 {
		t.Errorf("2 MiB asynchronously: got %d, want 413", code)
	}
	if code, body, _ := invoke(t, p, "POST", "/function/limited", "still"); code != 200 || body != "still" {
		t.Errorf("after it: got %d %q", code, body)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

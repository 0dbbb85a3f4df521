// Package e2e drives the real platform: the faas binary, real containers, real
// etcd and NATS, as its users do.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
	corev1 "k8s.io/api/core/v1"
)

// TestPlatform runs everything that can share one platform.
func TestPlatform(t *testing.T) {
	secure := platform.FreePorts(t, 1)[0]
	p := platform.New(t, "--tls-listen", secure)
	build(t, p)
	type part struct {
		name string
		run  func(*testing.T, *platform.Platform)
	}
	for _, c := range []part{
		{"first function", firstFunction},
		{"invocation", invocation},
		{"burst from zero", burstFromZero},
		{"scaling", scaling},
		{"scaling by cpu", scalingByCPU},
		{"scaling by queue depth", scalingByQueue},
		{"deleted while starting", deletedWhileStarting},
		{"asynchronous calls", asynchronous},
		{"secrets", secrets},
		{"logs", logs},
		{"namespaces", namespaces},
		{"faulty functions", faultyFunctions},
		{"bad input", badInput},
		{"rolling update", rollingUpdate},
		{"scale down while busy", scaleDownBusy},
		{"replica killed", replicaKilled},
		{"many starts", manyStarts},
		{"curl", curl},
		{"kubectl", kubectl},
		{"kubectl apply", kubectlApply},
		{"access", accessByRoles},
		{"certificates", certificates},
		{"admission", admitted},
		{"services", services},
		{"host ports", ports},
		{"segment", onSegment},
		{"guestbook", func(t *testing.T, p *platform.Platform) { guestbook(t, p, secure) }},
		{"autoscaling", autoscaling},
		{"dashboards", dashboards},
		{"together", func(t *testing.T, p *platform.Platform) {
			for _, c := range []part{ // those that mostly wait
				{"stateful", stateful},
				{"jobs", jobs},
				{"stations", stations},
			} {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					c.run(t, p)
				})
			}
		}},
	} {
		if !t.Run(c.name, func(t *testing.T) { c.run(t, p) }) {
			t.Logf("the server's log:\n%s", tail(p.Log(), 60))
		}
	}
}

// build makes the images of testdata and pushes them to the platform.
func build(t *testing.T, p *platform.Platform) {
	t.Helper()
	p.MustFaas("", "login")
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"build", "push"} {
		if out, err := p.FaasIn(dir, "", verb, "-f", "stack.yaml"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}

// deploy makes a function of the probe image and removes it at the test's end.
func deploy(t *testing.T, p *platform.Platform, d openfaas.FunctionDeployment) {
	t.Helper()
	if d.Image == "" {
		d.Image = "probe:latest"
	}
	if _, err := p.Client.Deploy(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if d.Namespace != "" {
		return // it goes with its namespace
	}
	t.Cleanup(func() {
		if err := p.Client.Delete(context.Background(), d.Namespace, d.Service); err != nil && !openfaas.IsNotFound(err) {
			t.Error(err)
		}
	})
}

func invoke(t *testing.T, p *platform.Platform, method, path, body string, header ...string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, p.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	c := &http.Client{Timeout: 60 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

// pods lists the pods of a function as the Kubernetes API shows them.
func pods(t *testing.T, p *platform.Platform, function string) []corev1.Pod {
	t.Helper()
	var l corev1.PodList
	if err := p.Get("/api/v1/namespaces/openfaas-fn/pods?labelSelector=faas_function%3D"+function, &l); err != nil {
		t.Fatal(err)
	}
	return l.Items
}

func available(t *testing.T, p *platform.Platform, name string, n uint64) func() error {
	return func() error {
		f, err := p.Client.Function(t.Context(), "", name, false)
		if err != nil {
			return err
		}
		if f.Replicas != n || f.AvailableReplicas != n {
			return fmt.Errorf("%s has %d of %d replicas, want %d", name, f.AvailableReplicas, f.Replicas, n)
		}
		return nil
	}
}

// What README.md says a newcomer does.
func firstFunction(t *testing.T, p *platform.Platform) {
	dir := t.TempDir()
	if out, err := p.FaasIn(dir, "", "new", "hello", "--lang", "go"); err != nil {
		t.Fatal(err, out)
	}
	if out, err := p.FaasIn(dir, "", "up"); err != nil {
		t.Fatal(err, out)
	}
	out, err := p.FaasIn(dir, "world", "invoke", "hello")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "world") {
		t.Fatalf("got %q, want an answer that has the input in it", out)
	}
	if out := p.MustFaas("", "list"); !strings.Contains(out, "hello") {
		t.Errorf("faas list does not show it:\n%s", out)
	}
	if out := p.MustFaas("", "describe", "hello"); !strings.Contains(out, "ready") {
		t.Errorf("faas describe:\n%s", out)
	}
	p.MustFaas("", "status")
	p.MustFaas("", "remove", "hello")
	if _, err := p.Faas("", "describe", "hello"); err == nil || !strings.Contains(err.Error(), "there is no function") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("describing a removed function: %v", err)
	}
}

func invocation(t *testing.T, p *platform.Platform) {
	deploy(t, p, openfaas.FunctionDeployment{Service: "inv", EnvVars: map[string]string{"GREETING": "hi"}})
	t.Run("body and methods", func(t *testing.T) {
		for _, m := range []string{"POST", "PUT", "PATCH", "DELETE"} {
			if code, body, h := invoke(t, p, m, "/function/inv", "some body"); code != 200 || body != "some body" || h.Get("X-Call-Id") == "" || h.Get("X-Start-Time") == "" {
				t.Errorf("%s: got %d %q %v", m, code, body, h)
			}
		}
		if code, _, _ := invoke(t, p, "TRACE", "/function/inv", ""); code != 405 {
			t.Errorf("TRACE: got %d, want 405", code)
		}
	})
	t.Run("path, query and headers", func(t *testing.T) {
		code, body, h := invoke(t, p, "POST", "/function/inv.openfaas-fn/headers?a=1&b=2", "", "X-Call-Id", "my-call", "X-Mine", "yes")
		var got struct {
			Path, Query string
			Headers     http.Header
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil || code != 200 {
			t.Fatal(code, body, err)
		}
		if got.Path != "/headers" || got.Query != "a=1&b=2" || got.Headers.Get("X-Mine") != "yes" || got.Headers.Get("X-Call-Id") != "my-call" || got.Headers.Get("X-Forwarded-For") == "" {
			t.Errorf("the function saw %+v", got)
		}
		if h.Get("X-Call-Id") != "my-call" {
			t.Errorf("X-Call-Id is %q, want the caller's", h.Get("X-Call-Id"))
		}
	})
	t.Run("redirects pass through", func(t *testing.T) {
		if code, _, h := invoke(t, p, "POST", "/function/inv?status=302&location=/elsewhere", ""); code != 302 || h.Get("Location") != "/elsewhere" {
			t.Errorf("got %d to %q", code, h.Get("Location"))
		}
	})
	t.Run("answers stream", func(t *testing.T) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", p.URL+"/function/inv/stream", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		first := make([]byte, 7)
		start := time.Now()
		if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "line 0\n" {
			t.Fatal(string(first), err)
		}
		rest, err := io.ReadAll(resp.Body)
		if err != nil || !strings.HasSuffix(string(rest), "line 4\n") {
			t.Fatal(string(rest), err)
		}
		if d := time.Since(start); d < 40*time.Millisecond {
			t.Errorf("the rest came %s after the first line: it was held back", d)
		}
	})
	t.Run("unknown function", func(t *testing.T) {
		for _, path := range []string{"/function/nobody", "/function/inv.nowhere", "/function/.openfaas-fn"} {
			if code, body, _ := invoke(t, p, "POST", path, ""); code != 404 {
				t.Errorf("%s: got %d %q, want 404", path, code, body)
			}
		}
	})
	t.Run("no credentials for functions, but for the rest", func(t *testing.T) {
		if code, _, h := invoke(t, p, "GET", "/system/functions", ""); code != 401 || h.Get("WWW-Authenticate") == "" {
			t.Errorf("got %d %v, want 401", code, h)
		}
	})
}

// 500 calls at once, no replica: 500 answers.
func burstFromZero(t *testing.T, p *platform.Platform) {
	deploy(t, p, openfaas.FunctionDeployment{Service: "burst", Labels: map[string]string{"com.openfaas.scale.zero": "true"}})
	platform.Eventually(t, 20*time.Second, available(t, p, "burst", 1))
	if err := p.Client.Scale(t.Context(), "", "burst", 0); err != nil {
		t.Fatal(err)
	}
	platform.Eventually(t, 20*time.Second, func() error {
		if n := len(pods(t, p, "burst")); n > 0 {
			return fmt.Errorf("%d pods are left", n)
		}
		return nil
	})
	var wg sync.WaitGroup
	faults := make(chan string, 500)
	for i := range 500 {
		wg.Go(func() {
			want := fmt.Sprint("call ", i)
			resp, err := p.Client.Invoke(t.Context(), openfaas.Invocation{Name: "burst", Body: strings.NewReader(want)})
			if err != nil {
				faults <- err.Error()
				return
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || string(b) != want {
				faults <- fmt.Sprint(resp.StatusCode, " ", string(b), " ", err)
			}
		})
	}
	wg.Wait()
	close(faults)
	for f := range faults {
		t.Error(f)
	}
}

func scaling(t *testing.T, p *platform.Platform) {
	deploy(t, p, openfaas.FunctionDeployment{Service: "scaled", Labels: map[string]string{
		"com.openfaas.scale.min": "1", "com.openfaas.scale.max": "3", "com.openfaas.scale.type": "capacity", "com.openfaas.scale.target": "2",
		"com.openfaas.scale.target-proportion": "1", "com.openfaas.scale.zero": "true", "com.openfaas.scale.zero-duration": "2s", "com.openfaas.scale.down.window": "1s",
	}})
	platform.Eventually(t, 20*time.Second, available(t, p, "scaled", 1))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for ctx.Err() == nil {
				resp, err := p.Client.Invoke(ctx, openfaas.Invocation{Name: "scaled", Query: map[string][]string{"sleep": {"100ms"}}})
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return
				}
				if _, err := io.Copy(io.Discard, resp.Body); ctx.Err() == nil && (err != nil || resp.StatusCode != 200) {
					t.Errorf("while scaling: %d, %v", resp.StatusCode, err)
				}
				resp.Body.Close()
			}
		})
	}
	platform.Eventually(t, 30*time.Second, available(t, p, "scaled", 3))
	if d := decided(t, p, "scaled", func(d api.ScaleDecision) bool { return d.To == 3 && d.From < 3 }); d.Rule != "load" || wish(d, "capacity") != 3 || d.Reason == "" {
		t.Errorf("why 3 replicas: %+v", d)
	}
	cancel()
	wg.Wait()
	platform.Eventually(t, 60*time.Second, func() error {
		f, err := p.Client.Function(t.Context(), "", "scaled", false)
		if err != nil {
			return err
		}
		if f.Replicas != 0 || len(pods(t, p, "scaled")) > 0 {
			return fmt.Errorf("%d replicas are wanted, %d pods there", f.Replicas, len(pods(t, p, "scaled")))
		}
		return nil
	})
	if code, body, _ := invoke(t, p, "POST", "/function/scaled", "back"); code != 200 || body != "back" {
		t.Errorf("from zero: got %d %q", code, body)
	}
}

// A pod that is deleted while it starts does not wait for its grace period:
// the first process of a container loses a SIGTERM that it has no handler for.
func deletedWhileStarting(t *testing.T, p *platform.Platform) {
	deploy(t, p, openfaas.FunctionDeployment{Service: "hasty"})
	for round := range 4 {
		if err := p.Client.Scale(t.Context(), "", "hasty", 5); err != nil {
			t.Fatal(err)
		}
		platform.Eventually(t, 20*time.Second, func() error {
			running := 0
			for _, pod := range pods(t, p, "hasty") {
				if pod.Status.PodIP != "" {
					running++
				}
			}
			if running <= round {
				return fmt.Errorf("only %d pods have begun", running)
			}
			return nil
		})
		if err := p.Client.Scale(t.Context(), "", "hasty", 0); err != nil {
			t.Fatal(err)
		}
		platform.Eventually(t, 20*time.Second, func() error {
			if left := pods(t, p, "hasty"); len(left) > 0 {
				return fmt.Errorf("%d pods are left; one is %+v, %+v", len(left), left[0].ObjectMeta, left[0].Status)
			}
			return nil
		})
	}
}

func post(url, body string) (int, string, error) {
	resp, err := http.Post(url, "text/plain", strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func secrets(t *testing.T, p *platform.Platform) {
	if _, err := p.Faas("s3cret", "secret", "create", "api-key"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Faas("other", "secret", "create", "api-key"); err == nil {
		t.Error("a secret was created twice")
	}
	deploy(t, p, openfaas.FunctionDeployment{Service: "sec", Secrets: []string{"api-key"}})
	if code, body, _ := invoke(t, p, "GET", "/function/sec/secret?name=api-key", ""); code != 200 || body != "s3cret" {
		t.Errorf("the function reads %d %q", code, body)
	}
	if out := p.MustFaas("", "secret", "list"); !strings.Contains(out, "api-key") || strings.Contains(out, "s3cret") {
		t.Errorf("faas secret list:\n%s", out)
	}
	p.MustFaas("", "secret", "remove", "api-key")
}

func logs(t *testing.T, p *platform.Platform) {
	deploy(t, p, openfaas.FunctionDeployment{Service: "talk"})
	if code, _, _ := invoke(t, p, "POST", "/function/talk?say=first", ""); code != 200 {
		t.Fatal(code)
	}
	platform.Eventually(t, 10*time.Second, func() error {
		out, err := p.Faas("", "logs", "talk", "--tail=false")
		if err != nil {
			return err
		}
		if !strings.Contains(out, "first") {
			return fmt.Errorf("the log does not have the line:\n%s", out)
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	seen := make(chan string, 100)
	go func() {
		defer close(seen)
		for l, err := range p.Client.Logs(ctx, openfaas.LogQuery{Name: "talk", Follow: true}) {
			if err != nil {
				return
			}
			seen <- l.Text
		}
	}()
	invoke(t, p, "POST", "/function/talk?say=second", "")
	for l := range seen {
		if l == "second" {
			cancel()
			return
		}
	}
	t.Error("the followed log did not show the second line")
}

func namespaces(t *testing.T, p *platform.Platform) {
	p.MustFaas("", "namespace", "create", "team")
	deploy(t, p, openfaas.FunctionDeployment{Service: "inv", Namespace: "team"})
	if code, body, _ := invoke(t, p, "POST", "/function/inv.team", "x"); code != 200 || body != "x" {
		t.Errorf("got %d %q", code, body)
	}
	p.MustFaas("", "namespace", "remove", "team")
	platform.Eventually(t, 30*time.Second, func() error {
		_, err := p.Client.Namespace(t.Context(), "team")
		switch {
		case openfaas.IsNotFound(err):
			return nil
		case err != nil:
			return err
		}
		return errors.New("the namespace is still there")
	})
	if code, _, _ := invoke(t, p, "POST", "/function/inv.team", "x"); code != 404 {
		t.Errorf("a function of a removed namespace: got %d, want 404", code)
	}
}

func tail(s string, n int) string {
	lines := bytes.Split([]byte(s), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-n):], []byte("\n")))
}

func splitLines(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == '\n' })
}

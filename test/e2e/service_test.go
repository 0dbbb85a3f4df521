package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
)

// services has pods reached by the name and the address of a Service, from a pod
// and from the node.
func services(t *testing.T, p *platform.Platform) {
	run := kubectlOf(t, p)
	deploy(t, p, openfaas.FunctionDeployment{Service: "served", Labels: map[string]string{"com.openfaas.scale.min": "2"}})
	deploy(t, p, openfaas.FunctionDeployment{Service: "caller"})
	run(`{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "openfaas-fn"},
		"spec": {"selector": {"faas_function": "served"}, "ports": [{"port": 80, "targetPort": 8080}]}}`, "apply", "-f", "-")
	address := run("", "get", "service", "web", "-n", "openfaas-fn", "-o", "jsonpath={.spec.clusterIP}")
	through := func(at string) func() (string, error) {
		return func() (string, error) {
			code, body, err := post(p.URL+"/function/caller/get?url="+url.QueryEscape(at), "")
			if err == nil && code != 200 {
				err = fmt.Errorf("%d: %s", code, body)
			}
			return body, err
		}
	}
	for _, c := range []struct {
		from string
		get  func() (string, error)
	}{
		{"a pod, by its name", through("http://web/hostname")},
		{"a pod, by its whole name", through("http://web.openfaas-fn.svc.cluster.local/hostname")},
		{"a pod, by its address", through("http://" + address + "/hostname")},
		{"the node", func() (string, error) { return fetch(t, "http://"+address+"/hostname") }},
	} {
		heard := map[string]bool{}
		platform.Eventually(t, 20*time.Second, func() error {
			name, err := c.get()
			if err != nil {
				return fmt.Errorf("%s: %w", c.from, err)
			}
			if !strings.HasPrefix(name, "served-") {
				return fmt.Errorf("%s: %q has answered", c.from, name)
			}
			if heard[name] = true; len(heard) < 2 {
				return fmt.Errorf("%s: only %v has answered", c.from, heard)
			}
			return nil
		})
	}
	run("", "delete", "service", "web", "-n", "openfaas-fn")
	platform.Eventually(t, 20*time.Second, func() error {
		if body, err := through("http://web/hostname")(); err == nil {
			return fmt.Errorf("a service that is gone has answered %q", body)
		}
		return nil
	})
}

// ports has a pod reached at a port of its node, and another one wait that wants
// the same.
func ports(t *testing.T, p *platform.Platform) {
	run := kubectlOf(t, p)
	pod := func(name string, port int) string {
		return fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q, "namespace": "openfaas-fn"}, "spec": {"containers": [
			{"name": "c", "image": "probe:latest", "ports": [{"containerPort": 8080, "hostPort": %d}]}]}}`, name, port)
	}
	get := func(name, path string) string {
		return run("", "get", "pod", name, "-n", "openfaas-fn", "-o", "jsonpath={"+path+"}")
	}
	answers := func(name string) func() error {
		return func() error {
			node := get(name, ".status.hostIP")
			if node == "" {
				return errors.New("it has no node yet")
			}
			got, err := fetch(t, "http://"+node+":18088/hostname")
			if err == nil && got != name {
				err = fmt.Errorf("%q has answered, want %q", got, name)
			}
			return err
		}
	}
	run(pod("first", 18088), "apply", "-f", "-")
	t.Cleanup(func() {
		run("", "delete", "pod", "first", "second", "greedy", "-n", "openfaas-fn", "--ignore-not-found")
	})
	platform.Eventually(t, 20*time.Second, answers("first"))
	run(pod("second", 18088), "apply", "-f", "-")
	platform.Eventually(t, 20*time.Second, func() error {
		if why := get("second", ".status.conditions[?(@.type=='PodScheduled')].message"); !strings.Contains(why, "free ports") {
			return fmt.Errorf("it says %q, want that the port is taken", why)
		}
		return nil
	})
	run("", "delete", "pod", "first", "-n", "openfaas-fn")
	platform.Eventually(t, 20*time.Second, answers("second"))
	run(pod("greedy", 22), "apply", "-f", "-")
	platform.Eventually(t, 20*time.Second, func() error {
		if out := run("", "get", "events", "-n", "openfaas-fn", "--field-selector", "involvedObject.name=greedy"); !strings.Contains(out, "HostPortUnavailable") {
			return fmt.Errorf("a pod that wants the node's own port is told nothing of it:\n%s", out)
		}
		return nil
	})
}

// Pods that ask for it find one another by multicast, and others hear nothing.
func onSegment(t *testing.T, p *platform.Platform) {
	run := kubectlOf(t, p)
	t.Cleanup(func() {
		run("", "delete", "pod", "near", "here", "apart", "-n", "openfaas-fn", "--ignore-not-found")
	})
	for name, network := range map[string]string{"near": `"podsnap.dev/network": "bridge"`, "here": `"podsnap.dev/network": "bridge"`, "apart": ""} {
		run(fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q, "namespace": "openfaas-fn", "annotations": {%s}}, "spec": {"containers": [
			{"name": "c", "image": "probe:latest"}]}}`, name, network), "apply", "-f", "-")
	}
	at := map[string]string{}
	for _, name := range []string{"near", "here", "apart"} {
		run("", "wait", "--for=condition=Ready", "pod/"+name, "-n", "openfaas-fn", "--timeout=60s")
		at[name] = run("", "get", "pod", name, "-n", "openfaas-fn", "-o", "jsonpath={.status.podIP}")
	}
	type heard struct {
		by, what string
		err      error
	}
	said := make(chan heard, 100) // those of a try that ended early too
	listen := func(name string) {
		got, err := fetch(t, "http://"+at[name]+":8080/hear")
		said <- heard{name, got, err}
	}
	platform.Eventually(t, 20*time.Second, func() error {
		go listen("near")
		go listen("apart")
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for left := 2; ; {
			select {
			case h := <-said:
				switch {
				case h.err != nil:
					return h.err
				case h.by == "apart" && strings.HasPrefix(h.what, "hello"):
					t.Errorf("a pod that is on no segment hears %q", h.what)
				case h.by == "near" && h.what != "hello "+at["here"]:
					return fmt.Errorf("a pod on the segment hears %q, want hello by %s", h.what, at["here"])
				}
				if left--; left == 0 {
					return nil
				}
			case <-tick.C:
				if _, err := fetch(t, "http://"+at["here"]+":8080/tell?what=hello"); err != nil {
					return err
				}
			}
		}
	})
}

// fetch makes a connection of its own.
func fetch(t *testing.T, at string) (string, error) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at, nil)
	if err != nil {
		return "", err
	}
	resp, err := (&http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

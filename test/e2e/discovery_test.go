package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podsnap/podsnap/test/platform"
)

const discoveredManifest = `
apiVersion: v1
kind: Namespace
metadata: {name: found}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: prometheus, namespace: found}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: found-prometheus}
rules:
- {apiGroups: [""], resources: [nodes, pods, services, endpoints], verbs: [get, list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: found-prometheus}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: found-prometheus}
subjects: [{kind: ServiceAccount, name: prometheus, namespace: found}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: metrics, namespace: found}
spec:
  selector: {matchLabels: {app: metrics}}
  template:
    metadata: {labels: {app: metrics}, annotations: {example.com/team: blue, example.com/scrape: "true"}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: httpd
        image: tools:latest
        command: [sh, -c, "mkdir /tmp/www && echo found_total 7 > /tmp/www/metrics.txt && exec httpd -f -p 8000 -h /tmp/www"]
        ports: [{name: http, containerPort: 8000}]
---
apiVersion: v1
kind: Pod
metadata: {name: quiet, namespace: found}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "tools:latest", command: [sleep, "1000"], ports: [{containerPort: 9}]}]
---
apiVersion: v1
kind: Service
metadata: {name: metrics, namespace: found}
spec: {selector: {app: metrics}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: metrics, namespace: found}
spec: {rules: [{host: found.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: metrics, port: {name: http}}}}]}}]}
`

// discovered has a real Prometheus find what to scrape by the Kubernetes API: as a
// service account that may no more than that, and by a kubeconfig.
func discovered(t *testing.T, k *streaming, p *platform.Platform) {
	prometheus := discoveringPrometheus(t)
	defer k.must("", "delete", "namespace/found", "clusterrole/found-prometheus", "clusterrolebinding/found-prometheus", "--ignore-not-found", "--timeout=120s")
	k.must(discoveredManifest, "apply", "-f", "-")
	addr, dir := platform.FreePorts(t, 1)[0], t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte(strings.TrimSpace(k.must("", "create", "token", "prometheus", "-n", "found"))), 0o600); err != nil {
		t.Fatal(err)
	}
	account := fmt.Sprintf("api_server: %s\n    authorization: {credentials_file: %s}\n    tls_config: {ca_file: %s}", p.API, token, filepath.Join(p.StateDir, "auth", "ca.crt"))
	config := "global: {scrape_interval: 1s}\nscrape_configs:\n"
	roles := []string{"node", "pod", "service", "endpoints", "endpointslice", "ingress"}
	for _, role := range roles {
		by := account
		if role == "ingress" || role == "service" {
			by = "kubeconfig_file: " + k.config
		}
		config += fmt.Sprintf("- job_name: %s\n  metrics_path: /metrics.txt\n  kubernetes_sd_configs:\n  - role: %s\n    %s\n", role, role, by)
		if role != "node" {
			config += "    namespaces: {names: [found]}\n"
		}
		if role == "pod" {
			config += `  relabel_configs:
  - {source_labels: [__meta_kubernetes_pod_annotation_example_com_scrape], action: keep, regex: "true"}
  - {source_labels: [__meta_kubernetes_pod_annotation_example_com_team], target_label: team}
  - {source_labels: [__meta_kubernetes_pod_name], target_label: pod}
`
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(prometheus, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+addr, "--web.external-url=http://"+addr, "--log.level=error")
	var says bytes.Buffer
	cmd.Stderr = &says
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		_ = cmd.Process.Kill()
		ended <- <-ended // it may have been heard already
	}()
	want := map[string][2]string{ // of each role one label
		"node": {"__meta_kubernetes_node_name", "test-node"}, "pod": {"__meta_kubernetes_pod_annotation_example_com_team", "blue"},
		"service": {"__meta_kubernetes_service_name", "metrics"}, "endpoints": {"__meta_kubernetes_endpoints_name", "metrics"},
		"endpointslice": {"__meta_kubernetes_endpointslice_address_target_kind", "Pod"}, "ingress": {"__meta_kubernetes_ingress_host", "found.example"},
	}
	finds := func(pods int) {
		t.Helper()
		platform.Eventually(t, 40*time.Second, func() error {
			select {
			case err := <-ended:
				ended <- err
				if strings.Contains(says.String(), "kubernetes_sd_configs not found") {
					t.Skip("this Prometheus was built without kubernetes_sd, as Debian's is: deploy/setup.sh prometheus builds one with it, in some minutes")
				}
				t.Fatalf("prometheus: %v\n%s", err, says.String())
			default:
			}
			found, err := targets(addr)
			if err != nil {
				return err
			}
			for _, role := range roles {
				n := 1
				if role == "pod" || strings.HasPrefix(role, "endpoint") {
					n = pods
				}
				if len(found[role]) != n || n > 0 && found[role][0][want[role][0]] != want[role][1] {
					return fmt.Errorf("the role %s has found %v, want %d with the label %s=%s", role, found[role], n, want[role][0], want[role][1])
				}
			}
			if pods == 0 {
				return nil
			}
			for _, expr := range []string{`count(found_total{job="pod",team="blue",pod=~"metrics-.*"} == 7) == %d`, `count(found_total{job="endpoints"} == 7) == %d`, `count(found_total{job="endpointslice"} == 7) == %d`} {
				expr = fmt.Sprintf(expr, pods)
				ok, err := hasData(addr, expr)
				if err == nil && !ok {
					err = fmt.Errorf("no data for %s", expr)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	finds(1)
	k.must("", "scale", "deployment/metrics", "-n", "found", "--replicas=3")
	finds(3)
	// What is gone is not asked any more.
	k.must("", "scale", "deployment/metrics", "-n", "found", "--replicas=0")
	finds(0)
}

// targets are what Prometheus has found and not dropped, for each job, as the API has
// told it.
func targets(addr string) (map[string][]map[string]string, error) {
	resp, err := http.Get("http://" + addr + "/api/v1/targets?state=active")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var got struct {
		Data struct {
			ActiveTargets []struct {
				DiscoveredLabels map[string]string
				ScrapePool       string
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		return nil, err
	}
	out := map[string][]map[string]string{}
	for _, t := range got.Data.ActiveTargets {
		out[t.ScrapePool] = append(out[t.ScrapePool], t.DiscoveredLabels)
	}
	return out, nil
}

// discoveringPrometheus is one that deploy/setup.sh has built with kubernetes_sd, or
// any.
func discoveringPrometheus(t *testing.T) string {
	t.Helper()
	if cache, err := os.UserCacheDir(); err == nil {
		if built, _ := filepath.Glob(filepath.Join(cache, "podsnap", "prometheus-v*", "prometheus")); len(built) > 0 { // its pattern is ours
			return built[len(built)-1]
		}
	}
	return prometheusBinary(t)
}

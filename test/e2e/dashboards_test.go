package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
)

// dashboards has a real Prometheus scrape the platform under some load and
// requires data for the query of every panel.
func dashboards(t *testing.T, p *platform.Platform) {
	prometheus := prometheusBinary(t)
	addr := platform.FreePorts(t, 1)[0]
	dir := t.TempDir()
	shipped, err := os.ReadFile("../../deploy/prometheus/prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	config := strings.NewReplacer("127.0.0.1:8082", strings.TrimPrefix(p.Metrics, "http://"), "scrape_interval: 5s", "scrape_interval: 1s").Replace(string(shipped))
	rules, err := os.ReadFile("../../deploy/prometheus/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"prometheus.yml": config, "rules.yml": string(rules)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(prometheus, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr,
		"--web.external-url=http://"+addr, // else it is made from the name of the machine, which may have none
		"--log.level=error")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()

	deploy(t, p, openfaas.FunctionDeployment{Service: "seen"})
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			_, _, _ = post(p.URL+"/function/seen?sleep=10ms", "x")
			if i%10 == 0 {
				_, _ = enqueue(p, "seen", "x", "")
				_ = p.Get("/api/v1/nodes", &struct{}{})
			}
			if i%40 == 20 { // a cold start again and again
				_ = p.Client.Scale(t.Context(), "", "seen", 0)
			}
		}
	}()
	defer func() { close(stop); <-done }()

	left := queries(t, "../../deploy/grafana/podsnap.json")
	if len(left) < 20 {
		t.Fatalf("the dashboard has only %d queries: was it read rightly?", len(left))
	}
	platform.Eventually(t, 90*time.Second, func() error {
		var missing []string
		for expr, panel := range left {
			ok, err := hasData(addr, expr)
			if err != nil {
				return err
			}
			if ok {
				delete(left, expr)
			} else {
				missing = append(missing, panel+": "+expr)
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("no data for\n%s", strings.Join(missing, "\n"))
		}
		return nil
	})
}

func prometheusBinary(t *testing.T) string {
	t.Helper()
	if b, err := exec.LookPath("prometheus"); err == nil {
		return b
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	b := filepath.Join(cache, "podsnap", "prometheus", "usr", "bin", "prometheus")
	if _, err := os.Stat(b); err != nil {
		t.Skip("no prometheus on this machine: deploy/setup.sh test fetches it")
	}
	return b
}

// queries are the expressions of all panels, and whose they are.
func queries(t *testing.T, file string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			out[strings.ReplaceAll(q.Expr, "$function", ".*")] = p.Title
		}
	}
	return out
}

func hasData(addr, expr string) (bool, error) {
	resp, err := http.Get("http://" + addr + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		return false, nil //nolint:nilerr // it is still starting
	}
	defer resp.Body.Close()
	var got struct {
		Status, Error string
		Data          struct {
			Result []struct {
				Value [2]any
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		return false, nil //nolint:nilerr // it is still starting
	}
	if got.Status == "error" && resp.StatusCode == http.StatusBadRequest {
		return false, fmt.Errorf("the query %s is wrong: %s", expr, got.Error)
	}
	for _, r := range got.Data.Result {
		if r.Value[1] != "NaN" {
			return true, nil
		}
	}
	return false, nil
}

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/test/platform"
)

// page is what a member of the ledger answers with.
type page struct {
	Name, Edition string
	Lines         []string
}

// members is the StatefulSet of deploy/examples/statefulset on a platform.
type members struct {
	t   *testing.T
	run func(stdin string, args ...string) string
}

// kubectl runs it in the ledger's namespace.
func (l *members) kubectl(args ...string) string {
	l.t.Helper()
	return strings.TrimSpace(l.run("", append([]string{"-n", "ledger"}, args...)...))
}

func (l *members) of(pod, path string) string {
	l.t.Helper()
	return l.kubectl("get", "pod", pod, "-o", "jsonpath="+path)
}

// call sends to a member; from here, pods are reached by their addresses.
func (l *members) call(pod, method, path, body string, into any) error {
	req, err := http.NewRequestWithContext(l.t.Context(), method, "http://"+l.of(pod, "{.status.podIP}")+":8080"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	code, text, _, err := do(req)
	if err != nil {
		return err
	}
	if code/100 != 2 {
		return fmt.Errorf("%s %s of %s: %d %s", method, path, pod, code, text)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal([]byte(text), into)
}

// keeps says what a member lacks to be of an edition and to have its lines.
func (l *members) keeps(pod, edition string, lines ...string) error {
	var p page
	if err := l.call(pod, "GET", "/", "", &p); err != nil {
		return err
	}
	if p.Name != pod || p.Edition != edition || !slices.Equal(p.Lines, lines) {
		return fmt.Errorf("%s answers %+v, want edition %s, lines %q", pod, p, edition, lines)
	}
	return nil
}

func (l *members) settled() {
	l.t.Helper()
	l.kubectl("rollout", "status", "statefulset/ledger", "--timeout=120s")
}

// stateful does what deploy/examples/statefulset/README.md says, and walks through what
// then runs: names, order, and data that outlives pods.
func stateful(t *testing.T, p *platform.Platform) {
	l := &members{t, kubectlOf(t, p)}
	dir := filepath.Join(t.TempDir(), "statefulset")
	if err := os.CopyFS(dir, os.DirFS("../../deploy/examples/statefulset")); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"build", "push"} {
		if out, err := p.FaasIn(dir, "", verb); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	l.run("", "apply", "-f", filepath.Join(dir, "statefulset.yaml"))
	disks := filepath.Join(p.StateDir, "node", "disks")
	t.Cleanup(func() {
		l.run("", "delete", "namespace", "ledger", "--timeout=120s")
		platform.Eventually(t, 30*time.Second, func() error {
			left, err := os.ReadDir(disks)
			if err == nil && len(left) > 0 {
				err = fmt.Errorf("of what nobody claims %v is left", left)
			}
			return err
		})
		if out := l.run("", "get", "pv", "-o", "name"); out != "" {
			t.Errorf("volumes are left: %s", out)
		}
	})
	l.settled()
	l.begun()
	for i := range 3 {
		pod := fmt.Sprintf("ledger-%d", i)
		if err := l.call(pod, "POST", "/", "written to "+pod, nil); err != nil {
			t.Fatal(err)
		}
	}
	l.comesBack()
	l.scales()
	l.rolls()
	if out := l.kubectl("get", "sts,pvc", "-o", "wide"); !strings.Contains(out, "3/3") || strings.Count(out, "Bound") != 3 || strings.Count(out, "RWO") != 3 {
		t.Errorf("the tables:\n%s", out)
	}
}

// begun looks at the order of the start, and has each member find all by name.
func (l *members) begun() {
	l.t.Helper()
	const ready = "{.status.conditions[?(@.type=='Ready')].lastTransitionTime}"
	for i := 1; i < 3; i++ {
		before, after := l.of(fmt.Sprintf("ledger-%d", i-1), ready), l.of(fmt.Sprintf("ledger-%d", i), "{.metadata.creationTimestamp}")
		if before == "" || after < before {
			l.t.Errorf("ledger-%d is there since %s, the one before it serves since %q", i, after, before)
		}
	}
	for i := range 3 {
		platform.Eventually(l.t, 20*time.Second, func() error {
			all := map[string]page{}
			if err := l.call(fmt.Sprintf("ledger-%d", i), "GET", "/all", "", &all); err != nil {
				return err
			}
			for j := range 3 {
				if host := fmt.Sprintf("ledger-%d.ledger", j); all[host].Name != fmt.Sprintf("ledger-%d", j) {
					return fmt.Errorf("ledger-%d finds %+v", i, all)
				}
			}
			return nil
		})
	}
}

// comesBack deletes a pod: another one of its name has its lines.
func (l *members) comesBack() {
	l.t.Helper()
	was := l.of("ledger-1", "{.metadata.uid}")
	l.kubectl("delete", "pod", "ledger-1", "--wait=false")
	l.reborn("ledger-1", was)
	if err := l.keeps("ledger-1", "first", "written to ledger-1"); err != nil {
		l.t.Error(err)
	}
}

func (l *members) reborn(pod, was string) {
	l.t.Helper()
	platform.Eventually(l.t, 60*time.Second, func() error {
		uid, ready, _ := strings.Cut(l.kubectl("get", "pods", "-l", "statefulset.kubernetes.io/pod-name="+pod, "-o", "jsonpath={.items[*].metadata.uid} {.items[*].status.conditions[?(@.type=='Ready')].status}"), " ")
		if uid == "" || uid == was || ready != "True" {
			return fmt.Errorf("%s is %s, ready: %s; it was %s", pod, uid, ready, was)
		}
		return nil
	})
}

// scales takes two members away and brings them back to their lines.
func (l *members) scales() {
	l.t.Helper()
	l.kubectl("scale", "statefulset/ledger", "--replicas=1")
	platform.Eventually(l.t, 60*time.Second, func() error {
		if pods := l.kubectl("get", "pods", "-o", "name"); pods != "pod/ledger-0" {
			return fmt.Errorf("the pods are %q, want ledger-0", pods)
		}
		return nil
	})
	if n := strings.Count(l.kubectl("get", "pvc", "-o", "name"), "data-ledger-"); n != 3 {
		l.t.Errorf("%d claims are left, want three", n)
	}
	l.kubectl("scale", "statefulset/ledger", "--replicas=3")
	l.settled()
	for i := range 3 {
		pod := fmt.Sprintf("ledger-%d", i)
		if err := l.keeps(pod, "first", "written to "+pod); err != nil {
			l.t.Error(err)
		}
	}
}

// rolls brings another edition to the last member, then to all, and takes it back.
func (l *members) rolls() {
	l.t.Helper()
	const env = `{"spec":{"updateStrategy":{"rollingUpdate":{"partition":%d}},"template":{"spec":{"containers":[{"name":"ledger","env":[{"name":"EDITION","value":"second"}]}]}}}}`
	was := l.of("ledger-2", "{.metadata.uid}")
	l.kubectl("patch", "statefulset", "ledger", "-p", fmt.Sprintf(env, 2))
	l.reborn("ledger-2", was)
	for i, edition := range []string{"first", "first", "second"} {
		pod := fmt.Sprintf("ledger-%d", i)
		if err := l.keeps(pod, edition, "written to "+pod); err != nil {
			l.t.Errorf("with a partition: %v", err)
		}
	}
	l.kubectl("patch", "statefulset", "ledger", "-p", fmt.Sprintf(env, 0))
	l.settled()
	if out := l.kubectl("rollout", "history", "statefulset/ledger"); !strings.Contains(out, "\n1 ") || !strings.Contains(out, "\n2 ") {
		l.t.Errorf("the history:\n%s", out)
	}
	all := func(edition string) {
		l.t.Helper()
		for i := range 3 {
			pod := fmt.Sprintf("ledger-%d", i)
			if err := l.keeps(pod, edition, "written to "+pod); err != nil {
				l.t.Error(err)
			}
		}
	}
	all("second")
	l.kubectl("rollout", "undo", "statefulset/ledger")
	l.settled()
	all("first")
}

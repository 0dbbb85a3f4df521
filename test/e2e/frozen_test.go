package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/autoscale"
	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
)

// A function that may be at zero is frozen when it is idle, and no caller has an
// error by that: not of a call that meets it, not after the server was killed
// or ended, not in a rolling update, and it ends as fast as a running one.
func TestFrozen(t *testing.T) {
	t.Parallel()
	p := platform.New(t)
	build(t, p)
	f := openfaas.FunctionDeployment{Service: "sleepy", Image: "probe:latest", Labels: map[string]string{"com.openfaas.scale.zero": "true", "com.openfaas.scale.zero-duration": "10m", "com.openfaas.scale.max": "1"}}
	deploy(t, p, f)
	frozen := func() error {
		all := pods(t, p, "sleepy")
		if len(all) != 1 {
			return fmt.Errorf("%d pods", len(all))
		}
		if api.IsFrozen(&all[0].Status) {
			return nil
		}
		return errors.New("its pod is not frozen")
	}
	awake := func() {
		t.Helper()
		platform.Eventually(t, 10*time.Second, func() error { // it is shown a little later
			if frozen() == nil {
				return errors.New("its pod is shown as frozen")
			}
			return nil
		})
	}
	answered := time.Now()
	call := func(thawed bool) {
		t.Helper()
		begin := time.Now()
		code, body, header := invoke(t, p, "POST", "/function/sleepy", "x")
		timing := header.Get("Server-Timing")
		// On a busy machine it may have become idle again since the last call.
		again := !thawed && time.Since(answered) >= autoscale.FreezeAfter
		answered = time.Now()
		if code != 200 || body != "x" || strings.Contains(timing, "thaw;dur=") != thawed && !again {
			t.Errorf("got %d %q, timing %q, want thawed %v", code, body, timing, thawed)
		}
		t.Logf("answered after %s: %s", time.Since(begin), timing)
		awake()
	}
	call(false)
	platform.Eventually(t, 40*time.Second, frozen)
	if out := p.MustFaas("", "describe", "sleepy"); !strings.Contains(out, "1 of them frozen") {
		t.Errorf("describe does not say so:\n%s", out)
	}
	call(true)
	call(false)
	for _, name := range []string{"ended", "killed"} {
		platform.Eventually(t, 40*time.Second, frozen)
		was := containers(t, p, "sleepy")
		if name == "ended" {
			p.Terminate()
			p.Start()
			call(true)
		} else {
			// What was soft is lost: the gateway may learn only from the agent
			// that the replica is frozen, when the call is there already.
			p.Kill()
			p.Start()
			code, body, header := invoke(t, p, "POST", "/function/sleepy", "x")
			if code != 200 || body != "x" {
				t.Errorf("after a kill: %d %q", code, body)
			}
			answered = time.Now()
			t.Logf("after a kill: %s", header.Get("Server-Timing"))
			awake()
			call(false)
		}
		for id := range containers(t, p, "sleepy") {
			if _, ok := was[id]; !ok {
				t.Errorf("%s: another container answers: %s", name, id)
			}
		}
	}
	platform.Eventually(t, 40*time.Second, frozen)
	f.EnvVars = map[string]string{"NEW": "1"}
	if _, err := p.Client.Deploy(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for time.Since(begin) < 3*time.Second { // whichever replica it is
		if code, body, _ := invoke(t, p, "POST", "/function/sleepy", "x"); code != 200 || body != "x" {
			t.Errorf("in a rolling update: %d %q", code, body)
		}
	}
	platform.Eventually(t, 40*time.Second, frozen)
	begin = time.Now()
	if err := p.Client.Delete(t.Context(), "", "sleepy"); err != nil {
		t.Fatal(err)
	}
	platform.Eventually(t, 20*time.Second, func() error {
		if n := len(pods(t, p, "sleepy")); n > 0 {
			return fmt.Errorf("%d pods are left", n)
		}
		return nil
	})
	t.Logf("a frozen replica was gone %s after the deletion", time.Since(begin))
}

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
)

// decided waits for a decision on a function that satisfies is.
func decided(t *testing.T, p *platform.Platform, name string, is func(api.ScaleDecision) bool) api.ScaleDecision {
	t.Helper()
	var found api.ScaleDecision
	platform.Eventually(t, 60*time.Second, func() error {
		var got struct{ Decisions []api.ScaleDecision }
		out, err := p.Faas("", "describe", name, "-o", "json")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			return err
		}
		for _, d := range got.Decisions {
			if is(d) {
				found = d
				return nil
			}
		}
		return errors.New("it was not decided: " + out)
	})
	return found
}

// wish is what one measure asked for; 0 when it was not looked at.
func wish(d api.ScaleDecision, measure string) int {
	for _, w := range d.Wishes {
		if w.Measure == measure {
			return w.Replicas
		}
	}
	return 0
}

// What a replica burns is measured on its node and adds replicas, and faas
// describe says so.
func scalingByCPU(t *testing.T, p *platform.Platform) {
	deploy(t, p, openfaas.FunctionDeployment{Service: "burns", Labels: map[string]string{
		"com.openfaas.scale.type": "cpu", "com.openfaas.scale.target": "50", "com.openfaas.scale.max": "3",
	}})
	platform.Eventually(t, 20*time.Second, available(t, p, "burns", 1))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			resp, err := p.Client.Invoke(ctx, openfaas.Invocation{Name: "burns", Query: map[string][]string{"burn": {"100ms"}, "sleep": {"50ms"}}})
			if err != nil {
				if ctx.Err() == nil {
					t.Error(err)
				}
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
	d := decided(t, p, "burns", func(d api.ScaleDecision) bool { return d.To > d.From && wish(d, "cpu") >= d.To })
	cancel()
	wg.Wait()
	if d.Rule != "load" || d.Inputs.CPUReplicas < 1 || d.Inputs.CPU < 50 || d.Inputs.CPU > 4000 {
		t.Errorf("decided %+v", d)
	}
	if out := p.MustFaas("", "describe", "burns"); !strings.Contains(out, "DECIDED") || !strings.Contains(out, "a replica asks for") {
		t.Error(out)
	}
}

// Calls that wait in the queue wake a function and add replicas.
func scalingByQueue(t *testing.T, p *platform.Platform) {
	deploy(t, p, openfaas.FunctionDeployment{Service: "queued", Labels: map[string]string{
		"com.openfaas.scale.type": "queue", "com.openfaas.scale.target": "5", "com.openfaas.scale.target-proportion": "1", "com.openfaas.scale.max": "3",
		"com.openfaas.scale.zero": "true", "com.openfaas.scale.zero-duration": "2s", "com.openfaas.scale.down.window": "1s",
	}})
	for range 30 {
		if code, body, _ := invoke(t, p, "POST", "/async-function/queued?sleep=1s", ""); code != 202 {
			t.Fatal(code, body)
		}
	}
	d := decided(t, p, "queued", func(d api.ScaleDecision) bool { return wish(d, "queue") >= 2 && d.To > 1 })
	if d.Inputs.Pending < 6 {
		t.Errorf("decided %+v", d)
	}
	decided(t, p, "queued", func(d api.ScaleDecision) bool { return d.From > 0 && d.To == 0 && d.Rule == "idle" })
}

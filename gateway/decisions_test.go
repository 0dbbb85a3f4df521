package gateway_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/gateway"
	"k8s.io/apimachinery/pkg/types"
)

func TestDecisions(t *testing.T) {
	decided := map[types.NamespacedName][]api.ScaleDecision{{Namespace: "openfaas-fn", Name: "hi"}: {{
		Time: time.Unix(0, 0).UTC(), To: 3, Rule: "load", Reason: "because", Inputs: api.ScaleInputs{Max: 20, Queued: 3},
		Wishes: []api.ScaleWish{{Measure: "capacity", Load: 3, Target: 1, Replicas: 3}}, Idle: api.IdlePlan{Tier: "running"},
	}}}
	r := newRig(t, func(c *gateway.Config) { c.Capacity.(*replicas).decided = decided })
	for _, name := range []string{"hi", "new"} {
		if status, body, _ := r.call("POST", "/system/functions", `{"service":"`+name+`","image":"i"}`); status != 202 {
			t.Fatal(status, body)
		}
	}
	for _, tt := range []struct {
		path   string
		status int
		text   string
	}{
		{"/system/function/hi/decisions", 200, `[{"time":"1970-01-01T00:00:00Z","from":0,"to":3,"rule":"load","reason":"because","inputs":{"min":0,"max":20,"ready":0,"queued":3,`},
		{"/system/function/hi/decisions?namespace=openfaas-fn", 200, `"wishes":[{"measure":"capacity","load":3,"target":1,"replicas":3}]`},
		{"/system/function/new/decisions", 200, "[]"},
		{"/system/function/absent/decisions", 404, "function absent.openfaas-fn: not found"},
		{"/system/function/hi/decisions?namespace=..", 400, "namespace"},
		{"/system/function/A%20B/decisions", 400, "function name"},
	} {
		if status, body, _ := r.call("GET", tt.path, ""); status != tt.status || !strings.Contains(body, tt.text) {
			t.Errorf("%s: %d %q, want %d with %q", tt.path, status, body, tt.status, tt.text)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", r.url+"/system/function/hi/decisions", nil)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, _ := r.do(req); status != 401 {
		t.Errorf("without a password: %d", status)
	}
	got, err := r.client.Decisions(t.Context(), "", "hi")
	if diff := cmp.Diff(decided[types.NamespacedName{Namespace: "openfaas-fn", Name: "hi"}], got); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

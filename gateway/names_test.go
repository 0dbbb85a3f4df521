package gateway_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/internal/openfaas"
)

// TestNames: names that are no names are refused everywhere, with a text that
// says so, and leave nothing behind.
func TestNames(t *testing.T) {
	r := newRig(t, nil)
	for _, name := range []string{
		"", "-", "-a", "a-", "A", "a_b", "a.b", "a..b", strings.Repeat("a", 64), strings.Repeat("a", 254), ".", "..", "a/b", "a%2fb", "../../etc",
		"a\x00b", "a\nb", "a b", "a\u202eb", "a\u200bb", "\uff41", "e\u0301", "\u00e9", "\U0001F600", "a\xffb", "~", "$(id)", "`id`", "; rm", "{{.}}", "%s%n", "_internal",
		strings.Repeat("a", 1<<20),
	} {
		quoted, err := json.Marshal(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct{ method, path, body string }{
			{"POST", "/system/functions", `{"service":` + string(quoted) + `,"image":"x:1"}`},
			{"PUT", "/system/functions", `{"service":` + string(quoted) + `,"image":"x:1"}`},
			{"DELETE", "/system/functions", `{"functionName":` + string(quoted) + `}`},
			{"POST", "/system/namespace/", `{"name":` + string(quoted) + `,"labels":{"openfaas":"1"}}`},
		} {
			status, body, _ := r.call(tt.method, tt.path, tt.body)
			if status != 400 || body == "" || len(body) > 2000 {
				t.Errorf("%s %s with %.40q: %d, %d bytes: %.200q", tt.method, tt.path, name, status, len(body), body)
			}
		}
	}
	if fns, err := r.client.Functions(t.Context(), ""); err != nil || len(fns) != 0 {
		t.Errorf("left behind: %v %v", fns, err)
	}
	for _, name := range []string{"a", "con", "nul", "system", "kube-system", "default", "gateway", "healthz", "xn--80ak6aa92e", "1", "0x7f", "1e9", "true", "null", strings.Repeat("a", 63)} {
		if err := r.client.Create(t.Context(), openfaas.FunctionDeployment{Service: name, Image: "x:1"}); err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		resp, err := r.client.Invoke(t.Context(), openfaas.Invocation{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("call of %q: %d", name, resp.StatusCode)
		}
	}
}

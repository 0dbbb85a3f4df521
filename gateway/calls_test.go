package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/internal/openfaas"
)

// TestWhy: a cold call tells its stages, in its answer and afterwards; a warm
// one is not remembered, a failed one is.
func TestWhy(t *testing.T) {
	r := newRig(t, nil)
	ctx := t.Context()
	if err := r.client.Create(ctx, openfaas.FunctionDeployment{Service: "hi", Image: "x:1"}); err != nil {
		t.Fatal(err)
	}
	call := func(id, name string) http.Header {
		req, err := http.NewRequestWithContext(ctx, "POST", r.url+"/function/"+name, strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Call-Id", id)
		_, _, h := r.do(req)
		return h
	}
	if got := call("cold/1", "hi").Get("Server-Timing"); !strings.HasPrefix(got, "queued;dur=") || !strings.Contains(got, "first_byte;dur=") {
		t.Errorf("Server-Timing %q", got)
	}
	if got := call("warm", "hi").Get("Server-Timing"); got != "" {
		t.Errorf("Server-Timing of a warm call: %q", got)
	}
	remembered := func(id string) openfaas.Call {
		t.Helper()
		for { // the client has its answer a moment before the gateway is done
			k, err := r.client.Call(ctx, id)
			if err == nil {
				return k
			}
			if !openfaas.IsNotFound(err) || ctx.Err() != nil {
				t.Fatal(err)
			}
		}
	}
	k := remembered("cold/1")
	if k.Name != "hi" || k.Status != 200 || len(k.Kept) == 0 || k.Kept[0] != openfaas.CallCold || k.Replica != "hi-1" || k.Method != "POST" || k.Seconds <= 0 {
		t.Errorf("call %+v", k)
	}
	last, names := 0.0, ""
	for _, s := range k.Stages {
		if s.At < last {
			t.Errorf("%s comes before the stage that it follows: %+v", s.Name, k.Stages)
		}
		last = s.At
		names += s.Name + " "
	}
	if names != "queued granted connected first_byte " || last > k.Seconds {
		t.Errorf("stages %s of %v s", names, k.Seconds)
	}
	if _, err := r.client.Call(ctx, "warm"); !openfaas.IsNotFound(err) {
		t.Errorf("a warm call: %v", err)
	}
	if err := r.client.Create(ctx, openfaas.FunctionDeployment{Service: "ho", Image: "x:1"}); err != nil {
		t.Fatal(err)
	}
	call("second", "ho")
	remembered("second")
	all, err := r.client.Calls(ctx, "", "", 0)
	if err != nil || len(all) != 2 || all[0].ID != "second" || all[1].ID != "cold/1" {
		t.Errorf("all: %+v %v", all, err)
	}
	if some, err := r.client.Calls(ctx, "", "hi", 1); err != nil || len(some) != 1 || some[0].ID != "cold/1" {
		t.Errorf("of hi: %+v %v", some, err)
	}
	anybody := openfaas.Client{URL: r.url, HTTP: r.client.HTTP}
	if _, err := anybody.Call(ctx, "cold/1"); openfaas.StatusOf(err) != http.StatusUnauthorized {
		t.Errorf("without credentials: %v", err)
	}
	for path, want := range map[string]int{"/system/calls?limit=x": 400, "/system/calls?name=..": 400, "/system/calls?namespace=nope": 200} {
		if status, body, _ := r.call("GET", path, ""); status != want {
			t.Errorf("%s: %d %q, want %d", path, status, body, want)
		}
	}
}

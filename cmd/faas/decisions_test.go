package main

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
)

const threeDecisions = `[
{"time":"2026-01-02T03:04:05Z","from":0,"to":1,"rule":"wake","reason":"1 requests wait and there is no replica","inputs":{"min":1,"max":20,"ready":0,"queued":1,"inFlight":0,"arrived":1,"rate":1,"idleSeconds":0},"idle":{"tier":"running"}},
{"time":"2026-01-02T03:04:06Z","from":1,"to":3,"rule":"load","reason":"concurrency 6 at 2 a replica asks for 3","inputs":{"min":1,"max":20,"ready":1,"queued":4,"inFlight":2,"pending":7,"arrived":5,"rate":6,"cpu":250,"cpuReplicas":1,"idleSeconds":0},"wishes":[{"measure":"concurrency","load":6,"target":2,"replicas":3},{"measure":"cpu","load":250,"target":500,"replicas":1}],"idle":{"tier":"running","keepAliveSeconds":900,"from":"default"}},
{"time":"2026-01-02T03:04:26Z","from":3,"to":3,"rule":"window","reason":"but 3 were needed","repeated":19,"since":"2026-01-02T03:04:07Z","inputs":{"min":1,"max":20,"ready":3,"queued":0,"inFlight":0,"arrived":0,"rate":0,"idleSeconds":19.5},"idle":{"tier":"frozen","keepAliveSeconds":66.25,"from":"learned","prewarmSeconds":270,"prewarmUntilSeconds":330}}
]`

func TestDescribeSaysWhy(t *testing.T) {
	d := newDouble(t, map[string]http.HandlerFunc{
		"GET /system/function/resize":           answer(200, `{"name":"resize","image":"i","replicas":3,"availableReplicas":3}`),
		"GET /system/function/resize/decisions": answer(200, threeDecisions),
		"GET /system/function/other":            answer(200, `{"name":"other","image":"i"}`),
		"GET /system/function/odd":              answer(200, `{"name":"odd","image":"i"}`),
		"GET /system/function/odd/decisions":    answer(503, "the control plane is away"),
	})
	plain := func(args ...string) string {
		t.Helper()
		r := cli(t, "", args...)
		if r.code != 0 {
			t.Fatalf("%v: %+v", args, r)
		}
		return regexp.MustCompile(` +`).ReplaceAllString(r.out, " ")
	}
	out := plain("describe", "resize")
	d.wantAsked(t, "GET /system/function/resize?namespace=openfaas-fn&usage=1", "GET /system/function/resize/decisions?namespace=openfaas-fn")
	for _, s := range []string{
		"Why 3 replicas: but 3 were needed\n",
		"Last replica stays: 1m6.3s without a request (learned), and there again after 4m30s to 5m30s\n",
		"DECIDED REPLICAS RULE REASON\n2026-01-02T03:04:26Z 3 (20 times) window but 3 were needed\n2026-01-02T03:04:06Z 1 → 3 load concurrency 6 at 2 a replica asks for 3\n2026-01-02T03:04:05Z 0 → 1 wake",
	} {
		if !strings.Contains(out, s) {
			t.Errorf("it does not say %q\n%s", s, out)
		}
	}
	if s := "1..20, 1 ready, 4 queued, 2 in flight, 7 pending, 6/s, 250m cpu each of 1 concurrency 3, cpu 1 running\n"; !strings.Contains(plain("describe", "resize", "-o", "wide"), s) || strings.Contains(out, s) {
		t.Errorf("only wide is to say %q", s)
	}
	if out := plain("describe", "resize", "-o", "json"); !strings.Contains(out, `"rule": "window"`) || !strings.Contains(out, `"name": "resize"`) || !strings.Contains(out, `"idleSeconds": 19.5`) {
		t.Error(out)
	}
	// Another gateway that speaks the API has none, and that is no fault.
	if out := plain("describe", "other"); strings.Contains(out, "DECIDED") {
		t.Error(out)
	}
	cli(t, "", "describe", "odd").want(t, 1, "", "the control plane is away (503)")
}

func TestCount(t *testing.T) {
	for n, want := range map[int]string{0: "0 replicas", 1: "1 replica", 2: "2 replicas"} {
		if got := count(n, "replica"); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
}

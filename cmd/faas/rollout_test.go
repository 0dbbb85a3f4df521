package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
)

func TestRollout(t *testing.T) {
	start := time.Unix(0, 0)
	var r rollout
	for i, step := range []struct {
		after           time.Duration
		updating        bool
		reason          string
		arrived, failed bool
	}{
		{0, true, "ErrImagePull", false, false}, // may be the version before
		{time.Second, true, "", false, false},
		{2 * time.Second, true, "CrashLoopBackOff", false, false},
		{6 * time.Second, true, "CrashLoopBackOff", false, false},
		{7 * time.Second, true, "CrashLoopBackOff", false, true},
		{8 * time.Second, true, starting, false, false},
		{50 * time.Second, true, starting, false, false},
		{51 * time.Second, false, "", true, false},
	} {
		f := &openfaas.FunctionStatus{Updating: step.updating, Reason: step.reason}
		if arrived, failed := r.look(f, start.Add(step.after)); arrived != step.arrived || failed != step.failed {
			t.Errorf("look %d: arrived %v, failed %v", i, arrived, failed)
		}
	}
}

// An update returns when it is what serves.
func TestDeployWaits(t *testing.T) {
	looks := 0
	d := newDouble(t, map[string]http.HandlerFunc{
		"PUT /system/functions": answer(202, ""),
		"GET /system/function/hi": func(w http.ResponseWriter, _ *http.Request) {
			looks++
			_, _ = io.WriteString(w, fmt.Sprintf(`{"name":"hi","replicas":1,"availableReplicas":1,"updating":%v}`, looks < 3))
		},
		"GET /system/function/bad": answer(200, `{"name":"bad","image":"bad:2","replicas":1,"availableReplicas":1,"updating":true,"reason":"ErrImagePull","message":"not found"}`),
	})
	r := cli(t, "", "deploy", "--name", "hi", "--image", "hi:2")
	r.want(t, 0, "", "hi: waiting until the new version", "updated hi in ")
	if looks != 3 || strings.Index(r.err, "waiting") > strings.Index(r.err, "updated") {
		t.Errorf("%d looks\n%s", looks, r.err)
	}
	d.wantAsked(t, `PUT /system/functions?namespace=openfaas-fn {"service":"hi","image":"hi:2","namespace":"openfaas-fn"}`,
		"GET /system/function/hi?namespace=openfaas-fn", "GET /system/function/hi?namespace=openfaas-fn", "GET /system/function/hi?namespace=openfaas-fn")
	cli(t, "", "deploy", "--name", "bad", "--image", "bad:2", "--wait-timeout", "50ms").want(t, exitTimeout, "",
		"the version before still serves", "ErrImagePull: not found", "What to do: check the image's name (bad:2)")
	cli(t, "", "deploy", "--name", "bad", "--image", "bad:2", "--no-wait").want(t, 0, "", "updated bad in ")
	cli(t, "", "deploy", "--name", "gone", "--image", "x").want(t, exitNotFound, "", "there is no function \"gone\"")
}

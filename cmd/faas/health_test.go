package main

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// describe says why a function does not serve and what to do about it.
func TestDescribeSaysWhatIsWrong(t *testing.T) {
	for name, tt := range map[string]struct {
		status string
		says   []string
	}{
		"no such image": {
			`"replicas":1,"image":"hi:9","reason":"ImagePullBackOff","message":"Pod hi-1: not found"`,
			[]string{"Status: not ready: ImagePullBackOff: Pod hi-1: not found", "What to do: check the image's name (hi:9)"},
		},
		"crashes": {
			`"replicas":1,"restarts":4,"reason":"CrashLoopBackOff","message":"it ends","lastTermination":{"instance":"hi-1","reason":"Error","exitCode":3}`,
			[]string{"Status: not ready: CrashLoopBackOff: it ends", "What to do: `faas logs hi -n dev --tail=false`", "Restarts: 4, last: Error, exit 3\n"},
		},
		"out of memory again and again": {
			`"replicas":1,"restarts":4,"reason":"CrashLoopBackOff","lastTermination":{"instance":"hi-1","reason":"OOMKilled","exitCode":137}`,
			[]string{"What to do: it runs out of memory: raise its limits.memory"},
		},
		"out of memory once": {
			`"replicas":1,"availableReplicas":1,"restarts":1,"limits":{"memory":"12Mi"},"lastTermination":{"instance":"hi-1","reason":"OOMKilled","exitCode":137,"time":"2026-01-02T03:04:05Z"}`,
			[]string{"Status: ready\n", "What to do: it ran out of memory", "Restarts: 1, last: OOMKilled (memory limit 12Mi), exit 137, at 2026-01-02T03:04:05Z\n"},
		},
		"no room":                 {`"replicas":1,"reason":"Unschedulable","message":"0/1 nodes"`, []string{"Unschedulable: 0/1 nodes", "lower its requests"}},
		"an update does not come": {`"replicas":1,"availableReplicas":1,"reason":"ErrImagePull"`, []string{"Status: ready, but a replica does not come up: ErrImagePull"}},
		"starts":                  {`"replicas":1,"reason":"NoReplicaAvailable","message":"No replica is available yet."`, []string{"`faas ready hi -n dev`"}},
		"another gateway":         {`"replicas":1`, []string{"Status: not ready\n", "`kubectl get events -n dev`"}},
	} {
		newDouble(t, map[string]http.HandlerFunc{"GET /system/function/hi": answer(200, `{"name":"hi",`+tt.status+`}`)})
		r := cli(t, "", "describe", "hi", "-n", "dev")
		text := regexp.MustCompile(` +`).ReplaceAllString(r.out, " ")
		for _, s := range tt.says {
			if !strings.Contains(text, s) {
				t.Errorf("%s: describe does not say %q\n%s", name, s, r.out)
			}
		}
	}
}

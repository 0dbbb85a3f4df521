package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/controlplane/simulate"
)

func TestSimulate(t *testing.T) {
	alone(t, "")
	write(t, "calls.csv", "function,time,duration,memory\na,0,1,1024\na,5,1,1024\na,120,1,1024\nb,60,0.5,512\n")
	spaces := regexp.MustCompile(` +`)
	r := cli(t, "", "simulate", "--trace", "calls.csv", "--policy", "zero=true,zero-duration=10s", "--policy", "min=1", "--cold-start", "250ms")
	if out := spaces.ReplaceAllString(r.out, " "); r.code != 0 ||
		!strings.HasPrefix(out, "POLICY CALLS COLD WAIT P50 WAIT P99 IDLE MEMORY") ||
		!strings.Contains(out, "\nzero=true,zero-duration=10s 4 3 (75 %) 250ms 250ms ") || !strings.Contains(out, "\nmin=1 4 2 (50 %) 250ms 250ms ") {
		t.Errorf("%+v", r)
	}
	// The same from standard input, and by a machine.
	text, err := os.ReadFile("calls.csv")
	if err != nil {
		t.Fatal(err)
	}
	r = cli(t, string(text), "simulate", "--trace", "-", "-o", "json")
	var reports []simulate.Report
	if err := json.Unmarshal([]byte(r.out), &reports); err != nil || len(reports) != 1 || reports[0].Policy != simulate.DefaultPolicy || reports[0].Functions != 2 || reports[0].Calls != 4 || reports[0].WaitMax != 0.1 || len(reports[0].Replicas) == 0 {
		t.Errorf("%v %s", err, r.out)
	}
	if r := cli(t, string(text), "simulate", "--trace", "-", "-o", "wide"); !strings.Contains(r.out, "DECISIONS") {
		t.Error(r.out)
	}
	cli(t, string(text), "simulate", "--trace", "-", "-o", "name").want(t, 0, "zero=true\n")

	// A sample of the Azure data set is a folder.
	if err := os.Mkdir("azure", 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join("azure", simulate.AzureInvocations), "HashFunction,1,2\nf,3,4\n")
	write(t, filepath.Join("azure", simulate.AzureDurations), "HashFunction,percentile_Average_0,percentile_Average_1,percentile_Average_25,percentile_Average_50,percentile_Average_75,percentile_Average_99,percentile_Average_100\nf,1,1,1,1,1,1,1\n")
	write(t, filepath.Join("azure", simulate.AzureMemory), "HashFunction,AverageAllocatedMb_pct50\nf,64\n")
	one := cli(t, "", "simulate", "--trace", "azure", "-o", "json")
	if two := cli(t, "", "simulate", "--trace", "azure", "-o", "json", "--seed", "42"); one.code != 0 || one.out != two.out || !strings.Contains(one.out, `"calls": 7`) {
		t.Errorf("%+v\n%+v", one, two)
	}

	// What a platform has decided is decided again.
	r = cli(t, `{"name":"resize","decisions":`+threeDecisions+`}`, "simulate", "--trace", "-", "--policy", "concurrency=2", "--policy", "concurrency=6")
	if out := spaces.ReplaceAllString(r.out, " "); r.code != 0 || !strings.Contains(out, "DECIDED RECORDED concurrency=2 concurrency=6\n") ||
		!strings.Contains(out, "2026-01-02T03:04:06Z 1 → 3 load 1 → 3 load 1 ") || !strings.Contains(out, "\nreplica seconds ") {
		t.Errorf("%+v", r)
	}

	for args, c := range map[string]struct {
		code int
		says string
	}{
		"simulate":                                       {2, "faas simulate --trace FILE"},
		"simulate --trace absent.csv":                    {1, "absent.csv"},
		"simulate --trace .":                             {1, "invocations.csv"},
		"simulate --trace calls.csv --policy x":          {2, "label=value"},
		"simulate --trace calls.csv --policy type=magic": {2, "must be one of"},
		"simulate --trace calls.csv --cold-start -1s":    {2, "--cold-start"},
		"simulate calls.csv":                             {2, "usage: faas simulate --trace FILE"},
		"simulate --trace -":                             {1, "the trace is empty"},
	} {
		cli(t, "", strings.Fields(args)...).want(t, c.code, "", c.says)
	}
	cli(t, "[]", "simulate", "--trace", "-").want(t, 1, "", "the function was never scaled")
}

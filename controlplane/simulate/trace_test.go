package simulate

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRead(t *testing.T) {
	want := Trace{
		Functions: []Function{{"a", 256 << 20}, {"b", DefaultMemory}},
		Calls: []Call{
			{0, 0, 250 * time.Millisecond}, {1, 1500 * time.Millisecond, 0}, {0, 2 * time.Second, time.Second},
		},
		Length: 3 * time.Second,
	}
	for name, text := range map[string]string{
		"CSV":             "function,time,duration,memory\na,0,0.25,128\na,2,1,256\nb,1.5,0,\n",
		"another order":   "duration,other,time,function,memory\n0.25,x,0,a,256\n1,x,2,a,\n0,x,1.5,b,0\n",
		"lines of JSON":   "\n{\"function\":\"a\",\"time\":0,\"duration\":0.25,\"memory\":256}\n{\"function\":\"a\",\"time\":2,\"duration\":1}\n{\"function\":\"b\",\"time\":1.5}\n",
		"with a BOM":      "\uFEFFfunction,time,duration,memory\na,0,0.25,256\na,2,1,256\nb,1.5,0,0",
		"without columns": "function,time,duration\na,0,0.25\na,2,1\nb,1.5,0\n",
	} {
		in, err := Read(strings.NewReader(text))
		if name == "without columns" {
			want.Functions[0].Memory = DefaultMemory
		} else {
			want.Functions[0].Memory = 256 << 20
		}
		if diff := cmp.Diff(want, in.Trace); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
	for text, says := range map[string]string{
		"":                                   "empty",
		" \n":                                "empty",
		"function,time\na,1\n":               `no column "duration"`,
		"function,time,duration\n":           "no calls",
		"function,time,duration\na,x,1\n":    `line 2: time "x" is not a number`,
		"function,time,duration\na,-1,1\n":   "call 1: time -1",
		"function,time,duration\na,1,1e300":  "call 1",
		"function,time,duration\n,1,1\n":     "call 1 has no function",
		"function,time,duration\na,1\n":      "wrong number of fields",
		"function,time,duration\na,NaN,1\n":  "is not a number",
		`{"function":"a","time":"x"}`:        "object 1",
		`{"function":"a","time":1}` + "\n{":  "object 2",
		`{"function":"a","memory":-1}`:       "memory -1",
		"[":                                  "decisions",
		`[{"time":"yesterday"}]`:             "decisions",
		"function,time,duration\n\"a,1,1\n":  "quote",
		`{"name":"x","decisions":[{"to":7}]`: "object 1",
	} {
		if _, err := Read(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
	const decision = `{"time":"2026-01-02T03:04:05Z","from":0,"to":3,"rule":"wake","inputs":{"queued":3}}`
	for _, text := range []string{"[" + decision + "]", "{\n  \"name\": \"x\",\n  \"decisions\": [" + decision + "]\n}\n"} {
		if in, err := Read(strings.NewReader(text)); err != nil || len(in.Decisions) != 1 || in.Decisions[0].To != 3 || in.Decisions[0].Inputs.Queued != 3 || in.Trace.Calls != nil {
			t.Errorf("%q: %+v %v", text, in, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add("function,time,duration,memory\na,0,0.25,128\n")
	f.Add(`{"function":"a","time":0,"duration":0.25,"memory":256}`)
	f.Add(`[{"time":"2026-01-02T03:04:05Z","to":3}]`)
	f.Add("\uFEFF{\"decisions\":[]}")
	f.Fuzz(func(t *testing.T, text string) {
		in, err := Read(strings.NewReader(text))
		if err != nil {
			return
		}
		last := time.Duration(0)
		for _, c := range in.Trace.Calls {
			if c.At < last || c.Duration < 0 || c.At+c.Duration > in.Trace.Length || c.Function < 0 || c.Function >= len(in.Trace.Functions) {
				t.Fatalf("call %+v of a trace of %s with %d functions", c, in.Trace.Length, len(in.Trace.Functions))
			}
			last = c.At
		}
	})
}

const (
	azureDurationColumns = "HashOwner,HashFunction,percentile_Average_0,percentile_Average_1,percentile_Average_25,percentile_Average_50,percentile_Average_75,percentile_Average_99,percentile_Average_100\n"
	azureMemoryColumns   = "HashFunction,AverageAllocatedMb_pct50\n"
)

func TestReadAzure(t *testing.T) {
	read := func(invocations, durations, memory string, seed uint64) (Trace, error) {
		return ReadAzure(strings.NewReader(invocations), strings.NewReader(durations), strings.NewReader(memory), seed)
	}
	const (
		invocations = "HashOwner,HashFunction,Trigger,480,481,482\no,f,timer,5,0,1\no,g,http,0,1000,0\n"
		durations   = azureDurationColumns + "o,g,10,20,30,40,50,60,70\no,f,5,5,5,5,5,5,5\n"
		memory      = azureMemoryColumns + "f,100.5\n"
	)
	a, err := read(invocations, durations, memory, 42)
	if err != nil {
		t.Fatal(err)
	}
	if a.Length != 3*time.Minute || cmp.Diff([]Function{{"f", 100_500_000}, {"g", DefaultMemory}}, a.Functions) != "" || len(a.Calls) != 1006 {
		t.Fatalf("%s with %d calls of %+v", a.Length, len(a.Calls), a.Functions)
	}
	minutes, under := map[[2]int]int{}, 0
	last := time.Duration(-1)
	for _, c := range a.Calls {
		minutes[[2]int{c.Function, int(c.At / time.Minute)}]++
		if c.Function == 0 && c.Duration != 5*time.Millisecond || c.Function == 1 && (c.Duration < 10*time.Millisecond || c.Duration > 70*time.Millisecond) {
			t.Fatalf("a call of %d takes %s", c.Function, c.Duration)
		}
		if c.Function == 1 && c.Duration < 40*time.Millisecond {
			under++
		}
		if c.At < last {
			t.Fatal("the calls are not in order")
		}
		last = c.At
	}
	if diff := cmp.Diff(map[[2]int]int{{0, 0}: 5, {0, 2}: 1, {1, 1}: 1000}, minutes); diff != "" {
		t.Error(diff)
	}
	if under < 430 || under > 570 {
		t.Errorf("%d of 1000 calls are under the median", under)
	}
	b, _ := read(invocations, durations, memory, 42)
	if cmp.Diff(a, b) != "" {
		t.Error("the same seed makes another trace")
	}
	if c, _ := read(invocations, durations, memory, 43); cmp.Diff(a, c) == "" {
		t.Error("another seed makes the same trace")
	}
	for _, c := range []struct{ invocations, durations, memory, says string }{
		{"HashFunction,1\nf,1\n", azureDurationColumns, memory, "invocations.csv: line 2: the function has no durations"},
		{"HashFunction\nf\n", durations, memory, "no column of a minute"},
		{"HashFunction,1\nf,x\n", durations, memory, "line 2"},
		{"HashFunction,1\nf,0\n", durations, memory, "no calls"},
		{invocations, azureDurationColumns + "o,f,5,4,5,5,5,5,5\n", memory, "durations.csv: line 2: the percentiles fall"},
		{invocations, "HashFunction\n", memory, "durations.csv: there is no column"},
		{invocations, durations, azureMemoryColumns + "f,x\n", "memory.csv: line 2"},
		{"", durations, memory, "invocations.csv: the file is empty"},
	} {
		if _, err := read(c.invocations, c.durations, c.memory, 1); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v, want %q", err, c.says)
		}
	}
}

func TestParsePolicy(t *testing.T) {
	p, err := ParsePolicy("zero=true, zero-duration=60s,concurrency=4,com.openfaas.scale.max=7,type=capacity,target.cpu=300")
	if err != nil || p.Name != "zero=true, zero-duration=60s,concurrency=4,com.openfaas.scale.max=7,type=capacity,target.cpu=300" ||
		!p.Zero || p.ZeroAfter != time.Minute || !p.ZeroGiven || p.Concurrency != 4 || p.Max != 7 || p.Type != "capacity" || p.Also.CPU != 300 {
		t.Errorf("%+v %v", p, err)
	}
	if _, err := ParsePolicy(DefaultPolicy); err != nil {
		t.Error(err)
	}
	for text, says := range map[string]string{
		"":                                  "label=value",
		"zero":                              "label=value",
		"zero=":                             "label=value",
		"concurrency=-1":                    "concurrency",
		"concurrency=x":                     "concurrency",
		"zero=true,zero=false":              "twice",
		"max=1,com.openfaas.scale.max=2":    "twice",
		"keepalive=1s":                      "is no scaling label",
		"zero-duration=soon":                "duration",
		"podsnap.dev/concurrency=1,min=two": "whole number",
	} {
		if _, err := ParsePolicy(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
}

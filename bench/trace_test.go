package main

import (
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestTrace(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"invocations.csv": "HashOwner,HashApp,HashFunction,Trigger,480,481\no,a,two,http,2,1\no,a,one,timer,0,3\no,a,unknown,http,9,9\n",
		"durations.csv":   "HashFunction,percentile_Average_0,percentile_Average_1,percentile_Average_25,percentile_Average_50,percentile_Average_75,percentile_Average_99,percentile_Average_100\none,0,0,0,0,0,0,0\ntwo,10,20,30,40,50,60,70\n",
		"memory.csv":      "HashFunction,AverageAllocatedMb_pct50\none,64\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := readTrace(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 || all[0].name != "one" || all[0].mb != 64 || all[1].mb != 64 || !slices.Equal(all[1].perMin, []int{2, 1}) {
		t.Fatalf("got %+v, want the two functions that have durations", all)
	}
	for q, want := range map[float64]time.Duration{0: 10 * time.Millisecond, 0.25: 30 * time.Millisecond, 0.375: 35 * time.Millisecond, 1: 70 * time.Millisecond} {
		if got := all[1].sample(q); math.Abs(float64(got-want)) > 1e3 {
			t.Errorf("the duration at %v is %s, want %s", q, got, want)
		}
	}
	if got := all[0].sample(0.5); got != time.Millisecond {
		t.Errorf("a duration below the trace's unit is %s, want 1 ms", got)
	}
	calls := plan(all, 2, 4, rand.New(rand.NewPCG(1, 1)))
	if len(calls) != 6 {
		t.Fatalf("%d calls, want 6: %+v", len(calls), calls)
	}
	perMin := map[[2]int]int{}
	last := time.Duration(0)
	for _, c := range calls {
		if c.at < last {
			t.Errorf("a call at %s comes after one at %s", c.at, last)
		}
		last = c.at
		perMin[[2]int{c.function, int(c.at / (15 * time.Second))}]++ // a minute, 4 times faster
	}
	for k, want := range map[[2]int]int{{0, 0}: 0, {0, 1}: 3, {1, 0}: 2, {1, 1}: 1} {
		if perMin[k] != want {
			t.Errorf("function %d has %d calls in minute %d, want %d", k[0], perMin[k], k[1], want)
		}
	}
	if _, err := readTrace(t.TempDir()); !os.IsNotExist(err) {
		t.Errorf("an empty folder: %v, want that it is not there (the row is skipped then)", err)
	}
}

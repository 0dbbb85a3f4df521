package main

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// traced is one function of a trace.
type traced struct {
	name     string
	mb       float64   // of memory, the median
	perMin   []int     // calls in each minute
	duration []float64 // ms; the percentiles of quantiles
}

// quantiles are those of traced.duration.
var quantiles = []float64{0, 0.01, 0.25, 0.50, 0.75, 0.99, 1}

// traceCall is one call of a replay.
type traceCall struct {
	at       time.Duration // since the replay's beginning
	function int
	want     time.Duration // how long the function is to take
}

// readTrace reads a sample of the Azure Functions trace of 2019: the files
// invocations.csv, durations.csv and memory.csv in dir. Functions without a
// duration are left out; one without memory has the sample's median.
func readTrace(dir string) ([]traced, error) {
	calls, err := readTable(filepath.Join(dir, "invocations.csv"))
	if err != nil {
		return nil, err
	}
	durations, err := readTable(filepath.Join(dir, "durations.csv"))
	if err != nil {
		return nil, err
	}
	memory, err := readTable(filepath.Join(dir, "memory.csv"))
	if err != nil {
		return nil, err
	}
	var out []traced
	var sizes []float64
	for key, row := range calls {
		d, ok := durations[key]
		if !ok {
			continue
		}
		t := traced{name: key}
		for m := 0; row.has(strconv.Itoa(firstMinute + m)); m++ {
			t.perMin = append(t.perMin, int(row.number(strconv.Itoa(firstMinute+m))))
		}
		for _, p := range []string{"0", "1", "25", "50", "75", "99", "100"} {
			t.duration = append(t.duration, d.number("percentile_Average_"+p))
		}
		if m, ok := memory[key]; ok {
			t.mb = m.number("AverageAllocatedMb_pct50")
			sizes = append(sizes, t.mb)
		}
		out = append(out, t)
	}
	if len(out) == 0 || len(out[0].perMin) == 0 {
		return nil, fmt.Errorf("%s: no function has both calls and durations", dir)
	}
	for i := range out {
		if out[i].mb == 0 {
			out[i].mb = cmp.Or(median(sizes), 128)
		}
	}
	slices.SortFunc(out, func(a, b traced) int { return cmp.Compare(a.name, b.name) })
	return out, nil
}

// firstMinute is the sample's first column.
const firstMinute = 480

// record is a line of a table, by the names of its columns.
type record struct {
	columns map[string]int
	fields  []string
}

func (r record) has(column string) bool { _, ok := r.columns[column]; return ok }

func (r record) number(column string) float64 {
	i, ok := r.columns[column]
	if !ok {
		return 0
	}
	f, _ := strconv.ParseFloat(r.fields[i], 64) // an empty field is 0
	return f
}

// readTable reads a CSV file whose column HashFunction names the line.
func readTable(file string) (map[string]record, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("%s is empty", file)
	}
	columns := map[string]int{}
	for i, c := range lines[0] {
		columns[c] = i
	}
	key, ok := columns["HashFunction"]
	if !ok {
		return nil, fmt.Errorf("%s has no column HashFunction", file)
	}
	out := map[string]record{}
	for _, l := range lines[1:] {
		out[l[key]] = record{columns, l}
	}
	return out, nil
}

// plan makes the calls of some minutes of a trace, in the order of their time:
// within a minute a Poisson process has as many arrivals as the trace says, so
// they are spread evenly at random. Times are those of the trace divided by
// speed; durations, taken at random between the percentiles, are not.
func plan(functions []traced, minutes int, speed float64, rnd *rand.Rand) []traceCall {
	var out []traceCall
	for i, f := range functions {
		for m := range min(minutes, len(f.perMin)) {
			for range f.perMin[m] {
				at := (float64(m) + rnd.Float64()) * float64(time.Minute) / speed
				out = append(out, traceCall{time.Duration(at), i, f.sample(rnd.Float64())})
			}
		}
	}
	slices.SortFunc(out, func(a, b traceCall) int { return cmp.Compare(a.at, b.at) })
	return out
}

// sample is the duration at a point of the distribution, at least 1 ms: what
// the trace has below that is rounded to 0.
func (t traced) sample(q float64) time.Duration {
	for i := 1; i < len(quantiles); i++ {
		if q <= quantiles[i] {
			part := (q - quantiles[i-1]) / (quantiles[i] - quantiles[i-1])
			v := t.duration[i-1] + part*(t.duration[i]-t.duration[i-1])
			return max(time.Duration(v*float64(time.Millisecond)), time.Millisecond)
		}
	}
	return time.Millisecond
}

// trace reads the sample that the flag names, or skips.
func (b *bench) trace() []traced {
	all, err := readTrace(b.traceDir)
	if errors.Is(err, fs.ErrNotExist) {
		b.Skipf("there is no trace in %s (-trace or BENCH_TRACE names the folder of the Azure sample)", b.traceDir)
	}
	b.must(err)
	return all
}

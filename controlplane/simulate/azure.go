package simulate

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

// The names of the files of an Azure sample.
const (
	AzureInvocations = "invocations.csv"
	AzureDurations   = "durations.csv"
	AzureMemory      = "memory.csv"
)

// azureKnots are the percentiles of durations that the files have.
var azureKnots = [...]float64{0, 1, 25, 50, 75, 99, 100}

// ReadAzure makes a trace of a sample of the Azure Functions 2019 data set:
// invocations a minute, percentiles of the duration in milliseconds and of the
// memory in MB, one row a function. Within a minute calls come with exponential
// gaps; a call's duration is drawn from the function's percentiles, straight
// between them. The same seed makes the same trace.
func ReadAzure(invocations, durations, memory io.Reader, seed uint64) (Trace, error) {
	times, err := azureDurations(durations)
	if err != nil {
		return Trace{}, fmt.Errorf("%s: %w", AzureDurations, err)
	}
	megabytes, err := azureMemory(memory)
	if err != nil {
		return Trace{}, fmt.Errorf("%s: %w", AzureMemory, err)
	}
	t, err := azureCalls(invocations, times, megabytes, rand.New(rand.NewPCG(seed, 0))) //nolint:gosec // it has to be repeatable
	if err != nil {
		return Trace{}, fmt.Errorf("%s: %w", AzureInvocations, err)
	}
	return t, nil
}

func azureCalls(r io.Reader, durations map[string][len(azureKnots)]float64, memory map[string]float64, rnd *rand.Rand) (Trace, error) {
	var t Trace
	rows, err := newTable(r, "HashFunction")
	if err != nil {
		return t, err
	}
	var minutes []string
	for _, name := range rows.header {
		if _, err := strconv.Atoi(name); err == nil {
			minutes = append(minutes, name)
		}
	}
	if len(minutes) == 0 {
		return t, errors.New("there is no column of a minute")
	}
	t.Length = time.Duration(len(minutes)) * time.Minute
	for {
		err := rows.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return t, err
		}
		name := rows.text("HashFunction")
		knots, ok := durations[name]
		if !ok {
			return t, fmt.Errorf("line %d: the function has no durations", rows.line)
		}
		f := len(t.Functions)
		t.Functions = append(t.Functions, Function{Name: name, Memory: cmp.Or(uint64(memory[name]*1e6), DefaultMemory)})
		for i, minute := range minutes {
			n, err := rows.number(minute)
			if err != nil {
				return t, err
			}
			for _, at := range within(rnd, int(n)) {
				t.Calls = append(t.Calls, Call{
					Function: f, At: time.Duration((float64(i) + at) * float64(time.Minute)), Duration: seconds(draw(rnd, knots) / 1000),
				})
			}
		}
	}
	t.sort()
	if len(t.Calls) == 0 {
		return t, errors.New("there are no calls")
	}
	return t, nil
}

// within is n moments of a unit of time with exponential gaps.
func within(rnd *rand.Rand, n int) []float64 {
	if n <= 0 {
		return nil
	}
	out, sum := make([]float64, n), 0.0
	for i := range out {
		sum += rnd.ExpFloat64()
		out[i] = sum
	}
	sum += rnd.ExpFloat64()
	for i := range out {
		out[i] /= sum
	}
	return out
}

// draw takes a value of a distribution of which the azureKnots are known.
func draw(rnd *rand.Rand, knots [len(azureKnots)]float64) float64 {
	p := rnd.Float64() * 100
	i, _ := slices.BinarySearch(azureKnots[:], p)
	i = max(i, 1)
	lo, hi := azureKnots[i-1], azureKnots[i]
	return knots[i-1] + (knots[i]-knots[i-1])*(p-lo)/(hi-lo)
}

func azureDurations(r io.Reader) (map[string][len(azureKnots)]float64, error) {
	column := func(p float64) string { return "percentile_Average_" + strconv.Itoa(int(p)) }
	required := []string{"HashFunction"}
	for _, p := range azureKnots {
		required = append(required, column(p))
	}
	rows, err := newTable(r, required...)
	if err != nil {
		return nil, err
	}
	out := map[string][len(azureKnots)]float64{}
	for {
		err := rows.next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		var knots [len(azureKnots)]float64
		for i, p := range azureKnots {
			if knots[i], err = rows.number(column(p)); err != nil {
				return nil, err
			}
			if knots[i] = max(knots[i], 0); i > 0 && knots[i] < knots[i-1] {
				return nil, fmt.Errorf("line %d: the percentiles fall", rows.line)
			}
		}
		out[rows.text("HashFunction")] = knots
	}
}

func azureMemory(r io.Reader) (map[string]float64, error) {
	const column = "AverageAllocatedMb_pct50"
	rows, err := newTable(r, "HashFunction", column)
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for {
		err := rows.next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		m, err := rows.number(column)
		if err != nil {
			return nil, err
		}
		out[rows.text("HashFunction")] = max(m, 0)
	}
}

// Command bench measures the platform against baselines in the same run:
// `make bench`. Every figure is a median over rounds in which ours and the
// baseline take turns, and counts only when no call failed. It prints a table
// and writes bench/latest.json.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/podsnap/podsnap/test/platform"
)

// row is one result, as it stands in latest.json.
type row struct {
	Name     string  `json:"name"`
	Ours     float64 `json:"ours"`
	Baseline float64 `json:"baseline"`
	Ratio    float64 `json:"ratio"` // ours ÷ baseline, or the difference where the name says −
	Goal     float64 `json:"goal"`  // the ratio is to be at most this
	Pass     bool    `json:"pass"`

	unit   string
	spread string
}

// rounds in which ours and the baseline take turns.
const rounds = 5

func main() {
	b := &bench{}
	err := b.run()
	b.clean()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if b.failed {
		os.Exit(1)
	}
}

func (b *bench) run() (err error) {
	defer func() {
		if r := recover(); r != nil {
			if e, ok := r.(fatal); ok {
				err = e
				return
			}
			panic(r)
		}
	}()
	p := platform.New(b)
	img := b.prepare(p)
	var rows []row
	for _, measure := range []func(*platform.Platform, *image) row{b.idle, b.warm, b.cold} {
		r := measure(p, img)
		rows = append(rows, r)
		fmt.Fprintf(os.Stderr, "%s: done\n", r.Name)
	}
	return report(rows)
}

func report(rows []row) error {
	t := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tOURS\tBASELINE\tRATIO\tGOAL\tPASS\tSPREAD OF OURS")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%.4g %s\t%.4g %s\t%.3g\t≤ %.3g\t%v\t%s\n", r.Name, r.Ours, r.unit, r.Baseline, r.unit, r.Ratio, r.Goal, r.Pass, r.spread)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	out, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile("bench/latest.json", append(out, '\n'), 0o644) //nolint:gosec // no secret
}

// quotient makes a row of the medians of rounds.
func quotient(name, unit string, goal float64, ours, baseline []float64) row {
	r := row{Name: name, Ours: median(ours), Baseline: median(baseline), Goal: goal, unit: unit, spread: spread(ours)}
	r.Ratio = r.Ours / r.Baseline
	r.Pass = r.Ratio <= goal
	return r
}

func median(in []float64) float64 { return quantile(in, 0.5) }

// quantile of a sample, by the nearest rank.
func quantile(in []float64, q float64) float64 {
	if len(in) == 0 {
		return 0
	}
	s := slices.Clone(in)
	slices.Sort(s)
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

func spread(in []float64) string {
	return fmt.Sprintf("%.4g … %.4g", slices.Min(in), slices.Max(in))
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// bench is the platform's "test": what it starts is ended by clean.
type bench struct {
	cleanups []func()
	failed   bool
}

type fatal struct{ error }

func (*bench) Helper()                  {}
func (*bench) Context() context.Context { return context.Background() }
func (b *bench) Cleanup(f func())       { b.cleanups = append(b.cleanups, f) }
func (b *bench) Failed() bool           { return b.failed }
func (*bench) Logf(f string, a ...any)  { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (b *bench) Errorf(f string, a ...any) {
	b.failed = true
	b.Logf(f, a...)
}

func (*bench) Fatal(a ...any)             { panic(fatal{fmt.Errorf("%s", strings.TrimSpace(fmt.Sprintln(a...)))}) }
func (*bench) Fatalf(f string, a ...any)  { panic(fatal{fmt.Errorf(f, a...)}) }
func (b *bench) Skip(a ...any)            { b.Fatal(a...) }
func (b *bench) Skipf(f string, a ...any) { b.Fatalf(f, a...) }

func (b *bench) clean() {
	for _, f := range slices.Backward(b.cleanups) {
		f()
	}
}

func (b *bench) must(err error) {
	if err != nil {
		b.Fatal(err)
	}
}

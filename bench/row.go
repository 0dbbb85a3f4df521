package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// row is one result, as it stands in latest.json.
type row struct {
	Name     string  `json:"name"`
	Ours     float64 `json:"ours"`
	Baseline float64 `json:"baseline"`           // measured, or the goal where the name says "goal"
	Ratio    float64 `json:"ratio"`              // ours ÷ baseline, or the difference where the name says −
	Goal     float64 `json:"goal"`               // of the ratio
	NoGoal   bool    `json:"no_goal,omitempty"`  // the row is there to read the others by
	AtLeast  bool    `json:"at_least,omitempty"` // the ratio is to be at least Goal; otherwise at most
	Pass     bool    `json:"pass"`
	Low      float64 `json:"low"`               // of ours, over the rounds
	High     float64 `json:"high"`              // likewise
	Hint     string  `json:"hint,omitempty"`    // where ours spends it, as far as the run tells
	Skipped  string  `json:"skipped,omitempty"` // why there are no figures

	unit string
}

// report prints the rows, below them what is known of those that miss their
// goal, and writes them to file.
func report(w io.Writer, rows []row, file string) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tOURS\tBASELINE\tRATIO\tGOAL\tPASS\tSPREAD OF OURS")
	for _, r := range rows {
		if r.Skipped != "" {
			fmt.Fprintf(t, "%s\tskipped\t–\t–\t–\t–\t\n", r.Name)
			continue
		}
		fmt.Fprintf(t, "%s\t%.4g %s\t%.4g %s\t%.3g\t%s\t%s\t%.4g … %.4g\n", r.Name, r.Ours, r.unit, r.Baseline, r.unit, r.Ratio, r.goal(), r.verdict(), r.Low, r.High)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, r := range rows {
		switch {
		case r.Skipped != "":
			fmt.Fprintf(w, "\n%s was skipped: %s\n", r.Name, r.Skipped)
		case r.Hint != "" && !r.Pass:
			fmt.Fprintf(w, "\n%s:\n  %s\n", r.Name, strings.ReplaceAll(r.Hint, "\n", "\n  "))
		}
	}
	out, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(out, '\n'), 0o644) //nolint:gosec // no secret
}

func (r row) goal() string {
	switch {
	case r.NoGoal:
		return "–"
	case r.AtLeast:
		return fmt.Sprintf("≥ %.3g", r.Goal)
	}
	return fmt.Sprintf("≤ %.3g", r.Goal)
}

func (r row) verdict() string {
	if r.NoGoal {
		return "–"
	}
	return strconv.FormatBool(r.Pass)
}

// atMost makes a row of the rounds' figures whose ratio is to be at most goal.
func atMost(name, unit string, goal float64, ours, baseline []float64) row {
	r := row{Name: name, Ours: median(ours), Baseline: median(baseline), Goal: goal, unit: unit, Low: slices.Min(ours), High: slices.Max(ours)}
	r.Ratio = r.Ours / r.Baseline
	r.Pass = r.Ratio <= goal
	return r
}

// noGoal makes a row that no goal is set for.
func noGoal(name, unit string, ours, baseline []float64) row {
	r := atMost(name, unit, 0, ours, baseline)
	r.NoGoal, r.Pass = true, false
	return r
}

// atLeast is atMost the other way round, for what is done in a second.
func atLeast(name string, goal float64, ours, baseline []float64) row {
	r := atMost(name, "/s", goal, ours, baseline)
	r.AtLeast, r.Pass = true, r.Ratio >= goal
	return r
}

// none makes a row of faults, of which there should be none: n out of all; its
// ratio is n.
func none(name, unit string, n, all int) row {
	f := float64(n)
	return row{Name: name, Ours: f, Baseline: float64(all), Ratio: f, Pass: n == 0, Low: f, High: f, unit: unit}
}

func median(in []float64) float64 { return quantile(in, 0.5) }

// quantile of a sample, by the nearest rank: the smallest value that at least
// the fraction q of the sample does not exceed.
func quantile(in []float64, q float64) float64 {
	if len(in) == 0 {
		return 0
	}
	s := slices.Clone(in)
	slices.Sort(s)
	// Less than 1e-9 of a rank is rounding.
	rank := int(q*float64(len(s)) + 1 - 1e-9)
	return s[min(max(rank, 1), len(s))-1]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// compareFiles prints how the ratios of two files of rows differ.
func compareFiles(w io.Writer, files []string) error {
	if len(files) != 2 {
		return fmt.Errorf("compare takes two files, an old and a new one; %d are named", len(files))
	}
	var sets [2][]row
	for i, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(raw, &sets[i]); err != nil {
			return fmt.Errorf("%s is not a list of rows: %w", f, err)
		}
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tOLD\tNEW\tCHANGE\tGOAL\t")
	for _, c := range compare(sets[0], sets[1]) {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.3g\t%s\n", c.name, c.old, c.now, c.change, c.goal, c.verdict)
	}
	return t.Flush()
}

// change is how one row differs between two files.
type change struct {
	name, old, now, change, verdict string
	goal                            float64
}

// noise is the relative change below which nothing is said: rounds of one
// commit differ as much.
const noise = 0.05

// compare takes the rows in the order of now, then those that are gone.
func compare(old, now []row) []change {
	var out []change
	measured := func(r row) bool { return r.Skipped == "" }
	for _, n := range now {
		if !measured(n) {
			continue
		}
		c := change{name: n.Name, old: "–", now: fmt.Sprintf("%.3g", n.Ratio), goal: n.Goal, change: "–", verdict: "new"}
		if i := slices.IndexFunc(old, func(o row) bool { return o.Name == n.Name && measured(o) }); i >= 0 {
			o := old[i]
			c.old = fmt.Sprintf("%.3g", o.Ratio)
			by := n.Ratio/o.Ratio - 1
			c.change, c.verdict = fmt.Sprintf("%+.0f %%", 100*by), verdict(o, n, by)
		}
		out = append(out, c)
	}
	for _, o := range old {
		if !slices.ContainsFunc(now, func(n row) bool { return n.Name == o.Name && measured(n) }) && measured(o) {
			out = append(out, change{name: o.Name, old: fmt.Sprintf("%.3g", o.Ratio), now: "–", goal: o.Goal, change: "–", verdict: "gone"})
		}
	}
	return out
}

func verdict(o, n row, by float64) string {
	// Files from before AtLeast have it by the way: such a row passes above its goal.
	up := n.AtLeast || !n.NoGoal && n.Pass == (n.Ratio > n.Goal)
	var v string
	switch {
	case by > -noise && by < noise:
		v = "same"
	case (by > 0) == up:
		v = "better"
	default:
		v = "worse"
	}
	switch {
	case n.Pass && !o.Pass:
		v += ", passes now"
	case o.Pass && !n.Pass:
		v += ", fails now"
	}
	return v
}

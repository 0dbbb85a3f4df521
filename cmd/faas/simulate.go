package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/simulate"
	"github.com/spf13/cobra"
)

func (o *options) simulateCmd() *cobra.Command {
	var path string
	var policies []string
	var cold time.Duration
	var seed uint64
	cmd := &cobra.Command{
		Use: "simulate --trace FILE", Short: "Try scaling labels on a recorded load",
		Long: `Runs the autoscaler's own decisions on a recorded load, in virtual time, and
shows for each policy how many calls met a cold start, how long calls waited
for a replica, and how much memory idle replicas held. Nothing is called, and
no platform is needed.

The trace is one of
- CSV with the columns function,time,duration and, if wanted, memory: seconds
  since the beginning, seconds, MiB of a replica; or one JSON object with these
  fields a line;
- a folder with the files invocations.csv, durations.csv and memory.csv of a
  sample of the Azure Functions 2019 data set;
- what a running platform has decided, of ` + "`faas describe NAME -o json`" + `: then
  each decision is made again, and shown beside the recorded one.

A policy is a list of labels; com.openfaas.scale. may be left out, and
concurrency is podsnap.dev/concurrency. Without any it is ` + simulate.DefaultPolicy + `.`,
		Example: "  faas simulate --trace calls.csv --policy zero=true --policy zero=true,zero-duration=60s\n" +
			"  faas simulate --trace azure_100 --policy zero=true,concurrency=1,factor=0 --cold-start 20ms -o json\n" +
			"  faas describe hello -o json | faas simulate --trace - --policy type=capacity,target=5",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" {
				return usagef("say what to run it on: faas simulate --trace FILE")
			}
			if cold < 0 {
				return usagef("--cold-start %s: it must not be negative", cold)
			}
			if len(policies) == 0 {
				policies = []string{simulate.DefaultPolicy}
			}
			ps := make([]simulate.Policy, len(policies))
			for i, text := range policies {
				var err error
				if ps[i], err = simulate.ParsePolicy(text); err != nil {
					return usageError{err}
				}
			}
			in, err := readTrace(cmd.InOrStdin(), path, seed)
			if err != nil {
				return err
			}
			if in.Decisions != nil {
				return o.replayed(cmd.OutOrStdout(), in.Decisions, ps)
			}
			reports := make([]simulate.Report, len(ps))
			for i, p := range ps {
				reports[i] = simulate.Run(in.Trace, p, simulate.Options{Cold: cold})
			}
			return o.print(cmd.OutOrStdout(), reports, func(w io.Writer) { o.simulated(w, reports) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&path, "trace", "", "file or folder of the load; - is standard input")
	f.StringArrayVar(&policies, "policy", nil, "labels as label=value,label=value; repeat it to compare")
	f.DurationVar(&cold, "cold-start", 100*time.Millisecond, "how long a replica takes until it is ready")
	f.Uint64Var(&seed, "seed", 42, "what the moments and durations of a sample by the minute are drawn from")
	return cmd
}

// readTrace reads a file, a folder or standard input.
func readTrace(stdin io.Reader, path string, seed uint64) (in simulate.Input, err error) {
	if path == "-" {
		return simulate.Read(stdin)
	}
	info, err := os.Stat(path)
	if err != nil {
		return in, err
	}
	names := []string{path}
	if info.IsDir() {
		names = nil
		for _, n := range []string{simulate.AzureInvocations, simulate.AzureDurations, simulate.AzureMemory} {
			names = append(names, filepath.Join(path, n))
		}
	}
	files := make([]*os.File, len(names))
	for i, n := range names {
		if files[i], err = os.Open(n); err != nil {
			return in, err
		}
		defer files[i].Close()
	}
	if info.IsDir() {
		in.Trace, err = simulate.ReadAzure(files[0], files[1], files[2], seed)
	} else {
		in, err = simulate.Read(files[0])
	}
	if err != nil {
		return in, fmt.Errorf("%s: %w", path, err)
	}
	return in, nil
}

func (o *options) simulated(w io.Writer, reports []simulate.Report) {
	if o.output == "name" {
		for _, r := range reports {
			fmt.Fprintln(w, r.Policy)
		}
		return
	}
	fmt.Fprint(w, "POLICY\tCALLS\tCOLD\tWAIT P50\tWAIT P99\tIDLE MEMORY\tIDLE GiB·h\tREPLICAS\tPEAK\tOVER TIME")
	if o.output == "wide" {
		fmt.Fprint(w, "\tSTARTS\tWAIT MAX\tUNSERVED\tDECISIONS")
	}
	fmt.Fprintln(w)
	for _, r := range reports {
		fmt.Fprintf(w, "%s\t%d\t%d (%.2g %%)\t%s\t%s\t%.1f %%\t%.3g\t%.3g\t%.3g\t%s", r.Policy, r.Calls, r.Cold, 100*float64(r.Cold)/float64(max(r.Calls, 1)),
			wait(r.WaitP50), wait(r.WaitP99), 100*r.IdleShare, r.IdleShare*r.Memory, r.Mean, r.Peak, bars(r.Replicas, r.Peak))
		if o.output == "wide" {
			fmt.Fprintf(w, "\t%d\t%s\t%d\t%d", r.Starts, wait(r.WaitMax), r.Unserved, r.Decisions)
		}
		fmt.Fprintln(w)
	}
}

func wait(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(10 * time.Microsecond)
}

// bars draws numbers from 0 to most, at most 24 of them.
func bars(all []float64, most float64) string {
	const width, levels = 24, "▁▂▃▄▅▆▇█"
	glyphs, per := []rune(levels), max(1, (len(all)+width-1)/width)
	var b strings.Builder
	for i := 0; i < len(all); i += per {
		sum := 0.0
		part := all[i:min(i+per, len(all))]
		for _, v := range part {
			sum += v
		}
		level := 0
		if most > 0 {
			level = min(int(sum/float64(len(part))/most*float64(len(glyphs))), len(glyphs)-1)
		}
		b.WriteRune(glyphs[level])
	}
	return b.String()
}

// replayed shows recorded decisions beside those of policies.
func (o *options) replayed(out io.Writer, recorded []api.ScaleDecision, ps []simulate.Policy) error {
	if len(recorded) == 0 {
		return errors.New("there are no decisions in it: the function was never scaled")
	}
	replays := make([]simulate.Replay, len(ps))
	for i, p := range ps {
		replays[i] = simulate.Again(recorded, p)
	}
	return o.print(out, replays, func(w io.Writer) {
		fmt.Fprint(w, "DECIDED\tRECORDED")
		for _, r := range replays {
			fmt.Fprintf(w, "\t%s", r.Policy)
		}
		fmt.Fprintln(w)
		for i, s := range replays[0].Steps {
			fmt.Fprintf(w, "%s\t%s %s", s.Recorded.Time.Format(time.RFC3339), change(s.Recorded), s.Recorded.Rule)
			for _, r := range replays {
				fmt.Fprintf(w, "\t%s %s", change(r.Steps[i].Now), r.Steps[i].Now.Rule)
			}
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "replica seconds\t%.6g", replays[0].Recorded)
		for _, r := range replays {
			fmt.Fprintf(w, "\t%.6g", r.ReplicaSeconds)
		}
		fmt.Fprintln(w)
	})
}

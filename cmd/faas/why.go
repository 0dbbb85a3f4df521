package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/spf13/cobra"
)

func (o *options) whyCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "why [CALL-ID]", Short: "Show where a call's time went, or why it failed",
		Long: `Shows the stages of one call by the X-Call-Id of its answer. The gateway
remembers the last calls that were cold (they found no replica), slow (1 s or
more) or failed; without an id these are listed, the newest first.`,
		Example: "  faas why\n  faas why 3f0c2c36-6f0e-4b43-a8d5-5c7b2f6f8f10\n  faas why -o json | jq '.[0].stages'",
		Args:    cobra.MaximumNArgs(1), ValidArgsFunction: o.callIDs,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			c, err := o.client("")
			if err != nil {
				return err
			}
			if len(args) == 0 {
				all, err := c.Calls(ctx, "", "", 0)
				if err != nil {
					return o.explain(err, c)
				}
				return o.print(cmd.OutOrStdout(), all, func(w io.Writer) { o.calls(cmd, w, all) })
			}
			k, err := c.Call(ctx, args[0])
			switch {
			case openfaas.IsNotFound(err):
				return fmt.Errorf("nothing is remembered of call %q; `faas why` shows the calls that are (%w)", args[0], err)
			case err != nil:
				return o.explain(err, c)
			}
			return o.print(cmd.OutOrStdout(), k, func(w io.Writer) { o.why(w, k) })
		},
	}
	return cmd
}

func (o *options) calls(cmd *cobra.Command, w io.Writer, all []openfaas.Call) {
	if o.output == "name" {
		for _, k := range all {
			fmt.Fprintln(w, k.ID)
		}
		return
	}
	if len(all) == 0 {
		say(cmd, "no call was cold, slow or failed")
		return
	}
	fmt.Fprintln(w, "CALL\tFUNCTION\tCAME\tSTATUS\tTOOK\tWHY")
	for _, k := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", k.ID, qualified(k.Name, k.Namespace), k.Time.Format(time.RFC3339), k.Status, short(k.Seconds), strings.Join(k.Kept, ", "))
	}
}

// why writes one call as a table of its stages.
func (o *options) why(w io.Writer, k openfaas.Call) {
	if o.output == "name" {
		fmt.Fprintln(w, k.ID)
		return
	}
	fmt.Fprintf(w, "Call:\t%s\n", k.ID)
	fmt.Fprintf(w, "Function:\t%s\n", qualified(k.Name, k.Namespace))
	fmt.Fprintf(w, "Came:\t%s\n", k.Time.Format(time.RFC3339Nano))
	fmt.Fprintf(w, "Answer:\t%d after %s\n", k.Status, short(k.Seconds))
	fmt.Fprintf(w, "Remembered as:\t%s\n", strings.Join(k.Kept, ", "))
	if k.Replica != "" {
		fmt.Fprintf(w, "Replica:\t%s at %s\n", k.Replica, k.Address)
	}
	if k.Ahead > 0 {
		fmt.Fprintf(w, "Ahead in the queue:\t%d\n", k.Ahead)
	}
	if k.Retries > 0 {
		fmt.Fprintf(w, "Replicas that refused:\t%d\n", k.Retries)
	}
	if k.Text != "" {
		fmt.Fprintf(w, "Reason:\t%s\n", k.Text)
	}
	fmt.Fprintln(w, "\nSTAGE\tAT\tTOOK\tMEANING")
	before := 0.0
	row := func(stage string, at float64, meaning string) {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", stage, short(at), short(at-before), meaning)
		before = at
	}
	for _, s := range k.Stages {
		row(s.Name, s.At, meanings[s.Name])
	}
	row("end", k.Seconds, "all of the answer was sent, or the call was given up")
}

// meanings say what a stage's time was spent on.
var meanings = map[string]string{
	openfaas.StageQueued:    "no replica had a free place; reading a small body is part of it",
	openfaas.StageCreated:   "the control plane decided and made a replica",
	openfaas.StagePlaced:    "the scheduler chose a node",
	openfaas.StageReady:     "the node started it and it took a connection",
	openfaas.StageGranted:   "the call got its place on a replica",
	openfaas.StageThawed:    "the replica was frozen: its node let it go on",
	openfaas.StageConnected: "a new connection to the replica",
	openfaas.StageFirstByte: "the function, until its answer began",
}

func short(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d >= time.Second:
		return d.Round(time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}

// callIDs completes calls that are remembered, with whose they are and why.
func (o *options) callIDs(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return o.complete(cmd, func(ctx context.Context, c *openfaas.Client, _ string) (out []string, err error) {
		all, err := c.Calls(ctx, "", "", 0)
		for _, k := range all {
			out = append(out, cobra.CompletionWithDesc(k.ID, fmt.Sprintf("%s: %d, %s", qualified(k.Name, k.Namespace), k.Status, strings.Join(k.Kept, ", "))))
		}
		return out, err
	})
}

package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/spf13/cobra"
)

func (o *options) queueCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "queue", Short: "Show asynchronous calls: those that wait, and those that were given up",
		Long: `An asynchronous call (faas invoke -a) is stored until its function has answered.
One that fails again and again is given up and kept as a dead letter for 14
days. What has a dead letter's cause put right can be put into the queue again.`,
		Example: "  faas queue list\n  faas queue dead\n  faas queue redrive 12",
	}
	cmd.AddCommand(o.queueList(), o.queueDead(), o.queueRedrive())
	return cmd
}

// qualified is a function's name, with its namespace unless that is the default.
func qualified(name, ns string) string { return name + suffix(ns) }

func (o *options) queueList() *cobra.Command {
	var ns string
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "Show how many calls of each function are not done",
		Long: `Shows how many stored calls each function has: those that wait and those that
are being made. Functions without any are left out.`,
		Example: "  faas queue list\n  faas queue list -n dev -o json", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			c, err := o.client("")
			if err != nil {
				return err
			}
			got, err := c.PendingCalls(ctx, ns)
			if err != nil {
				return o.explain(err, c)
			}
			return o.print(cmd.OutOrStdout(), got, func(w io.Writer) {
				if o.output == "name" {
					for _, p := range got {
						fmt.Fprintln(w, qualified(p.Name, p.Namespace))
					}
					return
				}
				if len(got) == 0 {
					say(cmd, "no asynchronous call waits")
					return
				}
				fmt.Fprintln(w, "FUNCTION\tNAMESPACE\tPENDING")
				for _, p := range got {
					fmt.Fprintf(w, "%s\t%s\t%d\n", p.Name, p.Namespace, p.Pending)
				}
			})
		},
	}
	cmd.Flags().StringVarP(&ns, "namespace", "n", "", "namespace (default: all)")
	return cmd
}

func (o *options) queueDead() *cobra.Command {
	var q openfaas.DeadLetterQuery
	cmd := &cobra.Command{
		Use: "dead [NAME]", Short: "Show the calls that were given up, and why",
		Example: "  faas queue dead\n  faas queue dead resize -o json\n  faas queue dead resize -o name | xargs faas queue redrive",
		Args:    cobra.MaximumNArgs(1), ValidArgsFunction: o.functionNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if q.Limit < 1 || q.Limit > 1000 {
				return usagef("--limit %d: it must be from 1 to 1000", q.Limit)
			}
			if len(args) == 1 {
				q.Name = args[0]
			}
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			c, err := o.client("")
			if err != nil {
				return err
			}
			got, err := c.DeadLetters(ctx, q)
			if err != nil {
				return o.explain(err, c)
			}
			if n := len(got); n == q.Limit {
				say(cmd, "there may be more: --from %d goes on", got[n-1].Seq+1)
			}
			return o.print(cmd.OutOrStdout(), got, func(w io.Writer) {
				if o.output == "name" {
					for _, d := range got {
						fmt.Fprintln(w, d.Seq)
					}
					return
				}
				if len(got) == 0 {
					say(cmd, "there are no dead letters")
					return
				}
				wide := o.output == "wide"
				head, row := "NUMBER\tFUNCTION\tATTEMPTS\tGIVEN UP\tREASON\n", "%d\t%s\t%d\t%s\t%s\n"
				if wide {
					head, row = "NUMBER\tFUNCTION\tATTEMPTS\tGIVEN UP\tREASON\tCALL\tBYTES\n", "%d\t%s\t%d\t%s\t%s\t%s\t%d\n"
				}
				fmt.Fprint(w, head)
				for _, d := range got {
					cells := []any{d.Seq, qualified(d.Name, d.Namespace), d.Attempts, d.Time.Format(time.RFC3339), strconv.Quote(d.Reason)}
					if wide {
						cells = append(cells, d.CallID, d.Size)
					}
					fmt.Fprintf(w, row, cells...)
				}
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&q.Namespace, "namespace", "n", "", "namespace (default: all; with NAME openfaas-fn)")
	f.Uint64Var(&q.From, "from", 0, "begin at this number")
	f.IntVar(&q.Limit, "limit", 100, "how many to show, at most 1000")
	return cmd
}

func (o *options) queueRedrive() *cobra.Command {
	return &cobra.Command{
		Use: "redrive NUMBER...", Short: "Put calls that were given up into the queue again",
		Long: `Puts dead letters into the queue again, with all their attempts before them.
One that is not there does not keep the others.`,
		Example: "  faas queue redrive 12 13\n  faas queue dead resize -o name | xargs faas queue redrive",
		Args:    cobra.MinimumNArgs(1), ValidArgsFunction: o.deadNumbers,
		RunE: func(cmd *cobra.Command, args []string) error {
			seqs := make([]uint64, len(args))
			for i, a := range args {
				var err error
				if seqs[i], err = strconv.ParseUint(a, 10, 64); err != nil || seqs[i] == 0 {
					return usagef("%q is not the number of a dead letter; `faas queue dead` shows them", a)
				}
			}
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			c, err := o.client("")
			if err != nil {
				return err
			}
			var faults []error
			for _, seq := range seqs {
				err := c.Redrive(ctx, seq)
				switch {
				case openfaas.IsNotFound(err):
					faults = append(faults, fmt.Errorf("there is no dead letter %d (any more); `faas queue dead` shows those that are (%w)", seq, err))
				case openfaas.IsConflict(err):
					faults = append(faults, err)
				case err != nil:
					return errors.Join(append(faults, o.explain(err, c))...)
				default:
					say(cmd, "%d is in the queue again", seq)
				}
			}
			return errors.Join(faults...)
		},
	}
}

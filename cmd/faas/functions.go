package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/spf13/cobra"
)

func (o *options) listCmd() *cobra.Command {
	var ns, sort string
	var verbose, quiet bool
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List functions",
		Example: "  faas list\n  faas list -v\n  faas list -o json | jq '.[].name'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains([]string{"name", "invocations", "creation"}, sort) {
				return usagef("--sort %q: it must be name, invocations or creation", sort)
			}
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			c, err := o.client("")
			if err != nil {
				return err
			}
			fns, err := c.Functions(ctx, ns)
			if err != nil {
				return o.explain(err, c)
			}
			slices.SortFunc(fns, func(a, b openfaas.FunctionStatus) int {
				if sort == "invocations" && a.InvocationCount != b.InvocationCount {
					return cmp.Compare(b.InvocationCount, a.InvocationCount)
				}
				if sort == "creation" && !a.CreatedAt.Equal(b.CreatedAt) {
					return a.CreatedAt.Compare(b.CreatedAt)
				}
				return cmp.Compare(a.Name, b.Name)
			})
			return o.print(cmd.OutOrStdout(), fns, func(w io.Writer) {
				if quiet || o.output == "name" {
					for _, f := range fns {
						fmt.Fprintln(w, f.Name)
					}
					return
				}
				if len(fns) == 0 {
					say(cmd, "no functions yet. Make one: faas new hello --lang go && faas up")
					return
				}
				if verbose || o.output == "wide" {
					fmt.Fprintln(w, "FUNCTION\tIMAGE\tINVOCATIONS\tREPLICAS\tREADY\tCREATED")
					for _, f := range fns {
						fmt.Fprintf(w, "%s\t%s\t%.0f\t%d\t%d\t%s\n", f.Name, f.Image, f.InvocationCount, f.Replicas, f.AvailableReplicas, ago(f.CreatedAt))
					}
					return
				}
				fmt.Fprintln(w, "FUNCTION\tINVOCATIONS\tREPLICAS\tREADY")
				for _, f := range fns {
					fmt.Fprintf(w, "%s\t%.0f\t%d\t%d\n", f.Name, f.InvocationCount, f.Replicas, f.AvailableReplicas)
				}
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&ns, "namespace", "n", "", "namespace")
	f.StringVar(&sort, "sort", "name", "order: name, invocations or creation")
	f.BoolVarP(&verbose, "verbose", "v", false, "more columns")
	f.BoolVarP(&quiet, "quiet", "q", false, "only names")
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions([]string{"name", "invocations", "creation"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return time.Since(t).Round(time.Second).String()
}

func (o *options) describeCmd() *cobra.Command {
	var ns string
	var verbose bool
	cmd := &cobra.Command{
		Use: "describe NAME", Short: "Show one function: can it be called, and if not, why",
		Long: `Shows a function, and the last decisions on its number of replicas with their
reasons; -o wide adds what each was made of, -o json all of it.`,
		Example: "  faas describe hello\n  faas describe hello -o wide\n  faas describe hello -o json | jq '.decisions[-1]'",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: o.functionNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if verbose && o.output == "" {
				o.output = "wide"
			}
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			c, err := o.client("")
			if err != nil {
				return err
			}
			f, err := c.Function(ctx, ns, args[0], true)
			if err != nil {
				return o.explain(notFound(err, args[0], ns), c)
			}
			decisions, err := c.Decisions(ctx, ns, args[0])
			if err != nil && !notKnownThere(err) {
				return o.explain(err, c)
			}
			return o.print(cmd.OutOrStdout(), described{f, decisions}, func(w io.Writer) {
				if o.output == "name" {
					fmt.Fprintln(w, f.Name)
					return
				}
				row := func(k, v string) {
					if v != "" {
						fmt.Fprintf(w, "%s:\t%s\n", k, v)
					}
				}
				row("Name", f.Name)
				row("Namespace", orNamespace(f.Namespace))
				row("Status", state(f))
				row("What to do", remedy(f, ns))
				replicas := fmt.Sprintf("%d wanted, %d ready", f.Replicas, f.AvailableReplicas)
				if f.Usage != nil && f.Usage.FrozenReplicas > 0 {
					replicas += fmt.Sprintf(", %d of them frozen", f.Usage.FrozenReplicas)
				}
				row("Replicas", replicas)
				row("Restarts", restarts(f))
				row("Invocations", fmt.Sprintf("%.0f", f.InvocationCount))
				row("Image", f.Image)
				row("Process", f.EnvProcess)
				row("URL", c.URL+"/function/"+f.Name+suffix(ns))
				row("Async URL", c.URL+"/async-function/"+f.Name+suffix(ns))
				row("Labels", flat(f.Labels))
				row("Annotations", flat(f.Annotations))
				row("Environment", flat(f.EnvVars))
				row("Secrets", strings.Join(f.Secrets, ", "))
				row("Constraints", strings.Join(f.Constraints, ", "))
				if f.ReadOnlyRootFilesystem {
					row("Root file system", "read-only")
				}
				row("Limits", resources(f.Limits))
				row("Requests", resources(f.Requests))
				if u := f.Usage; u != nil {
					row("Usage", fmt.Sprintf("%.0fm cpu, %.1f MiB", u.CPU, u.TotalMemoryBytes/(1<<20)))
				}
				if !f.CreatedAt.IsZero() {
					row("Created", f.CreatedAt.Format(time.RFC3339))
				}
				o.decisions(w, decisions)
			})
		},
	}
	cmd.Flags().StringVarP(&ns, "namespace", "n", "", "namespace")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "the same as --output wide")
	return cmd
}

func orNamespace(ns string) string {
	if ns == "" {
		return openfaas.DefaultNamespace
	}
	return ns
}

func suffix(ns string) string {
	if ns == "" || ns == openfaas.DefaultNamespace {
		return ""
	}
	return "." + ns
}

func flat(m map[string]string) string {
	var out []string
	for k, v := range m {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func resources(r *openfaas.Resources) string {
	if r == nil {
		return ""
	}
	var out []string
	if r.CPU != "" {
		out = append(out, "cpu "+r.CPU)
	}
	if r.Memory != "" {
		out = append(out, "memory "+r.Memory)
	}
	return strings.Join(out, ", ")
}

// notFound says which function, and what to do.
func notFound(err error, name, ns string) error {
	if !openfaas.IsNotFound(err) {
		return err
	}
	return fmt.Errorf("there is no function %q in namespace %s; `faas list -n %s` shows those that are (%w)", name, orNamespace(ns), orNamespace(ns), err)
}

func (o *options) scaleCmd() *cobra.Command {
	var ns string
	var replicas uint64
	cmd := &cobra.Command{
		Use: "scale NAME --replicas N", Short: "Set a function's number of replicas",
		Long: `Sets the number of replicas now. The autoscaler goes on from there, inside the
limits of the labels com.openfaas.scale.min and com.openfaas.scale.max; 0 is
always allowed, and the next call starts a replica.`,
		Example: "  faas scale hello --replicas 3",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: o.functionNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("replicas") {
				return usagef("say how many: faas scale %s --replicas N", args[0])
			}
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			c, err := o.client("")
			if err != nil {
				return err
			}
			if err := c.Scale(ctx, ns, args[0], replicas); err != nil {
				return o.explain(notFound(err, args[0], ns), c)
			}
			say(cmd, "%s is being scaled to %d", args[0], replicas)
			return nil
		},
	}
	cmd.Flags().StringVarP(&ns, "namespace", "n", "", "namespace")
	cmd.Flags().Uint64Var(&replicas, "replicas", 0, "how many")
	return cmd
}

func (o *options) logsCmd() *cobra.Command {
	var ns, instance string
	var follow, noFollow, plain bool
	var lines int
	var since time.Duration
	var sinceTime string
	cmd := &cobra.Command{
		Use: "logs NAME", Short: "Show what a function's replicas write",
		Long:    "Shows what is there and goes on until interrupted; --tail=false ends then.",
		Example: "  faas logs hello\n  faas logs hello --tail=false --lines 20\n  faas logs hello --tail=false --since 10m\n  faas logs hello -o json",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: o.functionNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := o.long(cmd.Context())
			defer cancel()
			c, err := o.client("")
			if err != nil {
				return err
			}
			lineOf := json.NewEncoder(cmd.OutOrStdout())
			q := openfaas.LogQuery{Namespace: ns, Name: args[0], Instance: instance, Tail: lines, Follow: follow && !noFollow}
			switch {
			case since > 0 && sinceTime != "":
				return usagef("--since and --since-time exclude one another")
			case since > 0:
				q.Since = time.Now().Add(-since)
			case sinceTime != "":
				if q.Since, err = time.Parse(time.RFC3339, sinceTime); err != nil {
					return usagef("--since-time %q: it must look like 2026-01-02T15:04:05Z", sinceTime)
				}
			}
			for l, err := range c.Logs(ctx, q) {
				if err != nil {
					return o.explain(notFound(err, args[0], ns), c)
				}
				switch {
				case o.output == "json":
					if err := lineOf.Encode(l); err != nil {
						return err
					}
				case o.output == "keyvalue":
					fmt.Fprintf(cmd.OutOrStdout(), "timestamp=%q instance=%q text=%q\n", l.Timestamp.Format(time.RFC3339), l.Instance, l.Text)
				case plain:
					fmt.Fprintln(cmd.OutOrStdout(), l.Text)
				default:
					fmt.Fprintf(cmd.OutOrStdout(), "%s %s %s\n", l.Timestamp.Format(time.RFC3339), l.Instance, l.Text)
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&ns, "namespace", "n", "", "namespace")
	f.StringVar(&instance, "instance", "", "only this replica")
	f.BoolVarP(&follow, "follow", "f", true, "go on until interrupted")
	f.BoolVarP(&follow, "tail", "t", true, "the same as --follow")
	f.BoolVar(&noFollow, "no-follow", false, "end when everything was shown")
	f.IntVar(&lines, "lines", -1, "only the last so many lines of each replica")
	f.DurationVar(&since, "since", 0, "only lines that are not older")
	f.StringVar(&sinceTime, "since-time", "", "only lines that are not older than this time, such as 2026-01-02T15:04:05Z")
	f.BoolVar(&plain, "plain", false, "only the text")
	_ = f.MarkHidden("no-follow")
	return cmd
}

func (o *options) removeCmd() *cobra.Command {
	var ns string
	s := &stackArgs{}
	cmd := &cobra.Command{
		Use: "remove [NAME]", Aliases: []string{"rm", "delete"}, Short: "Remove functions",
		Example: "  faas remove hello\n  faas remove -f stack.yaml",
		Args:    cobra.MaximumNArgs(1), ValidArgsFunction: o.functionNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			type target struct{ ns, name string }
			var targets []target
			gateway := ""
			if len(args) == 1 {
				targets = []target{{ns, args[0]}}
			} else {
				w, err := s.load()
				if err != nil {
					return err
				}
				gateway = w.gateway()
				for _, f := range w.functions {
					targets = append(targets, target{cmp.Or(ns, f.Namespace), f.Name})
				}
			}
			c, err := o.client(gateway)
			if err != nil {
				return err
			}
			for _, t := range targets {
				if err := c.Delete(ctx, t.ns, t.name); err != nil {
					return o.explain(notFound(err, t.name, t.ns), c)
				}
				say(cmd, "removed %s", t.name)
			}
			return nil
		},
	}
	s.add(cmd.Flags())
	cmd.Flags().StringVarP(&ns, "namespace", "n", "", "namespace")
	return cmd
}

func (o *options) readyCmd() *cobra.Command {
	var ns string
	var attempts int
	var interval time.Duration
	cmd := &cobra.Command{
		Use: "ready [NAME]", Short: "Wait until the gateway, or a function, is ready",
		Example: "  faas ready\n  faas ready hello --attempts 10",
		Args:    cobra.MaximumNArgs(1), ValidArgsFunction: o.functionNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if attempts < 1 || interval < 0 {
				return usagef("--attempts must be 1 or more, --interval not negative")
			}
			ctx, cancel := o.long(cmd.Context())
			defer cancel()
			c, err := o.client("")
			if err != nil {
				return err
			}
			ask := func() error {
				if len(args) == 0 {
					return c.Healthz(ctx)
				}
				f, err := c.Function(ctx, ns, args[0], false)
				if err == nil && f.AvailableReplicas == 0 {
					err = fmt.Errorf("%s has no replica that is ready", args[0])
					if f.Reason != "" && f.Reason != starting {
						err = fmt.Errorf("%w: %s: %s", err, f.Reason, f.Message)
					}
				}
				return err
			}
			for i := 1; ; i++ {
				err := ask()
				switch status := openfaas.StatusOf(err); {
				case err == nil:
					say(cmd, "ready")
					return nil
				case i == attempts, status == 400, status == 401, status == 403: // asking again changes nothing
					if len(args) == 1 {
						err = notFound(err, args[0], ns)
					}
					return o.explain(err, c)
				}
				select {
				case <-ctx.Done():
					return fmt.Errorf("%w (last: %w)", ctx.Err(), err)
				case <-time.After(interval):
				}
			}
		},
	}
	cmd.Flags().StringVarP(&ns, "namespace", "n", "", "namespace")
	cmd.Flags().IntVar(&attempts, "attempts", 60, "how often to ask")
	cmd.Flags().DurationVar(&interval, "interval", time.Second, "how long to wait in between")
	return cmd
}

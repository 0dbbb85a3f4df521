package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/spf13/cobra"
)

// complete asks the gateway for what a word may become. It gives up after half
// a second and says nothing about faults: somebody is typing.
func (o *options) complete(cmd *cobra.Command, names func(ctx context.Context, c *openfaas.Client, ns string) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), 500*time.Millisecond)
	defer cancel()
	c, err := o.client("")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ns, _ := cmd.Flags().GetString("namespace") // "" without such a flag
	out, err := names(ctx, c, ns)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	slices.Sort(out)
	return out, cobra.ShellCompDirectiveNoFileComp
}

// first completes a command's only argument.
func (o *options) first(names func(ctx context.Context, c *openfaas.Client, ns string) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return o.complete(cmd, names)
	}
}

func (o *options) functionNames(cmd *cobra.Command, args []string, s string) ([]string, cobra.ShellCompDirective) {
	return o.first(func(ctx context.Context, c *openfaas.Client, ns string) (out []string, err error) {
		fns, err := c.Functions(ctx, ns)
		for _, f := range fns {
			out = append(out, f.Name)
		}
		return out, err
	})(cmd, args, s)
}

func (o *options) secretNames(cmd *cobra.Command, args []string, s string) ([]string, cobra.ShellCompDirective) {
	return o.first(func(ctx context.Context, c *openfaas.Client, ns string) (out []string, err error) {
		all, err := c.Secrets(ctx, ns)
		for _, s := range all {
			out = append(out, s.Name)
		}
		return out, err
	})(cmd, args, s)
}

// namespaceNames completes a flag or, with namespaceArg, an argument.
func (o *options) namespaceNames(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return o.complete(cmd, func(ctx context.Context, c *openfaas.Client, _ string) ([]string, error) { return c.Namespaces(ctx) })
}

func (o *options) namespaceArg(cmd *cobra.Command, args []string, s string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return o.namespaceNames(cmd, args, s)
}

// deadNumbers completes dead letters, with whose they are and why.
func (o *options) deadNumbers(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return o.complete(cmd, func(ctx context.Context, c *openfaas.Client, ns string) (out []string, err error) {
		all, err := c.DeadLetters(ctx, openfaas.DeadLetterQuery{Namespace: ns})
		for _, d := range all {
			if n := fmt.Sprint(d.Seq); !slices.Contains(args, n) {
				out = append(out, cobra.CompletionWithDesc(n, qualified(d.Name, d.Namespace)+": "+d.Reason))
			}
		}
		return out, err
	})
}

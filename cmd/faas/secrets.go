package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/spf13/cobra"
)

func (o *options) secretCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "secret", Short: "Manage secrets", Args: cobra.NoArgs}
	cmd.AddCommand(o.secretWrite("create"), o.secretWrite("update"), o.secretList(), o.secretRemove())
	return cmd
}

func (o *options) secretWrite(verb string) *cobra.Command {
	var ns, literal, file string
	var replace, trim bool
	cmd := &cobra.Command{
		Use: verb + " NAME", Short: map[string]string{"create": "Make a secret", "update": "Replace a secret's value"}[verb],
		Long:    "The value comes from --from-file, --from-literal or standard input.",
		Example: "  faas secret " + verb + " api-key --from-file key.txt\n  printf '%s' \"$KEY\" | faas secret " + verb + " api-key",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			value := []byte(literal)
			if !cmd.Flags().Changed("from-literal") {
				r := cmd.InOrStdin()
				if file != "" {
					f, err := os.Open(file)
					if err != nil {
						return err
					}
					defer f.Close()
					r = f
				}
				var err error
				if value, err = io.ReadAll(io.LimitReader(r, 1<<20+1)); err != nil {
					return err
				}
			}
			if len(value) > 1<<20 {
				return usagef("the secret %s has over 1 MiB, which is the limit", args[0])
			}
			if trim {
				for len(value) > 0 && (value[len(value)-1] == '\n' || value[len(value)-1] == '\r') {
					value = value[:len(value)-1]
				}
			}
			if len(value) == 0 {
				return usagef("the secret %s would be empty", args[0])
			}
			c, err := o.client("")
			if err != nil {
				return err
			}
			s := openfaas.Secret{Name: args[0], Namespace: ns, RawValue: value}
			switch verb {
			case "update":
				err = c.UpdateSecret(ctx, s)
			default:
				err = c.CreateSecret(ctx, s)
				if openfaas.IsConflict(err) && replace {
					err = c.UpdateSecret(ctx, s)
				}
			}
			if err != nil {
				return o.explain(err, c)
			}
			say(cmd, "%sd secret %s", verb, args[0])
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&ns, "namespace", "n", "", "namespace")
	f.StringVar(&literal, "from-literal", "", "the value itself")
	f.StringVar(&file, "from-file", "", "file that holds the value")
	f.BoolVar(&trim, "trim", true, "drop line ends at the end of the value")
	if verb == "create" {
		f.BoolVar(&replace, "replace", false, "update the secret if it exists")
	}
	return cmd
}

func (o *options) secretList() *cobra.Command {
	var ns string
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List secrets, without their values", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			c, err := o.client("")
			if err != nil {
				return err
			}
			got, err := c.Secrets(ctx, ns)
			if err != nil {
				return o.explain(err, c)
			}
			slices.SortFunc(got, func(a, b openfaas.Secret) int { return cmp.Compare(a.Name, b.Name) })
			return o.print(cmd.OutOrStdout(), got, func(w io.Writer) {
				if o.output != "name" {
					fmt.Fprintln(w, "NAME\tNAMESPACE")
				}
				for _, s := range got {
					if o.output == "name" {
						fmt.Fprintln(w, s.Name)
					} else {
						fmt.Fprintf(w, "%s\t%s\n", s.Name, s.Namespace)
					}
				}
			})
		},
	}
	cmd.Flags().StringVarP(&ns, "namespace", "n", "", "namespace")
	return cmd
}

func (o *options) secretRemove() *cobra.Command {
	var ns string
	cmd := &cobra.Command{
		Use: "remove NAME", Aliases: []string{"rm", "delete"}, Short: "Remove a secret", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			c, err := o.client("")
			if err != nil {
				return err
			}
			if err := c.DeleteSecret(ctx, ns, args[0]); err != nil {
				return o.explain(err, c)
			}
			say(cmd, "removed secret %s", args[0])
			return nil
		},
	}
	cmd.Flags().StringVarP(&ns, "namespace", "n", "", "namespace")
	return cmd
}

func (o *options) namespaceCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "namespace", Aliases: []string{"ns"}, Short: "Manage namespaces of functions", Args: cobra.NoArgs}
	cmd.AddCommand(o.namespaceWrite("create"), o.namespaceWrite("update"), o.namespaceGet(), o.namespaceList(), o.namespaceRemove())
	return cmd
}

func (o *options) namespaceWrite(verb string) *cobra.Command {
	var labels, annotations []string
	cmd := &cobra.Command{
		Use: verb + " NAME", Short: map[string]string{"create": "Make a namespace", "update": "Replace a namespace's labels and annotations"}[verb],
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			l, err := keyValues("label", labels)
			if err != nil {
				return err
			}
			a, err := keyValues("annotation", annotations)
			if err != nil {
				return err
			}
			c, err := o.client("")
			if err != nil {
				return err
			}
			n := openfaas.Namespace{Name: args[0], Labels: l, Annotations: a}
			if verb == "create" {
				err = c.CreateNamespace(ctx, n)
			} else {
				err = c.UpdateNamespace(ctx, n)
			}
			if err != nil {
				return o.explain(err, c)
			}
			say(cmd, "%sd namespace %s", verb, args[0])
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&labels, "label", nil, "label key=value, may be repeated")
	cmd.Flags().StringArrayVar(&annotations, "annotation", nil, "annotation key=value, may be repeated")
	return cmd
}

func (o *options) namespaceGet() *cobra.Command {
	return &cobra.Command{
		Use: "get NAME", Short: "Show a namespace", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			c, err := o.client("")
			if err != nil {
				return err
			}
			n, err := c.Namespace(ctx, args[0])
			if err != nil {
				return o.explain(err, c)
			}
			return o.print(cmd.OutOrStdout(), n, func(w io.Writer) {
				fmt.Fprintf(w, "Name:\t%s\nLabels:\t%s\nAnnotations:\t%s\n", n.Name, flat(n.Labels), flat(n.Annotations))
			})
		},
	}
}

func (o *options) namespaceList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List namespaces of functions", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			c, err := o.client("")
			if err != nil {
				return err
			}
			got, err := c.Namespaces(ctx)
			if err != nil {
				return o.explain(err, c)
			}
			return o.print(cmd.OutOrStdout(), got, func(w io.Writer) {
				for _, n := range got {
					fmt.Fprintln(w, n)
				}
			})
		},
	}
}

func (o *options) namespaceRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Aliases: []string{"rm", "delete"}, Short: "Remove a namespace and everything in it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			c, err := o.client("")
			if err != nil {
				return err
			}
			if err := c.DeleteNamespace(ctx, args[0]); err != nil {
				return o.explain(err, c)
			}
			say(cmd, "namespace %s is being removed", args[0])
			return nil
		},
	}
}

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/spf13/cobra"
)

func (o *options) secretCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "secret", Short: "Manage secrets", Args: cobra.NoArgs,
		Long:    "A function that names a secret finds it as the file /var/openfaas/secrets/NAME.",
		Example: "  faas secret create api-key --from-file key.txt\n  faas deploy --name hello --image hello:latest --secret api-key\n  faas secret list",
	}
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
			if cmd.Flags().Changed("from-literal") {
				if file != "" {
					return usagef("--from-literal and --from-file exclude one another")
				}
			} else {
				var err error
				if value, err = secretValue(cmd, file); err != nil {
					return err
				}
			}
			if len(value) > 1<<20 {
				return usagef("the secret %s has over 1 MiB, which is the limit", args[0])
			}
			if trim {
				value = bytes.TrimRight(value, "\r\n")
			}
			if len(value) == 0 {
				return usagef("the secret %s would be empty", args[0])
			}
			c, err := o.client("")
			if err != nil {
				return err
			}
			s := openfaas.Secret{Name: args[0], Namespace: ns, RawValue: value}
			done := verb
			switch verb {
			case "update":
				err = c.UpdateSecret(ctx, s)
			default:
				err = c.CreateSecret(ctx, s)
				if openfaas.IsConflict(err) && replace {
					done, err = "update", c.UpdateSecret(ctx, s)
				}
			}
			switch {
			case openfaas.IsConflict(err):
				return fmt.Errorf("%w; --replace gives it the new value", err)
			case err != nil:
				return o.explain(noSecret(err, args[0], ns), c)
			}
			say(cmd, "%sd secret %s", done, args[0])
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
	} else {
		cmd.ValidArgsFunction = o.secretNames
	}
	return cmd
}

// secretValue reads a file or, when it is "", standard input; at most a byte
// more than is allowed.
func secretValue(cmd *cobra.Command, file string) ([]byte, error) {
	if file == "" {
		return io.ReadAll(io.LimitReader(stdin(cmd, "the secret"), 1<<20+1))
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, usageError{err}
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<20+1))
}

// noSecret says which secret, and what to do.
func noSecret(err error, name, ns string) error {
	if !openfaas.IsNotFound(err) {
		return err
	}
	return fmt.Errorf("there is no secret %q in namespace %s; `faas secret list -n %s` shows those that are (%w)", name, orNamespace(ns), orNamespace(ns), err)
}

// noNamespace says which namespace, and what to do.
func noNamespace(err error, name string) error {
	if !openfaas.IsNotFound(err) {
		return err
	}
	return fmt.Errorf("there is no namespace %s for functions; `faas namespace list` shows those that are (%w)", name, err)
}

func (o *options) secretList() *cobra.Command {
	var ns string
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List secrets, without their values", Args: cobra.NoArgs,
		Example: "  faas secret list\n  faas secret list -n dev -o name",
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
		Example: "  faas secret remove api-key", ValidArgsFunction: o.secretNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			c, err := o.client("")
			if err != nil {
				return err
			}
			if err := c.DeleteSecret(ctx, ns, args[0]); err != nil {
				return o.explain(noSecret(err, args[0], ns), c)
			}
			say(cmd, "removed secret %s", args[0])
			return nil
		},
	}
	cmd.Flags().StringVarP(&ns, "namespace", "n", "", "namespace")
	return cmd
}

func (o *options) namespaceCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "namespace", Aliases: []string{"ns"}, Short: "Manage namespaces of functions", Args: cobra.NoArgs,
		Example: "  faas namespace create dev\n  faas deploy --name hello --image hello:latest -n dev\n  faas namespace list",
	}
	cmd.AddCommand(o.namespaceWrite("create"), o.namespaceWrite("update"), o.namespaceGet(), o.namespaceList(), o.namespaceRemove())
	return cmd
}

func (o *options) namespaceWrite(verb string) *cobra.Command {
	var labels, annotations []string
	cmd := &cobra.Command{
		Use: verb + " NAME", Short: map[string]string{"create": "Make a namespace", "update": "Replace a namespace's labels and annotations"}[verb],
		Example: map[string]string{"create": "  faas namespace create dev --label team=a", "update": "  faas namespace update dev --label team=b --annotation contact=b@example.com"}[verb],
		Args:    cobra.ExactArgs(1),
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
				return o.explain(noNamespace(err, args[0]), c)
			}
			say(cmd, "%sd namespace %s", verb, args[0])
			return nil
		},
	}
	if verb == "update" {
		cmd.ValidArgsFunction = o.namespaceArg
	}
	cmd.Flags().StringArrayVar(&labels, "label", nil, "label key=value, may be repeated")
	cmd.Flags().StringArrayVar(&annotations, "annotation", nil, "annotation key=value, may be repeated")
	return cmd
}

func (o *options) namespaceGet() *cobra.Command {
	return &cobra.Command{
		Use: "get NAME", Short: "Show a namespace", Args: cobra.ExactArgs(1),
		Example:           "  faas namespace get dev\n  faas namespace get dev -o yaml",
		ValidArgsFunction: o.namespaceArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			c, err := o.client("")
			if err != nil {
				return err
			}
			n, err := c.Namespace(ctx, args[0])
			if err != nil {
				return o.explain(noNamespace(err, args[0]), c)
			}
			return o.print(cmd.OutOrStdout(), n, func(w io.Writer) {
				if o.output == "name" {
					fmt.Fprintln(w, n.Name)
					return
				}
				fmt.Fprintf(w, "Name:\t%s\nLabels:\t%s\nAnnotations:\t%s\n", n.Name, flat(n.Labels), flat(n.Annotations))
			})
		},
	}
}

func (o *options) namespaceList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List namespaces of functions", Args: cobra.NoArgs,
		Example: "  faas namespace list\n  faas namespace list -o json",
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
		Example: "  faas namespace remove dev", ValidArgsFunction: o.namespaceArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			c, err := o.client("")
			if err != nil {
				return err
			}
			if err := c.DeleteNamespace(ctx, args[0]); err != nil {
				return o.explain(noNamespace(err, args[0]), c)
			}
			say(cmd, "namespace %s is being removed", args[0])
			return nil
		},
	}
}

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/podsnap/podsnap/internal/join"
	"github.com/spf13/cobra"
)

// asked is a server's API for a command about its members.
type asked struct {
	url    string
	client *http.Client
}

// members opens the way to the members of the stores.
func (o *options) members(cmd *cobra.Command, a *admin, limit func(context.Context) (context.Context, context.CancelFunc)) (asked, context.Context, context.CancelFunc, error) {
	a.dir = cmd.Flag("state-dir").Value.String()
	url, client, err := a.client()
	if err != nil {
		return asked{}, nil, nil, err
	}
	ctx, cancel := limit(cmd.Context())
	return asked{url, client}, ctx, cancel, nil
}

func (o *options) serverList() *cobra.Command {
	a := &admin{}
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the servers that keep the cluster's stores together", Args: cobra.NoArgs,
		Long: `Lists the servers of a cluster that was begun with --servers. Ready ones have all
that is stored. Syncing ones lack copies, which are being made: until they are
there, a further server should not be lost. Joining ones have no vote yet. Lost ones
do not run.`,
		Example: "  sudo faas server list\n  sudo faas server list -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, ctx, cancel, err := o.members(cmd, a, o.short)
			if err != nil {
				return err
			}
			defer cancel()
			all, err := join.AskMembers(ctx, s.client, s.url)
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), all, func(w io.Writer) {
				fmt.Fprintln(w, "NAME\tADDRESS\tSTATUS\tLEADS\tVERSION")
				for _, m := range all {
					leads := ""
					if m.Leads {
						leads = "yes"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", m.Name, m.Address, m.Status, leads, m.Version)
				}
			})
		},
	}
	cmd.Flags().StringVar(&a.file, "kubeconfig", "", "credentials of an administrator (default: those in the state directory)")
	return cmd
}

func (o *options) serverRemove() *cobra.Command {
	a := &admin{}
	cmd := &cobra.Command{
		Use: "remove SERVER", Aliases: []string{"rm"}, Short: "Take a server that does not run out of those that keep the stores", Args: cobra.ExactArgs(1),
		Long: `Takes a server, by its name or address, out of those that keep the cluster's stores
together: one that is lost, or that was stopped for good. What it had copies of is
copied to a server that joins. It is refused while the server runs, and when too few
others would be left. Its node stays in the list of nodes: see ` + "`faas node remove`" + `.`,
		Example: "  sudo faas server remove server-3\n  # on the machine that takes its place:\n  sudo faas server --join https://10.0.0.1:6443 --server-token S1… --api-listen 0.0.0.0:6443",
		RunE: func(cmd *cobra.Command, args []string) error {
			s, ctx, cancel, err := o.members(cmd, a, o.long)
			if err != nil {
				return err
			}
			defer cancel()
			if err := join.RemoveMember(ctx, s.client, s.url, args[0]); err != nil {
				return err
			}
			say(cmd, "%s is no server of the cluster any more; `faas node remove --force` takes its node out as well", args[0])
			return nil
		},
	}
	cmd.Flags().StringVar(&a.file, "kubeconfig", "", "credentials of an administrator (default: those in the state directory)")
	return cmd
}

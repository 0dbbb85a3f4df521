package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/podsnap/podsnap/internal/daemon"
	"github.com/spf13/cobra"
)

func (o *options) kubeconfigCmd() *cobra.Command {
	var c daemon.Config
	var who daemon.Person
	cmd := &cobra.Command{
		Use: "kubeconfig", Short: "Print a kubeconfig: an administrator's, or one for a person, who may do what roles say", Args: cobra.NoArgs,
		Long: `Prints the administrator's kubeconfig, which is in the state directory.

With --user it makes a certificate for a person and prints a kubeconfig with it. The
person may do what roles give to the name or to one of the groups: nothing at first.
The certificate counts until it expires and cannot be taken back; what may be done
with it can, by its bindings.`,
		Example: `  sudo faas kubeconfig > ~/.kube/config
  sudo faas kubeconfig --user jane --group dev --namespace shop > jane.kubeconfig
  kubectl create rolebinding dev --clusterrole=edit --group=dev -n shop`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if who.Name == "" {
				return printAdmin(cmd, c)
			}
			if err := who.Validate(); err != nil {
				return usageError{err}
			}
			text, err := daemon.Kubeconfig(c, who)
			if err != nil {
				return err
			}
			fmt.Fprint(cmd.OutOrStdout(), text)
			if u, err := url.Parse(who.Server); who.Server == "" || err == nil && isLoopback(u.Hostname()) {
				say(cmd, "the API's address in it is this machine's own: for another machine give --server https://ADDRESS:6443")
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.StateDir, "state-dir", defaultStateDir(), "state directory of the server on this machine")
	f.StringVar(&who.Server, "server", "", "where the person reaches the API, https://host:port (default: as this machine does)")
	f.StringVar(&who.Name, "user", "", "name of the person (default: the administrator)")
	f.StringArrayVar(&who.Groups, "group", nil, "a group of the person; may be repeated")
	f.StringVar(&who.Namespace, "namespace", "", "namespace that kubectl works in (default: default)")
	f.DurationVar(&who.Life, "ttl", 90*24*time.Hour, "how long it may be used")
	return cmd
}

// printAdmin prints the administrator's kubeconfig as it is.
func printAdmin(cmd *cobra.Command, c daemon.Config) error {
	for _, f := range []string{"group", "server", "namespace", "ttl"} {
		if cmd.Flags().Changed(f) {
			return usageError{fmt.Errorf("--%s is for a person, whom --user names", f)}
		}
	}
	path := filepath.Join(c.StateDir, "kubeconfig")
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s is not there: run this on a server that was started once, with its --state-dir", path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s may be read by root only: use sudo", path)
	case err != nil:
		return err
	}
	fmt.Fprint(cmd.OutOrStdout(), string(b))
	return nil
}
